//! Room on the disk for the log. A disk that fills is noticed while the open segment still has some: from then on nothing is
//! taken that grows the data, what is led here goes to nodes that have room, and what is left is for what frees room.
//! Where even that is used up, or a write is too long for it, the log stands still until there is room: what was under way is
//! answered as in doubt after some seconds (`Input::GiveUpLate`) and kept, and is written as soon as it can be.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use storage::StorageError;
use storage::wal::{Committed, Wal};

use super::Core;

/// How often a log that stands still is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// How often a segment is tried to be made for which there was no room, in microseconds.
const LOOK_US: u64 = 1_000_000;

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// For what comes.
    Enough,
    /// For what is small: the next segment could not be made.
    Short,
    /// Not for what is under way.
    None,
}

/// See the module's head.
pub(super) struct LogRoom {
    room: Cell<Room>,
    looked_us: Cell<u64>,
}

impl Default for LogRoom {
    fn default() -> LogRoom {
        LogRoom {
            room: Cell::new(Room::Enough),
            looked_us: Cell::new(0),
        }
    }
}

impl LogRoom {
    pub(super) fn get(&self) -> Room {
        self.room.get()
    }

    /// Nothing is taken that grows the data.
    pub(super) fn is_full(&self) -> bool {
        self.room.get() != Room::Enough
    }
}

impl Core {
    /// Commits; while there is no room for that, waits for some. Nothing of the batch is lost meanwhile.
    pub(super) async fn commit_when_there_is_room(
        self: &Rc<Self>,
        wal: &Wal,
    ) -> Result<Committed, StorageError> {
        loop {
            match wal.commit().await {
                Err(error @ StorageError::NoSpace { .. }) => {
                    self.set_room(Room::None, &format!(": {error}"));
                    // Segments that a checkpoint releases are room too.
                    self.checkpoint_if_due();
                    self.sleep(RETRY).await;
                }
                result => {
                    if self.room.get() == Room::None && result.is_ok() {
                        self.set_room(Room::Short, "");
                        self.look_at_room();
                    }
                    return result;
                }
            }
        }
    }

    /// Sees how much room there is. Called after each sync: some turns may use up what is left.
    pub(super) fn look_at_room(&self) {
        let Some(disk) = self.disk.as_ref().filter(|_| self.room.get() != Room::None) else {
            return;
        };
        if disk.wal.is_short_of_room() {
            self.set_room(Room::Short, "");
        } else {
            self.set_room(Room::Enough, "");
        }
    }

    /// The same with each tick; now and then also whether room came back.
    pub(super) fn watch_room(&self) {
        let now_us = self.clock.monotonic_us();
        if let Some(disk) = &self.disk
            && self.room.looked_us.get() + LOOK_US <= now_us
        {
            self.room.looked_us.set(now_us);
            disk.wal.look_for_room();
        }
        self.look_at_room();
        // The whole node's: its cores share a disk.
        let is_full = self.loads.is_full();
        for link in self.links.borrow().values() {
            link.say_room(!is_full);
        }
    }

    fn set_room(&self, room: Room, why: &str) {
        let before = self.room.room.replace(room);
        let (was_full, is_full) = (before != Room::Enough, room != Room::Enough);
        if is_full && !was_full {
            log::error!(
                "event=disk_full core={} what grows the data is refused until there is room{why}",
                self.id
            );
            self.loads.core_is_full(true);
        }
        if was_full && !is_full {
            log::info!("event=disk_has_room core={}", self.id);
            self.loads.core_is_full(false);
        }
    }
}
