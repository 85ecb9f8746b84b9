//! `Consume`, the groups that there are, and what they gave up on.

use std::time::Duration;

use causeway_event::Position;
use causeway_log::GroupName;
use causeway_proto::v1::consume_request::Message as Request_;
use causeway_proto::v1::consume_response::Message as Response_;
use causeway_proto::{Problem, timestamp, v1};
use futures::{StreamExt as _, stream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, Grpc, filter, parse, parse_given};
use crate::consume::{self, Answer, DeliveryId, Report, Said, Terms, Told, Wanted};
use crate::problem::into_status;
use crate::subscribe::Start;

/// Deliveries that a member works on at once: by default, and at most.
const IN_FLIGHT: (u32, u32) = (16, 1024);
/// How often an event is delivered, unless it is stated.
const DELIVERIES_MAX: u32 = 10;
/// How long a delivery may stay unanswered: by default, at least, and at most.
const ACK_WAIT: (Duration, Duration, Duration) =
    (Duration::from_secs(30), Duration::from_millis(100), Duration::from_secs(24 * 60 * 60));
/// Letters of one answer: by default, and at most; and of one replay that names them.
const LETTERS: (u32, u32) = (100, 1000);
/// What a letter keeps of a reason: more is refused, rather than cut.
const REASON_CHARS_MAX: usize = 2000;

pub(super) async fn consume(
    grpc: &Grpc,
    request: Request<Streaming<v1::ConsumeRequest>>,
) -> Result<Response<Answers<v1::ConsumeResponse>>, Status> {
    let mut messages = request.into_inner();
    let gateway = &grpc.0;
    let first = async { messages.message().await.map_err(Problem::from) };
    let first = gateway.within(first).await.map_err(into_status)?;
    let Some(Request_::Start(start)) = first.and_then(|request| request.message) else {
        return Err(into_status(Problem::invalid("/start", "must be the first message")));
    };
    let wanted = wanted(start).map_err(into_status)?;
    let group = wanted.group.to_string();
    let said = messages.map(|message| message.map_err(Problem::from).and_then(said));
    let told = consume::join(gateway, wanted, said.boxed()).await.map_err(into_status)?;
    let started = Ok(response(Response_::Started(v1::ConsumeStarted { group })));
    let told = ReceiverStream::new(told).map(|told| told.map(|told| response(message(told))).map_err(into_status));
    Ok(Response::new(stream::iter([started]).chain(told).boxed()))
}

pub(super) async fn list_groups(
    grpc: &Grpc,
    _request: Request<v1::ListGroupsRequest>,
) -> Result<Response<v1::ListGroupsResponse>, Status> {
    let reports = grpc.0.within(consume::list(&grpc.0)).await.map_err(into_status)?;
    Ok(Response::new(v1::ListGroupsResponse { groups: reports.into_iter().map(group).collect() }))
}

pub(super) async fn delete_group(
    grpc: &Grpc,
    request: Request<v1::DeleteGroupRequest>,
) -> Result<Response<v1::DeleteGroupResponse>, Status> {
    let group = parse("/group", &request.into_inner().group).map_err(into_status)?;
    consume::delete(&grpc.0, &group).await.map_err(into_status)?;
    Ok(Response::new(v1::DeleteGroupResponse {}))
}

pub(super) async fn list_parked(
    grpc: &Grpc,
    request: Request<v1::ListParkedRequest>,
) -> Result<Response<v1::ListParkedResponse>, Status> {
    let v1::ListParkedRequest { group, after, limit } = request.into_inner();
    let group = parse_given("/group", &group).map_err(into_status)?;
    let limit = match limit {
        0 => LETTERS.0,
        limit if limit <= LETTERS.1 => limit,
        _ => return Err(into_status(Problem::invalid("/limit", format!("must be at most {}", LETTERS.1)))),
    };
    let found = consume::parked(&grpc.0, group.as_ref(), after, limit as usize);
    let (letters, more) = grpc.0.within(found).await.map_err(into_status)?;
    let next = letters.last().filter(|_| more).map_or(0, |letter| letter.number);
    let parked = letters.into_iter().map(|letter| v1::Parked {
        letter: letter.number,
        group: letter.by,
        event: Some((&letter.event).into()),
        reason: letter.reason,
        parked_at: Some(timestamp(letter.parked_at)),
        deliveries: letter.deliveries,
    });
    Ok(Response::new(v1::ListParkedResponse { parked: parked.collect(), next }))
}

pub(super) async fn replay_parked(
    grpc: &Grpc,
    request: Request<v1::ReplayParkedRequest>,
) -> Result<Response<v1::ReplayParkedResponse>, Status> {
    let v1::ReplayParkedRequest { group, letters, up_to } = request.into_inner();
    let group = of_letters(&group, &letters, up_to).map_err(into_status)?;
    let (replayed, more_up_to) = consume::replay(&grpc.0, &group, &letters, up_to).await.map_err(into_status)?;
    Ok(Response::new(v1::ReplayParkedResponse { replayed, more_up_to }))
}

