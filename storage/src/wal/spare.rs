//! The file that will be a lane's next segment, made ready beside the appends: a new one, or one that is needed no
//! more. What is prepared and never used goes at the next start.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::sync::Semaphore;

use super::file::{Prepared, prepare, remove};
use super::writer::WalConfig;
use crate::{StorageError, blocking};

/// See the module's head.
pub(super) struct Spare {
    ready: RefCell<Option<Prepared>>,
    recycled: RefCell<Option<PathBuf>>,
    /// Who makes one ready has its only permit.
    making: Rc<Semaphore>,
    /// There was no room for the last one.
    has_no_room: Cell<bool>,
    counter: Cell<u64>,
}

impl Default for Spare {
    fn default() -> Spare {
        Spare {
            ready: RefCell::default(),
            recycled: RefCell::default(),
            making: Rc::new(Semaphore::new(1)),
            has_no_room: Cell::new(false),
            counter: Cell::new(0),
        }
    }
}

impl Spare {
    /// A file of `size` bytes: the one that is ready if it fits.
    ///
    /// # Errors
    /// As for [`prepare`]; nothing of the log was touched.
    pub(super) async fn take(
        &self,
        config: &WalConfig,
        size: u64,
    ) -> Result<Prepared, StorageError> {
        let is_usual = size == config.segment_bytes;
        // To the end: two would compete for the room of one. Nobody closes it.
        let _turn = self.making.acquire_permit(1).await;
        if is_usual && let Some(ready) = self.ready.borrow_mut().take() {
            return Ok(ready);
        }
        let recycled = self.recycled.borrow_mut().take_if(|_| is_usual);
        let wanted = (size, !is_usual);
        let made = prepare(self.temporary(config), recycled, wanted, config.io_mode).await;
        self.note_room(&made);
        made
    }

    /// Waits until none is being made: what comes of that is known then.
    pub(super) async fn settled(&self) {
        // Nobody closes it.
        let _ = self.making.acquire_permit(1).await;
    }

    /// The last try to get a file ready found no room, and none has been got since.
    pub(super) fn has_no_room(&self) -> bool {
        self.has_no_room.get() && self.ready.borrow().is_none()
    }

    fn note_room(&self, made: &Result<Prepared, StorageError>) {
        self.has_no_room
            .set(matches!(made, Err(StorageError::NoSpace { .. })));
    }

    fn temporary(&self, config: &WalConfig) -> PathBuf {
        self.counter.set(self.counter.get() + 1);
        let (generation, lane, counter) = (config.generation, config.lane, self.counter.get());
        let name = format!("{generation:010}-{lane:03}-{counter}.free");
        config.dir.join(name)
    }

    /// Gets a file ready if none is.
    pub(super) fn prepare_next(self: &Rc<Self>, config: &WalConfig) {
        if self.ready.borrow().is_some() {
            return;
        }
        // Not so if one is being made already.
        let Ok(turn) = self.making.try_acquire_static_permit(1) else {
            return;
        };
        let temporary = self.temporary(config);
        let recycled = self.recycled.borrow_mut().take();
        let (wanted, mode) = ((config.segment_bytes, false), config.io_mode);
        let spare = self.clone();
        glommio::spawn_local(async move {
            let was_without = spare.has_no_room.get();
            let made = blocking::awake(prepare(temporary, recycled, wanted, mode)).await;
            spare.note_room(&made);
            match made {
                Ok(ready) => *spare.ready.borrow_mut() = Some(ready),
                // Said once: it is tried again until there is room.
                Err(StorageError::NoSpace { .. }) if was_without => {}
                Err(error) => {
                    log::warn!(
                        "event=segment_not_prepared it is tried again when it is needed: {error}"
                    )
                }
            }
            drop(turn);
        })
        .detach();
    }

    /// Takes a segment that is needed no more out of the log: keeps its file for later, or removes it. Answers
    /// whether it is out.
    pub(super) fn recycle(&self, config: &WalConfig, path: &Path) -> bool {
        let is_full_size = std::fs::metadata(path).is_ok_and(|m| m.len() == config.segment_bytes);
        let free = path.with_extension("free");
        let mut recycled = self.recycled.borrow_mut();
        if is_full_size && recycled.is_none() && std::fs::rename(path, &free).is_ok() {
            #[cfg(any(test, feature = "tape"))]
            crate::tape::note(path, || {
                crate::tape::Act::Rename(path.to_owned(), free.clone())
            });
            *recycled = Some(free);
            return true;
        }
        remove(path)
    }
}
