//! The group's replicated state: its streams, what it owes to other groups, and for group 0 the cluster's
//! tables. `apply` is deterministic: the same entries give the same state on every replica (I5).
//! Owns the streams of one group. Assumes that `apply` is called in log order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use raftproto::command::{self, command::Kind};

use super::Effect;
use super::cold_state::ColdState;
use super::holds::Abandoned;
use super::retention::move_in;
use super::stream::{ALONE_BYTES_MIN, Stream};
use super::tails::Tails;
use crate::meta::Meta;
use crate::mutation;
use crate::protocol::{
    ContentType, Create, Created, Expiry, ForkOrigin, Incarnation, Offset, Outcome, Refusal,
    Retention, StreamKey, TailNews,
};

/// Streams of one group: some 2 GiB of state without a byte of payload.
const STREAMS_MAX: usize = 4 << 20;

/// See the module's head.
pub struct Machine {
    pub(super) group: u32,
    /// Boxed: the tree's nodes are a third empty, and move their values about.
    pub(super) streams: BTreeMap<StreamKey, Box<Stream>>,
    /// The same on all replicas; smaller only in tests.
    pub(super) streams_max: usize,
    /// When streams may end, by what was known when each was looked at; each stands here at most once.
    pub(super) deadlines: BTreeSet<(u64, StreamKey)>,
    /// When a leader looks whether streams have more than they keep; each stands here at most once.
    pub(super) trims: BTreeSet<(u64, StreamKey)>,
    pub(super) last_stamp_ms: u64,
    pub(super) next_incarnation: u64,
    /// Commands for other groups that are not known to be delivered.
    pub(super) outbox: BTreeMap<u64, command::Command>,
    pub(super) next_outbox: u64,
    /// Holds whose fork must not be created any more.
    pub(super) abandoned: Abandoned,
    /// The newest generation of each bucket that takes no more creates.
    pub(super) fences: BTreeMap<Box<str>, u64>,
    /// Only in group 0.
    pub(super) meta: Option<Meta>,
    /// Content types in use, so that streams share one text.
    content_types: BTreeMap<Box<str>, ContentType>,
    /// Unconfirmed holds of this group's streams: when the sweep asks about each, and its id.
    pub(super) hold_checks: BTreeMap<(u64, u64), StreamKey>,
    /// Keys that changed since the last checkpoint.
    pub(super) dirty: BTreeSet<StreamKey>,
    /// Bytes in memory, of all streams.
    pub(super) hot_bytes: u64,
    /// Streams with bytes both in memory and in packs, by the newest such pack: the order of shedding.
    pub(super) packed_hot: BTreeSet<(u32, StreamKey)>,
    /// Bytes that live streams have in each pack.
    pub(super) packs: BTreeMap<u32, u64>,
    pub(super) cold: ColdState,
    pub(super) tails: Tails,
}

impl Machine {
    /// An empty group. Group 0 keeps the cluster's tables.
    pub fn new(group: u32) -> Machine {
        Machine {
            group,
            streams: BTreeMap::new(),
            streams_max: STREAMS_MAX,
            deadlines: BTreeSet::new(),
            trims: BTreeSet::new(),
            last_stamp_ms: 0,
            next_incarnation: 1,
            outbox: BTreeMap::new(),
            next_outbox: 1,
            abandoned: Abandoned::default(),
            fences: BTreeMap::new(),
            meta: (group == 0).then(Meta::default),
            content_types: BTreeMap::new(),
            hold_checks: BTreeMap::new(),
            dirty: BTreeSet::new(),
            hot_bytes: 0,
            packed_hot: BTreeSet::new(),
            packs: BTreeMap::new(),
            cold: ColdState::default(),
            tails: Tails::default(),
        }
    }

    /// The group's number.
    pub fn group(&self) -> u32 {
        self.group
    }

