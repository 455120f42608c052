//! Damage that is found while the node serves: noted for the start that follows, which has the others build the replicas anew.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::sync::Semaphore;
use storage::cold::ColdError;
use storage::{StorageError, framed};

use super::Core;
use super::packs::refusal_of;
use super::signal::Event;
use crate::ops::metrics::add;
use crate::protocol::{PackName, Refusal};

/// What a core knows of damage to its files.
pub(super) struct Damage {
    /// Raised when files were found damaged that the other nodes have too.
    pub(super) found: Event,
    /// Packs that are being put right, or wait for it.
    pub(super) mending: RefCell<BTreeSet<(u32, u32)>>,
    /// A pack is held in memory meanwhile: one at a time.
    pub(super) at_work: Semaphore,
    /// What is known to be damaged now.
    known: RefCell<BTreeSet<Damaged>>,
    /// Packs that a read did not find, and when that was first, in monotonic microseconds.
    not_found: RefCell<BTreeMap<(u32, PackName), u64>>,
}

impl Default for Damage {
    fn default() -> Damage {
        Damage {
            found: Event::default(),
            mending: RefCell::default(),
            at_work: Semaphore::new(1),
            known: RefCell::default(),
            not_found: RefCell::default(),
        }
    }
}

/// Something that is not what was written, or is not there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Damaged {
    /// A file of this node.
    File(PathBuf),
    /// An object of the cold store: the pack of a group.
    Object(u32, PackName),
}

/// Packs that were not found are noted up to here; reads of more of them are told to come back.
const NOT_FOUND_MAX: usize = 1000;

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
    /// Notes damage, and counts it if it is news.
    pub(super) fn note_damaged(&self, what: Damaged) {
        if self.damage.known.borrow_mut().insert(what) {
            add(&self.metrics.plain.scrub_damaged_total, 1);
            self.report_damage();
        }
    }

    /// It was put right, or has no meaning any more.
    pub(super) fn note_sound(&self, what: &Damaged) {
        self.forget_damaged(|known| known == what);
    }

    /// Forgets damage that has no meaning any more.
    pub(super) fn forget_damaged(&self, is_gone: impl Fn(&Damaged) -> bool) {
        let mut known = self.damage.known.borrow_mut();
        let before = known.len();
        known.retain(|what| !is_gone(what));
        let fewer = (before - known.len()) as u64;
        drop(known);
        add(&self.metrics.plain.scrub_repaired_total, fewer);
        self.report_damage();
    }

    fn report_damage(&self) {
        let known = self.damage.known.borrow();
        let files = known.iter().filter(|d| matches!(d, Damaged::File(_)));
        let files = files.count();
        let plain = &self.metrics.plain;
        plain.scrub_damaged_files.set(files as u64);
        plain
            .scrub_damaged_objects
            .set((known.len() - files) as u64);
    }

    /// What a reader is told of a pack that could not be read. One that is not there may have been given up since the plan:
    /// whoever comes back has a new one. It is lost where its leader's state names it, or where it is still asked for when all
    /// plans from before the first miss have ended.
    pub(super) fn cold_refusal(&self, group: u32, pack: PackName, error: &ColdError) -> Refusal {
        if matches!(error, ColdError::Corrupt { .. }) {
            self.note_damaged(Damaged::Object(group, pack));
        }
        if !matches!(error, ColdError::NotFound { .. }) {
            return refusal_of(error);
        }
        let led = self
            .groups
            .borrow()
            .get(&group)
            .is_some_and(|g| g.is_ready());
        let is_lost = match led {
            true => self.is_needed(group, pack),
            false => self.is_missing_for_long(group, pack),
        };
        if !is_lost {
            return Refusal::Unavailable;
        }
        log::error!("event=cold_pack_missing group={group} pack={pack:?} {error}");
        self.note_damaged(Damaged::Object(group, pack));
        Refusal::DataDamaged
    }

    fn is_missing_for_long(&self, group: u32, pack: PackName) -> bool {
        let now_us = self.clock.monotonic_us();
        let plans_us = 2 * self.config.cold_read_timeout_ms * 1000;
        let mut not_found = self.damage.not_found.borrow_mut();
        // Who asks on does so again soon.
        not_found.retain(|_, first_us| now_us - *first_us < 20 * plans_us);
        match not_found.get(&(group, pack)) {
            Some(first_us) => now_us - first_us > plans_us,
            None if not_found.len() < NOT_FOUND_MAX => {
                not_found.insert((group, pack), now_us);
                false
            }
            None => false,
        }
    }

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
