//! Whether this gateway can serve: connected to the log, and its read model up to date.

use std::time::Duration;

use causeway_proto::v1::event_store_server::SERVICE_NAME;
use causeway_proto::{Kind, Problem};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::gateway::Gateway;
use crate::problem;

/// How often it is looked at: while all is well, and while it is not.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A read model that has been up to date within this time has indexed whatever the server's duplicate window (two minutes) no
/// longer covers.
pub(crate) const RECENT: Duration = Duration::from_secs(60);

/// The service, and the server as a whole.
const SERVICES: [&str; 2] = [SERVICE_NAME, ""];

/// What was found when somebody last looked.
pub(crate) struct Readiness(watch::Sender<State>);

#[derive(Clone)]
enum State {
    Starting,
    /// Everything that was on the log at this moment can be read.
    Ready(Instant),
    Not(Box<Problem>),
}

impl State {
    fn is_recent(&self) -> bool {
        matches!(self, Self::Ready(at) if at.elapsed() < RECENT)
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self(watch::Sender::new(State::Starting))
    }
}

impl Readiness {
    /// Fails with what is in the way.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        match &*self.0.borrow() {
            State::Ready(_) => Ok(()),
            State::Starting => Err(Problem::new(Kind::Behind, "the read model has not caught up with the log yet")),
            State::Not(problem) => Err(Problem::clone(problem)),
        }
    }

    /// Whether the read model lacks nothing that the server's own memory of keys does not cover.
    pub(crate) fn is_recent(&self) -> bool {
        self.0.borrow().is_recent()
    }

    /// Until that is so.
    pub(crate) async fn recent(&self) {
        // It never closes while it is borrowed.
        let _ = self.0.subscribe().wait_for(State::is_recent).await;
    }

    fn is_ready(&self) -> bool {
        matches!(&*self.0.borrow(), State::Ready(_))
    }
}

/// Looks until the gateway is to stop, and tells gRPC's health service of every change.
pub(crate) async fn watch(gateway: &Gateway, mut health: HealthReporter) {
    gateway.stop.run_until_cancelled(look(gateway, &health)).await;
    tell(&health, ServingStatus::NotServing).await;
    // Ends the streams of those who watch: they would hold the gateway up for as long as it waits for requests under way.
    for service in SERVICES {
        health.clear_service_status(service).await;
    }
    std::future::pending::<()>().await;
}

async fn look(gateway: &Gateway, health: &HealthReporter) {
    tell(health, ServingStatus::NotServing).await;
    loop {
        let was_ready = gateway.ready.is_ready();
        let asked = Instant::now();
        let state = match gateway.store.fresh().await {
            Ok(_) => State::Ready(asked),
            Err(error) => State::Not(Box::new(error.into())),
        };
        let status = match &state {
            State::Ready(_) => ServingStatus::Serving,
            State::Starting | State::Not(_) => ServingStatus::NotServing,
        };
        match &state {
            State::Ready(_) if !was_ready => info!(position = %gateway.store.position(), "ready"),
            State::Not(problem) if was_ready => warn!(error = %problem, "not ready"),
            _ => {}
        }
        gateway.ready.0.send_replace(state);
        let is_ready = status == ServingStatus::Serving;
        if is_ready != was_ready {
            tell(health, status).await;
        }
        problem::log_rest();
        tokio::time::sleep(if is_ready { LOOK_EVERY } else { LOOK_AGAIN }).await;
    }
}

async fn tell(health: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}
