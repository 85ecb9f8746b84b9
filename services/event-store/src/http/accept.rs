//! Which type of answer a client takes.

use std::cmp::Reverse;

use axum::http::{HeaderMap, header};
use causeway_proto::{Kind, Problem};

/// The one of `offered` that the client's `Accept` wants most; of several the one that it names most specifically, then first, else the first. Of an offer
/// the most specific range that covers it counts (RFC 9110, 12.5.1). Without the header, the first.
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
    let wanted = |offer: &str| {
        let covering = accepted
            .iter()
            .enumerate()
            .filter_map(|(place, (quality, range))| covers(range, offer).map(|specific| (specific, Reverse(place), *quality)));
        let (specific, place, quality) = covering.max_by_key(|(specific, place, _)| (*specific, *place))?;
        (quality > 0.0).then_some((quality, (specific, place)))
    };
    // The last of those that are wanted alike is found: so from behind.
    let offers = offered.iter().rev().filter_map(|offer| Some((wanted(offer)?, *offer)));
    let found = offers.max_by(|((one, at), _), ((other, behind), _)| one.total_cmp(other).then(at.cmp(behind)));
    found.map(|(_, offer)| offer).ok_or_else(|| {
        Problem::new(Kind::NotAcceptable, format!("only {} can be written here", offered.join(" or "))).at("Accept")
    })
}

/// A media range and its quality.
fn range(text: &str) -> (f32, &str) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let quality = parts.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q="))?.parse().ok());
    (quality.unwrap_or(1.0), range)
}

/// How specifically a range covers an offer, if it does.
fn covers(range: &str, offer: &str) -> Option<u8> {
    let ((kind, subtype), (of, _)) = (range.split_once('/')?, offer.split_once('/')?);
    match (kind, subtype) {
        ("*", "*") => Some(0),
        (kind, "*") => kind.eq_ignore_ascii_case(of).then_some(1),
        _ => range.eq_ignore_ascii_case(offer).then_some(2),
    }
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
            ("application/json;q=0, */*", Some(OFFERED[1])),
            ("*/*, application/json;q=0.1", Some(OFFERED[1])),
            ("application/x-ndjson;Q=0, application/json", Some(OFFERED[0])),
            ("application/x-ndjson, application/json", Some(OFFERED[1])),
            ("APPLICATION/*", Some(OFFERED[0])),
            ("*/*, application/json", Some(OFFERED[0])),
            ("*/*, application/x-ndjson", Some(OFFERED[1])),
            ("*", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            assert_eq!(negotiate(&headers, &OFFERED).ok(), chosen, "{accept}");
        }
        assert_eq!(negotiate(&HeaderMap::new(), &OFFERED).ok(), Some(OFFERED[0]));
    }
}
