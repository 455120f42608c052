//! The backup in the object store, as the product ships, collects and reads it back, over a store whose lists are wrong: they lack
//! what was put of late, have what was deleted of late, come in pages between which things change, are late, or fail.
//! The collector is the product's own (`backup/collector.rs`), and so is what tells how far a restore reaches (`backup/chain.rs`).
//! What ships is a stand-in: states and ranges of the log without their bytes, as of what real leaders have applied.
//! Invariants: no deletion takes a time from the backup that is kept; once the store is well, what no time needs is gone.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use raftproto::backup::{Base, Index, LogRange, Section};
use storage::cold::{ColdBody, ColdError, ColdKey, ColdObject, ColdStore};
use ursula::backup::chain::{Chains, Part};
use ursula::backup::collector::Collector;
use ursula::backup::format::{Builder, Content};
use ursula::backup::{Source, object_key, objects_prefix};
use ursula::group::stamp_of;

use crate::cold::{CLUSTER, Came};
use crate::event::{Event, Life};
use crate::node::Hosted;
use crate::store::Ask;
use crate::world::World;

/// Between two looks of a process at what it has to ship; it collects at each fourth.
const LOOK_US: u64 = 2_000_000;

/// So little that there are always several of them.
const PAGE: usize = 5;
const WINDOW: usize = 40;

/// A list is wrong about what was put or deleted within so much.
const LISTED_LATE_US: u64 = 120_000_000;

/// So much later than it could be collected, a dead object is gone where the store is well.
const COLLECTED_WITHIN_MS: u64 = 60_000;

/// How far the backup of one group is that this process leads.
struct Chain {
    term: u64,
    id: u64,
    /// The newest state, and when it was shipped.
    base: Option<(u64, u64)>,
    shipped: u64,
}

/// What goes with a process.
#[derive(Default)]
pub struct BackupShell {
    chains: BTreeMap<u32, Chain>,
    looks: u64,
    /// An object is being put.
    is_shipping: bool,
    /// What the next look continues with; `None`: a look is under way.
    collector: Option<Collector>,
    has_collector: bool,
}

/// What was shipped, and how lists are wrong about it.
#[derive(Default)]
pub struct Backups {
    /// What is in each object that was ever put.
    shipped: BTreeMap<ColdKey, Index>,
    put_us: BTreeMap<ColdKey, u64>,
    /// When it was deleted, and how long it was.
    deleted: BTreeMap<ColdKey, (u64, u64)>,
    count: u64,
}

/// It belongs to the backup.
pub fn is_of_backup(key: &ColdKey) -> bool {
    key.as_str().starts_with(&objects_prefix(CLUSTER))
}

impl World {
    /// The first look of a process.
    pub fn schedule_backup(&mut self, life: Life) {
        if self.plan.cold > 0 && self.plan.backup > 0 {
            self.queue.at(self.now_us + LOOK_US, Event::Backup(life));
        }
    }

    /// Ships what was applied since, and collects now and then.
    pub fn back_up(&mut self, life: Life) {
        self.schedule_backup(life);
        let node = life.node;
        let shell = &mut self.node(node).process.backup;
        shell.looks += 1;
        let collects = shell.looks.is_multiple_of(4);
        if !shell.is_shipping {
            self.ship(node);
        }
        if collects {
            self.collect(node);
        }
    }

    fn ship(&mut self, node: u64) {
        let now_ms = self.now(node).wall_ms;
        let keep_ms = self.plan.backup_keep_ms;
        let me = &mut self.nodes[node as usize - 1];
        let process = &mut me.process;
        if process.tables.slots.is_empty() {
            return;
        }
        let mut parts = Vec::new();
        for (group, hosted) in &process.groups {
            if !hosted.group.is_ready() || hosted.group.is_installing() {
                process.backup.chains.remove(group);
                continue;
            }
            let term = hosted.group.term();
            let chains = &mut process.backup.chains;
            if chains.get(group).is_none_or(|c| c.term != term) {
                self.backups.count += 1;
                let id = self.backups.count;
                let chain = Chain {
                    term,
                    id,
                    base: None,
                    shipped: 0,
                };
                chains.insert(*group, chain);
            }
            parts.extend(part_of(*group, hosted, &chains[group], now_ms, keep_ms));
        }
        if parts.is_empty() {
            return;
        }
        self.backups.count += 1;
        let number = self.backups.count;
        let mut builder = Builder::new(Index {
            version: raftproto::version::BACKUP,
            cluster_id: CLUSTER.to_owned(),
            raft_id: me.identity.as_ref().map_or(0, |i| i.raft_id),
            shipped_ms: now_ms,
            keep_ms,
            history: process.tables.history,
            ..Index::default()
        });
        for section in &parts {
            let content = match section.is_base {
                true => Content::Base(Base::default()),
                false => Content::Log(LogRange::default()),
            };
            builder.add(*section, &content).expect("it is short");
        }
        let (index, pieces) = builder.finish(String::new());
        let key = object_key(&index, number, number).expect("plain words");
        process.backup.is_shipping = true;
        self.backups.shipped.insert(key.clone(), index);
        self.spawn_cold(node, 0, None, move |store, _| {
            Box::pin(async move {
                let put = store.put(&key, ColdBody::new(pieces)).await;
                Came::Shipped(put.map(|()| key))
            })
        });
    }

