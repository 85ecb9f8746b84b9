//! What every process needs: configuration, telemetry, signals, supervision of tasks, files.
//!
//! Knows no event and no service: strings and bytes at its border. Nothing here reads the environment behind a service's
//! back; `main` calls [`config::load`] and [`telemetry::init`] once and passes on what it got.

pub mod config;
mod files;
pub mod shutdown;
pub mod supervise;
pub mod telemetry;

pub use files::files_max;
pub use shutdown::shutdown_signal;

/// Makes rustls use ring, for the whole process. A second call is harmless; tests that make a TLS client call it too.
pub fn install_crypto() {
    // The error only says that a provider has been installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
