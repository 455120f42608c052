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

use raftproto::backup::{Index, Section};
use storage::StorageError;
use storage::cold::{ColdBody, ColdError, ColdKey};

use super::Core;
use super::base::{BaseError, read_base};
use super::ship_chain::{Chain, Shipped, part_of};
use crate::backup::format::{AddError, Builder, Content};
use crate::backup::object_key;
use crate::group::Group;
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

/// How long a stop waits for its last round, and how often it looks whether the one before has ended.
const TAIL_PATIENCE: Duration = Duration::from_secs(2);
const TAIL_POLL: Duration = Duration::from_millis(10);
const TAIL_ROUNDS: u32 = 4;

/// Of a leadership that ended, so much log is shipped yet, and of so many at once.
const LEFT_BYTES: u64 = 1 << 20;
const LEFT_MAX: usize = 64;

/// What a core knows of its backup.
#[derive(Debug, Default)]
pub(super) struct Shipping {
    pub(super) chains: RefCell<BTreeMap<u32, Chain>>,
    /// Tells this start's objects from those of others.
    nonce: Cell<u64>,
    number: Cell<u64>,
    /// The key of the newest one.
    previous: RefCell<String>,
    /// When the last round began, in monotonic microseconds.
    began_us: Cell<u64>,
    pub(super) is_late: Cell<bool>,
    /// The last round came to nothing.
    has_failed: Cell<bool>,
    /// A round is under way: there is one at a time.
    is_shipping: Cell<bool>,
    pending_bytes: Cell<u64>,
    /// The store did not say what was shipped before this core led.
    pub(super) is_asked_in_vain: Cell<bool>,
    /// What leaderships that ended had not shipped.
    left: RefCell<Vec<(Shipped, Content)>>,
}

impl Shipping {
    /// Bytes of log that wait to be shipped, as of the last look.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.pending_bytes.get()
    }
}

