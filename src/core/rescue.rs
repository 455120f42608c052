//! An object of the cold store that does not hold what was put, or is gone. Its chunks are looked for where copies may be
//! (`copies.rs`). What is found, and what is still sound in the object, is
//! written again under a new name, as the chunks of a sparse pack are, so the damaged object is given up once nothing refers to it.
//! What is found nowhere stays where it is, is named in the log by stream and range, and is looked for again by each scrub.
//!
//! The leader does it, since only it writes packs; who reads elsewhere asks it what is known (`judge.rs`).
//! Owns what was found until it is written. Invariants: one object at a time on a core, which bounds its memory.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use storage::cold::ColdError;

use super::Core;
use super::cold_cache::ChunkId;
use super::cold_read::{Wanted, is_damage};
use super::damage::Damaged;
use crate::backup::lost::joined;
use crate::group::HeldColdChunk;
use crate::ops::metrics::add;
use crate::protocol::{Offset, PackName};

/// Bytes that are asked of the object at once.
const RUN_BYTES_MAX: u64 = 4 << 20;

/// How long a new pack is waited for. Its store may be slow.
const WRITE_PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);

/// Between two attempts at an object that readers ask for again and again: each looks for copies on all nodes.
const AGAIN: Duration = Duration::from_secs(60);

/// Ranges that one line of the log names, and the lines of one object: the log has a bound of lines for each event.
const RANGES_PER_LINE: usize = 40;
const LINES_MAX: usize = 15;

/// See the module's head.
#[derive(Default)]
pub(super) struct Rescue {
    found: RefCell<AHashMap<ChunkId, Bytes>>,
    is_at_work: Cell<bool>,
    /// When readers last had an object seen to, µs; none longer ago than [`AGAIN`].
    seen_to: RefCell<BTreeMap<(u32, PackName), u64>>,
    /// Bytes of which no copy was found, by object.
    lost: RefCell<BTreeMap<(u32, PackName), u64>>,
}

impl Rescue {
    /// Whether an object that a reader asks for is to be seen to now; if so, that is noted.
    fn is_due(&self, object: (u32, PackName), now_us: u64) -> bool {
        if self.is_at_work.get() {
            return false;
        }
        let mut seen_to = self.seen_to.borrow_mut();
        seen_to.retain(|_, at_us| now_us - *at_us < AGAIN.as_micros() as u64);
        if seen_to.contains_key(&object) {
            return false;
        }
        seen_to.insert(object, now_us);
        true
    }

    /// Whether it is this object's turn. If not, it was not seen to: readers of two objects may have found both due before the
    /// first was begun, and the other one must not wait for [`AGAIN`].
    fn begin(&self, object: (u32, PackName)) -> bool {
        let may_begin = !self.is_at_work.replace(true);
        if !may_begin {
            self.seen_to.borrow_mut().remove(&object);
        }
        may_begin
    }

    pub(super) fn has(&self, id: &ChunkId) -> bool {
        self.found.borrow().contains_key(id)
    }

    pub(super) fn get(&self, id: &ChunkId) -> Option<Bytes> {
        self.found.borrow().get(id).cloned()
    }
}

impl Core {
    /// Sees to a damaged object of a group that is led here, in a task of its own.
    pub(super) fn see_to_object(self: &Rc<Self>, chunk: ChunkId) {
        let now_us = self.clock.monotonic_us();
        if !self.tier.rescue.is_due((chunk.group, chunk.pack), now_us) {
            return;
        }
        let core = self.clone();
        self.spawn_cold(async move {
            core.rescue(chunk.group, chunk.pack, false).await;
        });
    }

    /// Writes again what is left of an object. `is_damaged`: the caller knows that it is, be it in what nobody refers to.
    pub(super) async fn rescue(self: &Rc<Self>, group: u32, name: PackName, is_damaged: bool) {
        // What came too late may have a pack in mind that was given up since.
        let Some(number) = self.number_of(group, name) else {
            return;
        };
        // Where the nodes look in different places, not to find it says nothing.
        if self.other_place().is_some() || !self.tier.rescue.begin((group, name)) {
            return;
        }
        let rescued = self.try_rescue(group, name, number, is_damaged).await;
        self.tier.rescue.found.borrow_mut().clear();
        self.tier.rescue.is_at_work.set(false);
        match rescued {
            Ok(true) => {
                log::warn!("event=object_rescued group={group} pack={name}");
                add(&self.metrics.plain.cold_packs_rescued_total, 1);
                self.note_sound(&Damaged::Object(group, name));
            }
            // The next round, or the next reader after a while, sees to it.
            Ok(false) => {}
            Err(error) => {
                log::warn!("event=object_not_rescued group={group} pack={name} {error}");
            }
        }
    }