pub(super) async fn discard_parked(
    grpc: &Grpc,
    request: Request<v1::DiscardParkedRequest>,
) -> Result<Response<v1::DiscardParkedResponse>, Status> {
    let v1::DiscardParkedRequest { group, letters, up_to } = request.into_inner();
    let group = of_letters(&group, &letters, up_to).map_err(into_status)?;
    let discarded = consume::discard(&grpc.0, &group, &letters, up_to).await.map_err(into_status)?;
    Ok(Response::new(v1::DiscardParkedResponse { discarded }))
}

/// Whose letters are meant, if it can be these.
fn of_letters(group: &str, letters: &[u64], up_to: u64) -> Result<GroupName, Problem> {
    let group = parse("/group", group)?;
    if letters.len() > LETTERS.1 as usize {
        return Err(Problem::invalid("/letters", format!("must be at most {}", LETTERS.1)));
    }
    if letters.contains(&0) {
        return Err(Problem::invalid("/letters", "the first letter has the number 1"));
    }
    if !letters.is_empty() && up_to != 0 {
        return Err(Problem::invalid("/up_to", "cannot be given together with letters"));
    }
    Ok(group)
}

fn wanted(start: v1::ConsumeStart) -> Result<Wanted, Problem> {
    let group = parse("/start/group", &start.group)?;
    let given = start.filter.unwrap_or_default();
    let filter = filter(given.clone()).map_err(within_start)?;
    let unsupported = [
        ("from_time", given.from_time.is_some()),
        ("until_time", given.until_time.is_some()),
        ("caused_by", !given.caused_by.is_empty()),
        ("descendants_of", !given.descendants_of.is_empty()),
    ];
    if let Some((field, _)) = unsupported.into_iter().find(|(_, is_given)| *is_given) {
        return Err(Problem::invalid(format!("/start/filter/{field}"), "is not supported in a group"));
    }
    let start_at = match (parse_given("/start/after", &start.after)?, start.from_now) {
        (Some(_), true) => return Err(Problem::invalid("/start/from_now", "cannot be given together with after")),
        (Some(cursor), false) => Start::Behind(cursor, "/start/after"),
        (None, true) => Start::Now,
        (None, false) => Start::Beginning,
    };
    let (in_flight, in_flight_max) = IN_FLIGHT;
    let in_flight = match start.in_flight_max {
        0 => in_flight,
        stated if stated <= in_flight_max => stated,
        _ => return Err(Problem::invalid("/start/in_flight_max", format!("must be at most {in_flight_max}"))),
    };
    let ack_wait = match start.ack_wait {
        None => ACK_WAIT.0,
        Some(stated) => duration("/start/ack_wait", stated, ACK_WAIT.1)?,
    };
    let terms = Terms {
        types: given.types,
        category: given.category,
        aggregate_id: given.aggregate_id,
        correlation_id: given.correlation_id,
        source: given.source,
        ack_wait_ms: ack_wait.as_millis() as u64,
        deliveries_max: if start.deliveries_max == 0 { DELIVERIES_MAX } else { start.deliveries_max },
    };
    Ok(Wanted { group, filter, terms, start: start_at, in_flight_max: in_flight as usize })
}

fn within_start(problem: Problem) -> Problem {
    let field = problem.field.as_deref().map(|field| format!("/start{field}"));
    Problem { field, ..problem }
}

fn duration(field: &str, stated: prost_types::Duration, min: Duration) -> Result<Duration, Problem> {
    let stated = Duration::try_from(stated).ok().filter(|stated| (min..=ACK_WAIT.2).contains(stated));
    stated.ok_or_else(|| Problem::invalid(field, format!("must be from {min:?} to 24 h")))
}

fn said(request: v1::ConsumeRequest) -> Result<Said, Problem> {
    let (message, id, answer) = match request.message {
        Some(Request_::Ack(ack)) => ("ack", ack.delivery_id, Answer::Ack),
        Some(Request_::Nak(nak)) => {
            let delay = nak.delay.map(|delay| duration("/nak/delay", delay, Duration::ZERO)).transpose()?;
            let delay_ms = delay.map(|delay| delay.as_millis() as u64);
            ("nak", nak.delivery_id, Answer::Nak { delay_ms, reason: reason("/nak/reason", nak.reason)?, unanswered: false })
        }
        Some(Request_::Progress(progress)) => ("progress", progress.delivery_id, Answer::Progress),
        Some(Request_::Park(park)) => ("park", park.delivery_id, Answer::Park { reason: reason("/park/reason", park.reason)? }),
        Some(Request_::Start(_)) => return Err(Problem::invalid("/start", "can be sent only once")),
        None => return Err(Problem::invalid("", "says nothing that this version knows")),
    };
    let invalid = || Problem::invalid(format!("/{message}/delivery_id"), "is not the id of a delivery of this stream");
    Ok(Said { id: delivery_id(&id).ok_or_else(invalid)?, answer })
}

