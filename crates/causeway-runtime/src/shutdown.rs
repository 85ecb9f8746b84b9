//! The end of a process, asked for by a signal.

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The exit code of a process that a second signal cut short: what a shell reports for SIGINT.
const EXIT_FORCED: i32 = 130;

/// Waits for SIGINT or SIGTERM.
pub async fn shutdown_signal() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        // Signals cannot be caught here: they end the process as they do by default, so there is nothing to wait for.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Turns signals into a token: the first one cancels it, a second one ends the process at once.
///
/// Lives until it is dropped; from then on signals do what they do by default in a process that has caught them: nothing.
#[derive(Debug)]
pub struct Signals {
    token: CancellationToken,
    _watch: JoinSet<()>,
}

impl Signals {
    /// Begins to watch. Must be called inside a runtime.
    pub fn watch() -> Self {
        let token = CancellationToken::new();
        let mut watch = JoinSet::new();
        let cancelled = token.clone();
        watch.spawn(async move {
            shutdown_signal().await;
            cancelled.cancel();
            shutdown_signal().await;
            tracing::warn!("second signal: leaving at once");
            std::process::exit(EXIT_FORCED);
        });
        Self { token, _watch: watch }
    }

    /// The token that the first signal cancels.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}
