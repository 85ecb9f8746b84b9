//! Reaching the log: connecting, and checking that what is there is what this program was made for.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions, Message};
use causeway_event::Position;
use futures::stream::BoxStream;

use crate::append::{Group, Patience, Publisher, Way};
use crate::config::{DUPLICATE_WINDOW, Login};
use crate::link::Link;
use crate::names::Names;
use crate::{Config, LogError, Restoring};

/// The oldest server that has everything the log needs: major, minor, patch. Atomic batches came with 2.12.0, which takes no message ids
/// in them; 2.12.1 stands still for good when a batched direct get meets an append (nats-server#7458).
pub const SERVER_MIN: (u32, u32, u32) = (2, 12, 2);
/// How long the election of leaders may take in a cluster that answers: as it starts, or after it lost a server.
const ELECTION_LIMIT: Duration = Duration::from_secs(30);
/// A replica that was heard within this has not voted for another leader: it waits for at least four seconds
/// (`minElectionTimeoutDefault` of nats-server's `raft.go`), and is heard each second.
const LEASE: Duration = Duration::from_secs(3);
/// A leader that heard too few of them is asked again, for this long: one answer of a replica that is late must not fail a read.
const LEASE_PATIENCE: Duration = Duration::from_secs(1);
const LEASE_PAUSE: Duration = Duration::from_millis(100);
/// A connection on which three pings in a row go unanswered is given up: a server that is frozen, not gone, looks like that.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// The longest pause between two attempts to reconnect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);

/// The log. Cloning is cheap; all clones share its connections: for appending, reading, asking and talking.
#[derive(Clone)]
pub struct Log {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// For what is asked: only answers come here.
    pub(crate) asking: Link,
    /// For what others say on subjects of Causeway's own: live deltas, the mail and leases of groups, copies of read models.
    pub(crate) talking: Link,
    pub(crate) names: Names,
    pub(crate) config: Config,
    /// For what stands on the log.
    pub(crate) reading: Link,
    pub(crate) publisher: Publisher,
    pub(crate) group: Group,
    /// Messages that no client can read and that were warned about.
    pub(crate) told: Mutex<BTreeSet<Position>>,
}

impl Log {
    /// Connects, checks the server, and creates or checks the streams.
    ///
    /// A server that answers while its cluster elects leaders is waited for, for half a minute at most.
    ///
    /// Fails with [`LogError::Unavailable`] when nobody answers, and with [`LogError::Mismatch`] when the server is too old, has
    /// no JetStream, or has a stream of the same name that is configured otherwise.
    pub async fn connect(config: &Config) -> Result<Self, LogError> {
        let log = Self::reach(config).await?;
        let (patience, mut told) = (Patience::lasting(ELECTION_LIMIT), false);
        while let Err(error) = log.prepare().await {
            if !error.is_transient() {
                return Err(error);
            }
            if !std::mem::replace(&mut told, true) {
                tracing::info!(%error, "the log cannot be opened yet");
            }
            patience.pause_or(error).await?;
        }
        Ok(log)
    }

    async fn prepare(&self) -> Result<(), LogError> {
        self.refuse_half_restored().await?;
        self.ensure_stream(&self.events_config()).await?;
        self.ensure_stream(&self.dead_letters_config()).await
    }

    /// What was restored only in part looks like a log, and is none.
    async fn refuse_half_restored(&self) -> Result<(), LogError> {
        match self.restoring().await? {
            None => Ok(()),
            Some(Restoring { made, .. }) => {
                let note = self.inner.names.restore_stream();
                let what = format!(
                    "a restore of the backup of {made} broke off or is under way: do it again with `causeway log restore`; \
                     to give it up, delete what it made and the stream {note}"
                );
                Err(LogError::Mismatch { what })
            }
        }
    }

    /// Connects to a log that is there already; creates nothing.
    pub async fn open(config: &Config) -> Result<Self, LogError> {
        let log = Self::reach(config).await?;
        log.refuse_half_restored().await?;
        let wanted = log.events_config();
        match log.jetstream().get_stream(&wanted.name).await {
            Ok(_) => Ok(log),
            Err(error) if not_found(&error) => {
                Err(LogError::Mismatch { what: format!("there is no log at {}: it has no stream {}", config.url, wanted.name) })
            }
            Err(error) => Err(LogError::unavailable(format!("stream {}: {error}", wanted.name))),
        }
    }