fn reason(field: &str, stated: String) -> Result<String, Problem> {
    match stated.chars().count() <= REASON_CHARS_MAX {
        true => Ok(stated),
        false => Err(Problem::invalid(field, format!("must be at most {REASON_CHARS_MAX} characters"))),
    }
}

fn delivery_id(text: &str) -> Option<DeliveryId> {
    let (position, deliveries) = text.split_once('.')?;
    Some(DeliveryId { position: Position::new(position.parse().ok()?), deliveries: deliveries.parse().ok()? })
}

fn message(told: Told) -> Response_ {
    match told {
        Told::Delivery { id, event } => Response_::Delivery(v1::Delivery {
            delivery_id: format!("{}.{}", id.position, id.deliveries),
            event: Some(event.as_ref().into()),
            deliveries: id.deliveries,
        }),
        Told::Heartbeat { pending } => Response_::Heartbeat(v1::ConsumeHeartbeat { pending }),
    }
}

fn response(message: Response_) -> v1::ConsumeResponse {
    v1::ConsumeResponse { message: Some(message) }
}

fn group(report: Report) -> v1::Group {
    let Report { state, terms, in_flight, pending, parked } = report;
    v1::Group {
        ack_wait: terms.as_ref().and_then(|terms| terms.ack_wait().try_into().ok()),
        deliveries_max: terms.as_ref().map_or(0, |terms| terms.deliveries_max),
        name: state.name.to_string(),
        filter: terms.map(|terms| v1::Filter {
            types: terms.types,
            category: terms.category,
            aggregate_id: terms.aggregate_id,
            correlation_id: terms.correlation_id,
            source: terms.source,
            ..v1::Filter::default()
        }),
        acknowledged_position: state.acknowledged.get(),
        in_flight,
        pending,
        parked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_must_make_sense() {
        let start = || v1::ConsumeStart { group: "g".into(), ..v1::ConsumeStart::default() };
        let wait = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let filtered = |filter| v1::ConsumeStart { filter: Some(filter), ..start() };
        let good = wanted(start()).unwrap();
        assert_eq!((good.in_flight_max, good.terms.ack_wait_ms, good.terms.deliveries_max), (16, 30_000, 10));
        for (start, field) in [
            (v1::ConsumeStart::default(), "/start/group"),
            (v1::ConsumeStart { group: "a.b".into(), ..start() }, "/start/group"),
            (v1::ConsumeStart { in_flight_max: 1025, ..start() }, "/start/in_flight_max"),
            (v1::ConsumeStart { ack_wait: wait(0), ..start() }, "/start/ack_wait"),
            (v1::ConsumeStart { ack_wait: wait(100_000), ..start() }, "/start/ack_wait"),
            (v1::ConsumeStart { ack_wait: wait(-1), ..start() }, "/start/ack_wait"),
            (v1::ConsumeStart { after: "3".into(), from_now: true, ..start() }, "/start/from_now"),
            (filtered(v1::Filter { types: vec!["note".into()], ..v1::Filter::default() }), "/start/filter/types/0"),
            (
                filtered(v1::Filter { from_time: Some(timestamp(jiff::Timestamp::UNIX_EPOCH)), ..v1::Filter::default() }),
                "/start/filter/from_time",
            ),
            (
                filtered(v1::Filter { caused_by: "evt_01k9x3m5v8e7rs2q4n6p8t0w1y".into(), ..v1::Filter::default() }),
                "/start/filter/caused_by",
            ),
        ] {
            assert_eq!(wanted(start).map(drop).unwrap_err().field.as_deref(), Some(field));
        }
    }

    #[test]
    fn an_answer_names_its_delivery() {
        let ack = |id: &str| v1::ConsumeRequest { message: Some(Request_::Ack(v1::ConsumeAck { delivery_id: id.into() })) };
        assert_eq!(said(ack("7.2")).unwrap().id, DeliveryId { position: Position::new(7), deliveries: 2 });
        for bad in ["", "7", "7.", "x.1", "7.1.1", "-1.1"] {
            assert_eq!(said(ack(bad)).map(drop).unwrap_err().field.as_deref(), Some("/ack/delivery_id"), "{bad}");
        }
    }

    #[test]
    fn a_reason_is_kept_whole_or_refused() {
        let id = || "7.2".to_owned();
        let answers = |reason: String| {
            let nak = v1::ConsumeNak { delivery_id: id(), delay: None, reason: reason.clone() };
            [Request_::Nak(nak), Request_::Park(v1::ConsumePark { delivery_id: id(), reason })]
        };
        let field =
            |answer| said(v1::ConsumeRequest { message: Some(answer) }).map(drop).map_err(|problem| problem.field.unwrap());
        assert_eq!(answers("ü".repeat(REASON_CHARS_MAX)).map(field), [Ok(()), Ok(())]);
        let refused = ["/nak/reason", "/park/reason"].map(|field| Err(field.to_owned()));
        assert_eq!(answers("ü".repeat(REASON_CHARS_MAX + 1)).map(field), refused);
    }
}