    /// An object was put, or nobody knows.
    pub fn shipped(&mut self, node: u64, put: Result<ColdKey, ColdError>) {
        let shell = &mut self.nodes[node as usize - 1].process.backup;
        shell.is_shipping = false;
        let Ok(key) = put else {
            return;
        };
        self.coverage.hit("a backup shipped");
        let index = &self.backups.shipped[&key];
        for section in &index.sections {
            let chain = shell.chains.get_mut(&section.group);
            let Some(chain) = chain.filter(|c| c.id == section.chain) else {
                continue;
            };
            chain.shipped = chain.shipped.max(section.last);
            if section.is_base {
                chain.base = Some((section.last, index.shipped_ms));
            }
        }
    }

    /// Who leads group 0 deletes what no time needs any more.
    fn collect(&mut self, node: u64) {
        let now_ms = self.now(node).wall_ms;
        let until_ms = now_ms - 2 * self.plan.backup_keep_ms;
        let process = &mut self.node(node).process;
        let leads = process.groups.get(&0).is_some_and(|h| h.group.is_ready());
        let leads = leads && !process.tables.slots.is_empty();
        let shell = &mut process.backup;
        if !std::mem::replace(&mut shell.has_collector, true) {
            shell.collector = Some(Collector::with(PAGE, WINDOW));
        }
        let Some(mut collector) = shell.collector.take() else {
            return;
        };
        if !leads {
            collector.forget();
            shell.collector = Some(collector);
            return;
        }
        let history = process.tables.history;
        self.spawn_cold(node, 0, None, move |store, _| {
            Box::pin(async move {
                let source = Source {
                    store,
                    cluster: CLUSTER.to_owned(),
                };
                let deleted = Rc::new(Cell::new(0));
                let counts = |count| deleted.set(deleted.get() + count);
                let end = collector.collect(&source, history, until_ms, &counts);
                let is_done = end.await.is_ok();
                Came::Collected(Box::new(collector), is_done, deleted.get())
            })
        });
    }

    /// A look at the old ones has ended.
    pub fn collected(&mut self, node: u64, collector: Collector, is_done: bool, count: u64) {
        self.node(node).process.backup.collector = Some(collector);
        if !is_done {
            self.coverage.hit("a collection of the backup cut short");
        }
        if count > 0 {
            self.coverage.hit("a backup collected");
        }
    }

    /// What arrives at the store is noted: lists are wrong about it for a while.
    pub fn note_for_lists(&mut self, what: &Ask) {
        let now_us = self.now_us;
        match what {
            Ask::Put(key, _) if is_of_backup(key) => {
                self.backups.put_us.entry(key.clone()).or_insert(now_us);
            }
            Ask::Delete(keys) => {
                for key in keys.iter().filter(|k| is_of_backup(k)) {
                    if let Some(object) = self.store.get(key) {
                        let size = object.len() as u64;
                        self.backups.deleted.insert(key.clone(), (now_us, size));
                    }
                }
            }
            _ => {}
        }
    }

    /// The first objects of that beginning behind a key, or about.
    pub fn listed(
        &mut self,
        prefix: &str,
        after: Option<&ColdKey>,
        limit: usize,
    ) -> Vec<ColdObject> {
        let is_wrong = !self.net.is_calm && self.rng.chance(500_000);
        let odd = if is_wrong { self.plan.list_odd } else { 0 };
        let from_us = self.now_us.saturating_sub(LISTED_LATE_US);
        let objects = self.store.keys().map(|key| {
            let is_new = self
                .backups
                .put_us
                .get(key)
                .is_some_and(|at| *at >= from_us);
            let size = self.store.get(key).map_or(0, |o| o.len() as u64);
            (key.clone(), (size, is_new, true))
        });
        let mut all: BTreeMap<ColdKey, (u64, bool, bool)> = objects.collect();
        for (key, (at_us, size)) in &self.backups.deleted {
            if *at_us >= from_us && odd > 0 {
                all.entry(key.clone()).or_insert((*size, true, false));
            }
        }
        let mut page = Vec::new();
        for (key, (size, is_late, is_there)) in all {
            let is_next = after.is_none_or(|after| key > *after);
            if !is_next || !key.as_str().starts_with(prefix) {
                continue;
            }
            let is_odd = is_late && odd > 0 && self.rng.chance(odd);
            if is_odd {
                self.coverage.hit(match is_there {
                    true => "a list that lacks an object",
                    false => "a list that has a deleted object",
                });
            }
            // What is there is left out where the list is wrong, and what is gone is not.
            if is_there != is_odd {
                page.push(ColdObject { key, size });
            }
            if page.len() == limit {
                break;
            }
        }
        page
    }

