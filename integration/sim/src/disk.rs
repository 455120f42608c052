//! A node's disk: the bytes of its segments, in the log's real format, and checkpoints that are replaced as a whole.
//! Owns what a crash leaves. Invariants: what is synced stays, unless the disk is damaged on purpose; of a frame under way
//! at a crash any sectors may be there.

use std::collections::BTreeMap;

use bytes::Bytes;
use storage::wal::{CARRIED_KIND, LaneImage, Record, SegmentId, recover_images};
use ursula::node::replay::is_needed;

use crate::checkpoint::{Checkpoint, Spoil, Writing};
use crate::files::{Dir, torn};
use crate::rng::Rng;

/// Which store all disks belong to.
const STORE: [u8; 16] = *b"simulated store.";

/// Of which a segment may be copied in.
const OTHER_STORE: [u8; 16] = *b"another store...";

/// Small, so that runs come through many.
const SEGMENT_BYTES: u64 = 24 << 10;

/// What a disk writes as a whole.
pub const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    /// Where the synced frames begin.
    frames: Vec<usize>,
    last_index: BTreeMap<u32, u64>,
    /// What it carries is synced in a later one too.
    is_superseded: bool,
}

/// A write that is not synced.
#[derive(Debug)]
struct Flight {
    id: SegmentId,
    /// The first bytes and the size of a segment that is new with it.
    begins: Option<(u64, Vec<u8>)>,
    position: usize,
    bytes: Vec<u8>,
    records: usize,
    last_index: BTreeMap<u32, u64>,
}

/// What a crash did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Crash {
    /// Records that are gone.
    pub lost: usize,
    /// Records that stayed and were not synced.
    pub stayed: usize,
    /// A frame is there in parts.
    pub is_torn: bool,
    /// A checkpoint was being written.
    pub is_checkpoint_cut: bool,
}

/// How a disk is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// One bit of what was synced is another.
    Flip,
    /// A sector cannot be read.
    Unreadable,
    /// The next frame lands where another one stands.
    Misdirected,
    /// A segment ends early. Like those below, only while no process runs.
    Cut,
    /// Two segments have each other's content.
    Exchanged,
    /// A segment is missing between two others of its lane.
    Missing,
    /// A segment of another store is in the place of one.
    Foreign,
    /// Where a sector of a segment was, another one is read.
    Misread,
    /// A file of a checkpoint is not what was written.
    Checkpoint(Spoil),
    /// A pack is not what was written, or is gone: at any time.
    Pack(Spoil),
}

impl Damage {
    /// It comes about while no process runs.
    pub fn is_at_rest(self) -> bool {
        !matches!(
            self,
            Damage::Flip | Damage::Unreadable | Damage::Misdirected | Damage::Pack(_)
        )
    }
}

/// See the module's head.
#[derive(Default)]
pub struct Disk {
    segments: BTreeMap<SegmentId, Segment>,
    lanes: Vec<LaneImage>,
    /// What the next sync writes, by lane.
    buffered: Vec<Vec<Record>>,
    flights: Vec<Flight>,
    /// The newest hard state of each group: new segments repeat it.
    hard_states: BTreeMap<u32, Record>,
    released: BTreeMap<u32, u64>,
    nonces: u64,
    /// It was damaged on purpose.
    pub is_damaged: bool,
    is_unreadable: bool,
    is_next_misdirected: bool,
    /// By group.
    pub checkpoints: BTreeMap<u32, Checkpoint>,
    /// Files of checkpoints that are being fetched, by group.
    pub incoming: BTreeMap<u32, Dir>,
    /// One that is being written, and its group.
    pub writing: Option<(u32, Writing)>,
}

