//! The protocol's rules once more, as simply as they can be said: what the committed log means.
//! Owns all streams that ever were, with every version of each. Assumes that `apply` is called in log order.

use std::collections::{BTreeMap, BTreeSet};

use raftproto::command::{self, Command, Expiry, ForkOrigin, command::Kind};
use ursula::protocol::Refusal;

use crate::kept::Kept;
use crate::meta_model::MetaModel;
use crate::verdict::Verdict;

/// A stream as a reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Which stream at its key.
    pub incarnation: u64,
    /// Its length.
    pub tail: u64,
    /// It takes no more.
    pub closed: bool,
    /// It was deleted, and forks need its bytes.
    pub is_gone: bool,
    /// First byte that readers may have.
    pub floor: u64,
}

/// What stands at a key from a log index on; `None`: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Its first log index.
    pub since: u64,
    /// What stands there.
    pub seen: Option<Seen>,
}

/// Where a fork's first bytes come from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The source's key.
    pub source: String,
    /// Which stream there.
    pub incarnation: u64,
    /// Bytes of it.
    pub offset: u64,
}

#[derive(Debug)]
struct Producer {
    epoch: u64,
    last_seq: u64,
    tail: u64,
}

#[derive(Debug)]
struct Stream {
    seen: Seen,
    expiry: Option<Expiry>,
    kept: Option<Kept>,
    touched_ms: u64,
    producers: BTreeMap<String, Producer>,
    /// The last `Stream-Seq`.
    seq: Option<String>,
    bodies: BTreeSet<Vec<u8>>,
    /// By id: the forks that need its bytes.
    holds: BTreeSet<u64>,
    fork: Option<ForkOrigin>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Model {
    streams: BTreeMap<String, Stream>,
    next_incarnation: u64,
    versions: BTreeMap<String, Vec<Version>>,
    contents: BTreeMap<u64, Vec<u8>>,
    origins: BTreeMap<u64, Origin>,
    /// By incarnation: since which index a stream's time ends when, if nobody reads it.
    deadlines: BTreeMap<u64, Vec<(u64, u64)>>,
    abandoned: BTreeSet<u64>,
    intents: BTreeSet<(u64, u32, u64)>,
    stamp_ms: u64,
    /// Only in group 0.
    pub meta: MetaModel,
    /// Packs that the log counts since they were taken last.
    pub published: Vec<command::PackName>,
}

impl Model {
    /// Applies a command of the entry at `index`. Answers what its client is to be told.
    ///
    /// # Errors
    /// What no log may hold.
    pub fn apply(
        &mut self,
        index: u64,
        version: u32,
        stamp_ms: u64,
        command: &Command,
    ) -> Result<Option<Verdict>, String> {
        if stamp_ms < self.stamp_ms {
            return Err(format!("the stamp of entry {index} goes back"));
        }
        self.stamp_ms = stamp_ms;
        let (key, verdict) = match command.kind.as_ref() {
            Some(Kind::Create(c)) => (&c.key, Some(self.create(c, stamp_ms))),
            Some(Kind::Append(a)) => (&a.key, Some(self.append(a, stamp_ms)?)),
            Some(Kind::Delete(d)) => {
                let verdict = match self.streams.get(&d.key) {
                    Some(s) if s.seen.is_gone => Verdict::Refused(Refusal::Gone),
                    Some(_) => {
                        self.end(&d.key);
                        Verdict::Done
                    }
                    None => Verdict::Refused(Refusal::NotFound),
                };
                (&d.key, Some(verdict))
            }
            Some(Kind::Touch(t)) => {
                let stream = self.streams.get_mut(&t.key);
                if let Some(s) = stream.filter(|s| s.seen.incarnation == t.incarnation) {
                    s.touched_ms = s.touched_ms.max(t.at_ms);
                }
                (&t.key, None)
            }
            Some(Kind::Expire(e)) => {
                let is_over = |s: &Stream| {
                    s.seen.incarnation == e.incarnation
                        && !s.seen.is_gone
                        && deadline_ms(s).is_some_and(|d| d <= stamp_ms)
                };
                if self.streams.get(&e.key).is_some_and(is_over) {
                    self.end(&e.key);
                }
                (&e.key, None)
            }
            Some(Kind::Hold(h)) => {
                let stream = self.streams.get_mut(&h.key);
                // Its answer is not a client's; what it keeps is seen when the fork is read.
                if let Some(s) = stream.filter(|s| !s.seen.is_gone)
                    && h.offset
                        .is_none_or(|o| (s.seen.floor..=s.seen.tail).contains(&o))
                {
                    s.holds.insert(h.hold_id);
                }
                (&h.key, None)
            }
            Some(Kind::ConfirmHold(c)) => (&c.key, None),
            Some(Kind::ReleaseHold(r)) => {
                if let Some(s) = self.streams.get_mut(&r.key)
                    && s.seen.incarnation == r.incarnation
                    && s.holds.remove(&r.hold_id)
                    && s.holds.is_empty()
                    && s.seen.is_gone
                {
                    self.streams.remove(&r.key);
                }
                (&r.key, None)
            }
            Some(Kind::AbandonFork(a)) => {
                let fork = self.streams.get(&a.fork_key).and_then(|s| s.fork.as_ref());
                if fork.is_none_or(|f| f.hold_id != a.hold_id) {
                    self.abandoned.insert(a.hold_id);
                }
                (&a.fork_key, None)
            }
            Some(Kind::Settle(_)) => return Ok(None),
            Some(kind @ (Kind::AssignSlots(_) | Kind::ChangeMembers(_) | Kind::RaiseLevel(_))) => {
                return Ok(self.meta.apply(version, kind));
            }
            Some(Kind::Trim(t)) => (&t.key, Some(self.trim(t, stamp_ms)?)),
            // Where bytes are is nothing that a client sees.
            Some(Kind::BeginPack(b)) => {
                self.intents.insert(name_of(&b.name));
                return Ok(None);
            }
            Some(Kind::CancelPack(c)) => {
                self.intents.remove(&name_of(&c.name));
                return Ok(None);
            }
            Some(Kind::PublishPack(p)) => {
                if self.intents.remove(&name_of(&p.name)) {
                    self.published.extend(p.name);
                }
                return Ok(None);
            }
            Some(Kind::ForgetPacks(_)) => return Ok(None),
            other => return Err(format!("an unexpected command: {other:?}")),
        };
        let stream = self.streams.get(key);
        if let Some((incarnation, deadline)) =
            stream.and_then(|s| Some((s.seen.incarnation, deadline_ms(s)?)))
        {
            let known = self.deadlines.entry(incarnation).or_default();
            if known.last().is_none_or(|(_, last)| *last != deadline) {
                known.push((index, deadline));
            }
        }
        let seen = stream.map(|s| s.seen);
        let versions = self.versions.entry(key.clone()).or_default();
        if versions.last().and_then(|v| v.seen) != seen {
            versions.push(Version { since: index, seen });
        }
        Ok(verdict)
    }

