//! What may wait for a disk: not on the one thread that all of the agent shares.

use std::{future::pending, io, panic::resume_unwind, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    task::spawn_blocking,
};

/// Threads for what may block.
const THREADS: usize = 4;

/// The runtime of an agent: one thread, and a few more for what may block. Those stay once they are there: a script that
/// takes all threads that the agent may have cannot keep it from having one when the script is to be killed.
///
/// # Errors
/// When the system gives no further file descriptors.
pub fn runtime() -> io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(THREADS).thread_keep_alive(Duration::MAX).build()
}

/// Does this on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await.map_err(|error| error.try_into_panic()) {
        Ok(done) => done,
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime is ending, and so is whoever waits for this.
        Err(Err(_)) => pending().await,
    }
}