impl Disk {
    /// Reads the log as a start does, and begins a lane for each core. Answers the records by group.
    ///
    /// # Errors
    /// What recovery says.
    pub fn start(&mut self, cores: u32) -> Result<BTreeMap<u32, Vec<Record>>, String> {
        if self.is_unreadable {
            return Err("a sector cannot be read".to_owned());
        }
        for (group, found) in &mut self.checkpoints {
            found.read_again(*group).map_err(|e| e.to_string())?;
        }
        let images = self.segments.iter();
        let images = images.map(|(id, s)| (*id, s.bytes.as_slice())).collect();
        let checkpoints = &self.checkpoints;
        let keep = |record: &storage::wal::RecordRef<'_>| {
            let checkpoint = checkpoints.get(&record.group);
            is_needed(record, checkpoint.map_or(0, |c| c.manifest.index))
        };
        let recovered = recover_images(&images, STORE, &keep).map_err(|e| e.to_string())?;
        for (group, records) in &recovered.groups {
            let newest = records.iter().rfind(|r| r.kind >= CARRIED_KIND);
            if let Some(newest) = newest {
                self.hard_states.insert(*group, newest.clone());
            }
        }
        for found in &recovered.segments {
            if let Some(segment) = self.segments.get_mut(&found.id) {
                segment.last_index = found.last_index.clone();
            }
        }
        self.begin_lanes(recovered.generation + 1, cores);
        Ok(recovered.groups)
    }

    fn begin_lanes(&mut self, generation: u64, cores: u32) {
        let lane = |lane| LaneImage::new(STORE, generation, lane, SEGMENT_BYTES);
        self.lanes = (0..cores).map(lane).collect();
        self.buffered = vec![Vec::new(); cores as usize];
        for group in self.hard_states.keys().copied().collect::<Vec<_>>() {
            let carried = self.hard_states[&group].clone();
            self.buffered[(group % cores) as usize].push(carried);
        }
        self.begin_sync();
        self.end_sync();
        for (id, segment) in &mut self.segments {
            segment.is_superseded |= id.generation < generation;
        }
        self.drop_released();
    }

    /// Its log is what was written, and so it stays.
    pub fn is_whole(&self) -> bool {
        !self.is_damaged && !self.is_unreadable && !self.is_next_misdirected
    }

    /// Packs of its checkpoints were damaged.
    pub fn has_hurt_packs(&self) -> bool {
        self.checkpoints.values().any(|c| !c.hurt.is_empty())
    }

    /// Takes a record that the next sync writes.
    pub fn buffer(&mut self, record: Record) {
        if record.kind >= CARRIED_KIND {
            self.hard_states.insert(record.group, record.clone());
        }
        let lane = record.group as usize % self.lanes.len();
        self.buffered[lane].push(record);
    }

    /// The next sync needs another segment.
    pub fn needs_room(&self) -> bool {
        let lanes = self.lanes.iter().zip(&self.buffered);
        lanes
            .filter(|(_, b)| !b.is_empty())
            .any(|(l, b)| !l.has_room(b))
    }

    /// Everything buffered is on its way.
    pub fn begin_sync(&mut self) {
        let cores = self.lanes.len();
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let mut records = std::mem::take(&mut self.buffered[number]);
            if records.is_empty() {
                continue;
            }
            let mut begins = None;
            if !lane.has_room(&records) {
                let of_lane = |r: &&Record| r.group as usize % cores == number;
                let carried = self.hard_states.values().filter(of_lane).cloned();
                records = carried.chain(records).collect();
                self.nonces += 1;
                let nonce = self.nonces.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let (_, size, header) = lane.next_segment(nonce, &records);
                begins = Some((size, header));
            }
            let (id, position, bytes) = lane.frame(&records);
            let mut last_index: BTreeMap<u32, u64> = BTreeMap::new();
            for record in records.iter().filter(|r| r.kind < CARRIED_KIND) {
                let last = last_index.entry(record.group).or_default();
                *last = record.index.max(*last);
            }
            self.flights.push(Flight {
                id,
                begins,
                position,
                bytes,
                records: records.len(),
                last_index,
            });
        }
    }

    /// What was on its way has arrived.
    pub fn end_sync(&mut self) {
        let mut has_begun = false;
        for flight in std::mem::take(&mut self.flights) {
            self.place(&flight);
            let segment = self.segments.get_mut(&flight.id).expect("it was placed");
            let mut position = flight.position;
            if std::mem::take(&mut self.is_next_misdirected)
                && let Some(other) = segment.frames.first()
            {
                self.is_damaged = true;
                position = *other;
            }
            let end = (position + flight.bytes.len()).min(segment.bytes.len());
            segment.bytes[position..end].copy_from_slice(&flight.bytes[..end - position]);
            segment.frames.push(flight.position);
            if flight.begins.is_some() {
                has_begun = true;
                let lane = (flight.id.generation, flight.id.lane);
                for (id, older) in &mut self.segments {
                    older.is_superseded |= (id.generation, id.lane) == lane && *id < flight.id;
                }
            }
        }
        if has_begun {
            self.drop_released();
        }
    }

    /// The segment of a write is there, with what it may come to hold.
    fn place(&mut self, flight: &Flight) {
        if let Some((size, header)) = &flight.begins {
            let mut bytes = vec![0; *size as usize];
            bytes[..header.len()].copy_from_slice(header);
            let segment = Segment {
                bytes,
                ..Segment::default()
            };
            self.segments.insert(flight.id, segment);
        }
        let segment = self.segments.get_mut(&flight.id).expect("it is open");
        for (group, index) in &flight.last_index {
            let last = segment.last_index.entry(*group).or_default();
            *last = (*index).max(*last);
        }
    }

    /// Power fails: of each write under way all, nothing or any sectors are there.
    pub fn crash(&mut self, rng: &mut Rng) -> Crash {
        let mut crash = Crash {
            lost: self.buffered.iter().map(Vec::len).sum(),
            ..Crash::default()
        };
        for flight in std::mem::take(&mut self.flights) {
            let kept = rng.below(4);
            if kept == 0 {
                crash.lost += flight.records;
                continue;
            }
            self.place(&flight);
            let segment = self.segments.get_mut(&flight.id).expect("it was placed");
            let mut is_whole = true;
            for (number, sector) in flight.bytes.chunks(SECTOR).enumerate() {
                let at = flight.position + number * SECTOR;
                if kept == 1 || rng.chance(500_000) {
                    segment.bytes[at..at + sector.len()].copy_from_slice(sector);
                } else {
                    is_whole = false;
                }
            }
            if is_whole {
                segment.frames.push(flight.position);
                crash.stayed += flight.records;
            } else {
                crash.is_torn = true;
                crash.lost += flight.records;
            }
        }
        if let Some((group, writing)) = self.writing.take() {
            let before = self.checkpoints.entry(group).or_default();
            before.files = writing.crash(before, rng);
            crash.is_checkpoint_cut = true;
        }
        for file in self.incoming.values_mut().flat_map(Dir::values_mut) {
            if rng.chance(500_000) {
                *file = torn(file, rng);
            }
        }
        self.buffered.clear();
        self.lanes.clear();
        crash
    }

    /// Entries of a group up to `index` are in its checkpoint.
    pub fn release(&mut self, group: u32, index: u64) {
        let released = self.released.entry(group).or_default();
        *released = index.max(*released);
        self.drop_released();
    }

    /// From the oldest on of each lane only: a lane must not have holes.
    fn drop_released(&mut self) {
        let released = &self.released;
        let is_done =
            |(group, index): (&u32, &u64)| released.get(group).is_some_and(|r| r >= index);
        let mut held = Vec::new();
        self.segments.retain(|id, segment| {
            let lane = (id.generation, id.lane);
            let goes = segment.is_superseded && segment.last_index.iter().all(is_done);
            if !goes {
                held.push(lane);
            }
            held.contains(&lane)
        });
    }

    /// Damages what was synced; answers whether there was anything. Never the last frame of a lane: a damaged one is a
    /// torn tail, which no log of one copy can tell from a write that was under way.
    pub fn damage(&mut self, how: Damage, rng: &mut Rng) -> bool {
        match how {
            Damage::Misdirected => self.is_next_misdirected = true,
            Damage::Unreadable => {
                self.is_damaged = true;
                self.is_unreadable = true;
            }
            Damage::Flip => {
                let whole = |(id, s): (&SegmentId, &Segment)| {
                    Some((*id, *s.frames.last()?)).filter(|(_, end)| *end > 0)
                };
                let all: Vec<_> = self.segments.iter().filter_map(whole).collect();
                if all.is_empty() {
                    return false;
                }
                let (id, end) = rng.pick(&all);
                let (byte, bit) = (rng.below(end as u64) as usize, rng.below(8));
                let segment = self.segments.get_mut(&id).expect("it was found");
                segment.bytes[byte] ^= 1 << bit;
                self.is_damaged = true;
            }
            Damage::Cut
            | Damage::Exchanged
            | Damage::Missing
            | Damage::Foreign
            | Damage::Misread => {
                return self.damage_segments(how, rng);
            }
            Damage::Checkpoint(how) => {
                let groups: Vec<u32> = self.checkpoints.keys().copied().collect();
                if groups.is_empty() {
                    return false;
                }
                let found = self.checkpoints.get_mut(&rng.pick(&groups));
                if !found.expect("it is there").damage(how, rng) {
                    return false;
                }
                self.is_damaged = true;
            }
            Damage::Pack(how) => {
                let groups = self.checkpoints.values_mut();
                let mut groups: Vec<_> = groups.filter(|c| !c.manifest.packs.is_empty()).collect();
                if groups.is_empty() {
                    return false;
                }
                let chosen = rng.below(groups.len() as u64) as usize;
                return groups[chosen].damage_pack(how, rng);
            }
        }
        true
    }

    fn damage_segments(&mut self, how: Damage, rng: &mut Rng) -> bool {
        let ids: Vec<SegmentId> = self.segments.keys().copied().collect();
        let is_done = match how {
            Damage::Cut if !ids.is_empty() => {
                let Segment { bytes, frames, .. } = self.of(rng.pick(&ids));
                bytes.truncate(rng.below(bytes.len().max(1) as u64) as usize);
                frames.retain(|begin| *begin < bytes.len());
                true
            }
            Damage::Exchanged if ids.len() > 1 => {
                let one = rng.below(ids.len() as u64 - 1) as usize;
                let other = rng.range(one as u64 + 1, ids.len() as u64 - 1) as usize;
                let mut held = std::mem::take(self.of(ids[one]));
                let before = self.of(ids[other]);
                std::mem::swap(&mut held.bytes, &mut before.bytes);
                std::mem::swap(&mut held.frames, &mut before.frames);
                *self.of(ids[one]) = held;
                true
            }
            Damage::Missing => {
                let is_between = |ids: &&[SegmentId]| {
                    let lane = |id: SegmentId| (id.generation, id.lane);
                    lane(ids[0]) == lane(ids[1]) && lane(ids[1]) == lane(ids[2])
                };
                let between = ids.windows(3).filter(is_between).map(|ids| ids[1]);
                let between: Vec<SegmentId> = between.collect();
                if !between.is_empty() {
                    self.segments.remove(&rng.pick(&between));
                }
                !between.is_empty()
            }
            Damage::Foreign if !ids.is_empty() => {
                let id = rng.pick(&ids);
                *self.of(id) = foreign(id);
                true
            }
            Damage::Misread if !ids.is_empty() => {
                let Segment { bytes, frames, .. } = self.of(rng.pick(&ids));
                // Not of the last frame, which may be torn.
                let sectors = frames.last().map_or(0, |end| end / SECTOR);
                let all = (bytes.len() / SECTOR).max(1) as u64;
                let one = rng.below(sectors.max(1) as u64) as usize * SECTOR;
                let other = rng.below(all) as usize * SECTOR;
                let is_done =
                    sectors > 0 && bytes[one..one + SECTOR] != bytes[other..other + SECTOR];
                if is_done {
                    bytes.copy_within(other..other + SECTOR, one);
                }
                is_done
            }
            _ => false,
        };
        self.is_damaged |= is_done;
        is_done
    }

    fn of(&mut self, id: SegmentId) -> &mut Segment {
        self.segments.get_mut(&id).expect("it was found")
    }
}

/// A segment of another store under this one's name.
fn foreign(id: SegmentId) -> Segment {
    let mut lane = LaneImage::new(OTHER_STORE, id.generation, id.lane, SEGMENT_BYTES);
    let record = Record {
        kind: CARRIED_KIND - 1,
        group: 1,
        index: 1,
        term: 1,
        payload: Bytes::from_static(b"of others"),
    };
    let mut bytes = Vec::new();
    for nonce in 1..=id.sequence {
        let (_, size, header) = lane.next_segment(nonce, std::slice::from_ref(&record));
        bytes = vec![0; size as usize];
        bytes[..header.len()].copy_from_slice(&header);
    }
    let (_, position, frame) = lane.frame(std::slice::from_ref(&record));
    bytes[position..position + frame.len()].copy_from_slice(&frame);
    Segment {
        bytes,
        frames: vec![position],
        ..Segment::default()
    }
}
