//! The OpenAPI document and a page that shows it.
//!
//! `openapi/paths.rs` describes the paths, the other files beside it what goes over them; what refusals look like comes from the
//! table of kinds of problems. A test holds the document against the routes, and a tool against the running gateway.

mod chains;
mod cloudevents;
mod paths;
mod schemas;
mod texts;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use causeway_proto::Kind;
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, HttpMethod, PathItem, Ref, RefOr, ResponseBuilder};

static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_json().unwrap_or_default());

/// The page, which needs nothing but the document beside it.
const PAGE: &str = include_str!("openapi/page.html");

/// `GET /openapi.json`
pub(super) async fn json() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT.as_str()).into_response()
}

/// `GET /docs`
pub(super) async fn page() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
    ];
    (headers, PAGE).into_response()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Causeway", description = "An event store: append to the log, read it, follow it, and see folds of it."),
    paths(
        paths::append_events,
        paths::list_events,
        paths::count_events,
        paths::stream_events,
        paths::get_event,
        paths::list_aggregates,
        paths::list_projections,
        paths::get_projection,
        paths::diff_projection,
        paths::watch_projection,
        paths::get_chain,
        paths::list_types,
        paths::register_type,
        paths::healthz,
        paths::readyz,
        paths::openapi_json,
        paths::docs,
    ),
    components(schemas(schemas::Problem)),
    tags(
        (name = "events", description = "The log: append, read, follow."),
        (name = "projections", description = "Views: folds of the log, now or as of a moment."),
        (name = "types", description = "The types of events and their schemas."),
        (name = "operations", description = "Whether it lives, and what it offers."),
    )
)]
struct Api;

fn document() -> utoipa::openapi::OpenApi {
    let mut document = Api::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document.info.contact = None;
    for (path, item) in &mut document.paths.paths {
        let parameterised = path.contains('{');
        for (method, operation) in operations(item) {
            // What has no tag of the log itself answers without looking at the request.
            if operation.tags.as_ref().is_some_and(|tags| tags.iter().any(|tag| tag == "operations")) {
                continue;
            }
            add_problems(operation, &method, parameterised);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    let get = item.get.as_mut().map(|operation| (HttpMethod::Get, operation));
    let post = item.post.as_mut().map(|operation| (HttpMethod::Post, operation));
    get.into_iter().chain(post)
}

/// How an operation may be refused, by the status of each kind.
fn add_problems(operation: &mut Operation, method: &HttpMethod, parameterised: bool) {
    let posts = *method == HttpMethod::Post;
    let mut titles: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for kind in Kind::ALL {
        let possible = match kind {
            Kind::Invalid | Kind::Overloaded | Kind::Internal | Kind::Behind | Kind::Unavailable | Kind::TimedOut => true,
            Kind::NotFound => parameterised,
            Kind::NotAcceptable => !posts,
            Kind::TooSlow | Kind::Conflict | Kind::TooLarge | Kind::UnsupportedMediaType | Kind::OutcomeUnknown => posts,
            Kind::MethodNotAllowed => false,
        };
        if possible {
            titles.entry(kind.status().as_str().to_owned()).or_default().push(kind.title());
        }
    }
    for (status, titles) in titles {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new().description(titles.join(". Or: ")).content("application/problem+json", content);
        operation.responses.responses.entry(status).or_insert_with(|| RefOr::T(response.build()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every path and method of the router, as its source names them: axum does not tell.
    fn routes() -> BTreeSet<(String, String)> {
        let source = include_str!("../http.rs");
        let routes = source.split(".route(\"").skip(1).map(|rest| rest.split_once('"').unwrap());
        routes
            .flat_map(|(path, rest)| {
                let line = rest.lines().next().unwrap();
                let methods = ["get", "post", "put", "delete", "patch"].into_iter();
                methods
                    .filter(move |method| line.contains(&format!(" {method}(")) || line.contains(&format!(".{method}(")))
                    .map(move |method| (path.to_owned(), method.to_owned()))
            })
            .collect()
    }

    #[test]
    fn every_route_is_in_the_document_and_every_path_of_the_document_is_a_route() {
        let document: serde_json::Value = serde_json::from_str(&DOCUMENT).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let described = paths
            .iter()
            .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| (path.clone(), method.clone())))
            .collect::<BTreeSet<_>>();
        assert_eq!(described, routes());
        assert!(described.len() > 15);
    }

    #[test]
    fn every_reference_leads_somewhere_and_everything_is_described() {
        let document: serde_json::Value = serde_json::from_str(&DOCUMENT).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        for part in DOCUMENT.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        for (path, item) in document["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{path}");
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    assert!(parameter["description"].is_string(), "{path}: {parameter}");
                }
            }
        }
    }
}