    /// Says whether all that was needed of it is in another one now.
    async fn try_rescue(
        self: &Rc<Self>,
        group: u32,
        name: PackName,
        number: u32,
        is_damaged: bool,
    ) -> Result<bool, ColdError> {
        let mut held = self.chunks_of_object(group, number).await;
        held.sort_by_key(|held| held.chunk.position);
        let unsound = self.unsound(group, name, &held).await?;
        if unsound.is_empty() && !is_damaged {
            return Ok(false);
        }
        self.note_damaged(Damaged::Object(group, name));
        // Before the first is asked: who comes meanwhile may have been left out.
        let silent = self.silent_nodes();
        let mut lost = BTreeMap::new();
        let mut ranges = Vec::new();
        for held in held.iter().filter(|h| unsound.contains(&h.chunk.position)) {
            let id = ChunkId::of(group, name, &held.chunk);
            match self.copy_of(id, held).await {
                Some(bytes) => {
                    self.tier.rescue.found.borrow_mut().insert(id, bytes);
                }
                None => {
                    lost.insert(held.chunk.position, held.chunk.length);
                    ranges.push(held);
                }
            }
        }
        log::warn!(
            "event=object_damaged group={group} pack={name} chunks={} damaged={} lost={}",
            held.len(),
            unsound.len(),
            lost.len()
        );
        self.name_lost(group, name, &ranges);
        if !lost.is_empty() && !silent.is_empty() {
            log::error!(
                "event=copies_not_asked group={group} pack={name} nodes={silent:?} they are down, and may have what is missing"
            );
        }
        let lost_bytes = lost.values().map(|length| u64::from(*length)).sum();
        if let Some(state) = self.groups.borrow_mut().get_mut(&group) {
            state.write_again(number, lost, silent.is_empty());
        }
        Ok(self.until_written(group, number, lost_bytes).await && lost_bytes == 0)
    }

    fn number_of(&self, group: u32, name: PackName) -> Option<u32> {
        let groups = self.groups.borrow();
        let (number, _) = groups.get(&group)?.cold_pack(name)?;
        Some(number)
    }

    /// What the streams have in an object.
    async fn chunks_of_object(&self, group: u32, number: u32) -> Vec<HeldColdChunk> {
        self.by_shares(group, |g, after| g.chunks_of_cold_pack(number, after))
            .await
    }

