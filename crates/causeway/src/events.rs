//! `causeway events append | read | tail`, and what all clients share.

mod args;

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use causeway_client::{
    Append, Appended, Client, ClientError, Draft, Expected, Filter, Kind, Options, Order, Problem, Read, Start, Subscribe, Update,
};
use causeway_event::{Data, Event, EventType, Labels, payload};
use causeway_runtime::config::closest;
use causeway_runtime::shutdown::Signals;
use causeway_runtime::telemetry::{self, Telemetry, TelemetryError, current_traceparent};
use futures::StreamExt as _;
use tracing::{Instrument as _, info_span};

pub(crate) use args::EventsArgs;
use args::{AppendArgs, Direction, EventsCommand, Expectation, FilterArgs, ReadArgs, TailArgs};

use crate::cli::ServerArgs;
use crate::failure::{Hinted, Usage};
use crate::output::{self, Look, Output, clean, one_line};

/// A client of the gateway that was asked for. A person waits: a gateway that is not there is told at once.
pub(crate) fn client(server: &ServerArgs) -> anyhow::Result<Client> {
    Ok(Client::connect_with(&server.server, Options { retries_max: 0, ..options() })?)
}

/// A client that calls again where that can do no harm.
pub(crate) fn patient_client(server: &ServerArgs) -> anyhow::Result<Client> {
    Ok(Client::connect_with(&server.server, options())?)
}

fn options() -> Options {
    Options { traceparent: current_traceparent, ..Options::default() }
}

/// Logs of a client: only what went wrong.
pub(crate) fn telemetry() -> Result<Telemetry, TelemetryError> {
    telemetry::init("causeway-cli", &telemetry::Config { level: "warn".to_owned(), ..telemetry::Config::default() })
}

/// `causeway events ..`
pub(crate) async fn run(args: EventsArgs, out: &Output) -> anyhow::Result<()> {
    match args.command {
        EventsCommand::Append(args) => append(args, out).instrument(info_span!("events append")).await,
        EventsCommand::Read(args) => read(args, out).await,
        EventsCommand::Tail(args) => tail(args, out).await,
    }
}

async fn append(args: AppendArgs, out: &Output) -> anyhow::Result<()> {
    let data = json("--data", &args.data)?;
    let mut labels = Labels::new();
    for (name, value) in args.labels {
        if labels.insert(name.clone(), value).is_some() {
            return Err(Usage(format!("--label {name} is given twice")).into());
        }
    }
    let expected = match args.expected {
        Expectation::Any => Vec::new(),
        Expectation::LastIs(position) => vec![Expected { aggregate_id: None, category: None, position }],
    };
    if let Some(meant) = misspelt(&args.event_type) {
        out.note(&format!("{} is a type of your own; did you mean {meant}?", args.event_type));
    }
    let event = Draft {
        event_type: args.event_type,
        aggregate_id: args.aggregate_id,
        data,
        source: Some(args.source),
        causation_id: args.causation_id,
        correlation_id: args.correlation_id,
        labels,
        schema_version: None,
    };
    let keyed = args.idempotency_key.is_some();
    let append = Append { events: vec![event], expected, idempotency_key: args.idempotency_key.map(String::from) };
    match client(&args.server)?.append(append).await {
        Ok(appended) => told(&appended, out),
        Err(error) => Err(failed(error, keyed)),
    }
}

/// The known type that a type of one's own looks like: any name is welcome, so a slip would go unnoticed.
fn misspelt(event_type: &EventType) -> Option<&'static str> {
    let known: Vec<&'static str> = payload::schemas().into_iter().map(|(name, ..)| name).collect();
    let nearest = closest(event_type.as_str(), &known)?;
    // Half the letters of a short name in common are no likeness.
    let is_like = nearest != event_type.as_str() && nearest.len().abs_diff(event_type.as_str().len()) <= 1;
    is_like.then_some(nearest)
}

