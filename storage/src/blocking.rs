//! Work on the executor's blocking threads, and what else only glommio's reactor hears of.

use std::cell::Cell;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use futures_lite::FutureExt;

/// Waits for something that a blocking thread of glommio does.
///
/// glommio 0.9 loses a wake when a blocking thread ends just while its executor falls asleep: the thread looks
/// whether it must notify before the executor says so, and the executor does not look again (starts hung, one in
/// twenty). So as long as such work is under way, a timer keeps the executor from sleeping for more than a
/// millisecond.
pub async fn awake<F: Future>(work: F) -> F::Output {
    let _under_way = under_way();
    let ticks = async {
        loop {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
    };
    work.or(ticks).await
}

thread_local! {
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

/// While this is kept, something is under way on this executor of whose end only glommio's reactor hears: work of a blocking
/// thread, or a read or write through glommio's rings.
#[must_use]
pub struct UnderWay(PhantomData<*const ()>);

/// See [`UnderWay`].
pub fn under_way() -> UnderWay {
    UNDER_WAY.set(UNDER_WAY.get() + 1);
    UnderWay(PhantomData)
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.set(UNDER_WAY.get() - 1);
    }
}

/// Whether the executor's thread may wait elsewhere than in glommio's reactor for a while; see [`UnderWay`].
pub fn is_any_under_way() -> bool {
    UNDER_WAY.get() > 0
}

/// How nice blocking threads are: where they share a CPU with an executor, they get about a fifth of it, as what runs for the
/// cold store does within an executor. Compressing a pack or summing it up must not be felt by those who append.
const NICE: i32 = 7;

thread_local! {
    static IS_NICE: Cell<bool> = const { Cell::new(false) };
}

/// On a blocking thread, between two pieces of work: the kernel would let it go on until a tick, some milliseconds, where an
/// executor waits for the same CPU.
pub fn give_way() {
    std::thread::yield_now();
}

/// Runs a closure on a blocking thread.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let work = move || {
        if !IS_NICE.replace(true) {
            // SAFETY: the call takes no pointers. On Linux it is of the calling thread alone; if it fails, the work is done all
            // the same.
            unsafe {
                let nice = libc::getpriority(libc::PRIO_PROCESS, 0) + NICE;
                libc::setpriority(libc::PRIO_PROCESS, 0, nice.min(19));
            }
        }
        let answer = work();
        give_way();
        answer
    };
    awake(glommio::executor().spawn_blocking(work)).await
}
