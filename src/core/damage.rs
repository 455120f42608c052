//! Damage that is found while the node serves: noted for the start that follows, which has the others build the replicas anew.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use glommio::sync::Semaphore;
use raftproto::peer::StatusRequest;
use storage::{StorageError, framed};

use super::Core;
use super::signal::Event;
use crate::group::BadMessage;
use crate::meta::joining::are_sound;
use crate::ops::metrics::add;
use crate::protocol::PackName;

/// Between two looks at whether the other nodes can do without this one.
const LOOK: Duration = Duration::from_secs(1);

/// Looks between two lines of the log.
const LOOKS_PER_LINE: u32 = 30;

/// What a core knows of damage to its files.
pub(super) struct Damage {
    /// Raised when files were found damaged that the other nodes have too.
    pub(super) found: Event,
    /// What is lost only the others have, and they are waited for: in words, and the file, if another one may take its place.
    waiting: RefCell<Vec<(String, Option<PathBuf>)>>,
    /// The others are asked just now whether they can do without this node, or were, and can.
    pub(super) gives_up: Cell<bool>,
    /// Whose turn it is to ask whether it may.
    asking: Semaphore,
    /// Packs that are being put right, or wait for it.
    pub(super) mending: RefCell<BTreeSet<(u32, u32)>>,
    /// A pack is held in memory meanwhile: one at a time.
    pub(super) at_work: Semaphore,
    /// What is known to be damaged now.
    known: RefCell<BTreeSet<Damaged>>,
}