    fn trim(&mut self, trim: &command::Trim, stamp_ms: u64) -> Result<Verdict, String> {
        let offset = trim.offset;
        let Some(stream) = self.streams.get_mut(&trim.key) else {
            return Ok(Verdict::Refused(Refusal::NotFound));
        };
        let seen = &mut stream.seen;
        if seen.is_gone {
            return Ok(Verdict::Refused(Refusal::Gone));
        }
        if trim.incarnation != 0 {
            if trim.incarnation != seen.incarnation {
                return Ok(Verdict::Refused(Refusal::NotFound));
            }
            // Clients do not name it: this is the leader's word about what is kept.
            let kept = stream.kept.as_ref().ok_or("nothing limits it")?;
            kept.judge(offset, seen.floor, stamp_ms)
                .map_err(|wrong| format!("{trim:?}: {wrong}"))?;
        }
        if offset > seen.tail {
            let tail = ursula::protocol::Offset(seen.tail);
            return Ok(Verdict::Refused(Refusal::OffsetBeyondTail { tail }));
        }
        seen.floor = seen.floor.max(offset);
        if let Some(kept) = &mut stream.kept {
            kept.trim(seen.floor);
        }
        Ok(Verdict::Done)
    }

    /// Ends a stream, for good if no fork needs its bytes.
    fn end(&mut self, key: &str) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.holds.is_empty() {
            self.streams.remove(key);
        } else {
            stream.seen.is_gone = true;
            stream.expiry = None;
        }
    }

