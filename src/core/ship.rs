//! Ships what is needed to build the cluster anew (`--dr`): of each group that this core leads, its state once, then the
//! entries that were applied since, every `dr_interval_ms`. What gathered of all groups goes in one object, so that a
//! core makes one request per interval, and none while nothing happens.
//!
//! Each leadership begins a chain of its own: a state (`Base`), taken from the group's own checkpoint files, and log ranges
//! that follow it. All that is shipped was committed, so whoever ships late, or twice, says nothing wrong; no object is
//! ever replaced, and a restore takes the chain that reaches furthest (`backup/chain.rs`). Packs are published before the
//! log names them, so nothing that is shipped names an object that is not there.
//! Invariants: a log entry leaves memory only after it was shipped, or the chain begins anew; memory for it has a bound.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use raftproto::backup::{Index, LogEntry, LogRange, Section};
use storage::cold::{ColdBody, ColdError, ColdKey};

use super::Core;
use super::base::{BaseError, read_base};
use crate::backup::format::{Builder, Content};
use crate::backup::object_key;
use crate::group::{Group, stamp_of};
use crate::ops::metrics::add;

/// How often a core looks at what it has to ship.
const LOOK: Duration = Duration::from_millis(250);

/// So much log does not wait for the interval, and no section gets much more.
const SHIP_BYTES: u64 = 32 << 20;

/// An object with so many bytes gets no more sections.
const OBJECT_BYTES: u64 = 64 << 20;

/// A new base is due when the log since the last one is longer than this and twice the base.
const REBASE_BYTES: u64 = 64 << 20;

/// A new base is due after so many log ranges: a restore reads each.
const REBASE_RANGES: u32 = 1000;

/// A new base is due after so long with changes.
const REBASE_MS: u64 = 24 * 3600 * 1000;

/// A warning is logged when a core is behind by so many intervals.
const LATE_INTERVALS: u64 = 4;

/// How far the backup of a group is that this core leads.
#[derive(Debug, Clone)]
struct Chain {
    /// The leadership.
    term: u64,
    /// Its name.
    id: u64,
    base: Option<ShippedBase>,
    /// A base is wanted of this log index or a later one.
    wanted: Option<u64>,
    /// Since when.
    wanted_ms: u64,
    /// Shipped up to this log index.
    shipped: u64,
    /// All that was applied before this time is shipped.
    covered_ms: u64,
    log_bytes: u64,
    ranges: u32,
    /// Log index of the newest base that this leadership has shipped.
    newest_base: u64,
    /// The log outgrew its bound before a base came: any state that is newer than the last goes out by itself, since under
    /// such a load one that meets the kept log may never be there in time.
    takes_any_base: bool,
}

#[derive(Debug, Clone, Copy)]
struct ShippedBase {
    index: u64,
    bytes: u64,
    shipped_ms: u64,
}

/// What a core knows of its backup.
#[derive(Debug, Default)]
pub(super) struct Shipping {
    chains: RefCell<BTreeMap<u32, Chain>>,
    /// Tells this start's objects from those of others.
    nonce: Cell<u64>,
    number: Cell<u64>,
    /// The key of the newest one.
    previous: RefCell<String>,
    /// When the last round began, in monotonic microseconds.
    began_us: Cell<u64>,
    is_late: Cell<bool>,
    /// The last round came to nothing.
    has_failed: Cell<bool>,
}