    /// The places of chunks that are not what was put.
    async fn unsound(
        self: &Rc<Self>,
        group: u32,
        pack: PackName,
        held: &[HeldColdChunk],
    ) -> Result<BTreeSet<u64>, ColdError> {
        let wanted: Vec<Wanted> = held
            .iter()
            .map(|held| (ChunkId::of(group, pack, &held.chunk), held.chunk))
            .collect();
        let mut unsound = BTreeSet::new();
        let mut rest = &wanted[..];
        while let Some((_, first)) = rest.first() {
            let end_of = |(_, c): &Wanted| c.position + u64::from(c.stored);
            let count = rest.partition_point(|w| end_of(w) <= first.position + RUN_BYTES_MAX);
            let (run, after) = rest.split_at(count.max(1));
            rest = after;
            let read = self.read_object(run).await;
            match read {
                Ok(_) => {}
                Err(error) if !is_damage(&error) => return Err(error),
                Err(ColdError::NotFound { .. }) => {
                    return Ok(wanted.iter().map(|(id, _)| id.position).collect());
                }
                Err(_) => {
                    for wanted in run {
                        match self.read_object(std::slice::from_ref(wanted)).await {
                            Ok(_) => {}
                            Err(error) if is_damage(&error) => {
                                unsound.insert(wanted.0.position);
                            }
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
        }
        Ok(unsound)
    }

    /// Waits until an object holds nothing that is needed but what is lost.
    async fn until_written(&self, group: u32, number: u32, lost_bytes: u64) -> bool {
        let deadline_us = self.clock.monotonic_us() + WRITE_PATIENCE.as_micros() as u64;
        loop {
            let left = self
                .groups
                .borrow()
                .get(&group)
                .map(|g| g.live_bytes(number));
            if left.is_none_or(|left| left <= lost_bytes) {
                return true;
            }
            let is_late = self.clock.monotonic_us() > deadline_us;
            let leads = self.leads_now(group);
            if is_late || !leads || self.stop.raised() > 0 {
                return false;
            }
            self.sleep(LOOK).await;
        }
    }

    /// Says which bytes of which streams are nowhere.
    fn name_lost(&self, group: u32, pack: PackName, lost: &[&HeldColdChunk]) {
        let bytes: u64 = lost.iter().map(|h| u64::from(h.chunk.length)).sum();
        {
            let mut known = self.tier.rescue.lost.borrow_mut();
            known.remove(&(group, pack));
            if bytes > 0 {
                known.insert((group, pack), bytes);
            }
        }
        self.count_lost();
        let lost = lost.iter().map(|held| {
            let from = held.chunk.start.max(held.kept_from);
            (&held.key, from, held.chunk.end())
        });
        let ranges = joined(lost);
        let ranges = ranges.iter().flat_map(|(key, ranges)| {
            let text = move |(from, to): &(u64, u64)| {
                format!("{key} {} to {}", Offset(*from), Offset(*to))
            };
            ranges.iter().map(text)
        });
        let ranges: Vec<String> = ranges.collect();
        let key = super::packs::pack_key(&self.config.cluster_id, group, pack);
        let object = key.map(|key| key.to_string()).unwrap_or_default();
        for (line, some) in ranges.chunks(RANGES_PER_LINE).enumerate() {
            if line == LINES_MAX {
                let more = ranges.len() - line * RANGES_PER_LINE;
                log::error!("event=bytes_lost object={object} and {more} more ranges");
                return;
            }
            let named = some.join(", ");
            log::error!("event=bytes_lost object={object} ranges={named:?} no copy was found");
        }
    }

    /// An object is as it was put: by hand, or since the store has mended it.
    pub(super) fn found_sound(&self, group: u32, name: PackName) {
        let was_lost = self.tier.rescue.lost.borrow_mut().remove(&(group, name));
        let number = self.number_of(group, name);
        if let (Some(_), Some(number)) = (was_lost, number)
            && let Some(state) = self.groups.borrow_mut().get_mut(&group)
        {
            log::warn!("event=object_sound_again group={group} pack={name}");
            state.write_again(number, BTreeMap::new(), true);
        }
    }

    /// Objects whose groups are led elsewhere, or that nothing refers to any more, do not count here.
    pub(super) fn count_lost(&self) {
        let mut lost = self.tier.rescue.lost.borrow_mut();
        lost.retain(|(group, name), _| self.number_of(*group, *name).is_some());
        let bytes = lost.values().sum();
        self.metrics.plain.cold_lost_bytes.set(bytes);
    }

    /// A node can be asked again: readers need not wait for the next look at what it may have a copy of.
    pub(super) fn ask_again(&self) {
        self.tier.rescue.seen_to.borrow_mut().clear();
    }

    /// Nodes that cannot be asked now.
    fn silent_nodes(&self) -> Vec<u64> {
        let links = self.links.borrow();
        let silent = links.iter().filter(|(_, link)| !link.is_up());
        silent.map(|(node, _)| *node).collect()
    }

    fn leads_now(&self, group: u32) -> bool {
        let groups = self.groups.borrow();
        groups.get(&group).is_some_and(|g| g.is_ready())
    }

    pub(super) fn leader_address(&self, group: u32) -> Option<String> {
        let leader = self.leaders.borrow().get(group as usize).copied()?;
        let links = self.links.borrow();
        links.get(&leader).map(|link| link.address().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_objects_that_are_due_at_once_the_second_is_due_after_the_first() {
        let rescue = Rescue::default();
        let name = PackName {
            term: 1,
            number: 1,
            nonce: 1,
        };
        let objects = [(1, name), (2, name)];
        assert!(objects.iter().all(|object| rescue.is_due(*object, 10)));
        assert!(rescue.begin(objects[0]));
        assert!(!rescue.begin(objects[1]) && !rescue.is_due(objects[1], 11));
        rescue.is_at_work.set(false);
        assert!(!rescue.is_due(objects[0], 12), "it was just seen to");
        assert!(rescue.is_due(objects[1], 12), "it was not");
        assert!(rescue.begin(objects[1]));
    }
}
