//! Server-sent events from bytes, wherever the network cut them.
//!
//! Pure. Takes every line end that the standard allows, and a stream that ends without the last empty line. Bounded: a line,
//! or the data of one event, that grows beyond its limit is an error, since nobody owes us an end.

use std::collections::VecDeque;

/// One event; its id and retry fields are of no use to an answer that cannot be resumed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// Empty if the server gave none.
    pub(crate) name: String,
    pub(crate) data: String,
}

/// An event has more bytes than allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TooLong {
    pub(crate) bytes_max: usize,
}

#[derive(Debug)]
pub(crate) struct Decoder {
    bytes_max: usize,
    /// The line so far.
    line: Vec<u8>,
    /// The last byte was a carriage return, which a line feed may complete.
    after_cr: bool,
    /// No line was whole yet: a byte order mark may stand there.
    at_start: bool,
    name: String,
    /// The event's data so far; none before its first data line.
    data: Option<String>,
    ready: VecDeque<Event>,
}

impl Decoder {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            name: String::new(),
            data: None,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next bytes, in which any number of events may end.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                return self.extend_line(bytes);
            };
            self.extend_line(&bytes[..end])?;
            self.end_line();
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// The stream ended in order: what stands there is whole.
    pub(crate) fn end(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.end_event();
    }

    /// The next whole event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let held = self.line.len() + self.data.as_ref().map_or(0, String::len);
        if self.bytes_max < held + bytes.len() {
            return Err(TooLong { bytes_max: self.bytes_max });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return self.end_event();
        }
        // Only whole lines are decoded, so a character is never cut in two.
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            // A comment (an empty field) keeps the connection alive; ids and retry times are not for us.
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let name = std::mem::take(&mut self.name);
        if let Some(data) = self.data.take() {
            self.ready.push_back(Event { name, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &[(&str, &str)]) {
        for size in 1..=bytes.len() {
            let mut decoder = Decoder::new(1000);
            bytes.chunks(size).for_each(|chunk| decoder.push(chunk).unwrap());
            decoder.end();
            let events: Vec<Event> = std::iter::from_fn(|| decoder.next()).collect();
            let seen: Vec<_> = events.iter().map(|event| (event.name.as_str(), event.data.as_str())).collect();
            assert_eq!(seen, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn events_end_at_an_empty_line() {
        check(b"data: a\n\nevent: ping\ndata: b\n\n", &[("", "a"), ("ping", "b")]);
    }

    #[test]
    fn any_line_end_will_do() {
        check(b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", &[("", "a"), ("", "b"), ("", "c")]);
    }

    #[test]
    fn data_lines_add_up_and_comments_do_not_count() {
        check(b": hello\ndata: a\ndata:b\n: again\nid: 7\nretry: 1\ndata\n\n", &[("", "a\nb\n")]);
    }

    #[test]
    fn a_byte_order_mark_and_letters_of_many_bytes_survive_any_cut() {
        check("\u{feff}data: žluťoučký 🐎\n\n".as_bytes(), &[("", "žluťoučký 🐎")]);
    }

    #[test]
    fn the_last_event_needs_no_empty_line() {
        check(b"data: a\n\ndata: [DONE]", &[("", "a"), ("", "[DONE]")]);
    }

    #[test]
    fn an_event_without_data_is_none() {
        check(b"event: ping\n\n\n\ndata: a\n\n", &[("", "a")]);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut decoder = Decoder::new(100);
        let endless = (0..200).try_for_each(|_| decoder.push(b"data: x\n"));
        assert_eq!(endless, Err(TooLong { bytes_max: 100 }));
        let mut decoder = Decoder::new(100);
        assert_eq!((0..200).try_for_each(|_| decoder.push(b"x")), Err(TooLong { bytes_max: 100 }));
    }
}