    /// Applies one command of an entry of that version, stamped `stamp_ms`.
    pub(super) fn apply(
        &mut self,
        version: u32,
        stamp_ms: u64,
        command: command::Command,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        debug_assert!(stamp_ms >= self.last_stamp_ms);
        self.last_stamp_ms = stamp_ms;
        let Some(kind) = command.kind else {
            return Outcome::Refused(Refusal::Unavailable);
        };
        match kind {
            Kind::Create(create) => self.create(create, stamp_ms),
            Kind::Append(append) => self.append(append, stamp_ms, effects),
            Kind::Delete(delete) => self.delete(&delete.key, effects),
            Kind::Touch(touch) => self.touch(&touch),
            Kind::Expire(expire) => self.expire(&expire, stamp_ms, effects),
            Kind::Hold(hold) => self.hold(&hold, stamp_ms),
            Kind::ConfirmHold(confirm) => self.confirm_hold(&confirm),
            Kind::ReleaseHold(release) => self.release_hold(&release, effects),
            Kind::AbandonFork(a) => self.abandon_fork(&a, stamp_ms),
            Kind::Settle(settle) => {
                self.outbox.remove(&settle.outbox_id);
                Outcome::Done
            }
            Kind::FenceBucket(fence) => self.fence_bucket(fence),
            Kind::BeginPack(begin) => self.begin_pack(&begin),
            Kind::PublishPack(publish) => self.publish_pack(publish),
            Kind::CancelPack(cancel) => self.cancel_pack(&cancel),
            Kind::ForgetPacks(forget) => self.forget_packs(&forget),
            Kind::Trim(trim) => self.trim(&trim),
            Kind::CreateBucket(_)
            | Kind::BeginDeleteBucket(_)
            | Kind::FinishDeleteBucket(_)
            | Kind::ChangeMembers(_)
            | Kind::RaiseLevel(_)
            | Kind::AssignSlots(_) => match &mut self.meta {
                Some(meta) => {
                    let (outcome, changed) = meta.apply(kind, version, stamp_ms);
                    effects.extend(changed.then_some(Effect::TablesChanged));
                    outcome
                }
                None => Outcome::Refused(Refusal::Unavailable),
            },
        }
    }

    fn create(&mut self, create: command::Create, stamp_ms: u64) -> Outcome {
        let key = StreamKey::from_stored(&create.key);
        let bucket_generation = create.bucket_generation;
        let create = self.create_from(create);
        if let Some(stream) = self.streams.get(&key) {
            if let Err(refusal) = stream.matches(&create, true, true) {
                return Outcome::Refused(refusal);
            }
            let hold_id = |fork: Option<&ForkOrigin>| fork.map(|f| f.hold_id);
            // The same create, sent again after its answer was lost.
            let is_retry = create.fork.is_some()
                && hold_id(stream.fork.as_deref()) == hold_id(create.fork.as_ref());
            let meta = stream.meta();
            return Outcome::Created(Created {
                fresh: is_retry,
                meta,
            });
        }
        if self
            .fences
            .get(key.bucket())
            .is_some_and(|fenced| *fenced >= bucket_generation)
        {
            return Outcome::Refused(Refusal::BucketStale);
        }
        if create
            .fork
            .as_ref()
            .is_some_and(|f| self.abandoned.contains(f.hold_id))
            && !mutation::is_on("abandoned-fork-created")
        {
            return Outcome::Refused(Refusal::HoldExpired);
        }
        if self.streams.len() >= self.streams_max {
            return Outcome::Refused(Refusal::LimitReached {
                bound: "streams_per_group_max",
            });
        }
        let incarnation = Incarnation(self.next_incarnation);
        if !mutation::is_on("incarnation-given-twice") {
            self.next_incarnation += 1;
        }
        let stream = Stream::create(create, incarnation, stamp_ms);
        self.hot_bytes += stream.bytes.hot_len();
        let meta = stream.meta();
        self.insert(key.clone(), stream);
        self.mark_dirty(&key);
        Outcome::Created(Created { fresh: true, meta })
    }

    /// The streams that there were up to now have incarnations below this.
    pub(super) fn next_incarnation(&self) -> Incarnation {
        Incarnation(self.next_incarnation)
    }

    fn create_from(&mut self, create: command::Create) -> Create {
        Create {
            content_type: self.content_type(&create.content_type),
            expiry: expiry_from(create.expiry),
            closed: create.closed,
            body: create.body,
            bucket_generation: create.bucket_generation,
            retention: create
                .retention
                .map(Retention::from_message)
                .unwrap_or_default(),
            is_bucket_retention: create.is_bucket_retention,
            fork: create.fork.map(|f| ForkOrigin {
                source: StreamKey::from_stored(&f.source_key),
                incarnation: Incarnation(f.source_incarnation),
                offset: Offset(f.offset),
                hold_id: f.hold_id,
                requested_offset: f.requested_offset.map(Offset),
                requested_sub_offset: f.requested_sub_offset,
                floor: Offset(f.floor),
            }),
        }
    }

