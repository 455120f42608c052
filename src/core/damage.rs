//! Damage that is found while the node serves: noted for the start that follows, which has the others build the replicas anew.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::sync::Semaphore;
use storage::{StorageError, framed};

use super::Core;
use super::signal::Event;
use crate::protocol::Refusal;

/// What a core knows of damage to its files.
pub(super) struct Damage {
    /// Raised when files were found damaged that the other nodes have too.
    pub(super) found: Event,
    /// Packs that are being put right, or wait for it.
    pub(super) mending: RefCell<BTreeSet<(u32, u32)>>,
    /// A pack is held in memory meanwhile: one at a time.
    pub(super) at_work: Semaphore,
}

impl Default for Damage {
    fn default() -> Damage {
        Damage {
            found: Event::default(),
            mending: RefCell::default(),
            at_work: Semaphore::new(1),
        }
    }
}

/// Directories of damaged files that a node keeps; with so many, it does not start.
pub const SET_ASIDE_MAX: u64 = 3;

/// How often files were set aside (`damaged-N`), by what is still there.
pub fn set_aside_count(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name());
    let is_one = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("damaged-");
    names.filter(is_one).count() as u64
}

/// What was found damaged while the node served is named here, for the next start.
pub fn damage_note_path(dir: &Path) -> PathBuf {
    dir.join("damage.ursula")
}

impl Core {
    /// A file did not hold what was written, and could not be put right. Where other nodes have it too, this one stops in good
    /// order and starts again without the damaged files; who asked is told to come back.
    pub(super) async fn found_damage(self: &Rc<Self>, error: &StorageError) -> Refusal {
        let is_damage = match error {
            StorageError::Corrupt { .. } => true,
            StorageError::Io { source, .. } => source.raw_os_error() == Some(libc::EIO),
            _ => false,
        };
        let is_alone = self.identity.cluster_listen.is_none();
        let Some(disk) = &self.disk else {
            return Refusal::DataDamaged;
        };
        let has_room = set_aside_count(&disk.dir) < SET_ASIDE_MAX;
        if !is_damage || is_alone || self.config.no_rebuild || !has_room {
            return Refusal::DataDamaged;
        }
        if self.damage.found.raised() == 0 {
            let path = damage_note_path(&disk.dir);
            let text = error.to_string();
            let noted =
                storage::blocking::run(move || framed::write_atomic(&path, text.as_bytes()));
            if let Err(error) = noted.await {
                log::error!("event=damage_not_noted {error}");
                return Refusal::DataDamaged;
            }
            self.damage.found.raise();
        }
        Refusal::Unavailable
    }
}