/// The failure of an append, with the way out where nobody knows whether it happened.
fn failed(error: ClientError, keyed: bool) -> anyhow::Error {
    if error.kind() != Some(Kind::OutcomeUnknown) {
        return error.into();
    }
    if let ClientError::Problem(Problem { appended: Some(position), .. }) = error {
        let hint = format!("`causeway events read --after {} --limit 1` shows it", position.previous());
        return anyhow::Error::from(error).context(Hinted { what: "it was appended".to_owned(), hint });
    }
    let hint = match keyed {
        true => "append again with the same --idempotency-key to settle it",
        false => {
            "`causeway events read --order desc` shows whether it did; with --idempotency-key it can be appended again safely"
        }
    };
    anyhow::Error::from(error).context(Hinted { what: "the append may have happened".to_owned(), hint: hint.to_owned() })
}

fn told(appended: &Appended, out: &Output) -> anyhow::Result<()> {
    let receipt = appended.receipts.first().context("the gateway gave no receipt")?;
    if out.json {
        return out.json(&serde_json::json!({
            "id": receipt.id,
            "position": receipt.position,
            "timestamp": causeway_event::format_timestamp(receipt.timestamp),
            "correlation_id": receipt.correlation_id,
            "duplicate": appended.duplicate,
        }));
    }
    let what = if appended.duplicate { "appended before" } else { "appended" };
    out.line(&format!("{} {} at position {}", out.paint(Look::Good, what), receipt.id, receipt.position))?;
    Ok(out.line(
        &out.paint(
            Look::Dim,
            &format!("see {} trace {}", output::program(), output::shell_word(receipt.correlation_id.as_str())),
        ),
    )?)
}

/// The JSON that an argument like `--data` means.
pub(crate) fn json(flag: &str, given: &str) -> anyhow::Result<Data> {
    Data::from_json(&data(given)?).map_err(|invalid| match !given.starts_with('@') && Path::new(given).is_file() {
        true => Usage(format!("{flag} {}; for the file say @{given}", invalid.reason)).into(),
        false => Usage(format!("{flag} {}", invalid.reason)).into(),
    })
}

/// The bytes that such an argument means.
pub(crate) fn data(given: &str) -> anyhow::Result<Vec<u8>> {
    match given.strip_prefix('@') {
        Some(file) => std::fs::read(file).map_err(|error| Usage(format!("cannot read {file}: {error}")).into()),
        None if given == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
            Ok(bytes)
        }
        None => Ok(given.as_bytes().to_vec()),
    }
}

async fn read(args: ReadArgs, out: &Output) -> anyhow::Result<()> {
    let limit = Some(args.limit).filter(|limit| *limit > 0);
    let read = Read {
        filter: filter(args.filter),
        from: args.from,
        until: args.until,
        after: args.after,
        before: args.before,
        order: match args.order {
            Direction::Asc => Order::Forwards,
            Direction::Desc => Order::Backwards,
        },
        // One more than is shown says whether there are more.
        limit: limit.map(|limit| limit.saturating_add(1)),
        ..Read::default()
    };
    let mut events = client(&args.server)?.read(read).await?;
    let mut shown = 0;
    while let Some(event) = events.next().await.transpose()? {
        if limit == Some(shown) {
            out.note(&format!("there are more than {shown}: --limit 0 shows all"));
            break;
        }
        show(&event, out)?;
        shown += 1;
    }
    if shown == 0 && !out.json {
        out.note("no such events");
    }
    Ok(())
}

async fn tail(args: TailArgs, out: &Output) -> anyhow::Result<()> {
    let start = args.after.map_or(Start::Now, Start::After);
    let subscribe = Subscribe { filter: filter(args.filter), start, ..Subscribe::default() };
    let signals = Signals::watch();
    let stop = signals.token();
    let mut updates = client(&args.server)?.subscribe(subscribe).await?;
    loop {
        let update = tokio::select! {
            update = updates.next() => update,
            () = stop.cancelled() => return Ok(()),
        };
        match update.context("the gateway ended the subscription")?? {
            Update::Event(event) => show(&event, out)?,
            Update::CaughtUp { position, .. } if !out.json => {
                out.note(&format!("at position {position}, waiting for more; Ctrl-C ends"));
            }
            Update::CaughtUp { .. } | Update::Checkpoint(_) | Update::Heartbeat { .. } | Update::Delta(..) => {}
        }
    }
}

fn filter(args: FilterArgs) -> Filter {
    Filter {
        types: args.types,
        category: args.category,
        aggregate_id: args.aggregate,
        correlation_id: args.correlation_id,
        source: args.source,
        caused_by: args.caused_by,
        descendants_of: args.descendants_of,
        ..Filter::default()
    }
}