    /// The group's one copy of a content type.
    pub(super) fn content_type(&mut self, text: &str) -> ContentType {
        if let Some(known) = self.content_types.get(text) {
            return known.clone();
        }
        let fresh = ContentType::from_stored(text);
        if self.content_types.len() < 256 {
            self.content_types.insert(text.into(), fresh.clone());
        }
        fresh
    }

    /// Puts a stream at a free key, with all that is derived from it.
    pub(super) fn insert(&mut self, key: StreamKey, mut stream: Stream) {
        let due_ms = stream.logged_deadline_ms();
        for hold in stream.holds.iter().filter(|h| !h.confirmed) {
            self.hold_checks
                .insert((hold.check_ms, hold.hold_id), key.clone());
        }
        for chunk in stream.bytes.chunks() {
            *self.packs.entry(chunk.pack).or_default() += u64::from(chunk.length);
        }
        for chunk in stream.bytes.cold_chunks() {
            self.cold.add_live(chunk);
        }
        self.cold
            .note_append(&key, &mut stream, 0, self.last_stamp_ms);
        self.streams.insert(key.clone(), Box::new(stream));
        self.look_at(&key, due_ms);
        self.look_at_kept(&key);
    }

    pub(super) fn mark_dirty(&mut self, key: &StreamKey) {
        match self.streams.get_mut(key) {
            Some(stream) if stream.is_dirty => {}
            Some(stream) => {
                stream.is_dirty = true;
                self.dirty.insert(key.clone());
            }
            None => {
                self.dirty.insert(key.clone());
            }
        }
    }

    fn append(
        &mut self,
        append: command::Append,
        stamp_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let Some((key, stream)) = find(&mut self.streams, &append.key) else {
            return Outcome::Refused(Refusal::NotFound);
        };
        if stream.soft_deleted {
            return Outcome::Refused(Refusal::Gone);
        }
        let start = stream.tail;
        let was_closed = stream.closed;
        let (outcome, added) = stream.append(append, stamp_ms);
        let Some(added) = added else {
            return outcome;
        };
        self.hot_bytes += added.len() as u64;
        if let Some(kept) = &mut stream.retention {
            let due_ms = kept.note(start, added.len() as u64, stamp_ms);
            move_in(&mut self.trims, key, kept, due_ms);
        }
        if self.cold.is_on() {
            self.cold
                .note_append(key, stream, added.len() as u64, stamp_ms);
        }
        if !stream.is_dirty {
            stream.is_dirty = true;
            self.dirty.insert(key.clone());
        }
        if self.tails.is_watched(key) && (!added.is_empty() || stream.closed != was_closed) {
            let news = TailNews {
                key: key.clone(),
                incarnation: stream.incarnation,
                start: Offset(start),
                end: Offset(stream.tail),
                pieces: match added.len() {
                    0 => Vec::new(),
                    // Readers keep what they are told for a while; not the whole entry with it.
                    1..ALONE_BYTES_MIN => vec![Bytes::copy_from_slice(&added)],
                    _ => vec![added],
                },
                closed: stream.closed,
                ended: false,
            };
            self.tails.tell(news, effects);
        }
        outcome
    }

    /// The state was replaced as a whole: tells those who follow streams what became of them.
    pub(super) fn tell_all(&mut self, effects: &mut Vec<Effect>) {
        for (key, cores) in self.tails.take_all() {
            let stream = self.streams.get(&key).filter(|s| !s.soft_deleted);
            let tail = Offset(stream.map_or(0, |s| s.tail));
            let news = TailNews {
                key: key.clone(),
                incarnation: stream.map_or(Incarnation(u64::MAX), |s| s.incarnation),
                start: tail,
                end: tail,
                pieces: Vec::new(),
                closed: stream.is_some_and(|s| s.closed),
                ended: stream.is_none(),
            };
            for core in &cores {
                self.tails.watch(&key, *core);
            }
            self.tails.tell(news, effects);
        }
    }

