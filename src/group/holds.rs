//! A group's side of the fork saga: holds on its streams, and forks that must never stand.
//! Owns the queue of unconfirmed holds and the list of given-up ones.
//! Invariants: each unconfirmed hold stands in the queue once; both have bounds (I8).

use std::collections::{BTreeMap, BTreeSet};

use raftproto::command;

use super::machine::{Machine, find};
use super::stream::HOLD_UNCONFIRMED_MS;
use super::{Effect, Group};
use crate::protocol::{Outcome, Refusal};

/// How long a given-up fork is remembered, so that a create that comes late is refused.
const ABANDONED_KEPT_MS: u64 = 24 * 3600 * 1000;

/// Given-up forks that a group remembers. Above it, holds stay unconfirmed until older ones are forgotten.
pub(super) const ABANDONED_MAX: usize = 100_000;

/// Holds that one tick asks about.
pub(super) const CHECKS_PER_TICK: usize = 256;

/// Holds whose fork must not be created any more, and since when.
#[derive(Debug, Default)]
pub(super) struct Abandoned {
    since_ms: BTreeMap<u64, u64>,
    by_age: BTreeSet<(u64, u64)>,
}

impl Abandoned {
    pub(super) fn contains(&self, hold_id: u64) -> bool {
        self.since_ms.contains_key(&hold_id)
    }

    pub(super) fn len(&self) -> usize {
        self.since_ms.len()
    }

    /// Hold and time, in the order of the holds.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.since_ms.iter().map(|(hold_id, ms)| (*hold_id, *ms))
    }

    pub(super) fn insert(&mut self, hold_id: u64, at_ms: u64) {
        if let Some(before) = self.since_ms.insert(hold_id, at_ms) {
            self.by_age.remove(&(before, hold_id));
        }
        self.by_age.insert((at_ms, hold_id));
    }

    /// Forgets what is old enough; costs what it forgets.
    fn forget(&mut self, now_ms: u64) {
        while let Some((at_ms, hold_id)) = self.by_age.first().copied() {
            if now_ms < at_ms.saturating_add(ABANDONED_KEPT_MS) {
                return;
            }
            self.by_age.pop_first();
            self.since_ms.remove(&hold_id);
        }
    }
}

impl Group {
    /// Asks for holds that stayed unconfirmed for long whether their forks stand.
    pub(super) fn check_holds(&mut self, effects: &mut Vec<Effect>) {
        for _ in 0..CHECKS_PER_TICK {
            let Some(first) = self.machine.hold_checks.first_entry() else {
                return;
            };
            if first.key().0 > self.now_ms {
                return;
            }
            let ((_, hold_id), source) = first.remove_entry();
            let Some(stream) = self.machine.streams.get_mut(&source) else {
                continue;
            };
            let Some(hold) = stream.holds.get_mut(hold_id) else {
                continue;
            };
            // Asked again if this should lead to nothing.
            hold.check_ms = self.now_ms + HOLD_UNCONFIRMED_MS;
            effects.push(Effect::CheckHold {
                source: source.clone(),
                incarnation: stream.incarnation,
                hold_id,
                fork_key: hold.fork_key.clone(),
            });
            let due = (hold.check_ms, hold_id);
            self.machine.hold_checks.insert(due, source);
        }
    }
}

impl Machine {
    pub(super) fn hold(&mut self, hold: &command::Hold, stamp_ms: u64) -> Outcome {
        let Some((key, stream)) = find(&mut self.streams, &hold.key) else {
            return Outcome::Refused(Refusal::SourceNotFound);
        };
        let key = key.clone();
        let is_known = stream.holds.get(hold.hold_id).is_some();
        match stream.hold(hold, stamp_ms) {
            Ok(held) if is_known => Outcome::Held(held),
            Ok(held) => {
                let due = (stamp_ms + HOLD_UNCONFIRMED_MS, hold.hold_id);
                self.hold_checks.insert(due, key.clone());
                self.mark_dirty(&key);
                Outcome::Held(held)
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    pub(super) fn confirm_hold(&mut self, confirm: &command::ConfirmHold) -> Outcome {
        if let Some((key, stream)) = find(&mut self.streams, &confirm.key)
            && stream.incarnation.0 == confirm.incarnation
            && let Some(check_ms) = stream.holds.confirm(confirm.hold_id)
        {
            let key = key.clone();
            self.hold_checks.remove(&(check_ms, confirm.hold_id));
            self.mark_dirty(&key);
        }
        Outcome::Done
    }

    pub(super) fn release_hold(
        &mut self,
        release: &command::ReleaseHold,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        if let Some((key, stream)) = find(&mut self.streams, &release.key)
            && stream.incarnation.0 == release.incarnation
            && let Some(hold) = stream.holds.remove(release.hold_id)
        {
            let key = key.clone();
            let is_over = stream.soft_deleted && stream.holds.is_empty();
            if !hold.confirmed {
                self.hold_checks.remove(&(hold.check_ms, hold.hold_id));
            }
            if is_over {
                self.remove(&key, effects);
            } else {
                self.mark_dirty(&key);
                self.drop_below_floor(&key);
            }
        }
        Outcome::Done
    }

    /// Sees to it that a fork which does not stand never will.
    pub(super) fn abandon_fork(
        &mut self,
        abandon: &command::AbandonFork,
        stamp_ms: u64,
    ) -> Outcome {
        let exists = self
            .streams
            .get(abandon.fork_key.as_str())
            .and_then(|s| s.fork.as_deref())
            .is_some_and(|f| f.hold_id == abandon.hold_id);
        if !exists {
            self.abandoned.forget(stamp_ms);
            if self.abandoned.len() >= ABANDONED_MAX && !self.abandoned.contains(abandon.hold_id) {
                return Outcome::Refused(Refusal::Overloaded {
                    bound: "abandoned_forks_max",
                });
            }
            self.abandoned.insert(abandon.hold_id, stamp_ms);
        }
        Outcome::Abandoned { exists }
    }
}
