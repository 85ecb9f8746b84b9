//! Which type of answer a client takes.

use axum::http::{HeaderMap, header};
use causeway_proto::{Kind, Problem};

/// The first of `offered` that the client's `Accept` names or covers, most wanted first. Without the header, the first.
pub(super) fn negotiate(headers: &HeaderMap, offered: &[&'static str]) -> Result<&'static str, Problem> {
    let mut accepted: Vec<(f32, &str)> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(range)
        .collect();
    if accepted.is_empty() {
        accepted.push((1.0, "*/*"));
    }
    // Stable: of two that are wanted alike, the one named first.
    accepted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let wanted = accepted.iter().filter(|(quality, _)| *quality > 0.0);
    let found = wanted.flat_map(|(_, range)| offered.iter().filter(|offer| covers(range, offer))).next();
    found.copied().ok_or_else(|| {
        Problem::new(Kind::NotAcceptable, format!("only {} can be written here", offered.join(" or "))).at("Accept")
    })
}

/// A media range and its quality.
fn range(text: &str) -> (f32, &str) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let quality = parts.find_map(|parameter| parameter.strip_prefix("q=")?.parse().ok());
    (quality.unwrap_or(1.0), range)
}

fn covers(range: &str, offer: &str) -> bool {
    let whole_type = range.strip_suffix("/*").and_then(|kind| offer.strip_prefix(kind)).is_some_and(|rest| rest.starts_with('/'));
    range == "*/*" || whole_type || range.eq_ignore_ascii_case(offer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: [&str; 2] = ["application/json", "application/x-ndjson"];

    #[test]
    fn the_most_wanted_type_is_chosen() {
        for (accept, chosen) in [
            ("*/*", Some(OFFERED[0])),
            ("application/x-ndjson", Some(OFFERED[1])),
            ("text/html, application/*;q=0.9, */*;q=0.1", Some(OFFERED[0])),
            ("application/json;q=0.1, application/x-ndjson", Some(OFFERED[1])),
            ("text/html", None),
            ("application/json;q=0", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            assert_eq!(negotiate(&headers, &OFFERED).ok(), chosen, "{accept}");
        }
        assert_eq!(negotiate(&HeaderMap::new(), &OFFERED).ok(), Some(OFFERED[0]));
    }
}
