//! Spawns an executor's tasks, and counts how often they run.
//! The count is how the poller (`net/poller.rs`) learns that nobody else has something to do: glommio does not tell.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::{GlommioError, Task, TaskQueueHandle};
use storage::blocking::{UnderWay, under_way};

use super::clock;

thread_local! {
    static RUNS: Cell<u64> = const { Cell::new(0) };
}

/// How often tasks have run on this executor; wraps, and is only compared.
pub(super) fn runs() -> u64 {
    RUNS.get()
}

/// Spawns a task on this executor.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    glommio::spawn_local(counted(future))
}

/// One whose runs are counted, as those of all tasks of an executor must be, its first one included.
pub(super) fn counted<F: Future>(future: F) -> impl Future<Output = F::Output> {
    Counted(future)
}

/// Spawns a task into another queue, which the poller would not see.
pub(super) fn spawn_into(
    work: impl Future<Output = ()> + 'static,
    queue: TaskQueueHandle,
) -> Result<Task<()>, GlommioError<()>> {
    let begins = Some(under_way());
    let work = sliced(work);
    glommio::spawn_local_into(Begun { begins, work }, queue)
}

struct Begun<F> {
    /// Until its first run.
    begins: Option<UnderWay>,
    work: F,
}

impl<F: Future> Future for Begun<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `work` is pinned with its owner and never moved out; the other field is not.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: as above.
        let polled = unsafe { Pin::new_unchecked(&mut this.work) }.poll(cx);
        this.begins = None;
        polled
    }
}

/// So long may tasks of another queue run between two looks of the poller. Without it, they would until the preemption timer
/// (`net/mod.rs`) fires, and glommio's reactor has no round as long as any queue has something to do.
const SLICE: Duration = Duration::from_micros(100);

thread_local! {
    /// In this slice.
    static RAN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The poller looks again soon, and releases whom it finds held.
    static IS_GOVERNED: Cell<bool> = const { Cell::new(false) };
    /// Who waits for the next slice.
    static HELD: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// The poller says whether it looks again soon. While it sleeps, tasks of other queues are not held.
pub(super) fn govern(is_governed: bool) {
    IS_GOVERNED.set(is_governed);
}

/// What is held is over, as its executor is.
pub(super) fn forget_held() {
    IS_GOVERNED.set(false);
    RAN.set(Duration::ZERO);
    HELD.take();
}

/// Whether tasks of another queue wait for their next slice.
pub(super) fn is_any_held() -> bool {
    HELD.with_borrow(|held| !held.is_empty())
}

/// Begins the next slice of other queues; answers whether somebody waited for it.
pub(super) fn release() -> bool {
    RAN.set(Duration::ZERO);
    let held = HELD.take();
    let is_any = !held.is_empty();
    held.into_iter().for_each(Waker::wake);
    is_any
}

/// Work of another queue than the executor's own, which has no more than its slice.
pub(super) fn sliced<F: Future>(work: F) -> impl Future<Output = F::Output> {
    Sliced { waits: None, work }
}

struct Sliced<F> {
    /// While the queue's turn was ended: it has something to do, of which the poller does not know.
    waits: Option<UnderWay>,
    work: F,
}

impl<F: Future> Future for Sliced<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `work` is pinned with its owner and never moved out; the other field is not.
        let this = unsafe { self.get_unchecked_mut() };
        if IS_GOVERNED.get() && RAN.get() >= SLICE {
            HELD.with_borrow_mut(|held| held.push(cx.waker().clone()));
            return Poll::Pending;
        }
        let began = clock::instant();
        // SAFETY: as above.
        let polled = unsafe { Pin::new_unchecked(&mut this.work) }.poll(cx);
        let ran = RAN.get() + (clock::instant() - began);
        // Ending the turn wakes the task, and one that has ended must not be woken.
        let is_over = ran >= SLICE && polled.is_pending() && !IS_GOVERNED.get();
        RAN.set(if is_over { Duration::ZERO } else { ran });
        this.waits = is_over.then(under_way);
        if is_over {
            // Its first poll ends the turn.
            let executor = glommio::executor();
            let end = pin!(executor.yield_task_queue_now());
            let _ = end.poll(cx);
        }
        polled
    }
}

struct Counted<F>(F);

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        RUNS.set(RUNS.get().wrapping_add(1));
        // SAFETY: the field is pinned with its owner: it is never moved out, and neither has a drop of its own.
        unsafe { self.map_unchecked_mut(|counted| &mut counted.0) }.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};

    use super::*;

    /// Tasks of another queue that compute for longer than a slice, each time that they run: how often they have run when the
    /// executor has nothing else to do.
    fn ran_between_looks(is_governed: bool, looks: usize) -> Vec<usize> {
        let executor = LocalExecutorBuilder::new(Placement::Unbound);
        let handle = executor.spawn(move || async move {
            govern(is_governed);
            let (shares, latency) = (Shares::Static(200), Latency::NotImportant);
            let queue = glommio::executor().create_task_queue(shares, latency, "other");
            let runs: Rc<[Cell<usize>; 4]> = Rc::default();
            for own in 0..runs.len() {
                let counted = runs.clone();
                let work = async move {
                    let began = clock::instant();
                    while clock::instant() - began <= SLICE {}
                    counted[own].set(counted[own].get() + 1);
                };
                spawn_into(work, queue).unwrap().detach();
            }
            let mut seen = Vec::new();
            for _ in 0..looks {
                // Over only when no queue has anything to do.
                glommio::timer::sleep(Duration::from_millis(1)).await;
                seen.push(runs.iter().map(Cell::get).sum());
                release();
            }
            govern(false);
            seen
        });
        handle.unwrap().join().unwrap()
    }

    #[test]
    fn other_queues_have_one_slice_between_two_looks_and_no_limit_while_nobody_looks() {
        assert_eq!(ran_between_looks(true, 5), [1, 2, 3, 4, 4]);
        assert_eq!(ran_between_looks(false, 2)[1], 4);
    }
}
