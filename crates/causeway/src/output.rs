//! The one place that prints: results on stdout, everything else on stderr, colours only for a person's terminal.
//!
//! What comes from the log was written by anybody: it never reaches a terminal with its control characters.

use std::borrow::Cow;
use std::future::Future;
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// How something reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// As it is.
    Plain,
    /// Beside the point: times, thoughts, notes.
    Dim,
    /// A heading, a name.
    Strong,
    /// Something to type or to follow.
    Accent,
    /// It went well.
    Good,
    /// It went wrong.
    Bad,
}

impl Look {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Dim => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
            Self::Accent => AnsiColor::Cyan.on_default(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
        }
    }
}

/// Where a command's words go.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// Whether a program reads stdout.
    pub(crate) json: bool,
    colour: bool,
    colour_err: bool,
    /// Whether a person watches stderr.
    progress: bool,
    width: Option<usize>,
}

impl Output {
    /// What fits this process's streams.
    pub(crate) fn new(json: bool) -> Self {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            json,
            colour: out && colours && !json,
            colour_err: err && colours,
            progress: err && !json,
            width: if out { terminal_width() } else { None },
        }
    }

    /// Columns of the terminal; `None` where stdout is none.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    /// `text` in a look, for stdout.
    pub(crate) fn paint(&self, look: Look, text: &str) -> String {
        paint(self.colour, look, text)
    }

    /// A line of the result. The error says that nobody reads any more.
    pub(crate) fn line(&self, text: &str) -> io::Result<()> {
        write(&mut io::stdout().lock(), &[text, "\n"])
    }

    /// A piece of the result, at once.
    pub(crate) fn piece(&self, look: Look, text: &str) -> io::Result<()> {
        write(&mut io::stdout().lock(), &[&self.paint(look, text)])
    }

    /// A result for a program: one line of JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        Ok(self.line(&json_line(value)?)?)
    }

    /// A remark that is not part of the result.
    pub(crate) fn note(&self, text: &str) {
        // Whoever has closed stderr does not want to know.
        let _ = write(&mut io::stderr().lock(), &[&paint(self.colour_err, Look::Dim, text), "\n"]);
    }

    /// Why the command failed; for programs a line of JSON on stderr.
    pub(crate) fn failure(&self, words: &str, hint: Option<&str>, code: u8, conflict: Option<impl Serialize>) {
        #[derive(Serialize)]
        struct Failure<'a, C> {
            error: &'a str,
            hint: Option<&'a str>,
            exit_code: u8,
            #[serde(skip_serializing_if = "Option::is_none")]
            conflict: Option<C>,
        }
        let failure = Failure { error: words, hint, exit_code: code, conflict };
        let text = if self.json
            && let Ok(json) = json_line(&failure)
        {
            json
        } else {
            let hint = hint.map(|hint| format!("\n{} {hint}", paint(self.colour_err, Look::Accent, "hint:")));
            let words = clean(words);
            format!("{} {words}{}", paint(self.colour_err, Look::Bad, "error:"), hint.unwrap_or_default())
        };
        let _ = write(&mut io::stderr().lock(), &[&text, "\n"]);
    }

    /// Whether a person watches stderr.
    pub(crate) fn person(&self) -> bool {
        self.progress
    }

    /// Awaits something that may take longer; a person sees that it does, and for how long.
    pub(crate) async fn during<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let begun = Instant::now();
        let mut told = false;
        let done = loop {
            match tokio::time::timeout(TOLD_EVERY, &mut work).await {
                Ok(done) => break done,
                Err(_) if self.progress => {
                    told = true;
                    let text = paint(self.colour_err, Look::Dim, &format!("{what} ... {} s", begun.elapsed().as_secs()));
                    let _ = write(&mut io::stderr().lock(), &["\r", &text]);
                }
                Err(_) => {}
            }
        };
        if told {
            // What follows stands on a clean line.
            let _ = write(&mut io::stderr().lock(), &["\r\x1b[2K"]);
        }
        done
    }
}

/// What is passed on as it was written may have line breaks: between its tokens, since inside of strings they are escaped.
fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string(value)?.replace(['\n', '\r'], " "))
}

/// What takes less than this is not worth a word.
const TOLD_EVERY: Duration = Duration::from_secs(1);

fn paint(colour: bool, look: Look, text: &str) -> String {
    let style = look.style();
    match colour && look != Look::Plain && !text.is_empty() {
        true => format!("{style}{text}{style:#}"),
        false => text.to_owned(),
    }
}

fn write(to: &mut impl Write, parts: &[&str]) -> io::Result<()> {
    for part in parts {
        to.write_all(part.as_bytes())?;
    }
    to.flush()
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// This program as it was called, for commands that are to be typed next.
pub(crate) fn program() -> String {
    std::env::args().next().filter(|name| !name.is_empty()).unwrap_or_else(|| "causeway".to_owned())
}

/// A word of such a command, in quotes where a shell would take it apart.
pub(crate) fn shell_word(word: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@%+=,".contains(&byte);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.into(),
        false => format!("'{}'", clean(word).replace('\'', r"'\''")).into(),
    }
}

/// Whether an error says that the reader of stdout has gone (`| head`), which is no failure.
pub(crate) fn reader_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Text from outside without what would steer a terminal. Line breaks and tabs stay.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let steers = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            // Marks that change the direction of writing can make text read as what it is not.
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match text.contains(steers) {
        true => text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect::<String>().into(),
        false => text.into(),
    }
}

/// [`clean`], on one line of at most `columns`.
pub(crate) fn one_line(text: &str, columns: Option<usize>) -> String {
    let mut line: String = clean(text).chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    if let Some(columns) = columns.map(|columns| columns.max(2))
        && let Some((end, _)) = line.char_indices().nth(columns)
    {
        let last = line[..end].char_indices().next_back().map_or(0, |(at, _)| at);
        line.truncate(last);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\r\u{202e}c\n\td"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\n\td");
        assert!(matches!(clean("plain ünï 👋"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_would_take_it_apart() {
        assert_eq!(shell_word("web:1-a_b.c"), "web:1-a_b.c");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's; $x"), r"'it'\''s; $x'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn long_lines_are_cut_visibly() {
        assert_eq!(one_line("abc\ndef", Some(7)), "abc def");
        assert_eq!(one_line("abc\ndef", Some(6)), "abc d…");
        assert_eq!(one_line("éééé", Some(3)), "éé…");
        assert_eq!(one_line("abc", None), "abc");
    }

    #[test]
    fn colours_are_only_for_a_terminal() {
        assert_eq!(paint(false, Look::Bad, "x"), "x");
        assert_eq!(paint(true, Look::Bad, "x"), "\u{1b}[1m\u{1b}[31mx\u{1b}[0m");
        assert_eq!(paint(true, Look::Plain, "x"), "x");
    }
}
