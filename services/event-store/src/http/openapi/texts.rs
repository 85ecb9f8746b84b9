//! Texts of which the document says what they may be.
use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// A text of which the document says what it may be.
macro_rules! texts {
    ($($(#[doc = $doc:literal])* $name:ident($pattern:literal, $length_min:literal, $length_max:literal, $example:literal);)*) => {
        $(
            $(#[doc = $doc])*
            pub(super) struct $name;

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    stringify!($name).into()
                }
            }

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some($pattern));
                    let text = text.min_length(Some($length_min)).max_length(Some($length_max)).examples([$example]);
                    text.description(Some(concat!($($doc),*).trim())).into()
                }
            }
        )*
    };
}

/// A body that is no JSON value, but has JSON in it.
macro_rules! streams {
    ($($(#[doc = $doc:literal])* $name:ident($media:literal);)*) => {
        $(
            $(#[doc = $doc])*
            pub(super) struct $name;

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    stringify!($name).into()
                }
            }

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let text = ObjectBuilder::new().schema_type(Type::String).content_media_type($media);
                    text.description(Some(concat!($($doc),*).trim())).into()
                }
            }
        )*
    };
}

streams! {
    /// Each line is an `Event`. The header `causeway-last-position` says where the log ended. A break in the middle breaks the
    /// connection.
    EventLines("application/x-ndjson");
    /// Server-sent events. An event of the log has its position as `id:`, its type as `event:` and the `Event` as `data:`. What is none
    /// has a name in lower case: `caught_up` (`{position, head}`), `checkpoint` (`{position}`) and `heartbeat` (`{position, lag}`), with an
    /// `id:` as well, and `delta` (`{turn, step, kind, text}`).
    EventStream("text/event-stream");
    /// Server-sent events: `state` (`{position, state}`), `change` (a `Change`) and `heartbeat` (`{position, lag}`).
    ViewStream("text/event-stream");
}

texts! {
    /// `evt_` and a UUIDv7 in base32: unique, sorts by time.
    EventId("^evt_[0-7][0-9a-hjkmnp-tv-z]{25}$", 1, 30, "evt_01k9x3m5v8e7rs2q4n6p8t0w1y");
    /// What happened.
    EventType("^[A-Z][A-Za-z0-9]{0,63}$", 1, 64, "MessageReceived");
    /// A type, or with a `*` at its end all that start so.
    TypePattern("^([A-Z][A-Za-z0-9]{0,63}|([A-Z][A-Za-z0-9]{0,62})?\\*)$", 1, 64, "Message*");
    /// What it happened to: 1 to 128 bytes of printable UTF-8.
    AggregateId("^[^\\u0000-\\u001f\\u007f-\\u009f]+$", 1, 128, "user_123");
    /// The chain of cause and effect: 1 to 128 bytes of printable UTF-8.
    CorrelationId("^[^\\u0000-\\u001f\\u007f-\\u009f]+$", 1, 128, "0af7651916cd43dd8448eb211c80319c");
    /// Who appended it: 1 to 128 bytes of printable UTF-8.
    Source("^[^\\u0000-\\u001f\\u007f-\\u009f]+$", 1, 128, "telegram");
    /// Under this name an append is made at most once per aggregate: 1 to 256 bytes of printable UTF-8.
    IdempotencyKey("^[^\\u0000-\\u001f\\u007f-\\u009f]+$", 1, 256, "order-7");
    /// The start of an aggregate's id.
    Prefix("^[^\\u0000-\\u001f\\u007f-\\u009f]*$", 0, 128, "telegram:");
    /// A position or an event id.
    Place("^([0-9]{1,19}|evt_[0-7][0-9a-hjkmnp-tv-z]{25})$", 1, 30, "42");
    /// An RFC 3339 time.
    Time("^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-5][0-9])$", 1, 40, "2026-11-23T10:00:00Z");
    /// A position, an event id or an RFC 3339 time.
    Moment("^([0-9]{1,19}|evt_[0-7][0-9a-hjkmnp-tv-z]{25}|[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-5][0-9]))$", 1, 40, "42");
}
