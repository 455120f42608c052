//! Time-outs that are hardly ever reached: of headers, of bodies, of live reads.
//! Each request sets and drops some, so that a timer of the reactor (two tree insertions and removals) would cost more
//! than what it guards. Here a time-out is a place in a slab, and one task looks through the slab when the earliest
//! may be due. Late by at most [`GRAIN`].

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::clock;
use super::signal::Event;

/// Shortest time between two looks through the slab.
const GRAIN: Duration = Duration::from_millis(20);

/// All time-outs of one core.
#[derive(Default)]
pub struct Timeouts {
    places: RefCell<Places>,
    /// No place is due before; may be too early, never too late.
    earliest: Cell<Option<Instant>>,
    is_earlier: Event,
}

#[derive(Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<usize>,
}

enum Place {
    Free,
    Waiting(Instant, Waker),
    Due,
}

/// Resolves at its deadline; costs next to nothing when it is dropped before.
pub struct Timeout {
    timeouts: Rc<Timeouts>,
    deadline: Instant,
    place: Option<usize>,
}

impl Timeouts {
    /// Resolves in `duration`.
    pub fn after(self: &Rc<Self>, duration: Duration) -> Timeout {
        self.at(clock::instant() + duration)
    }

    /// Resolves at `deadline`.
    pub fn at(self: &Rc<Self>, deadline: Instant) -> Timeout {
        Timeout {
            timeouts: self.clone(),
            deadline,
            place: None,
        }
    }

    /// Wakes what is due, for as long as the core lives.
    pub async fn run(self: Rc<Self>) {
        let mut looked: Option<Instant> = None;
        loop {
            let seen = self.is_earlier.raised();
            let Some(earliest) = self.earliest.get() else {
                self.is_earlier.beyond(seen).await;
                continue;
            };
            let now = clock::instant();
            let next = looked.map_or(earliest, |at| earliest.max(at + GRAIN));
            if next > now {
                let due = async {
                    glommio::timer::sleep(next - now).await;
                    seen
                };
                futures_lite::FutureExt::or(due, self.is_earlier.beyond(seen)).await;
                continue;
            }
            self.wake_due(now);
            looked = Some(now);
        }
    }

    fn wake_due(&self, now: Instant) {
        let mut due = Vec::new();
        let mut earliest: Option<Instant> = None;
        for place in &mut self.places.borrow_mut().all {
            match place {
                Place::Waiting(deadline, _) if *deadline > now => {
                    earliest = Some(earliest.map_or(*deadline, |e| e.min(*deadline)));
                }
                Place::Waiting(..) => {
                    if let Place::Waiting(_, waker) = std::mem::replace(place, Place::Due) {
                        due.push(waker);
                    }
                }
                Place::Free | Place::Due => {}
            }
        }
        self.earliest.set(earliest);
        for waker in due {
            waker.wake();
        }
    }

    fn wait(&self, deadline: Instant, waker: Waker) -> usize {
        let mut places = self.places.borrow_mut();
        let place = places.free.pop().unwrap_or_else(|| {
            places.all.push(Place::Free);
            places.all.len() - 1
        });
        places.all[place] = Place::Waiting(deadline, waker);
        if self.earliest.get().is_none_or(|e| deadline < e) {
            self.earliest.set(Some(deadline));
            self.is_earlier.raise();
        }
        place
    }
}

impl Future for Timeout {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(place) = self.place else {
            self.place = Some(self.timeouts.wait(self.deadline, cx.waker().clone()));
            return Poll::Pending;
        };
        match &mut self.timeouts.places.borrow_mut().all[place] {
            Place::Waiting(_, waker) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            Place::Due | Place::Free => Poll::Ready(()),
        }
    }
}

impl Drop for Timeout {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let mut places = self.timeouts.places.borrow_mut();
            places.all[place] = Place::Free;
            places.free.push(place);
        }
    }
}
