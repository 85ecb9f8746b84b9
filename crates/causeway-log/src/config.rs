//! Where the log is and how long to wait for it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use async_nats::ServerAddr;
use causeway_event::Invalid;
use causeway_event::notation::percent_decode;
use jiff::fmt::serde::unsigned_duration::friendly::compact;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::GroupCommit;
use crate::names::Names;

/// The most copies of a stream that JetStream keeps.
const REPLICAS_MAX: usize = 5;

/// How to reach the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The NATS server, or several with commas between them.
    pub url: NatsUrl,
    /// Prefix of every subject, stream and consumer: several Causeways share one NATS.
    pub namespace: String,
    /// Copies of each stream: 1 on a single server, 3 in production.
    pub replicas: usize,
    /// A NATS credentials file (`.creds`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// How long to wait for one answer of the server.
    #[serde(with = "compact::required")]
    pub request_timeout: Duration,
    /// How long an append whose acknowledgement is missing is sent again before it is reported as unknown. A cluster that
    /// lost a leader answers again after 4 to 7 seconds. 25 s at most.
    #[serde(with = "compact::required")]
    pub append_timeout: Duration,
    /// Whether appends that wait for the disk at the same time share one write to it.
    pub group_commit: GroupCommit,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".into(),
            namespace: "causeway".into(),
            replicas: 1,
            credentials: None,
            request_timeout: Duration::from_secs(5),
            append_timeout: Duration::from_secs(15),
            group_commit: GroupCommit::default(),
        }
    }
}

impl Config {
    /// Whether this can work as far as can be said without a server. The error's field is a key of this configuration.
    pub fn check(&self) -> Result<(), Invalid> {
        let invalid = |key: &str, reason: &str| Err(Invalid::new(key, reason));
        if !self.url.is_usable() {
            return invalid("url", NOT_A_URL);
        }
        Names::new(&self.namespace).map_err(|error| Invalid::new("namespace", error.to_string()))?;
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return invalid("replicas", "must be 1 to 5");
        }
        if let Some(path) = &self.credentials
            && let Err(error) = std::fs::File::open(path)
        {
            return invalid("credentials", &format!("{} cannot be read: {error}", path.display()));
        }
        for (key, timeout) in [("request_timeout", self.request_timeout), ("append_timeout", self.append_timeout)] {
            if timeout.is_zero() {
                return invalid(key, "must be longer than 0s");
            }
        }
        if self.append_timeout > APPEND_TIMEOUT_MAX {
            let reason = "must be 25s at most: the server remembers what it stored for two minutes, and what is sent again after that is \
                 stored twice";
            return invalid("append_timeout", reason);
        }
        Ok(())
    }
}

/// The longest that an append may be sent again: with how long others count a key as unused it stays within [`DUPLICATE_WINDOW`].
pub const APPEND_TIMEOUT_MAX: Duration = Duration::from_secs(25);

/// How long the server remembers message ids. Beyond it an index of the log does.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Says nothing of what was given: it may hold a password.
const NOT_A_URL: &str =
    "must be an address such as nats://127.0.0.1:4222, or several with commas between them, which share one user and password";

/// What was to be the address of NATS is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{NOT_A_URL}")]
pub struct NotAUrl;

/// The address of NATS, or several with commas between them. What stands before an `@` is a user and a password, or a token: it
/// prints, and serialises, as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl(String);

impl NatsUrl {
    /// With user and password, for whoever connects.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Each server's address, without user and password: the client library would write them into its own logs.
    pub(crate) fn servers(&self) -> impl Iterator<Item = String> {
        self.parts().map(|part| format!("{}{}", part.scheme, part.host))
    }

    /// Who to be for the servers; the library itself does not take this from an address.
    pub(crate) fn login(&self) -> Option<Login> {
        let user_info = self.parts().find_map(|part| part.user_info)?;
        // Where `%` begins no escape, it is itself.
        let decoded = |text: &str| percent_decode(text.as_bytes()).unwrap_or_else(|| text.to_owned());
        Some(match user_info.split_once(':') {
            Some((user, password)) => Login::User { user: decoded(user), password: decoded(password) },
            None => Login::Token(decoded(user_info)),
        })
    }

    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.0.split(',').map(|server| {
            let server = server.trim();
            let (scheme, rest) = server.find("://").map_or(("", server), |at| server.split_at(at + "://".len()));
            match rest.rsplit_once('@') {
                Some((user_info, host)) => Part { scheme, user_info: Some(user_info), host },
                None => Part { scheme, user_info: None, host: rest },
            }
        })
    }

    fn is_usable(&self) -> bool {
        let usable = |address: ServerAddr| !address.host().is_empty();
        let one_user = self.parts().filter_map(|part| part.user_info).collect::<BTreeSet<_>>().len() <= 1;
        one_user && self.servers().all(|server| server.parse().is_ok_and(usable))
    }
}

