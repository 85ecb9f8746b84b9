//! What the demo model understands of a message: sums, units, the time, a name.
//!
//! Pure, and content to miss things: what it does not see, it does not claim.

/// What a message asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Wishes {
    /// Something to calculate.
    pub(crate) expression: Option<String>,
    /// The time, perhaps in a zone.
    pub(crate) time: Option<Option<String>>,
}

impl Wishes {
    pub(crate) fn of(text: &str) -> Self {
        let asks_time = words(text).any(|word| TIME_WORDS.contains(&word.to_lowercase().as_str()));
        Self { expression: expression(text), time: asks_time.then(|| zone(text)) }
    }
}

const TIME_WORDS: [&str; 10] = ["time", "date", "day", "today", "now", "clock", "weekday", "week", "o'clock", "year"];

/// Places that people ask about; everything else can be named as the time zone database does.
const PLACES: [(&str, &str); 24] = [
    ("amsterdam", "Europe/Amsterdam"),
    ("athens", "Europe/Athens"),
    ("beijing", "Asia/Shanghai"),
    ("berlin", "Europe/Berlin"),
    ("cairo", "Africa/Cairo"),
    ("chicago", "America/Chicago"),
    ("delhi", "Asia/Kolkata"),
    ("dublin", "Europe/Dublin"),
    ("helsinki", "Europe/Helsinki"),
    ("lisbon", "Europe/Lisbon"),
    ("london", "Europe/London"),
    ("los angeles", "America/Los_Angeles"),
    ("madrid", "Europe/Madrid"),
    ("nairobi", "Africa/Nairobi"),
    ("new york", "America/New_York"),
    ("oslo", "Europe/Oslo"),
    ("paris", "Europe/Paris"),
    ("rome", "Europe/Rome"),
    ("san francisco", "America/Los_Angeles"),
    ("seoul", "Asia/Seoul"),
    ("singapore", "Asia/Singapore"),
    ("sydney", "Australia/Sydney"),
    ("tokyo", "Asia/Tokyo"),
    ("zurich", "Europe/Zurich"),
];

const REGIONS: [&str; 9] = ["Africa", "America", "Antarctica", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific"];

/// Units that turn "5 km in miles" into a sum.
const UNITS: [&str; 38] = [
    "km",
    "m",
    "cm",
    "mm",
    "meters",
    "metres",
    "kilometers",
    "kilometres",
    "mile",
    "miles",
    "ft",
    "feet",
    "inch",
    "inches",
    "yards",
    "kg",
    "g",
    "grams",
    "lb",
    "lbs",
    "pounds",
    "ounces",
    "seconds",
    "minutes",
    "hours",
    "days",
    "weeks",
    "years",
    "celsius",
    "fahrenheit",
    "liters",
    "litres",
    "gallons",
    "KB",
    "MB",
    "GB",
    "KiB",
    "MiB",
];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty())
}

fn zone(text: &str) -> Option<String> {
    let named = text
        .split(|c: char| !c.is_ascii_alphabetic() && !matches!(c, '/' | '_'))
        .find(|word| word.split_once('/').is_some_and(|(region, place)| REGIONS.contains(&region) && !place.is_empty()));
    let lower = text.to_lowercase();
    let place = || PLACES.iter().find(|(place, _)| lower.contains(place)).map(|(_, zone)| (*zone).to_owned());
    named.map(ToOwned::to_owned).or_else(place)
}

