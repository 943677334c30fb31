//! What the commands of this program run on, and what ends them.

use std::{env, io};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::failure::Failure;

/// Threads of a server unless `TOKIO_WORKER_THREADS` says otherwise.
const SERVER_THREADS: usize = 2;

/// For a client: one thread.
pub(crate) fn client() -> Result<Runtime, Failure> {
    started(Builder::new_current_thread().enable_all().build())
}

/// For the platform.
pub(crate) fn server() -> Result<Runtime, Failure> {
    let mut builder = Builder::new_multi_thread();
    if env::var_os("TOKIO_WORKER_THREADS").is_none() {
        builder.worker_threads(SERVER_THREADS);
    }
    started(builder.enable_all().build())
}

/// What came of making one.
pub(crate) fn started(runtime: io::Result<Runtime>) -> Result<Runtime, Failure> {
    runtime.map_err(|error| Failure::io("the runtime cannot start", &error))
}

/// Resolves when somebody wants this process to end.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let no_signals = |error: io::Error| Failure::io("signals cannot be received", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