    /// A deletion arrives: every time that is kept can be restored as far as before.
    pub fn look_at_backup(&mut self, keys: &BTreeSet<&ColdKey>) {
        if !keys.iter().any(|key| is_of_backup(key)) {
            return;
        }
        let clocks = self.nodes.iter().map(|n| n.clock.at(self.now_us).wall_ms);
        let kept_ms = clocks.min().unwrap_or(0) - self.plan.backup_keep_ms;
        let there = self.backups.shipped.iter();
        let there = there.filter(|(key, _)| self.store.get(key).is_some());
        let (mut before, mut after): (BTreeMap<u32, Chains>, BTreeMap<u32, Chains>) =
            Default::default();
        let mut times = BTreeSet::from([kept_ms, u64::MAX]);
        for (key, index) in there {
            for section in &index.sections {
                let part = Part {
                    key: key.clone(),
                    shipped_ms: index.shipped_ms,
                    section: *section,
                };
                if section.last_ms > kept_ms {
                    times.insert(section.last_ms);
                }
                if !keys.contains(key) {
                    after.entry(section.group).or_default().add(part.clone());
                }
                before.entry(section.group).or_default().add(part);
            }
        }
        for (group, chains) in before {
            // Of the times that are kept some, and always the newest: all that there is.
            let some = times.iter().step_by(1 + times.len() / 8);
            for at_ms in some.chain([&u64::MAX]) {
                let reach = |chains: &Chains| chains.plan(*at_ms).map(|plan| plan.reach());
                let (was, is) = (reach(&chains), after.get(&group).and_then(reach));
                if was != is {
                    let ago_ms = kept_ms + self.plan.backup_keep_ms - (*at_ms).min(kept_ms);
                    return self.find(format!(
                        "a deletion takes a time from the backup: group {group}, at {at_ms} ({ago_ms} ms ago or less), was restored up to \
                         {was:?} and is up to {is:?}"
                    ));
                }
            }
        }
    }

    /// What of the backup no time needs and is there still, although it could be gone for a while.
    pub fn uncollected(&self) -> Option<String> {
        if self.plan.backup == 0 {
            return None;
        }
        let clocks = self.nodes.iter().map(|n| n.clock.at(self.now_us).wall_ms);
        let until_ms = clocks.min()? - 2 * self.plan.backup_keep_ms - COLLECTED_WITHIN_MS;
        let there = self.backups.shipped.iter();
        let there = there
            .filter(|(key, index)| index.shipped_ms <= until_ms && self.store.get(key).is_some());
        let there: Vec<(ColdKey, Index)> = there.map(|(k, i)| (k.clone(), i.clone())).collect();
        // What only those of a later window cover may stay.
        let mut dead = there.chunks(WINDOW).filter_map(superfluous);
        Some(format!("nobody collects {}", dead.next()?))
    }
}

/// One of these that no time needs which begins after all of them: all that it has of each group, a state in another one of them has.
/// Told apart from `collect.rs`, which is judged by it.
fn superfluous(window: &[(ColdKey, Index)]) -> Option<ColdKey> {
    let is_covered = |at: usize, section: &Section| {
        let own = &window[at].1;
        let wanted = (section.last_term, section.last);
        let others = window.iter().enumerate().filter(|(other, _)| *other != at);
        let mut others = others.filter(|(_, (_, index))| index.history == own.history);
        others.any(|(other, (_, index))| {
            // Of two states that are the same, the newer one stays.
            let is_newer = (index.shipped_ms, other) > (own.shipped_ms, at);
            let bases = index.sections.iter().filter(|s| s.is_base);
            let mut bases = bases.filter(|base| base.group == section.group);
            bases.any(|base| {
                let has = (base.last_term, base.last);
                has > wanted || (has == wanted && (!section.is_base || is_newer))
            })
        })
    };
    let mut objects = window.iter().enumerate();
    let dead = objects.find(|(at, (_, index))| index.sections.iter().all(|s| is_covered(*at, s)));
    dead.map(|(_, (key, _))| key.clone())
}

/// What is to be shipped of a group.
fn part_of(
    group: u32,
    hosted: &Hosted,
    chain: &Chain,
    now_ms: u64,
    keep_ms: u64,
) -> Option<Section> {
    let applied = hosted.group.applied();
    let stamps = |from: u64| {
        let entries = hosted.log.range(from..=applied.index);
        entries.filter_map(|(_, written)| stamp_of(&written.payload))
    };
    let mut section = Section {
        group,
        chain: chain.id,
        chain_term: chain.term,
        last: applied.index,
        last_term: applied.term,
        ..Section::default()
    };
    let is_base_due = match chain.base {
        None => true,
        Some((index, shipped_ms)) => index < applied.index && shipped_ms + keep_ms <= now_ms,
    };
    if is_base_due {
        let last_ms = stamps(0).next_back()?;
        (section.is_base, section.first) = (true, applied.index);
        (section.first_ms, section.last_ms) = (last_ms, last_ms);
        return Some(section);
    }
    if applied.index <= chain.shipped {
        return None;
    }
    section.first = chain.shipped + 1;
    section.first_ms = stamps(section.first).next()?;
    section.last_ms = stamps(section.first).next_back()?;
    Some(section)
}
