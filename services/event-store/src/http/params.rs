//! The query of a URL. A parameter that is not known, given twice, or not what it must be is refused by its name: a filter
//! that was misspelt must not answer with everything.

use std::str::FromStr;

use causeway_event::notation::percent_decode;
use causeway_event::{Invalid, parse_timestamp};
use causeway_proto::Problem;
use jiff::Timestamp;

use crate::cursor::Cursor;
use crate::range::{Named, Wanted};
use crate::read_model::Filter;

/// What is left of a query.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a query, as `application/x-www-form-urlencoded`.
    pub(super) fn read(query: Option<&str>) -> Result<Self, Problem> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).map_err(|reason| Problem::invalid(name, reason))?;
            let value = decode(value).map_err(|reason| Problem::invalid(&name, reason))?;
            Ok((name, value))
        };
        pairs.map(pair).collect::<Result<_, Problem>>().map(Self)
    }

    /// Every value of a parameter that may be repeated.
    pub(super) fn take_all<T: FromStr<Err = Invalid>>(&mut self, name: &str) -> Result<Vec<T>, Problem> {
        let taken = self.0.extract_if(.., |(known, _)| known == name).map(|(_, value)| parse(name, &value));
        taken.collect()
    }

    /// The value of a parameter that may be given once.
    pub(super) fn take<T: FromStr<Err = Invalid>>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let mut values = self.take_all::<Text>(name)?;
        match values.len() {
            0 => Ok(None),
            1 => values.pop().map(|Text(value)| parse(name, &value)).transpose(),
            _ => Err(Problem::invalid(name, "may be given only once")),
        }
    }

    /// A number from `min` to `max`.
    pub(super) fn take_number(&mut self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(Text(text)) = self.take(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (min..=max).contains(number) && !text.starts_with('+'));
        match number {
            Some(number) => Ok(Some(number)),
            None if max == u64::MAX => Err(Problem::invalid(name, format!("is not a whole number from {min}"))),
            None => Err(Problem::invalid(name, format!("is not a whole number from {min} to {max}"))),
        }
    }

    /// `true` or `false`.
    pub(super) fn take_flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.take::<Text>(name)?.map(|Text(text)| text).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::invalid(name, "is neither true nor false")),
        }
    }

    /// A place in the log, and the name it was given under.
    pub(super) fn take_cursor(&mut self, name: &'static str) -> Result<Option<(Cursor, &'static str)>, Problem> {
        Ok(self.take(name)?.map(|cursor| (cursor, name)))
    }

    /// A moment of the log, and the name it was given under.
    pub(super) fn take_moment(&mut self, name: &'static str) -> Result<Option<Named>, Problem> {
        Ok(self.take(name)?.map(|moment| (moment, name)))
    }

    /// What to read or to count.
    pub(super) fn take_wanted(&mut self) -> Result<Wanted, Problem> {
        Ok(Wanted {
            after: self.take_moment("after")?,
            before: self.take_moment("before")?,
            from: self.take_moment("from")?,
            until: self.take_moment("until")?,
            filter: self.take_filter()?,
            ..Wanted::default()
        })
    }

    /// What all reads filter by.
    pub(super) fn take_filter(&mut self) -> Result<Filter, Problem> {
        let time = |time: Option<Time>| time.map(|Time(time)| time);
        let types = self.take_all("type")?;
        Filter::check_types(types.len()).map_err(|invalid| invalid.within("type"))?;
        Ok(Filter {
            types,
            category: self.take("category")?,
            aggregate_id: self.take("aggregate_id")?,
            correlation_id: self.take("correlation_id")?,
            source: self.take("source")?,
            caused_by: self.take("caused_by")?,
            descendants_of: self.take("descendants_of")?,
            from: time(self.take("from")?),
            until: time(self.take("until")?),
        })
    }

    /// Refuses what is left.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::invalid(name, "is not a parameter of this path")),
        }
    }
}

fn parse<T: FromStr<Err = Invalid>>(name: &str, value: &str) -> Result<T, Problem> {
    value.parse().map_err(|invalid: Invalid| Problem::invalid(name, invalid.reason))
}

/// Any text.
pub(super) struct Text(pub(super) String);

impl FromStr for Text {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Ok(Self(text.to_owned()))
    }
}

struct Time(Timestamp);

impl FromStr for Time {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        parse_timestamp(text).map(Self)
    }
}

/// Undoes percent-encoding, strictly: what is not UTF-8 is refused, not replaced.
fn decode(text: &str) -> Result<String, &'static str> {
    percent_decode(text.replace('+', " ").as_bytes()).ok_or("is not percent-encoded UTF-8")
}

#[cfg(test)]
mod tests {
    use causeway_event::Category;

    use super::*;

    fn refused(query: &str) -> String {
        let read = || {
            let mut params = Params::read(Some(query))?;
            params.take_filter()?;
            params.take_cursor("after")?;
            params.take_number("limit", 1, 1000)?;
            params.take_flag("from_now")?;
            params.finish()
        };
        read().map_or_else(|problem: Problem| problem.field.unwrap_or_default(), |()| "accepted".into())
    }

    #[test]
    fn filters_are_read() {
        let query =
            "type=Message*&type=NoteTaken&aggregate_id=telegram%3A42+%C3%A9&category=custom&from=2026-11-23T10:00:00%2B01:00";
        let mut params = Params::read(Some(query)).unwrap();
        let filter = params.take_filter().unwrap();
        assert_eq!(filter.types.len(), 2);
        assert_eq!(filter.category, Some(Category::Custom));
        assert_eq!(filter.aggregate_id.unwrap().as_str(), "telegram:42 é");
        assert_eq!(filter.from.unwrap().to_string(), "2026-11-23T09:00:00Z");
        params.finish().unwrap();
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        for (query, field) in [
            ("", "accepted"),
            ("limit=1000&after=7&from_now=true&", "accepted"),
            ("limit=0", "limit"),
            ("limit=-1", "limit"),
            ("limit=1001", "limit"),
            ("limit=+1", "limit"),
            ("limit=ten", "limit"),
            ("limit=1&limit=2", "limit"),
            ("after=yesterday", "after"),
            ("after=", "after"),
            ("from_now=yes", "from_now"),
            ("agregate_id=a", "agregate_id"),
            ("aggregate_id=", "aggregate_id"),
            ("aggregate_id=a%00b", "aggregate_id"),
            ("aggregate_id=%ff", "aggregate_id"),
            ("aggregate_id=%4", "aggregate_id"),
            ("category=Input", "category"),
            ("type=message", "type"),
            ("type=Message**", "type"),
            ("source=", "source"),
            ("caused_by=7", "caused_by"),
            ("descendants_of=evt_1", "descendants_of"),
            ("from=today", "from"),
            ("until=2026-13-01T00:00:00Z", "until"),
            ("correlation_id=%0a", "correlation_id"),
        ] {
            assert_eq!(refused(query), field, "{query}");
        }
    }
}