/// A part of the message that may belong to a sum.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Number(String),
    Operator(&'static str),
    Open,
    Close,
    /// `sqrt` and its like.
    Function(&'static str),
    Unit(String),
    /// `to`, `in`, `of`: part of a sum only between parts of one.
    Link(&'static str),
}

/// The longest sum in the message.
fn expression(text: &str) -> Option<String> {
    let mut longest: Vec<Token> = Vec::new();
    for run in runs(text) {
        let run = trimmed(run);
        if is_sum(&run) && longest.len() < run.len() {
            longest = run;
        }
    }
    (!longest.is_empty()).then(|| written(&longest))
}

/// Stretches of the message in which each word could belong to a sum.
fn runs(text: &str) -> Vec<Vec<Token>> {
    let mut runs = vec![Vec::new()];
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            c if c.is_ascii_digit() => number_length(rest),
            c if c.is_alphabetic() => rest.find(|c: char| !c.is_alphanumeric() && c != '\'').unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (word, after) = rest.split_at(length);
        rest = after;
        match token(word) {
            _ if word.trim().is_empty() => {}
            Some(token) => runs.last_mut().into_iter().for_each(|run| run.push(token.clone())),
            None => runs.push(Vec::new()),
        }
    }
    runs
}

fn number_length(text: &str) -> usize {
    let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ',')).unwrap_or(text.len());
    // The point at the end of a sentence is not the number's.
    let number = text[..end].trim_end_matches(['.', ',']);
    let date = text.as_bytes();
    // A date is no subtraction: take it whole, so that it is no number.
    if number.len() == 4 && date.len() >= 10 && date[4] == b'-' && date[7] == b'-' && date[5..7].iter().all(u8::is_ascii_digit) {
        return 10.min(text.len());
    }
    number.len()
}

fn token(word: &str) -> Option<Token> {
    let operator = |sign| Some(Token::Operator(sign));
    let lower = word.to_lowercase();
    match lower.as_str() {
        "+" | "plus" => operator("+"),
        "-" | "−" | "minus" => operator("-"),
        "*" | "×" | "·" | "x" | "times" => operator("*"),
        "/" | "÷" | "divided" => operator("/"),
        "by" => Some(Token::Link("by")),
        "^" => operator("^"),
        "%" | "percent" => operator("%"),
        "!" => operator("!"),
        "(" => Some(Token::Open),
        ")" => Some(Token::Close),
        "sqrt" => Some(Token::Function("sqrt")),
        "to" | "in" => Some(Token::Link("to")),
        "of" => Some(Token::Link("of")),
        _ if UNITS.iter().any(|unit| unit.eq_ignore_ascii_case(&lower)) => Some(Token::Unit(word.to_owned())),
        _ if word.starts_with(|c: char| c.is_ascii_digit()) && !word.contains('-') => Some(Token::Number(word.to_owned())),
        _ => None,
    }
}

/// The run without what cannot begin or end a sum.
fn trimmed(mut run: Vec<Token>) -> Vec<Token> {
    while run.last().is_some_and(|token| match token {
        Token::Operator(sign) => *sign != "%" && (*sign != "!" || run.len() != 2),
        Token::Open | Token::Link(_) | Token::Function(_) => true,
        Token::Close => run.iter().filter(|token| **token == Token::Open).count() == 0,
        Token::Number(_) | Token::Unit(_) => false,
    }) {
        run.pop();
    }
    let begins = |token: &Token| matches!(token, Token::Number(_) | Token::Open | Token::Function(_) | Token::Operator("-"));
    let start = run.iter().position(begins).unwrap_or(run.len());
    run.split_off(start)
}

fn is_sum(run: &[Token]) -> bool {
    let count = |is: fn(&Token) -> bool| run.iter().filter(|token| is(token)).count();
    let numbers = count(|token| matches!(token, Token::Number(_)));
    let operators = count(|token| matches!(token, Token::Operator(sign) if *sign != "%" && *sign != "!"));
    let percent_of = run.windows(2).any(|pair| matches!(pair, [Token::Operator("%"), Token::Link("of")]));
    let factorial = run.windows(2).any(|pair| matches!(pair, [Token::Number(_), Token::Operator("!")]));
    let function = run.iter().any(|token| matches!(token, Token::Function(_)));
    let conversion = run.windows(2).any(|pair| matches!(pair, [Token::Link("to"), Token::Unit(_)]))
        && count(|token| matches!(token, Token::Unit(_))) == 2;
    (2 <= numbers && 0 < operators) || (1 <= numbers && (function || conversion || factorial)) || (2 <= numbers && percent_of)
}

