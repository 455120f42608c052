//! A stop in good order, seen by the cluster: what this core leads goes to others first, and this core stays until they lead.
//!
//! Who takes over is elected, and the old leader's vote may be the one that decides: the third node may be down, or may have
//! no way yet to a successor that has just started. A leader that steps down has not voted on disk, and one whose successor
//! has nothing committed may still be needed for that. So this core waits until it has seen both.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::room::Room;
use super::{Core, CoreError};
use crate::group::{Group, Input, node_of};

/// Longest wait for successors.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Between two looks, where nothing tells of a change: entries that are committed do not.
const LOOK: Duration = Duration::from_millis(10);

impl Core {
    /// Hands over what this core leads, also what comes to it meanwhile, and waits until others lead it, or nobody takes it.
    pub(super) async fn hand_over(self: &Rc<Self>) {
        let until_us = self.clock.monotonic_us() + PATIENCE.as_micros() as u64;
        let mut given = BTreeSet::new();
        loop {
            let seen = self.ready_changed.raised();
            let left = self.hand_over_step(&mut given);
            if left == 0 || self.is_failed.get() || self.clock.monotonic_us() >= until_us {
                log::info!(
                    "event=handed_over core={} groups={} left={left}",
                    self.id,
                    given.len()
                );
                return;
            }
            let changed = async {
                self.ready_changed.beyond(seen).await;
            };
            futures_lite::FutureExt::or(changed, self.sleep(LOOK)).await;
        }
    }

    /// Gives each group that is led here to whoever can lead it; how many of all that were given nobody leads for certain.
    fn hand_over_step(self: &Rc<Self>, given: &mut BTreeSet<u32>) -> usize {
        let now_us = self.clock.monotonic_us();
        let mut next = Vec::new();
        {
            let groups = self.groups.borrow();
            let led = groups.values().filter(|g| g.is_leader() && !g.is_alone());
            for group in led {
                given.insert(group.id());
                next.extend(self.heir(group, now_us).map(|node| (group.id(), node)));
            }
        }
        for (group, node) in next {
            self.step(group, Input::TransferLeader(Some(node)));
        }
        let groups = self.groups.borrow();
        let is_taken = |id: &&u32| groups.get(id).is_none_or(Group::is_led_elsewhere);
        given.len() - given.iter().filter(is_taken).count()
    }

    /// The node that should lead a group in place of this one: of those that can be told so, one with room on a sound disk that has not
    /// been late, and then the one with most of the log. Three of the heir's syncs follow one another before it answers.
    fn heir(&self, group: &Group, now_us: u64) -> Option<u64> {
        let links = self.links.borrow();
        let replicas = group.replicas().into_iter();
        let able = replicas.filter(|r| r.is_voter && r.is_active && !r.is_installing);
        let reached = able.filter(|r| links.get(&node_of(r.raft_id)).is_some_and(|l| l.is_up()));
        let best = reached.max_by_key(|r| {
            let node = node_of(r.raft_id);
            let is_slow = self.pace.is_other_slow(node, now_us);
            let is_late = self.pace.is_other_late(node, now_us);
            let is_full = self.pace.is_other_full(node);
            (!is_full, !is_slow, !is_late, r.matched)
        });
        best.map(|r| node_of(r.raft_id))
    }

    /// Lets the last checkpoint end, then closes the log.
    pub(super) async fn close(self: &Rc<Self>) -> Result<(), CoreError> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        drop(disk.checkpointing.acquire_permit(1).await);
        while !self.is_failed.get() && !self.is_idle() && self.room.get() != Room::None {
            self.sleep(std::time::Duration::from_millis(1)).await;
        }
        self.is_failed.set(true);
        if let Some(cache) = &self.tier.disk {
            cache.close().await;
        }
        let dropped = disk.wal.close().await?;
        if dropped > 0 {
            log::warn!(
                "event=log_closed_without_room core={} records={dropped} they were acknowledged to nobody",
                self.id
            );
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.unsynced.borrow().is_empty() && self.groups.borrow().values().all(Group::is_idle)
    }
}
