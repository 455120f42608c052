//! Starts executors, each on a thread that can be nudged from its first moment on.
//!
//! An executor of glommio 0.9 can fall asleep beside tasks that are ready (why: `net/poller.rs`); nothing but other I/O or a
//! timer would wake it, and before its first task ran it has neither. An interrupted wait looks again.

use std::future::Future;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use signal_hook::consts::SIGUSR1;

use super::tasks;

/// How long one that [`Executor::join_awake`] waits for may sleep beside work that is done.
const NUDGE_INTERVAL: Duration = Duration::from_millis(100);

/// Why an executor did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// No more threads, or the nudge cannot be prepared.
    #[error("no thread: {0}")]
    Thread(#[from] std::io::Error),
    /// glommio's: no more descriptors or locked memory.
    #[error("{0}")]
    Start(String),
    /// Its thread panicked.
    #[error("it panicked")]
    Panicked,
}

/// An executor that runs.
pub struct Executor<T> {
    handle: JoinHandle<Option<T>>,
    thread: i32,
    /// Broken off when the thread ends.
    runs: Receiver<()>,
}

/// Starts an executor on a thread of this name.
///
/// # Errors
/// [`ExecutorError`].
pub fn spawn<T, F>(
    builder: LocalExecutorBuilder,
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<Executor<T>, ExecutorError>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    prepare_nudges()?;
    let (told, thread) = channel();
    let (until_end, runs) = channel();
    let handle = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _until_end = until_end;
            let executor = match builder.make() {
                Ok(executor) => executor,
                Err(error) => {
                    let _ = told.send(Err(ExecutorError::Start(error.to_string())));
                    return None;
                }
            };
            // Not before: a signal could break off what is set up there. SAFETY: a call without arguments or effects.
            let _ = told.send(Ok(unsafe { libc::gettid() }));
            Some(executor.run(tasks::counted(async move { work().await })))
        })?;
    let thread = thread.recv().map_err(|_| ExecutorError::Panicked)??;
    Ok(Executor {
        handle,
        thread,
        runs,
    })
}

/// Starts one beside those of the cores, with little memory and on any CPU: for a command, a question, an operator.
///
/// # Errors
/// [`ExecutorError`].
pub fn spawn_beside<T, F>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<Executor<T>, ExecutorError>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10);
    spawn(builder, name, work)
}

impl<T> Executor<T> {
    /// Its thread, for [`nudge`].
    pub fn thread(&self) -> i32 {
        self.thread
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It panicked.
    pub fn join(self) -> Result<T, ExecutorError> {
        let ended = self.handle.join().ok().flatten();
        ended.ok_or(ExecutorError::Panicked)
    }

    /// Waits for its end, and nudges it until then: for one that nobody else does.
    ///
    /// # Errors
    /// It panicked.
    pub fn join_awake(self) -> Result<T, ExecutorError> {
        while self.runs.recv_timeout(NUDGE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            nudge(self.thread);
        }
        self.join()
    }
}

/// Once: each call would add to what a signal does.
fn prepare_nudges() -> std::io::Result<()> {
    static PREPARED: Mutex<bool> = Mutex::new(false);
    let mut is_prepared = PREPARED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*is_prepared {
        // Only interrupts what a thread waits for.
        signal_hook::flag::register(SIGUSR1, Arc::default())?;
        *is_prepared = true;
    }
    Ok(())
}

/// Interrupts the wait of an executor's thread.
pub fn nudge(thread: i32) {
    // SAFETY: the signal has a handler that only sets a flag (`prepare_nudges`); a thread that is gone is not found.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGUSR1) };
}