fn written(run: &[Token]) -> String {
    let mut text = String::new();
    for (at, token) in run.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| &run[at]);
        let (word, tight) = match token {
            Token::Number(word) | Token::Unit(word) => (word.as_str(), false),
            // "divided by" is one sign.
            Token::Link("by") => continue,
            Token::Operator(sign @ ("%" | "!" | "^")) => (*sign, true),
            Token::Operator(sign) | Token::Function(sign) | Token::Link(sign) => (*sign, false),
            Token::Open => ("(", matches!(before, Some(Token::Function(_)))),
            Token::Close => (")", true),
        };
        let tight = tight || text.is_empty() || matches!(before, Some(Token::Open | Token::Operator("^")));
        if !tight {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

/// How the writer says they are called.
pub(crate) fn name(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    let after = ["my name is ", "i am called ", "call me "].iter().find_map(|words| {
        let at = lower.find(words)? + words.len();
        // Lower case may have another length; then the name is not worth the trouble.
        text.get(at..)
    })?;
    let name: String = after.chars().take_while(|c| c.is_alphabetic() || *c == '-').take(40).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_found_in_sentences() {
        for (text, expected) in [
            ("What is 2 + 2?", "2 + 2"),
            ("what is 17*23.", "17 * 23"),
            ("calculate (1+2)*3 please", "(1 + 2) * 3"),
            ("15% of 80", "15% of 80"),
            ("and 15 percent of 80, please", "15% of 80"),
            ("seven is 3 plus 4, they say", "3 + 4"),
            ("10 divided by 4", "10 / 4"),
            ("how much is 1,234.5 × 2 ÷ 3", "1,234.5 * 2 / 3"),
            ("2^10 - 1", "2^10 - 1"),
            ("sqrt(2) to me", "sqrt(2)"),
            ("the square root is sqrt 16", "sqrt 16"),
            ("5! is what?", "5!"),
            ("5 km in miles", "5 km to miles"),
            ("convert 10 kg to pounds now", "10 kg to pounds"),
            ("1 + 1 or 1 + 2 + 3?", "1 + 2 + 3"),
            ("-3 * 4", "- 3 * 4"),
        ] {
            assert_eq!(expression(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_sum_is_left_alone() {
        for text in [
            "",
            "Hello!",
            "I have 2 cats and 3 dogs",
            "it was on 2026-11-23",
            "version 1.2.3",
            "call 42",
            "(hello - world)",
            "5 days in Rome",
            "wait 100%!",
            "%%% ((( !!! ---",
        ] {
            assert_eq!(expression(text), None, "{text}");
        }
    }

    #[test]
    fn the_time_is_asked_for_in_words_and_places() {
        let time = |text: &str| Wishes::of(text).time;
        assert_eq!(time("What time is it?"), Some(None));
        assert_eq!(time("which DAY is it in New York"), Some(Some("America/New_York".into())));
        assert_eq!(time("time in Asia/Kathmandu or so"), Some(Some("Asia/Kathmandu".into())));
        assert_eq!(time("Oslo is nice"), None);
        assert_eq!(time("sometimes, yesterday"), None);
    }

    #[test]
    fn a_name_is_taken_as_given() {
        assert_eq!(name("Hello, my name is Ada."), Some("Ada".into()));
        assert_eq!(name("Call me Anne-Marie, please"), Some("Anne-Marie".into()));
        assert_eq!(name("My name is İçé!"), Some("İçé".into()));
        assert_eq!(name("İİİ my name is X"), None);
        assert_eq!(name("I am hungry"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_message_brings_it_down(text in ".{0,60}", sum in "[0-9+*/%!()., km-]{0,60}") {
            let _ = (Wishes::of(&text), name(&text), Wishes::of(&sum), Wishes::of(&format!("{sum}{text}")));
        }
    }
}