/// What one server's address consists of.
struct Part<'u> {
    /// With its `://`.
    scheme: &'u str,
    user_info: Option<&'u str>,
    /// And all that follows it.
    host: &'u str,
}

/// Who to be for the servers.
#[derive(PartialEq)]
pub(crate) enum Login {
    User { user: String, password: String },
    Token(String),
}

/// Unchecked: for addresses that a program made. Those of a person are parsed.
impl From<String> for NatsUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl From<&str> for NatsUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl FromStr for NatsUrl {
    type Err = NotAUrl;

    fn from_str(text: &str) -> Result<Self, NotAUrl> {
        let url = Self(text.to_owned());
        if url.is_usable() { Ok(url) } else { Err(NotAUrl) }
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (ordinal, Part { scheme, user_info, host }) in self.parts().enumerate() {
            let comma = if ordinal == 0 { "" } else { "," };
            let masked = if user_info.is_some() { "***@" } else { "" };
            write!(f, "{comma}{scheme}{masked}{host}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for NatsUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NatsUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_and_a_password_are_only_for_connecting() {
        for (given, shown) in [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("nats://me:s3cret@host:4222", "nats://***@host:4222"),
            ("s3cret@host", "***@host"),
            ("tls://me:s3cr@et@a, me:s3cr@et@b:1,nats://c", "tls://***@a,***@b:1,nats://c"),
        ] {
            let url: NatsUrl = given.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("{shown:?}"));
            assert_eq!(serde_json::to_value(&url).unwrap(), shown);
            assert_eq!(url.expose(), given);
            assert!(!format!("{:?}", Config { url, ..Config::default() }).contains("s3cr"));
        }
    }

    #[test]
    fn servers_are_told_apart_from_who_to_be_for_them() {
        let url: NatsUrl = "tls://me:s3cr%40t@a, me:s3cr%40t@b:1,c".parse().unwrap();
        assert_eq!(url.servers().collect::<Vec<_>>(), ["tls://a", "b:1", "c"]);
        assert!(url.login() == Some(Login::User { user: "me".to_owned(), password: "s3cr@t".to_owned() }));
        assert!(NatsUrl::from("nats://100%@a").login() == Some(Login::Token("100%".to_owned())));
        assert!(NatsUrl::from("nats://a").login().is_none());
    }

    #[test]
    fn an_address_that_is_none_is_refused_without_repeating_it() {
        for given in [
            "",
            "nats://me:s3cret@",
            "http://me:s3cret@host",
            "nats://me:s3cret",
            "nats://me:s3,cret@host",
            "nats://a,",
            "me:s3cret@a,you:s3cret@b",
        ] {
            let refused = given.parse::<NatsUrl>().unwrap_err().to_string();
            assert_eq!(refused, NOT_A_URL, "{given}");
            let error = serde_json::from_value::<NatsUrl>(given.into()).unwrap_err().to_string();
            assert!(!error.contains("s3"), "{error}");
        }
    }

    #[test]
    fn what_cannot_work_is_named() {
        let ok = Config::default;
        ok().check().unwrap();
        let refused = |config: Config| config.check().unwrap_err().field;
        assert_eq!(refused(Config { url: "http://x".into(), ..ok() }), "url");
        assert_eq!(refused(Config { namespace: "a.b".into(), ..ok() }), "namespace");
        assert_eq!(refused(Config { replicas: 0, ..ok() }), "replicas");
        assert_eq!(refused(Config { credentials: Some("no-such-file".into()), ..ok() }), "credentials");
        assert_eq!(refused(Config { request_timeout: Duration::ZERO, ..ok() }), "request_timeout");
        assert_eq!(refused(Config { append_timeout: Duration::ZERO, ..ok() }), "append_timeout");
        assert_eq!(refused(Config { append_timeout: Duration::from_mins(4), ..ok() }), "append_timeout");
    }
}
