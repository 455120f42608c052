//! Spreads leadership: each group has a preferred node, by its number among the voters, and a leader that is not on it hands
//! over once that node is up and has the log. Which node is preferred depends on the membership alone, so leadership
//! does not wander; restarted nodes get theirs back a few groups at a time. On which core a node has a group is so chosen that
//! each leads as many (`owners.rs`). Where some groups are busier than others, load comes before preference (`load.rs`). A node whose disk is slow or full gets none, and gives away what it has.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::Core;
use super::load::NodeLoads;
use super::owners::Owners;
use crate::group::{Group, Input, Replica, node_of};

/// How long a leader stays before it hands over for balance, in microseconds.
const SETTLED_US: u64 = 5_000_000;

/// Between two looks at the groups' loads, in microseconds.
const LOAD_US: u64 = 1_000_000;

/// Entries that the preferred replica may lack.
const LAG_MAX: u64 = 64;

/// Groups that hand over at once.
const AT_ONCE: usize = 4;

/// Groups that are looked at in a turn: with many, a look at all of them would be most of what an idle node does.
const LOOKED_AT: usize = 64;

/// What a core remembers to spread leadership; times in monotonic microseconds.
#[derive(Default)]
pub(super) struct Balancing {
    /// Where the next look for groups that should be led elsewhere begins.
    next: Cell<u32>,
    /// Since when this core leads its groups.
    led_since: RefCell<BTreeMap<u32, u64>>,
    /// What each group of this core had done at the last look, in bytes.
    work_seen: RefCell<BTreeMap<u32, u64>>,
    /// When groups were last looked at for their load, and when the node was last seen to have given one away for it.
    looked_us: Cell<u64>,
    relieved_us: Cell<u64>,
    reliefs_seen: Cell<u64>,
    /// Where the other nodes' cores have their groups, by what they said last.
    others: RefCell<BTreeMap<u64, Arc<Owners>>>,
}

impl Balancing {
    /// A node says how many cores it has. One of an earlier version has its groups on others: that costs evenness and nothing else.
    pub(super) fn note_cores(&self, node: u64, cores: u32, own: &Arc<Owners>) {
        let Ok(cores @ 1..=64) = u16::try_from(cores) else {
            return;
        };
        let mut others = self.others.borrow_mut();
        if others.get(&node).is_none_or(|o| o.cores() != cores) {
            let of_node = match own.cores() == cores {
                true => own.clone(),
                false => Arc::new(Owners::new(cores, own.groups() - 1)),
            };
            others.insert(node, of_node);
        }
    }
}

impl Core {
    /// Sees once a second what the groups of this core do.
    pub(super) fn watch_load(&self) {
        let now_us = self.clock.monotonic_us();
        let passed_us = now_us.saturating_sub(self.balancing.looked_us.get());
        if passed_us < LOAD_US {
            return;
        }
        self.balancing.looked_us.set(now_us);
        let mut seen = self.balancing.work_seen.borrow_mut();
        for (id, group) in self.groups.borrow().iter() {
            let before = seen.insert(*id, group.work_bytes()).unwrap_or(0);
            let bytes = group.work_bytes().saturating_sub(before);
            self.loads.note(*id, bytes * LOAD_US / passed_us);
        }
    }

