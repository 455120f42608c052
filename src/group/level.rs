//! Which commands a leader may propose while nodes of two versions are side by side; `meta/level.rs` says when that changes.

use raftproto::command::{RaiseLevel, command::Kind};

use super::Group;
use super::batch::version_of;
use crate::mutation;

impl Group {
    /// Every member can apply commands of this version.
    pub fn note_level(&mut self, level: u32) {
        self.level = self.level.max(level);
    }

    /// Version of commands that this group proposes.
    pub fn level(&self) -> u32 {
        match mutation::is_on("new-command-before-all-can") {
            true => self.raft.settings().commands_version,
            false => self.level,
        }
    }

    /// Some member could not apply it.
    pub(super) fn is_too_new(&self, kind: &Kind) -> bool {
        version_of(std::iter::once(kind), self.level()) > self.level()
    }

    /// What is left out of a command as long as some member could not apply it, and the command does without.
    pub(super) fn make_older(&self, kind: &mut Kind) {
        if let Kind::Append(append) = kind
            && self.level() < 5
        {
            append.incarnation_below = 0;
        }
    }

    /// Group 0 notes that every member can apply the next version. Only while nothing is on its way that could change the
    /// members before: the entry itself is of the version that it allows.
    pub(super) fn raise_level(&mut self, raise: RaiseLevel) {
        let rises = |meta: &crate::meta::Meta| meta.rises_by(&raise);
        let is_meant = self.is_ready && !self.raft.is_transferring();
        let is_last = !self.is_touched_by_pending();
        if is_meant && is_last && self.machine.meta.as_ref().is_some_and(rises) {
            self.pending.push(Kind::RaiseLevel(raise), None);
        }
    }
}
