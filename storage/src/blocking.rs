//! Work on the executor's blocking threads.

use std::future::Future;
use std::time::Duration;

use futures_lite::FutureExt;

/// Waits for something that a blocking thread of glommio does.
///
/// glommio 0.9 loses a wake when a blocking thread ends just while its executor falls asleep: the thread looks
/// whether it must notify before the executor says so, and the executor does not look again (starts hung, one in
/// twenty). So as long as such work is under way, a timer keeps the executor from sleeping for more than a
/// millisecond.
pub async fn awake<F: Future>(work: F) -> F::Output {
    let ticks = async {
        loop {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
    };
    work.or(ticks).await
}

/// Runs a closure on a blocking thread.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    awake(glommio::executor().spawn_blocking(work)).await
}