    /// Hands over a few groups to the nodes that they prefer, going round all of them.
    pub(super) fn balance(self: &Rc<Self>) {
        if self.stop.raised() > 0 || self.links.borrow().is_empty() {
            return;
        }
        let now_us = self.clock.monotonic_us();
        let (drained, members): (Vec<u64>, Vec<u64>) = {
            let tables = self.tables.borrow();
            let drained = tables.members.iter().filter(|m| m.drained);
            let members = tables.members.iter().map(|m| m.raft_id);
            (
                drained.map(crate::protocol::Member::node).collect(),
                members.collect(),
            )
        };
        let may_lead = |raft_id: u64| {
            // Who is to go hands over by itself: it would only come back.
            (members.is_empty() || members.contains(&raft_id))
                && !drained.contains(&node_of(raft_id))
        };
        let must_go = drained.contains(&self.config.node_id)
            || self.pace.is_slow(now_us)
            || self.loads.is_full();
        let is_unfit =
            |node: u64| self.pace.is_other_slow(node, now_us) || self.pace.is_other_full(node);
        let others = self.balancing.others.borrow();
        let owners = |node: u64| others.get(&node).unwrap_or(&self.loads.owners).clone();
        let loads = NodeLoads::new(&self.leaders.borrow(), &self.loads, &owners);
        let own = self.config.node_id;
        let is_up = |node: u64| self.links.borrow().get(&node).is_some_and(|l| l.is_up());
        let mut next = Vec::new();
        let from = self.balancing.next.get();
        let groups = self.groups.borrow();
        let round = groups.range(from..).chain(groups.range(..from));
        let mut seen = from;
        for (id, group) in round.take(LOOKED_AT) {
            seen = *id;
            let mut led_since = self.balancing.led_since.borrow_mut();
            if !group.is_ready() || group.is_alone() {
                led_since.remove(&group.id());
                continue;
            }
            let since_us = *led_since.entry(group.id()).or_insert(now_us);
            if (must_go || since_us + SETTLED_US <= now_us)
                && let Some(node) = better_leader(group, may_lead, must_go, is_unfit)
                && (must_go || loads.allows(own, node, *id, self.loads.get(*id)))
                && is_up(node)
            {
                next.push((group.id(), node));
                // A try that fails is not repeated at once.
                led_since.insert(group.id(), now_us);
                if next.len() == AT_ONCE {
                    break;
                }
            }
        }
        self.balancing.next.set(seen + 1);
        let reliefs = self.loads.reliefs();
        if self.balancing.reliefs_seen.replace(reliefs) != reliefs {
            self.balancing.relieved_us.set(now_us);
        }
        if next.is_empty() && self.balancing.relieved_us.get() + SETTLED_US <= now_us {
            let is_fit = |raft_id: u64| {
                let node = node_of(raft_id);
                may_lead(raft_id) && !is_unfit(node) && is_up(node)
            };
            let step = self.relief(&groups, &loads, is_fit, now_us);
            next.extend(step.filter(|_| self.loads.relieve_after(reliefs)));
        }
        drop(groups);
        drop(others);
        for (group, node) in next {
            log::info!("event=leadership_balanced group={group} to_node={node}");
            self.step(group, Input::TransferLeader(Some(node)));
        }
    }

    /// The busy group that should be led elsewhere, and by whom, of those that have been led here for a while.
    fn relief(
        &self,
        groups: &BTreeMap<u32, Group>,
        loads: &NodeLoads<'_>,
        is_fit: impl Fn(u64) -> bool,
        now_us: u64,
    ) -> Option<(u32, u64)> {
        let led_since = self.balancing.led_since.borrow();
        let is_settled = |id: u32| {
            let since_us = led_since.get(&id);
            since_us.is_some_and(|since_us| since_us + SETTLED_US <= now_us)
        };
        let led = groups.values().filter(|g| g.is_ready() && !g.is_alone());
        let busy = led.filter_map(|group| {
            let (id, load) = (group.id(), self.loads.get(group.id()));
            let is_busy = load > 0 && is_settled(id);
            is_busy.then(|| (id, load, fit_to_lead(group, &is_fit)))
        });
        loads.relief(self.config.node_id, &busy.collect::<Vec<_>>())
    }
}

/// The preferred node of a group that is led here, if that is another one and it could take over at once. Where none of
/// that is so and this node shall not lead: the first that could. Which one is preferred is the same for all nodes; which
/// ones have a slow or full disk is not, and only keeps them from taking over.
fn better_leader(
    group: &Group,
    may_lead: impl Fn(u64) -> bool,
    must_go: bool,
    is_unfit: impl Fn(u64) -> bool,
) -> Option<u64> {
    let mut voters = group.membership().voters;
    voters.retain(|v| may_lead(*v));
    voters.sort_unstable();
    let preferred = *voters.get(group.id() as usize % voters.len().max(1))?;
    let able = could_lead(group);
    let can_lead = |id: &u64| able.contains(id) && !is_unfit(node_of(*id));
    let others = voters.iter().copied().filter(|_| must_go);
    let mut candidates = std::iter::once(preferred).chain(others);
    candidates.find(can_lead).map(node_of)
}

/// The nodes that could lead a group at once, of those that are fit for it.
fn fit_to_lead(group: &Group, is_fit: impl Fn(u64) -> bool) -> Vec<u64> {
    let able = could_lead(group).into_iter().filter(|id| is_fit(*id));
    able.map(node_of).collect()
}

/// The other voters that have nearly all of the log, by their raft ids.
fn could_lead(group: &Group) -> Vec<u64> {
    let last = group.last_index();
    let replicas = group.replicas().into_iter();
    let is_able = |r: &Replica| r.is_voter && r.has_all_but(LAG_MAX, last);
    let others = replicas.filter(|r| r.raft_id != group.raft_id() && is_able(r));
    others.map(|r| r.raft_id).collect()
}