    fn create(&mut self, create: &command::Create, stamp_ms: u64) -> Verdict {
        let differs = |what| Verdict::Refused(Refusal::ConfigMismatch { what });
        if let Some(stream) = self.streams.get(&create.key) {
            if stream.seen.is_gone {
                return Verdict::Refused(Refusal::KeyBlocked);
            }
            if !is_same_fork(stream.fork.as_ref(), create.fork.as_ref()) {
                return differs("fork origin");
            }
            if stream.expiry != create.expiry {
                let at = |e: &Option<Expiry>| e.is_some_and(|e| e.at_ms.is_some());
                return differs(match at(&stream.expiry) && at(&create.expiry) {
                    true => "expiry time",
                    false => "TTL or expiry",
                });
            }
            if create.retention.is_some()
                && stream.kept.as_ref().map(|k| k.policy) != create.retention
            {
                return differs("retention");
            }
            if stream.seen.closed != create.closed {
                return differs("closure status");
            }
            let seen = stream.seen;
            let hold_id = |fork: Option<&ForkOrigin>| fork.map(|f| f.hold_id);
            let is_retry = create.fork.is_some()
                && hold_id(stream.fork.as_ref()) == hold_id(create.fork.as_ref());
            return Verdict::Created(is_retry, seen.incarnation, seen.tail, seen.closed);
        }
        if let Some(fork) = &create.fork
            && self.abandoned.contains(&fork.hold_id)
        {
            return Verdict::Refused(Refusal::HoldExpired);
        }
        self.next_incarnation += 1;
        let seen = Seen {
            incarnation: self.next_incarnation,
            tail: create.fork.as_ref().map_or(0, |f| f.offset) + create.body.len() as u64,
            closed: create.closed,
            is_gone: false,
            floor: create.fork.as_ref().map_or(0, |f| f.floor),
        };
        self.contents.insert(seen.incarnation, create.body.to_vec());
        if let Some(fork) = &create.fork {
            let origin = Origin {
                source: fork.source_key.clone(),
                incarnation: fork.source_incarnation,
                offset: fork.offset,
            };
            self.origins.insert(seen.incarnation, origin);
        }
        let stream = Stream {
            seen,
            expiry: create.expiry,
            kept: create.retention.map(|policy| {
                let mut kept = Kept::new(policy);
                kept.append(seen.tail, create.body.len(), stamp_ms);
                kept
            }),
            touched_ms: stamp_ms,
            producers: BTreeMap::new(),
            seq: None,
            bodies: BTreeSet::new(),
            holds: BTreeSet::new(),
            fork: create.fork.clone(),
        };
        self.streams.insert(create.key.clone(), stream);
        Verdict::Created(true, seen.incarnation, seen.tail, seen.closed)
    }

    fn append(&mut self, append: &command::Append, stamp_ms: u64) -> Result<Verdict, String> {
        let Some(stream) = self.streams.get_mut(&append.key) else {
            return Ok(Verdict::Refused(Refusal::NotFound));
        };
        let seen = &mut stream.seen;
        if seen.is_gone {
            return Ok(Verdict::Refused(Refusal::Gone));
        }
        if let Some(producer) = &append.producer {
            let known = stream.producers.get(&producer.id);
            if let Some(known) = known
                && known.epoch == producer.epoch
                && producer.seq <= known.last_seq
            {
                let is_last = producer.seq == known.last_seq;
                let tail = if is_last { known.tail } else { seen.tail };
                let ack = Some((known.epoch, known.last_seq));
                return Ok(Verdict::Appended(tail, seen.closed, true, ack));
            }
            let newest = known.map_or(0, |k| k.epoch);
            if producer.epoch < newest {
                return Ok(Verdict::Refused(Refusal::StaleEpoch { current: newest }));
            }
            let expected = match known {
                Some(known) if known.epoch == producer.epoch => known.last_seq + 1,
                _ => 0,
            };
            let is_new_epoch = known.is_some_and(|k| producer.epoch > k.epoch);
            if seen.closed {
                let tail = ursula::protocol::Offset(seen.tail);
                return Ok(Verdict::Refused(Refusal::Closed { tail }));
            }
            if producer.seq != expected {
                return Ok(Verdict::Refused(match is_new_epoch {
                    true => Refusal::EpochMustStartAtZero,
                    false => Refusal::ProducerGap {
                        expected,
                        received: producer.seq,
                    },
                }));
            }
        }
        if seen.closed {
            let tail = ursula::protocol::Offset(seen.tail);
            return Ok(Verdict::Refused(Refusal::Closed { tail }));
        }
        // It is for streams that there were before, and may be done to one of them.
        if (1..=seen.incarnation).contains(&append.incarnation_below) {
            let incarnation = ursula::protocol::Incarnation(seen.incarnation);
            return Ok(Verdict::Refused(Refusal::BegunSince { incarnation }));
        }
        let last = append.stream_seq.as_ref().and(stream.seq.clone());
        if let Some(last) = last.filter(|last| append.stream_seq.as_ref() <= Some(last)) {
            return Ok(Verdict::Refused(Refusal::SeqRegression { last }));
        }
        stream.seq = append.stream_seq.clone().or(stream.seq.take());
        if !stream.bodies.insert(append.body.to_vec()) {
            let body = String::from_utf8_lossy(&append.body).into_owned();
            return Err(format!("{body:.24} stands twice in {}", append.key));
        }
        seen.tail += append.body.len() as u64;
        seen.closed = append.close;
        stream.touched_ms = stamp_ms;
        if let Some(kept) = &mut stream.kept {
            kept.append(seen.tail, append.body.len(), stamp_ms);
        }
        let content = self.contents.get_mut(&seen.incarnation).unwrap();
        content.extend_from_slice(&append.body);
        let ack = append.producer.as_ref().map(|p| (p.epoch, p.seq));
        if let Some(p) = &append.producer {
            let position = Producer {
                epoch: p.epoch,
                last_seq: p.seq,
                tail: seen.tail,
            };
            stream.producers.insert(p.id.clone(), position);
        }
        Ok(Verdict::Appended(seen.tail, seen.closed, false, ack))
    }