    /// Connects to the server and checks it, and looks at no stream.
    pub async fn reach(config: &Config) -> Result<Self, LogError> {
        let names = Names::new(&config.namespace)?;
        let mut options = ConnectOptions::new()
            .name("causeway")
            .request_timeout(Some(config.request_timeout))
            .connection_timeout(config.request_timeout)
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(|attempts| {
                let exponent = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(6);
                (Duration::from_millis(25) * 2_u32.pow(exponent)).min(RECONNECT_DELAY_MAX)
            });
        if let Some(path) = &config.credentials {
            let unreadable =
                |error| LogError::Mismatch { what: format!("the credentials file {} cannot be read: {error}", path.display()) };
            options = options.credentials_file(path).await.map_err(unreadable)?;
        }
        options = match config.url.login() {
            Some(Login::User { user, password }) => options.user_and_password(user, password),
            Some(Login::Token(token)) => options.token(token),
            None => options,
        };
        let way = Way { servers: config.url.servers().collect(), options, request_timeout: config.request_timeout };
        let asking = Link::connect(way.clone(), "asking").await.map_err(|error| match error {
            LogError::Unavailable { reason } => LogError::unavailable(format!("{}: {reason}", config.url)),
            other => other,
        })?;
        let talking = Link::connect(way.clone(), "talking").await?;
        let reading = Link::connect(way.clone(), "reading").await?;
        let publisher = Publisher::connect(way).await?;
        let group = Group::start(publisher.clone(), config.group_commit);
        let config = config.clone();
        let told = Mutex::default();
        let log = Self { inner: Arc::new(Inner { asking, talking, names, config, reading, publisher, group, told }) };
        log.check_server()?;
        Ok(log)
    }

    pub(crate) fn client(&self) -> Client {
        self.inner.asking.client()
    }

    pub(crate) fn jetstream(&self) -> jetstream::Context {
        self.inner.asking.jetstream()
    }

    /// What others say on these subjects. Whatever is said after this has returned is heard, but for breaks of the connection.
    pub(crate) async fn listen(&self, subjects: Vec<String>) -> Result<BoxStream<'static, Message>, LogError> {
        let heard = self.inner.talking.listen(subjects).await?;
        // A round trip behind the subscriptions: until then they may be under way.
        let stream = self.inner.names.events_stream();
        self.inner.talking.jetstream().get_stream(stream).await.map_err(LogError::unavailable)?;
        Ok(heard)
    }

    /// To say something that is worth nothing later.
    pub(crate) fn talker(&self) -> Result<Client, LogError> {
        let client = self.inner.talking.client();
        match client.connection_state() {
            State::Connected => Ok(client),
            _ => Err(LogError::unavailable("not connected to NATS")),
        }
    }

    /// Waits until everything that was queued has gone out, but not for long.
    pub async fn flush(&self) {
        let [asking, talking, reading] = [&self.inner.asking, &self.inner.talking, &self.inner.reading].map(Link::client);
        let flushed = futures::future::join3(asking.flush(), talking.flush(), reading.flush());
        if tokio::time::timeout(self.inner.config.request_timeout, flushed).await.is_err() {
            tracing::debug!("what was queued for NATS did not go out");
        }
    }

    /// Whether the log can be asked and appended to at this moment. What others write can break other connections for a moment, not these.
    pub fn is_connected(&self) -> bool {
        self.client().connection_state() == State::Connected && self.inner.publisher.is_connected()
    }

    /// The last position of the log, never older than any append acknowledged before the call: the stream's leader answers.
    pub async fn last_position(&self) -> Result<Position, LogError> {
        Ok(Position::new(self.events_info().await?.state.last_sequence))
    }

    /// Which log this is: the stream's name and creation time. Another value means another log, whatever its positions.
    pub async fn identity(&self) -> Result<String, LogError> {
        let info = self.events_info().await?;
        Ok(format!("{}@{}", info.config.name, info.created.unix_timestamp_nanos()))
    }

    /// Fails at once when the connection is down, instead of queueing what would be sent much later.
    pub(crate) fn require_connection(&self) -> Result<(), LogError> {
        match self.is_connected() {
            true => Ok(()),
            // Clients of the gateway hear this: where NATS is does not concern them.
            false => Err(LogError::unavailable("not connected to NATS")),
        }
    }

    pub(crate) async fn events_info(&self) -> Result<stream::Info, LogError> {
        let name = self.inner.names.events_stream();
        let asked = async || {
            let stream = self.jetstream().get_stream(&name).await;
            stream
                .map(|stream| stream.cached_info().clone())
                .map_err(|error| LogError::unavailable(format!("stream {name}: {error}")))
        };
        let unheard = || LogError::unavailable(format!("stream {name} has no leader that hears most of its replicas"));
        let give_up = tokio::time::Instant::now() + LEASE_PATIENCE;
        loop {
            self.require_connection()?;
            let info = self.inner.asking.unbroken(asked()).await?;
            match leads(&info) {
                Leads::Yes => return Ok(info),
                Leads::Unheard if tokio::time::Instant::now() < give_up => tokio::time::sleep(LEASE_PAUSE).await,
                Leads::Unheard | Leads::No => return Err(unheard()),
            }
        }
    }

    fn check_server(&self) -> Result<(), LogError> {
        let (major, minor, patch) = SERVER_MIN;
        let info = self.client().server_info();
        if !self.client().is_server_compatible(major.into(), minor.into(), patch.into()) {
            let what = format!("nats-server {} is too old: Causeway needs {major}.{minor}.{patch} or newer", info.version);
            return Err(LogError::Mismatch { what });
        }
        match info.jetstream {
            true => Ok(()),
            false => Err(LogError::Mismatch { what: "this nats-server runs without JetStream: start it with -js".into() }),
        }
    }

    fn events_config(&self) -> stream::Config {
        let names = &self.inner.names;
        stream::Config {
            deny_delete: true,
            deny_purge: true,
            allow_atomic_publish: true,
            ..self.kept(names.events_stream(), names.all_events())
        }
    }

    fn dead_letters_config(&self) -> stream::Config {
        self.kept(self.inner.names.dead_letters_stream(), self.inner.names.all_dead_letters())
    }

    /// A stream of which nothing is ever dropped.
    fn kept(&self, name: String, subject: String) -> stream::Config {
        stream::Config {
            name,
            subjects: vec![subject],
            storage: stream::StorageType::File,
            retention: stream::RetentionPolicy::Limits,
            num_replicas: self.inner.config.replicas,
            duplicate_window: DUPLICATE_WINDOW,
            allow_direct: true,
            // As the server says that there is no limit.
            max_messages: -1,
            max_bytes: -1,
            max_messages_per_subject: -1,
            max_message_size: -1,
            ..stream::Config::default()
        }
    }

    /// Creates the stream, or checks that the one of this name is what we would have created.
    async fn ensure_stream(&self, wanted: &stream::Config) -> Result<(), LogError> {
        let name = &wanted.name;
        let found = match self.jetstream().get_stream(name).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) if not_found(&error) => match self.jetstream().create_stream(wanted.clone()).await {
                Ok(stream) => stream.cached_info().config.clone(),
                Err(error) if is_passing(&error) => return Err(LogError::unavailable(format!("stream {name}: {error}"))),
                Err(error) => return Err(LogError::Mismatch { what: format!("the stream {name} cannot be created: {error}") }),
            },
            Err(error) if not_enabled(&error) => {
                let what = "this NATS gives the account no JetStream: enable it for the account, or log in as another".to_owned();
                return Err(LogError::Mismatch { what });
            }
            Err(error) => return Err(LogError::unavailable(format!("stream {name}: {error}"))),
        };
        match difference(wanted, &found) {
            None => Ok(()),
            Some(difference) => Err(LogError::Mismatch {
                what: format!(
                    "the stream {name} exists and is configured otherwise: {difference}; change it, or choose another namespace"
                ),
            }),
        }
    }
}