/// Why a round shipped nothing, or not all.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error(transparent)]
    Cold(#[from] ColdError),
    #[error("a part could not be compressed: {0}")]
    Compress(#[from] std::io::Error),
    #[error("there is no cold store")]
    NoStore,
}

/// What an object brings once it is there.
struct Shipped {
    group: u32,
    chain: u64,
    section: Section,
    /// All that was applied before this time.
    covered_ms: Option<u64>,
    bytes: u64,
}

impl Core {
    /// Ships until the core stops.
    pub(super) async fn ship_backups(self: Rc<Self>) {
        self.shipping.nonce.set(self.clock.random());
        loop {
            self.sleep(LOOK).await;
            if self.is_failed.get() {
                continue;
            }
            let (pending, is_urgent) = self.look_at_chains();
            let due_us = self.shipping.began_us.get() + self.config.dr_interval_ms * 1000;
            let is_due = self.clock.monotonic_us() >= due_us;
            let is_urgent = is_urgent && !self.shipping.has_failed.get();
            if pending && (is_due || is_urgent) {
                self.shipping.began_us.set(self.clock.monotonic_us());
                let result = self.ship_beside_looks().await;
                self.shipping.has_failed.set(result.is_err());
                if let Err(error) = result {
                    log::warn!("event=backup_not_shipped core={} {error}", self.id);
                    add(&self.metrics.plain.dr_failures_total, 1);
                }
            }
            self.warn_if_late();
        }
    }

    /// A round may wait long for a store that does not answer; the bound of memory holds meanwhile.
    async fn ship_beside_looks(self: &Rc<Self>) -> Result<(), ShipError> {
        let looks = async {
            loop {
                self.sleep(LOOK).await;
                self.look_at_chains();
            }
        };
        futures_lite::FutureExt::or(self.ship_round(), looks).await
    }

    /// Begins and ends chains as leaderships do, and keeps within the bound of memory. Answers whether there is something to
    /// ship, and whether it should not wait.
    fn look_at_chains(self: &Rc<Self>) -> (bool, bool) {
        let now_ms = self.clock.now_ms();
        let mut groups = self.groups.borrow_mut();
        let mut chains = self.shipping.chains.borrow_mut();
        let (mut pending, mut pending_bytes) = (false, 0);
        for (id, group) in groups.iter_mut() {
            if !group.is_ready() || group.is_installing() {
                if chains.remove(id).is_some() {
                    group.keep_log_from(None);
                }
                continue;
            }
            let applied = group.applied().index;
            let is_same = chains.get(id).is_some_and(|c| c.term == group.term());
            if !is_same {
                let chain = Chain {
                    term: group.term(),
                    id: self.clock.random(),
                    base: None,
                    wanted: Some(applied),
                    wanted_ms: now_ms,
                    shipped: applied,
                    // What the leader before has not shipped is at risk until the base is there.
                    covered_ms: now_ms.saturating_sub(self.config.dr_interval_ms),
                    log_bytes: 0,
                    ranges: 0,
                    newest_base: 0,
                    takes_any_base: false,
                };
                group.keep_log_from(Some(applied));
                chains.insert(*id, chain);
            }
            let Some(chain) = chains.get_mut(id) else {
                continue;
            };
            if chain.base.is_some() && chain.shipped == applied {
                chain.covered_ms = now_ms;
                group.set_backed_up(now_ms);
            } else {
                pending = true;
                // What is kept for followers besides was shipped long ago.
                pending_bytes += group.log_bytes_after(chain.shipped);
            }
            if chain.wanted.is_none() && self.is_base_due(chain, applied, now_ms) {
                (chain.wanted, chain.wanted_ms) = (Some(applied), now_ms);
            }
            pending |= chain.wanted.is_some();
        }
        if pending_bytes > self.config.dr_log_bytes_max {
            log::warn!(
                "event=backup_begins_anew core={} log_bytes={pending_bytes} more log waits to be shipped than dr_log_bytes_max allows",
                self.id
            );
            for (id, chain) in chains.iter_mut() {
                if let Some(group) = groups.get_mut(id)
                    && (chain.shipped < group.applied().index || chain.base.is_none())
                {
                    chain.begin_anew(self.clock.random(), group, now_ms);
                }
            }
        }
        (pending, pending_bytes >= SHIP_BYTES)
    }

    fn is_base_due(&self, chain: &Chain, applied: u64, now_ms: u64) -> bool {
        let Some(base) = &chain.base else {
            return true;
        };
        let age_ms = now_ms.saturating_sub(base.shipped_ms);
        chain.log_bytes > REBASE_BYTES.max(2 * base.bytes)
            || chain.ranges >= REBASE_RANGES
            || (age_ms >= REBASE_MS.min(self.config.dr_keep_ms) && applied > base.index)
            // So that the object with the old one can go.
            || age_ms >= self.config.dr_keep_ms
    }

    /// Ships what there is of all groups.
    async fn ship_round(self: &Rc<Self>) -> Result<(), ShipError> {
        let groups: Vec<u32> = self.shipping.chains.borrow().keys().copied().collect();
        let mut builder = Builder::new(self.backup_index());
        let mut shipped = Vec::new();
        for group in groups {
            for part in [self.base_part(group).await, self.log_part(group)] {
                let Some((mut part, content)) = part else {
                    continue;
                };
                let section = part.section;
                let before = builder.length();
                builder = storage::blocking::run(move || {
                    builder.add(section, &content).map(|()| builder)
                })
                .await?;
                // A restore holds what was packed here.
                part.bytes = match part.section.is_base {
                    true => builder.length() - before,
                    false => part.bytes,
                };
                shipped.push(part);
                if builder.length() >= OBJECT_BYTES {
                    let full = std::mem::replace(&mut builder, Builder::new(self.backup_index()));
                    self.put_backup(full, std::mem::take(&mut shipped)).await?;
                }
            }
        }
        match builder.is_empty() {
            true => Ok(()),
            false => self.put_backup(builder, shipped).await,
        }
    }

    fn backup_index(&self) -> Index {
        Index {
            version: raftproto::version::BACKUP,
            cluster_id: self.config.cluster_id.clone(),
            raft_id: self.identity.raft_id,
            core: u32::from(self.id),
            shipped_ms: self.clock.now_ms(),
            group_count: self.config.raft_group_count as u32,
            sections: Vec::new(),
            previous: String::new(),
            keep_ms: self.config.dr_keep_ms,
        }
    }

    /// A group's state by its checkpoint's files, if one is wanted and they are new enough; else a checkpoint is ordered.
    async fn base_part(self: &Rc<Self>, group: u32) -> Option<(Shipped, Content)> {
        let chain = self.shipping.chains.borrow().get(&group)?.clone();
        let wanted = chain.wanted?;
        let disk = self.disk.as_ref()?;
        let files = disk.files.borrow().get(&group).cloned();
        let manifest = files.map(|f| f.manifest).unwrap_or_default();
        let is_news = chain.takes_any_base && manifest.index > chain.newest_base;
        if manifest.index < wanted && !is_news {
            self.checkpoint_wanted(group);
            return None;
        }
        let (index, term) = (manifest.index, manifest.term);
        let dir = disk.dir.clone();
        let bytes_max = (4 * self.config.cold_pack_bytes).max(OBJECT_BYTES);
        let read = storage::blocking::run(move || read_base(&dir, &manifest, bytes_max)).await;
        let (base, last_ms) = match read {
            Ok(base) => base,
            Err(BaseError::TooLong { bytes }) => {
                log::debug!("event=backup_waits group={group} bytes={bytes}");
                if let Some(group) = self.groups.borrow_mut().get_mut(&group) {
                    group.press_to_flush();
                }
                return None;
            }
            Err(error) => {
                // The next checkpoint may have taken a file away: then its own files are read.
                log::info!("event=backup_base_not_read group={group} {error}");
                return None;
            }
        };
        let section = Section {
            group,
            chain: chain.id,
            chain_term: chain.term,
            first: index,
            last: index,
            last_term: term,
            first_ms: last_ms,
            last_ms,
            is_base: true,
            ..Section::default()
        };
        let part = Shipped {
            group,
            chain: chain.id,
            section,
            covered_ms: None,
            bytes: 0,
        };
        Some((part, Content::Base(base)))
    }

    /// What was applied since the last part, if the chain has a base.
    fn log_part(self: &Rc<Self>, group: u32) -> Option<(Shipped, Content)> {
        let mut chains = self.shipping.chains.borrow_mut();
        let chain = chains.get_mut(&group)?;
        chain.base?;
        let mut groups = self.groups.borrow_mut();
        let led = groups.get_mut(&group).filter(|g| g.term() == chain.term)?;
        let applied = led.applied().index;
        if applied == chain.shipped {
            return None;
        }
        let now_ms = self.clock.now_ms();
        let Some(entries) = led.log_after(chain.shipped, SHIP_BYTES) else {
            log::warn!("event=backup_begins_anew group={group} its log is not in memory any more");
            chain.begin_anew(self.clock.random(), led, now_ms);
            return None;
        };
        let (first, last) = (entries.first()?, entries.last()?);
        let mut stamps = entries.iter().filter_map(|e| stamp_of(&e.payload));
        let first_ms = stamps.next().unwrap_or_default();
        let mut stamps = entries.iter().rev().filter_map(|e| stamp_of(&e.payload));
        let last_ms = stamps.next().unwrap_or_default();
        let section = Section {
            group,
            chain: chain.id,
            chain_term: chain.term,
            first: first.index,
            last: last.index,
            last_term: last.term,
            first_ms,
            last_ms,
            ..Section::default()
        };
        let part = Shipped {
            group,
            chain: chain.id,
            covered_ms: (last.index == applied).then_some(now_ms),
            section,
            bytes: entries.iter().map(|e| e.payload.len() as u64).sum(),
        };
        let entries = entries.into_iter().map(|entry| LogEntry {
            index: entry.index,
            term: entry.term,
            is_conf_change: entry.is_conf_change,
            payload: entry.payload,
        });
        let entries = entries.collect();
        Some((part, Content::Log(LogRange { entries })))
    }

    /// Puts an object, and notes what is in the store by that.
    async fn put_backup(
        self: &Rc<Self>,
        builder: Builder,
        shipped: Vec<Shipped>,
    ) -> Result<(), ShipError> {
        let store = self.cold.clone().ok_or(ShipError::NoStore)?;
        let previous = self.shipping.previous.borrow().clone();
        let (index, pieces) = builder.finish(previous);
        let number = self.shipping.number.get() + 1;
        self.shipping.number.set(number);
        let key: ColdKey =
            object_key(&index, number, self.shipping.nonce.get()).ok_or(ShipError::NoStore)?;
        let body = ColdBody::new(pieces);
        let length = body.length();
        store.put(&key, body).await?;
        *self.shipping.previous.borrow_mut() = key.as_str().to_owned();
        let plain = &self.metrics.plain;
        add(&plain.dr_objects_total, 1);
        add(&plain.dr_bytes_total, length);
        let mut chains = self.shipping.chains.borrow_mut();
        for part in shipped {
            // Another leadership may have begun meanwhile; its own chain has nothing of this one.
            let Some(chain) = chains.get_mut(&part.group).filter(|c| c.id == part.chain) else {
                continue;
            };
            chain.note(&part, index.shipped_ms);
            if let Some(group) = self.groups.borrow_mut().get_mut(&part.group) {
                group.keep_log_from(Some(chain.shipped));
                group.set_backed_up(chain.covered_ms);
            }
        }
        Ok(())
    }

    /// The oldest time of which something may be missing in the backup of the groups that this core leads.
    fn backup_lag_ms(&self) -> u64 {
        let now_ms = self.clock.now_ms();
        let groups = self.groups.borrow();
        let chains = self.shipping.chains.borrow();
        let is_behind = |(id, chain): &(&u32, &Chain)| {
            let applied = groups.get(id).map_or(0, |g: &Group| g.applied().index);
            chain.base.is_none() || chain.shipped < applied
        };
        let behind = chains.iter().filter(is_behind);
        let lags = behind.map(|(_, chain)| now_ms.saturating_sub(chain.covered_ms));
        lags.max().unwrap_or(0)
    }

    /// The backup is behind by more than what is usual.
    pub(super) fn is_backup_late(&self) -> bool {
        self.backup_lag_ms() > LATE_INTERVALS * self.config.dr_interval_ms + 10_000
    }

    fn warn_if_late(&self) {
        let lag_ms = self.backup_lag_ms();
        let is_late = self.is_backup_late();
        if is_late && !self.shipping.is_late.replace(true) {
            log::warn!(
                "event=backup_behind core={} lag_ms={lag_ms} what was acknowledged since is only on the nodes",
                self.id
            );
        } else if !is_late && self.shipping.is_late.replace(false) {
            log::info!("event=backup_caught_up core={}", self.id);
        }
    }

    /// The gauges of the backup.
    pub(super) fn report_backup(&self) {
        let plain = &self.metrics.plain;
        plain
            .dr_lag_seconds
            .set(self.backup_lag_ms().div_ceil(1000));
        let chains = self.shipping.chains.borrow();
        let without = chains.values().filter(|c| c.base.is_none()).count();
        plain.dr_groups_without_base.set(without as u64);
    }
}

impl Chain {
    /// The log between what was shipped and what will be is lost for the backup: its place takes a state of now or later.
    fn begin_anew(&mut self, id: u64, group: &mut Group, now_ms: u64) {
        let applied = group.applied().index;
        self.takes_any_base = self.base.is_none();
        self.id = id;
        (self.base, self.shipped) = (None, applied);
        (self.wanted, self.wanted_ms) = (Some(applied), now_ms);
        group.keep_log_from(Some(applied));
    }

    /// An object with this part is in the store.
    fn note(&mut self, part: &Shipped, shipped_ms: u64) {
        let section = &part.section;
        if section.is_base {
            if self.base.is_none() {
                let is_late = self.wanted.is_some_and(|wanted| section.last < wanted);
                let covered_ms = if is_late {
                    section.last_ms
                } else {
                    self.wanted_ms
                };
                self.shipped = section.last;
                self.covered_ms = self.covered_ms.max(covered_ms);
            }
            self.newest_base = section.last;
            self.base = Some(ShippedBase {
                index: section.last,
                bytes: part.bytes,
                shipped_ms,
            });
            (self.wanted, self.log_bytes, self.ranges) = (None, 0, 0);
            return;
        }
        self.shipped = section.last;
        self.log_bytes += part.bytes;
        self.ranges += 1;
        self.covered_ms = part.covered_ms.unwrap_or(self.covered_ms);
    }
}
