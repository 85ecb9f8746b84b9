//! Under which names a gateway on loopback answers.
//!
//! Only programs of this machine reach it, but a browser among them runs pages from anywhere. A page whose own name is made to lead to
//! 127.0.0.1 (DNS rebinding) counts as the gateway's own page, for which no rule about origins holds. Its requests carry that name,
//! which nobody would call the gateway by. The rule is that of most development servers: addresses and names that nobody can register
//! are ours, others only if they are listed. A list counts wherever the gateway listens.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::http::uri::Authority;
use axum::middleware::{self, Next};
use axum::response::Response;
use causeway_proto::Problem;

use crate::http::Wire;

/// Refuses what calls the gateway by a name that is not among these, nor of this machine.
pub(crate) fn only(router: Router, listed: &[String]) -> Router {
    router.layer(middleware::from_fn_with_state(Arc::<[String]>::from(listed), check))
}

async fn check(State(listed): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    match stranger(&request, &listed) {
        None => next.run(request).await,
        Some(host) => {
            let detail = format!("{host:?} is no name of this gateway; event_store.hosts can list it");
            Wire::of(request.headers()).tell(Problem::invalid("host", detail))
        }
    }
}

/// The host that is asked for, if that is not us. HTTP/2 says it in the URI; HTTP/1.0 may not say it.
fn stranger(request: &Request, listed: &[String]) -> Option<String> {
    let headers = request.headers().get_all(header::HOST).iter();
    // Of several nobody knows which was meant.
    let header = headers.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(", ");
    let asked = request.uri().authority().map_or(header, |authority| authority.as_str().to_owned());
    if asked.is_empty() {
        return None;
    }
    let known = asked.parse::<Authority>().is_ok_and(|authority| is_ours(authority.host(), listed));
    (!known).then_some(asked)
}

fn is_ours(host: &str, listed: &[String]) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || !host.contains('.')
        || host.ends_with(".localhost")
        || host == "localhost.localdomain"
        || host.ends_with(".internal")
        || listed.iter().any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(&host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_anybody_can_register_are_ours_only_if_they_are_listed() {
        let listed = ["causeway.example.com".to_owned()];
        for ours in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "localhost.localdomain",
            "app.localhost",
            "127.0.0.1",
            "[::1]",
            "192.168.1.2",
            "workstation",
            "host.docker.internal",
            "Causeway.Example.com",
        ] {
            assert!(is_ours(ours, &listed), "{ours}");
        }
        for other in ["evil.example", "example.com", "www.causeway.example.com", "localhost.evil.example", "127.0.0.1.nip.io"] {
            assert!(!is_ours(other, &listed), "{other}");
        }
    }
}