/// Whether a server leads, and nobody else can by now.
enum Leads {
    Yes,
    /// It says so, and heard too few.
    Unheard,
    No,
}

/// A server answers for a stream without a leader as well; and one that leads goes on answering
/// for ten seconds and more after it lost the others, while they have another leader and go on.
fn leads(info: &stream::Info) -> Leads {
    // Nobody else answers for a stream without replicas.
    let Some(cluster) = info.cluster.as_ref().filter(|_| info.config.num_replicas > 1) else { return Leads::Yes };
    let heard = cluster.replicas.iter().filter(|peer| !peer.offline && peer.active < LEASE).count();
    match cluster.leader {
        None => Leads::No,
        // With the leader itself these are more than half.
        Some(_) if heard >= (info.config.num_replicas - 1).div_ceil(2) => Leads::Yes,
        Some(_) => Leads::Unheard,
    }
}

pub(crate) fn not_found(error: &jetstream::context::GetStreamError) -> bool {
    use jetstream::{ErrorCode, context::GetStreamErrorKind};
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Said by the leader of a cluster, once it has one: waiting does not change it.
pub(crate) fn not_enabled(error: &jetstream::context::GetStreamError) -> bool {
    use jetstream::{ErrorCode, context::GetStreamErrorKind};
    const NOT_ENABLED: [ErrorCode; 2] = [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT];
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if NOT_ENABLED.contains(&error.error_code()))
}

/// Whether a cluster that is still forming would say this.
fn is_passing(error: &jetstream::context::CreateStreamError) -> bool {
    use jetstream::context::CreateStreamErrorKind as Kind;
    match error.kind() {
        Kind::TimedOut | Kind::JetStreamUnavailable | Kind::Response => true,
        Kind::JetStream(error) => error.code() == 503,
        _ => false,
    }
}

/// The first setting that matters and differs.
fn difference(wanted: &stream::Config, found: &stream::Config) -> Option<String> {
    let settings = |config: &stream::Config| {
        [
            ("subjects", format!("{:?}", config.subjects)),
            ("retention", format!("{:?}", config.retention)),
            ("storage", format!("{:?}", config.storage)),
            ("num_replicas", config.num_replicas.to_string()),
            ("duplicate_window", format!("{:?}", config.duplicate_window)),
            ("deny_delete", config.deny_delete.to_string()),
            ("deny_purge", config.deny_purge.to_string()),
            ("allow_direct", config.allow_direct.to_string()),
            ("allow_atomic", config.allow_atomic_publish.to_string()),
            ("max_msgs", config.max_messages.to_string()),
            ("max_bytes", config.max_bytes.to_string()),
            ("max_age", format!("{:?}", config.max_age)),
            ("max_msgs_per_subject", config.max_messages_per_subject.to_string()),
            ("max_msg_size", config.max_message_size.to_string()),
        ]
    };
    let differing = settings(wanted).into_iter().zip(settings(found)).find(|(wanted, found)| wanted != found);
    differing.map(|((name, wanted), (_, found))| format!("{name} is {found}, Causeway needs {wanted}"))
}
