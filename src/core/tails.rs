//! The live readers of one core.
//! Owns one entry per followed stream: its newest state, its recent updates, and who waits. The stream's
//! group tells this core of each append once, however many readers there are.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use ahash::AHashMap;

use super::signal::Event;
use crate::http::backend::{LiveTail, LiveUpdate, TailState};
use crate::protocol::{Incarnation, Meta, Offset, StreamKey, TailNews};

/// Updates kept per stream for readers that are a little behind; others read.
const RECENT_MAX: usize = 64;
const RECENT_BYTES_MAX: u64 = 1 << 20;

/// See the module's head.
#[derive(Default)]
pub struct TailHub {
    entries: RefCell<AHashMap<StreamKey, Rc<Entry>>>,
    readers: Cell<u64>,
}

struct Entry {
    key: StreamKey,
    state: Cell<TailState>,
    recent: RefCell<VecDeque<Rc<LiveUpdate>>>,
    recent_bytes: Cell<u64>,
    readers: Cell<u64>,
    changed: Event,
}

/// Called when the last reader of a stream is gone.
pub type OnIdle = Rc<dyn Fn(&StreamKey)>;

/// One reader; counts until it is dropped.
pub struct Tail {
    entry: Rc<Entry>,
    hub: Weak<TailHub>,
    on_idle: OnIdle,
}

impl TailHub {
    /// Live readers now.
    pub fn readers(&self) -> u64 {
        self.readers.get()
    }

    /// Joins the readers of a stream. If it is the first, the caller must ask the group to be told and then
    /// call [`Tail::established`].
    pub fn join(self: &Rc<Self>, key: &StreamKey, on_idle: OnIdle) -> (Tail, bool) {
        let mut entries = self.entries.borrow_mut();
        let known = entries.get(key).cloned();
        let is_known = known.as_ref().is_some_and(|e| !is_unknown(e.state.get()));
        let entry = known.unwrap_or_else(|| {
            let entry = Rc::new(Entry {
                key: key.clone(),
                state: Cell::new(UNKNOWN),
                recent: RefCell::default(),
                recent_bytes: Cell::new(0),
                readers: Cell::new(0),
                changed: Event::default(),
            });
            entries.insert(key.clone(), entry.clone());
            entry
        });
        entry.readers.set(entry.readers.get() + 1);
        self.readers.set(self.readers.get() + 1);
        let tail = Tail {
            entry,
            hub: Rc::downgrade(self),
            on_idle,
        };
        (tail, !is_known)
    }

    /// Somebody follows the stream.
    pub fn follows(&self, key: &StreamKey) -> bool {
        self.entries.borrow().contains_key(key)
    }

    /// Takes what the group tells; false: nobody follows the stream.
    pub fn on_news(&self, news: &TailNews, now_us: u64) -> bool {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get(&news.key).cloned() else {
            return false;
        };
        let known = entry.state.get();
        if !is_unknown(known) && news.incarnation < known.incarnation {
            // Of a stream that stood at this key before.
            return true;
        }
        if news.ended {
            entries.remove(&news.key);
        }
        drop(entries);
        entry.take(news, now_us);
        true
    }
}

const UNKNOWN: TailState = TailState {
    incarnation: Incarnation(0),
    tail: Offset::ZERO,
    closed: false,
    ended: false,
};

fn is_unknown(state: TailState) -> bool {
    state.incarnation == UNKNOWN.incarnation
}

impl Entry {
    fn take(&self, news: &TailNews, now_us: u64) {
        let before = self.state.get();
        self.state.set(TailState {
            incarnation: if news.ended {
                before.incarnation
            } else {
                news.incarnation
            },
            tail: news.end.max(before.tail),
            closed: news.closed,
            ended: news.ended,
        });
        // Late news come without bytes.
        if !news.pieces.is_empty() {
            self.keep(LiveUpdate {
                start: news.start,
                end: news.end,
                pieces: news.pieces.clone(),
                closed: news.closed,
                heard_us: now_us,
                rendered: RefCell::default(),
            });
        }
        self.changed.raise();
    }

    fn keep(&self, update: LiveUpdate) {
        let mut recent = self.recent.borrow_mut();
        let mut bytes = self.recent_bytes.get() + (update.end.0 - update.start.0);
        recent.push_back(Rc::new(update));
        while recent.len() > RECENT_MAX || (bytes > RECENT_BYTES_MAX && recent.len() > 1) {
            if let Some(oldest) = recent.pop_front() {
                bytes -= oldest.end.0 - oldest.start.0;
            }
        }
        self.recent_bytes.set(bytes);
    }
}

impl Tail {
    /// The group's answer to the first reader's question.
    pub fn established(&self, meta: &Meta) {
        let known = self.entry.state.get();
        if is_unknown(known) || known.tail < meta.tail {
            self.entry.state.set(crate::http::backend::tail_state(meta));
            self.entry.changed.raise();
        }
    }
}

impl LiveTail for Tail {
    fn state(&self) -> TailState {
        self.entry.state.get()
    }

    async fn changed(&self, seen: Offset) -> TailState {
        loop {
            let raised = self.entry.changed.raised();
            let state = self.entry.state.get();
            if state.tail > seen || state.closed || state.ended {
                return state;
            }
            self.entry.changed.beyond(raised).await;
        }
    }

    fn update_at(&self, position: Offset) -> Option<Rc<LiveUpdate>> {
        let recent = self.entry.recent.borrow();
        let index = recent.partition_point(|u| u.start < position);
        recent.get(index).filter(|u| u.start == position).cloned()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade() else {
            return;
        };
        hub.readers.set(hub.readers.get() - 1);
        self.entry.readers.set(self.entry.readers.get() - 1);
        if self.entry.readers.get() > 0 {
            return;
        }
        let mut entries = hub.entries.borrow_mut();
        let is_current = entries
            .get(&self.entry.key)
            .is_some_and(|e| Rc::ptr_eq(e, &self.entry));
        if is_current {
            entries.remove(&self.entry.key);
            drop(entries);
            (self.on_idle)(&self.entry.key);
        }
    }
}