    fn delete(&mut self, key: &str, effects: &mut Vec<Effect>) -> Outcome {
        let Some((key, stream)) = find(&mut self.streams, key) else {
            return Outcome::Refused(Refusal::NotFound);
        };
        if stream.soft_deleted {
            return Outcome::Refused(Refusal::Gone);
        }
        let key = key.clone();
        self.end(&key, effects);
        Outcome::Done
    }

    /// Ends a stream: for good, or softly while forks hold its bytes.
    pub(super) fn end(&mut self, key: &StreamKey, effects: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        self.tails.tell(
            TailNews {
                key: key.clone(),
                incarnation: stream.incarnation,
                start: Offset(stream.tail),
                end: Offset(stream.tail),
                pieces: Vec::new(),
                closed: stream.closed,
                ended: true,
            },
            effects,
        );
        if stream.holds.is_empty() || mutation::is_on("held-source-removed") {
            self.remove(key, effects);
        } else {
            stream.soft_deleted = true;
            stream.expiry = Expiry::Never;
            self.look_at(key, None);
            self.forget_kept(key);
            self.mark_dirty(key);
        }
    }

    /// Removes a stream that nothing holds; a fork then owes its source the release of its hold.
    pub(super) fn remove(&mut self, key: &StreamKey, effects: &mut Vec<Effect>) {
        self.look_at(key, None);
        self.forget_kept(key);
        let Some(stream) = self.streams.remove(key) else {
            return;
        };
        self.hot_bytes -= stream.bytes.hot_len();
        if let Some(pack) = stream.bytes.packed_hot() {
            self.packed_hot.remove(&(pack, key.clone()));
        }
        for chunk in stream.bytes.chunks() {
            if let Some(live) = self.packs.get_mut(&chunk.pack) {
                *live -= u64::from(chunk.length);
            }
        }
        self.cold.forget_stream(key, &stream, self.last_stamp_ms);
        self.dirty.insert(key.clone());
        if let Some(fork) = stream.fork {
            let release = command::ReleaseHold {
                key: fork.source.as_str().to_owned(),
                incarnation: fork.incarnation.0,
                hold_id: fork.hold_id,
            };
            let command = command::Command {
                kind: Some(Kind::ReleaseHold(release)),
            };
            let id = self.next_outbox;
            self.next_outbox += 1;
            self.outbox.insert(id, command.clone());
            effects.push(Effect::Deliver {
                outbox_id: id,
                command,
            });
        }
    }

    fn fence_bucket(&mut self, fence: command::FenceBucket) -> Outcome {
        let prefix = format!("{}/", fence.bucket);
        let streams = self
            .streams
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(&prefix))
            .count() as u64;
        let fenced = self.fences.entry(fence.bucket.into()).or_default();
        *fenced = (*fenced).max(fence.generation);
        Outcome::Fenced { streams }
    }
}

pub(super) fn find<'a>(
    streams: &'a mut BTreeMap<StreamKey, Box<Stream>>,
    key: &str,
) -> Option<(&'a StreamKey, &'a mut Stream)> {
    // A range of one key hands out the stored key too, which saves making another.
    let found = streams.range_mut::<str, _>((Bound::Included(key), Bound::Included(key)));
    found.map(|(key, stream)| (key, &mut **stream)).next()
}

fn expiry_from(expiry: Option<command::Expiry>) -> Expiry {
    match expiry {
        Some(command::Expiry {
            ttl_seconds: Some(seconds),
            ..
        }) => Expiry::Ttl(seconds),
        Some(command::Expiry {
            at_ms: Some(at_ms), ..
        }) => Expiry::At(at_ms),
        _ => Expiry::Never,
    }
}

/// An entry's payload as commands and their stamp, if it is of no newer version than `known`.
pub(super) fn decode_batch(
    payload: &Bytes,
    known: u32,
) -> Result<command::CommandBatch, BatchError> {
    use prost::Message;
    let batch = command::CommandBatch::decode(payload.clone())?;
    raftproto::version::check("a log entry", batch.version, known)?;
    Ok(batch)
}

/// An entry that this binary cannot apply.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Not a batch at all.
    #[error("a log entry does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    /// Written by a newer binary.
    #[error(transparent)]
    Version(#[from] raftproto::version::UnknownVersion),
}