    /// Ids of the holds that forks which stand have on their sources.
    pub fn fork_holds(&self) -> impl Iterator<Item = u64> {
        let forks = self.streams.values().filter_map(|s| s.fork.as_ref());
        forks.map(|f| f.hold_id)
    }

    /// All holds, with the streams that they hold.
    pub fn holds(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.streams.iter();
        all.flat_map(|(key, s)| s.holds.iter().map(move |hold| (key.as_str(), *hold)))
    }

    /// A stream that has more than it is to keep at a time.
    pub fn overlong(&self, now_ms: u64) -> Option<String> {
        let mut all = self.streams.iter().filter(|(_, s)| !s.seen.is_gone);
        all.find_map(|(key, s)| s.kept.as_ref()?.overlong(key, s.seen.floor, now_ms))
    }

    /// All that stands.
    pub fn standing(&self) -> impl Iterator<Item = (&str, Seen)> {
        self.streams.iter().map(|(key, s)| (key.as_str(), s.seen))
    }

    /// What stood at a key in some part of the log from `from` on, oldest first.
    pub fn versions(&self, key: &str, from: u64) -> Vec<Version> {
        const NOTHING: Version = Version {
            since: 0,
            seen: None,
        };
        let all = self.versions.get(key).map_or(&[][..], Vec::as_slice);
        let before = all.partition_point(|v| v.since <= from);
        let first = before.checked_sub(1).map_or(NOTHING, |i| all[i]);
        std::iter::once(first)
            .chain(all[before..].iter().copied())
            .collect()
    }

    /// No leader that has applied the log up to `index` ends the stream before this; `None`: nobody ever does.
    pub fn deadline_ms(&self, incarnation: u64, index: u64) -> Option<u64> {
        let all = self.deadlines.get(&incarnation)?;
        let later = all.partition_point(|(since, _)| *since <= index);
        let (_, deadline) = all.get(later.saturating_sub(1))?;
        Some(*deadline)
    }

    /// Where a fork's first bytes come from.
    pub fn origin(&self, incarnation: u64) -> Option<&Origin> {
        self.origins.get(&incarnation)
    }

    /// All bytes of its own that a stream ever had.
    pub fn content(&self, incarnation: u64) -> &[u8] {
        self.contents.get(&incarnation).map_or(&[], Vec::as_slice)
    }
}

fn is_same_fork(mine: Option<&ForkOrigin>, asked: Option<&ForkOrigin>) -> bool {
    match (mine, asked) {
        (None, None) => true,
        (Some(mine), Some(asked)) => {
            mine.source_key == asked.source_key && mine.offset == asked.offset
        }
        _ => false,
    }
}

fn name_of(name: &Option<command::PackName>) -> (u64, u32, u64) {
    name.as_ref()
        .map_or((0, 0, 0), |n| (n.term, n.number, n.nonce))
}

fn deadline_ms(stream: &Stream) -> Option<u64> {
    let expiry = stream.expiry?;
    let window = expiry.ttl_seconds.map(|s| stream.touched_ms + s * 1000);
    window.or(expiry.at_ms)
}