/// Why a round shipped nothing, or not all.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error(transparent)]
    Cold(#[from] ColdError),
    #[error(transparent)]
    Add(#[from] AddError),
    #[error("there is no cold store")]
    NoStore,
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
            let is_free = !self.shipping.is_shipping.get();
            if pending && is_free && self.has_history() && (is_due || is_urgent) {
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
        self.shipping.is_shipping.set(true);
        let result = futures_lite::FutureExt::or(self.ship_round(false), looks).await;
        self.shipping.is_shipping.set(false);
        result
    }

    /// Ships what was applied and not shipped, before leadership is given away or the log is closed. What does not go out
    /// soon stays behind: a stop waits for no store. Answers whether all went out.
    pub(super) async fn ship_tail(self: &Rc<Self>) -> bool {
        if !self.config.dr || self.cold.is_none() || self.is_failed.get() {
            return false;
        }
        let work = async {
            while self.shipping.is_shipping.get() {
                self.sleep(TAIL_POLL).await;
            }
            // Clients may go on meanwhile, so there may always be a tail.
            for _ in 0..TAIL_ROUNDS {
                if !self.has_tail() || !self.has_history() {
                    break;
                }
                self.shipping.is_shipping.set(true);
                self.ship_round(true).await.map_err(|e| e.to_string())?;
            }
            Ok(())
        };
        let deadline = async {
            self.sleep(TAIL_PATIENCE).await;
            Err("the store takes longer than a stop waits".to_owned())
        };
        let shipped = futures_lite::FutureExt::or(work, deadline).await;
        self.shipping.is_shipping.set(false);
        if let Err(error) = &shipped {
            log::warn!("event=backup_tail_not_shipped core={} {error}", self.id);
            add(&self.metrics.plain.dr_failures_total, 1);
        }
        shipped.is_ok()
    }

    /// The cluster's tables are here, and so the name of its history.
    fn has_history(&self) -> bool {
        !self.tables.borrow().slots.is_empty()
    }

    fn has_tail(&self) -> bool {
        let groups = self.groups.borrow();
        let chains = self.shipping.chains.borrow();
        let is_behind = |(id, chain): (&u32, &Chain)| {
            let led = groups.get(id).filter(|g| g.term() == chain.term);
            chain.base.is_some() && led.is_some_and(|g| chain.shipped < g.applied().index)
        };
        !self.shipping.left.borrow().is_empty() || chains.iter().any(is_behind)
    }

    /// A leadership ended: what it had not shipped goes with the next round, if it is little. All of it was committed, and
    /// the next leader's base may be long in coming.
    fn keep_left(&self, id: u32, chain: &Chain, group: &Group) {
        let mut left = self.shipping.left.borrow_mut();
        let has_room = left.len() < LEFT_MAX;
        if chain.base.is_none() || chain.shipped >= group.applied().index || !has_room {
            return;
        }
        let entries = group.log_after(chain.shipped, LEFT_BYTES);
        let parts = entries.and_then(|entries| part_of(id, chain, entries));
        left.extend(parts);
    }

    /// Begins and ends chains as leaderships do, and keeps within the bound of memory. Answers whether there is something to
    /// ship, and whether it should not wait.
    fn look_at_chains(self: &Rc<Self>) -> (bool, bool) {
        let now_ms = self.clock.now_ms();
        let mut groups = self.groups.borrow_mut();
        let mut chains = self.shipping.chains.borrow_mut();
        let now_us = self.clock.monotonic_us();
        let (mut pending, mut pending_bytes) = (false, 0);
        for (id, group) in groups.iter_mut() {
            if !group.is_ready() || group.is_installing() {
                if let Some(chain) = chains.remove(id) {
                    self.keep_left(*id, &chain, group);
                    group.keep_log_from(None);
                }
                continue;
            }
            let applied = group.applied().index;
            let is_same = chains.get(id).is_some_and(|c| c.term == group.term());
            if !is_same {
                if let Some(before) = chains.get(id) {
                    self.keep_left(*id, before, group);
                }
                let before_ms = chains.get(id).map_or(0, |before| before.covered_ms);
                let chain = Chain::begin(self.clock.random(), group, now_ms, before_ms);
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
            pending |= chain.takes_base(now_us);
        }
        pending |= !self.shipping.left.borrow().is_empty();
        self.shipping.pending_bytes.set(pending_bytes);
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

    /// Ships what there is of all groups; only their log, if no state is to be waited for.
    async fn ship_round(self: &Rc<Self>, is_tail: bool) -> Result<(), ShipError> {
        let groups: Vec<u32> = self.shipping.chains.borrow().keys().copied().collect();
        let mut builder = Builder::new(self.backup_index());
        let mut shipped = Vec::new();
        let left = std::mem::take(&mut *self.shipping.left.borrow_mut());
        for part in left {
            builder = self.add_part(builder, part, &mut shipped).await?;
        }
        for group in groups {
            let base = match is_tail {
                true => None,
                false => self.base_part(group).await,
            };
            for part in [base, self.log_part(group)].into_iter().flatten() {
                builder = self.add_part(builder, part, &mut shipped).await?;
            }
        }
        match builder.is_empty() {
            true => Ok(()),
            false => self.put_backup(builder, shipped).await,
        }
    }

    /// Adds a part to an object; puts it when it is full, and answers with the next one.
    async fn add_part(
        self: &Rc<Self>,
        mut builder: Builder,
        (mut part, content): (Shipped, Content),
        shipped: &mut Vec<Shipped>,
    ) -> Result<Builder, ShipError> {
        let section = part.section;
        let before = builder.length();
        let (built, added) = storage::blocking::run(move || {
            let added = builder.add(section, &content);
            (builder, added)
        })
        .await;
        builder = built;
        match added {
            Ok(()) => {}
            // The others go on; nothing of this group counts as shipped by it.
            Err(error) if section.is_base => {
                self.base_failed(part.group, &error);
                return Ok(builder);
            }
            Err(error) => return Err(error.into()),
        }
        if section.is_base {
            // A restore holds what was packed here.
            part.bytes = builder.length() - before;
        }
        shipped.push(part);
        if builder.length() >= OBJECT_BYTES {
            let full = std::mem::replace(&mut builder, Builder::new(self.backup_index()));
            self.put_backup(full, std::mem::take(shipped)).await?;
        }
        Ok(builder)
    }

    /// A group's state cannot be shipped: it is said, counted, and tried again later. What was shipped before stays as it is.
    fn base_failed(&self, group: u32, error: &dyn std::error::Error) {
        log::warn!("event=backup_base_not_shipped group={group} {error}");
        add(&self.metrics.plain.dr_failures_total, 1);
        self.put_base_off(group);
    }

    fn put_base_off(&self, group: u32) {
        if let Some(chain) = self.shipping.chains.borrow_mut().get_mut(&group) {
            chain.put_base_off(self.clock.monotonic_us());
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
            history: self.tables.borrow().history,
        }
    }

    /// A group's state by its checkpoint's files, if one is wanted and they are new enough; else a checkpoint is ordered.
    async fn base_part(self: &Rc<Self>, group: u32) -> Option<(Shipped, Content)> {
        let chain = self.shipping.chains.borrow().get(&group)?.clone();
        let wanted = chain.wanted?;
        if !chain.takes_base(self.clock.monotonic_us()) {
            return None;
        }
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
                self.put_base_off(group);
                return None;
            }
            Err(BaseError::Storage(StorageError::Io { source, .. }))
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                // The next checkpoint has taken a file away: then its own files are read.
                log::info!("event=backup_base_not_read group={group} {source}");
                return None;
            }
            Err(BaseError::Outdated { pack }) => {
                log::info!("event=backup_base_not_read group={group} pack={pack} was mended");
                self.checkpoint_wanted(group);
                return None;
            }
            Err(error) => {
                match &error {
                    BaseError::Storage(error) => {
                        self.found_damage(error);
                    }
                    BaseError::Pack { error, pack } => {
                        log::error!("event=read_failed {error}");
                        self.found_damaged_pack(group, *pack, None);
                    }
                    _ => {}
                }
                self.base_failed(group, &error);
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
        if applied <= chain.shipped {
            return None;
        }
        let now_ms = self.clock.now_ms();
        let Some(entries) = led.log_after(chain.shipped, SHIP_BYTES) else {
            log::warn!("event=backup_begins_anew group={group} its log is not in memory any more");
            chain.begin_anew(self.clock.random(), led, now_ms);
            return None;
        };
        let (mut part, content) = part_of(group, chain, entries)?;
        part.covered_ms = (part.section.last == applied).then_some(now_ms);
        Some((part, content))
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
}
