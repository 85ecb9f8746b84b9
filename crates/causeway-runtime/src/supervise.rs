//! The services of one process: if one ends, all end, in order.
//!
//! Services are started one after the other and stopped in the reverse order, each with its own token and its own time to
//! drain, so that whoever serves others outlives them:
//!
//! ```text
//! start:  nats-server -> event-store -> ai-processor
//! stop:   ai-processor -> event-store -> nats-server      after a signal, or when any of them failed, panicked or returned
//! ```

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// What a service may fail with.
pub type ServiceError = Box<dyn std::error::Error + Send + Sync>;

/// Why the services of a process stopped before they were asked to. The first one counts; the others are logged.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// It returned an error.
    #[error("{service} failed")]
    Failed {
        /// Which.
        service: &'static str,
        /// With what.
        #[source]
        source: ServiceError,
    },
    /// It panicked.
    #[error("{service} panicked: {message}")]
    Panicked {
        /// Which.
        service: &'static str,
        /// What it said.
        message: String,
    },
    /// It returned although nobody asked it to.
    #[error("{service} ended by itself")]
    Ended {
        /// Which.
        service: &'static str,
    },
    /// It did not stop within its time and was cut off.
    #[error("{service} did not stop within {within:?}")]
    Stuck {
        /// Which.
        service: &'static str,
        /// The time it had.
        within: Duration,
    },
}

/// A group of services that stand and fall together. Dropping it cuts all of them off.
#[derive(Debug)]
pub struct Services {
    drain_timeout: Duration,
    tasks: JoinSet<Result<(), ServiceError>>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    stop: CancellationToken,
    task: AbortHandle,
}

impl Services {
    /// An empty group; each service gets `drain_timeout` to stop.
    pub fn new(drain_timeout: Duration) -> Self {
        Self { drain_timeout, tasks: JoinSet::new(), running: Vec::new() }
    }

    /// Starts one. It runs until its token is cancelled.
    ///
    /// It is not put into a span of its own: that would be the parent of every trace which begins inside. Whose a log line
    /// or a span is, its target says.
    pub fn start<F, E>(&mut self, name: &'static str, service: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<ServiceError>,
    {
        let stop = CancellationToken::new();
        let service = service(stop.clone());
        let task = self.tasks.spawn(async move { service.await.map_err(Into::into) });
        self.running.push(Running { name, stop, task });
    }

    /// Waits until one of them ends, which none should before it is asked to. For the time in which they become ready;
    /// cancel-safe.
    pub async fn ended(&mut self) -> Stopped {
        loop {
            let Some(ended) = self.tasks.join_next_with_id().await else { return std::future::pending().await };
            if let Some(stopped) = self.settle(ended, Asked::No) {
                return stopped;
            }
        }
    }

    /// Runs until `shutdown` is cancelled or one of the services ends, then stops the rest, the last started first.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Stopped> {
        let mut first = tokio::select! {
            () = shutdown.cancelled() => None,
            Some(ended) = self.tasks.join_next_with_id() => self.settle(ended, Asked::No),
        };
        while let Some(running) = self.running.pop() {
            let stopped = self.stop(running).await;
            first = first.or(stopped);
        }
        first.map_or(Ok(()), Err)
    }

    /// Stops one, and takes note of any other that ends meanwhile.
    async fn stop(&mut self, service: Running) -> Option<Stopped> {
        service.stop.cancel();
        let deadline = tokio::time::sleep(self.drain_timeout);
        tokio::pin!(deadline);
        let mut first = None;
        loop {
            let ended = tokio::select! {
                ended = self.tasks.join_next_with_id() => ended,
                () = &mut deadline => break,
            };
            let Some(ended) = ended else { return first };
            let done = id(&ended) == service.task.id();
            let stopped = match done {
                true => outcome(service.name, ended, Asked::Yes),
                false => self.settle(ended, Asked::No),
            };
            first = first.or(stopped);
            if done {
                info!(service = service.name, "service stopped");
                return first;
            }
        }
        warn!(service = service.name, within = ?self.drain_timeout, "service did not stop in time, cutting it off");
        service.task.abort();
        first.or(Some(Stopped::Stuck { service: service.name, within: self.drain_timeout }))
    }

    /// Takes a service that ended out of the list.
    fn settle(&mut self, ended: Ended, asked: Asked) -> Option<Stopped> {
        let at = self.running.iter().position(|running| running.task.id() == id(&ended))?;
        let name = self.running.remove(at).name;
        outcome(name, ended, asked)
    }
}

type Ended = Result<(Id, Result<(), ServiceError>), JoinError>;

#[derive(Clone, Copy)]
enum Asked {
    Yes,
    No,
}

fn id(ended: &Ended) -> Id {
    match ended {
        Ok((id, _)) => *id,
        Err(error) => error.id(),
    }
}

fn outcome(service: &'static str, ended: Ended, asked: Asked) -> Option<Stopped> {
    let stopped = match (ended, asked) {
        (Ok((_, Ok(()))), Asked::Yes) => return None,
        (Ok((_, Ok(()))), Asked::No) => Stopped::Ended { service },
        (Ok((_, Err(source))), _) => Stopped::Failed { service, source },
        (Err(error), _) if error.is_panic() => Stopped::Panicked { service, message: words(&*error.into_panic()) },
        (Err(_), _) => return None,
    };
    let cause = std::error::Error::source(&stopped).map(ToString::to_string);
    error!(service, cause, "{stopped}");
    Some(stopped)
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const DRAIN: Duration = Duration::from_secs(5);

    /// Runs until it is stopped, then writes its name down.
    fn polite(name: &'static str, order: &Arc<Mutex<Vec<&'static str>>>, services: &mut Services) {
        let order = order.clone();
        services.start(name, |stop| async move {
            stop.cancelled().await;
            order.lock().unwrap().push(name);
            Ok::<_, ServiceError>(())
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_stops_the_last_started_first() {
        let order = Arc::default();
        let mut services = Services::new(DRAIN);
        for name in ["nats", "gateway", "processor"] {
            polite(name, &order, &mut services);
        }
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        services.run(shutdown).await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["processor", "gateway", "nats"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_or_a_panic_stops_the_others() {
        for panics in [true, false] {
            let order = Arc::default();
            let mut services = Services::new(DRAIN);
            polite("nats", &order, &mut services);
            services.start("gateway", |_| async move {
                assert!(!panics, "out of luck");
                Err::<(), ServiceError>("no luck".into())
            });
            polite("processor", &order, &mut services);
            let stopped = services.run(CancellationToken::new()).await.unwrap_err();
            match panics {
                true => assert_eq!(stopped.to_string(), "gateway panicked: out of luck"),
                false => assert_eq!(stopped.to_string(), "gateway failed"),
            }
            assert_eq!(*order.lock().unwrap(), ["processor", "nats"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_stop_is_cut_off() {
        let order = Arc::default();
        let mut services = Services::new(DRAIN);
        polite("nats", &order, &mut services);
        services.start("deaf", |_| std::future::pending::<Result<(), ServiceError>>());
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let stopped = services.run(shutdown).await.unwrap_err();
        assert!(matches!(stopped, Stopped::Stuck { service: "deaf", .. }), "{stopped}");
        assert_eq!(*order.lock().unwrap(), ["nats"]);
    }
}