impl Default for Damage {
    fn default() -> Damage {
        Damage {
            found: Event::default(),
            waiting: RefCell::default(),
            gives_up: Cell::new(false),
            asking: Semaphore::new(1),
            mending: RefCell::default(),
            at_work: Semaphore::new(1),
            known: RefCell::default(),
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

/// The file that is not what was written, or cannot be read.
fn damaged_file(error: &StorageError) -> Option<&PathBuf> {
    match error {
        StorageError::Corrupt { path, .. } => Some(path),
        StorageError::Io { path, source, .. } => {
            (source.raw_os_error() == Some(libc::EIO)).then_some(path)
        }
        _ => None,
    }
}

impl Core {
    /// Notes damage, and counts it if it is news.
    pub(super) fn note_damaged(&self, what: Damaged) {
        if self.damage.known.borrow_mut().insert(what) {
            add(&self.metrics.plain.scrub_damaged_total, 1);
            self.report_damage();
        }
    }

    /// It was put right, or another file stands in its place.
    pub(super) fn note_sound(&self, what: &Damaged) {
        if self.damage.known.borrow_mut().remove(what) {
            add(&self.metrics.plain.scrub_repaired_total, 1);
            self.report_damage();
        }
    }

    /// Forgets damage that has no meaning any more, which is no repair.
    pub(super) fn forget_damaged(&self, is_gone: impl Fn(&Damaged) -> bool) {
        self.damage.known.borrow_mut().retain(|what| !is_gone(what));
        self.report_damage();
    }

    /// The objects that are known to be damaged.
    pub(super) fn damaged_objects(&self) -> Vec<(u32, PackName)> {
        let known = self.damage.known.borrow();
        let objects = known.iter().filter_map(|what| match what {
            Damaged::Object(group, name) => Some((*group, *name)),
            Damaged::File(_) => None,
        });
        objects.collect()
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

    /// A file did not hold what was written, and cannot be put right. Where other nodes have it too, this one stops in good order
    /// and starts again without the damaged files, as soon as the others can do without it.
    pub(super) fn found_damage(self: &Rc<Self>, error: &StorageError) {
        let Some(path) = damaged_file(error) else {
            return;
        };
        self.note_damaged(Damaged::File(path.clone()));
        if self.can_start_anew() {
            self.start_anew_when_possible(error.to_string(), Some(path.clone()));
        }
    }

    /// The same of what may still be put right by others who are away now: it is not waited for. Says whether the node stops.
    pub(super) async fn found_unmendable(self: &Rc<Self>, error: &StorageError) -> bool {
        if damaged_file(error).is_none() || !self.can_start_anew() {
            return false;
        }
        let given_up = self.give_up_replicas(&error.to_string()).await;
        if let Err(reason) = &given_up {
            log::error!(
                "event=rebuild_waits the replicas of this node are not built anew yet: {reason}"
            );
        }
        given_up.is_ok()
    }

    /// A group's log is not the one that the others count on: what the disk held was lost, at its end, where a start cannot
    /// tell damage from a write that was cut. The node goes on for its other groups until the others can do without it.
    pub(super) fn found_lost_log(self: &Rc<Self>, group: u32, bad: BadMessage) {
        if self.can_start_anew() {
            self.start_anew_when_possible(format!("group {group}: {bad}"), None);
        }
    }

    /// Two nodes that stopped at once could take a majority away.
    fn start_anew_when_possible(self: &Rc<Self>, text: String, file: Option<PathBuf>) {
        {
            let mut waiting = self.damage.waiting.borrow_mut();
            if waiting.iter().any(|(_, known)| *known == file) {
                return;
            }
            waiting.push((text, file));
            if waiting.len() > 1 {
                return;
            }
        }
        let core = self.clone();
        super::tasks::spawn(async move {
            for look in 0u32.. {
                let Some(text) = core.waits_for_others().await else {
                    return;
                };
                match core.give_up_replicas(&text).await {
                    Ok(()) => return,
                    Err(reason) if look.is_multiple_of(LOOKS_PER_LINE) => log::error!(
                        "event=rebuild_waits the replicas of this node are not built anew yet: {reason}; {text}"
                    ),
                    Err(_) => {}
                }
                // Nodes that ask at the same times would find each other asking for ever.
                let apart = Duration::from_millis(137 * (core.config.node_id % 8));
                core.sleep(LOOK + apart).await;
            }
        })
        .detach();
    }

    /// Why the others are waited for, if they still are: not for a file that is sound by now, or gone, since a newer one has its place.
    async fn waits_for_others(&self) -> Option<String> {
        let files: Vec<PathBuf> = {
            let waiting = self.damage.waiting.borrow();
            waiting
                .iter()
                .filter_map(|(_, file)| file.clone())
                .collect()
        };
        let is_gone = |file: &PathBuf| matches!(file.try_exists(), Ok(false));
        let look = move || files.into_iter().filter(is_gone).collect::<Vec<_>>();
        let gone = storage::blocking::run(look).await;
        let known = self.damage.known.borrow();
        let is_damaged =
            |file: &PathBuf| !gone.contains(file) && known.contains(&Damaged::File(file.clone()));
        let mut waiting = self.damage.waiting.borrow_mut();
        waiting.retain(|(_, file)| file.as_ref().is_none_or(is_damaged));
        let first = waiting.first().map(|(text, _)| text.clone());
        first.filter(|_| self.stop.raised() == 0)
    }

    /// Has the node stop in good order and start again without its files, if the others can do without it from now on. A node
    /// that asks says so first, for as long as it asks: of two that ask at once one hears of the other, or both do.
    async fn give_up_replicas(&self, text: &str) -> Result<(), String> {
        let turn = self.damage.asking.acquire_permit(1).await;
        let _turn = turn.map_err(|error| error.to_string())?;
        if self.damage.found.raised() > 0 {
            return Ok(());
        }
        self.damage.gives_up.set(true);
        let given_up = match self.others_are_sound().await {
            Ok(()) => self.note_damage(text.to_owned()).await,
            Err(reason) => Err(reason),
        };
        self.damage.gives_up.set(given_up.is_ok());
        given_up
    }

    async fn others_are_sound(&self) -> Result<(), String> {
        let mut replies = Vec::new();
        for address in self.others_up() {
            let request = StatusRequest {
                with_groups: true,
                ..StatusRequest::default()
            };
            replies.extend(self.caller.status(&address, request).await);
        }
        are_sound(self.config.node_id, self.config.peers.len(), &replies)
    }

    /// Other nodes have what this one has, and its files may be set aside.
    fn can_start_anew(&self) -> bool {
        let has_room = |disk: &super::Disk| set_aside_count(&disk.dir) < SET_ASIDE_MAX;
        self.identity.cluster_listen.is_some()
            && !self.config.no_rebuild
            && self.disk.as_ref().is_some_and(has_room)
    }

    /// For the next start, before which the node stops.
    async fn note_damage(&self, text: String) -> Result<(), String> {
        let disk = self.disk.as_ref().ok_or("it has no disk")?;
        let path = damage_note_path(&disk.dir);
        let noted = storage::blocking::run(move || framed::write_atomic(&path, text.as_bytes()));
        noted
            .await
            .map_err(|error| format!("the damage cannot be noted: {error}"))?;
        self.damage.found.raise();
        Ok(())
    }
}