fn show(event: &Event, out: &Output) -> anyhow::Result<()> {
    if out.json {
        return out.json(event);
    }
    let pieces = line(event, out.width());
    let painted: String = pieces.iter().map(|(look, text)| out.paint(*look, text)).collect();
    Ok(out.line(&painted)?)
}

/// An event on one line: position, time, type, aggregate, source, and as much of the data as fits.
fn line(event: &Event, width: Option<usize>) -> Vec<(Look, String)> {
    let time = causeway_event::format_timestamp(event.timestamp);
    // To the millisecond, without the T and the Z that a person does not read.
    let time = time.get(..23).unwrap_or(&time).replace('T', " ");
    let head = [
        (Look::Dim, format!("{:>6}  {time}  ", event.position)),
        (Look::Strong, format!("{:<22}", event.event_type)),
        (Look::Plain, format!(" {}", clean(event.aggregate_id.as_str()))),
        (Look::Dim, format!(" ({})  ", clean(event.metadata.source.as_str()))),
    ];
    let used: usize = head.iter().map(|(_, text)| text.chars().count()).sum();
    // On a narrow terminal the line breaks rather than hides the data.
    let room = width.map(|width| width.saturating_sub(used).max(40));
    head.into_iter().chain([(Look::Dim, one_line(event.data.as_str(), room))]).collect()
}

#[cfg(test)]
mod tests {

    use super::*;

    fn event() -> Event {
        let json = r#"{"id":"evt_01k9x3m5v8e7rs2q4n6p8t0w1y","position":42,"timestamp":"2026-11-23T10:00:00.123456Z","type":"MessageReceived","aggregate_id":"me","data":{"content":"a long message that does not fit on the line at all"},"metadata":{"source":"cli","correlation_id":"c"}}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_slip_in_a_known_type_is_suspected_and_ones_own_types_are_not() {
        let suspected = |name: &str| misspelt(&name.parse().unwrap());
        assert_eq!(suspected("MessageRecieved"), Some("MessageReceived"));
        for own in ["MessageReceived", "OrderPlaced", "NoteTaken", "MessageRead"] {
            assert_eq!(suspected(own), None, "{own}");
        }
    }

    fn text(width: Option<usize>) -> String {
        line(&event(), width).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(
            text(None),
            "    42  2026-11-23 10:00:00.123  MessageReceived        me (cli)  {\"content\":\"a long message that does not fit on the line at all\"}"
        );
        assert!(text(Some(110)).ends_with('…') && text(Some(110)).chars().count() == 110);
        assert_eq!(text(Some(20)), text(Some(60)));
    }

    #[test]
    fn an_append_of_unknown_outcome_comes_with_a_way_out() {
        let hint = |kind, keyed| {
            let error = failed(Problem::new(kind, "no answer").into(), keyed);
            assert!(error.downcast_ref::<ClientError>().is_some(), "its exit code is the client's");
            error.downcast_ref::<Hinted>().map(|hinted| hinted.hint.clone())
        };
        let appended =
            Problem { appended: Some(causeway_event::Position::new(7)), ..Problem::new(Kind::OutcomeUnknown, "no time") };
        let hinted = failed(appended.into(), false).downcast::<Hinted>().unwrap();
        assert_eq!(
            (hinted.what.as_str(), hinted.hint.as_str()),
            ("it was appended", "`causeway events read --after 6 --limit 1` shows it")
        );
        assert!(hint(Kind::OutcomeUnknown, true).unwrap().contains("the same --idempotency-key"));
        assert!(hint(Kind::OutcomeUnknown, false).unwrap().contains("events read"));
        assert_eq!(hint(Kind::Conflict, true), None);
    }

    #[test]
    fn data_comes_from_the_argument_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.json");
        std::fs::write(&file, "[1]").unwrap();
        assert_eq!(data("{}").unwrap(), b"{}");
        assert_eq!(data(&format!("@{}", file.display())).unwrap(), b"[1]");
        assert!(data("@no-such-file").unwrap_err().is::<Usage>());
        let meant = json("--data", file.to_str().unwrap()).unwrap_err().to_string();
        assert!(meant.ends_with(&format!("for the file say @{}", file.display())), "{meant}");
        assert!(!json("--data", "{").unwrap_err().to_string().contains('@'));
    }
}
