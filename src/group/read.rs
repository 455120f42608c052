//! Answers what does not change state, from applied state: plans of reads, metadata, lists.
//! A plan names bytes; fetching those that are not in memory is the shell's work.

use std::ops::Bound;

use super::Group;
use super::stream::{Places, Stream};
use crate::mutation;
use crate::protocol::{
    BucketName, Create, Created, Incarnation, Listed, Meta, Offset, Outcome, Piece, Read, ReadFrom,
    ReadPlan, Refusal, StreamKey, Watched,
};

/// How far behind the end of a read from the cold store the reader's next wish is guessed.
const AHEAD_BYTES: u64 = 4 << 20;

impl Group {
    /// A stream that a client may see now.
    fn visible(&self, key: &StreamKey) -> Result<&Stream, Refusal> {
        let stream = self.machine.streams.get(key).ok_or(Refusal::NotFound)?;
        if stream.soft_deleted {
            return Err(Refusal::Gone);
        }
        if self.is_expired(stream) {
            return Err(Refusal::NotFound);
        }
        Ok(stream)
    }

    /// Whether the stream's time is over by this leader's knowledge. On other replicas only the log ends streams.
    pub(super) fn is_expired(&self, stream: &Stream) -> bool {
        let deadline_ms = stream.deadline_ms(self.leader_since_ms);
        self.is_ready && deadline_ms.is_some_and(|d| d <= self.now_ms)
    }

    /// This leader's word for another replica: see [`crate::protocol::Op::Confirm`].
    pub(super) fn confirm(&mut self, key: &StreamKey, visible: bool, slides: bool) -> Outcome {
        if visible && let Err(refusal) = self.visible(key) {
            return Outcome::Refused(refusal);
        }
        if slides {
            self.touched(key);
        }
        self.confirmed()
    }

    pub(super) fn confirmed(&self) -> Outcome {
        Outcome::Confirmed {
            index: self.applied.index,
        }
    }

    pub(super) fn head(&self, key: &StreamKey) -> Outcome {
        match self.visible(key) {
            Ok(stream) => Outcome::Head(stream.meta()),
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    pub(super) fn read(&mut self, key: &StreamKey, read: &Read) -> Outcome {
        let stream = match self.visible(key) {
            Ok(stream) => stream,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        let name_of = |pack| self.machine.cold.name_of(pack);
        let at = Places {
            group: self.machine.group,
            name_of: &name_of,
        };
        match plan(at, stream, read) {
            Ok(plan) => {
                self.touched(key);
                Outcome::Read(plan)
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    pub(super) fn watch(&mut self, key: &StreamKey, core: u16) -> Outcome {
        let meta = match self.visible(key) {
            Ok(stream) => stream.meta(),
            Err(refusal) => return Outcome::Refused(refusal),
        };
        self.machine.tails.watch(key, core);
        self.touched(key);
        Outcome::Watched(Watched { meta })
    }

    /// Bytes that a fork inherited. Soft-deleted and expired sources answer, since the fork's hold keeps them.
    pub(super) fn read_inherited(
        &self,
        key: &StreamKey,
        incarnation: Incarnation,
        from: Offset,
        to: Offset,
    ) -> Outcome {
        let Some(stream) = self
            .machine
            .streams
            .get(key)
            .filter(|s| s.incarnation == incarnation)
        else {
            return Outcome::Refused(Refusal::SourceNotFound);
        };
        // What a fork inherited stands with its source, whatever is left of its own.
        let own_from = from.0.max(stream.own_start());
        if own_from < stream.bytes.kept_from() && to.0 > stream.own_start() {
            return Outcome::Refused(Refusal::OffsetExpired {
                earliest: Offset(stream.bytes.kept_from()),
            });
        }
        if to.0 > stream.tail || from > to {
            return Outcome::Refused(Refusal::OffsetBeyondTail {
                tail: Offset(stream.tail),
            });
        }
        let mut pieces = Vec::new();
        let name_of = |pack| self.machine.cold.name_of(pack);
        let at = Places {
            group: self.machine.group,
            name_of: &name_of,
        };
        plan_range(at, stream, from.0, to.0, &mut pieces);
        Outcome::Read(ReadPlan {
            meta: stream.meta(),
            start: from,
            end: to,
            lead: 0,
            pieces,
            ahead: Vec::new(),
        })
    }

    /// Whether the fork that a PUT asks for stands already; [`Refusal::NotFound`] if the key is free.
    pub(super) fn match_fork(
        &self,
        key: &StreamKey,
        create: &Create,
        has_content_type: bool,
        has_expiry: bool,
    ) -> Outcome {
        let standing = self
            .machine
            .streams
            .get(key)
            .filter(|s| s.soft_deleted || !self.is_expired(s));
        match standing.map(|s| {
            s.matches(create, has_content_type, has_expiry)
                .map(|()| s.meta())
        }) {
            None => Outcome::Refused(Refusal::NotFound),
            Some(Ok(meta)) => Outcome::Created(Created { fresh: false, meta }),
            Some(Err(refusal)) => Outcome::Refused(refusal),
        }
    }

    pub(super) fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Outcome {
        let prefix = format!("{bucket}/{prefix}");
        let after = after.map(|a| format!("{bucket}/{a}"));
        let from = after
            .as_deref()
            .filter(|a| *a > prefix.as_str())
            .unwrap_or(&prefix);
        let streams = self
            .machine
            .streams
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(&prefix))
            .filter(|(key, _)| after.as_deref().is_none_or(|a| key.as_str() > a))
            .filter(|(_, stream)| !stream.soft_deleted && !self.is_expired(stream))
            .take(limit as usize)
            .map(|(key, stream)| (key.clone(), stream.meta()))
            .collect::<Vec<(StreamKey, Meta)>>();
        Outcome::Listed(Listed { streams })
    }
}

fn plan(at: Places, stream: &Stream, read: &Read) -> Result<ReadPlan, Refusal> {
    let start = match read.from {
        ReadFrom::Start => stream.floor,
        ReadFrom::Now => stream.tail,
        ReadFrom::At(offset) => offset.0,
    };
    if start > stream.tail {
        return Err(Refusal::OffsetBeyondTail {
            tail: Offset(stream.tail),
        });
    }
    if start < stream.floor && !mutation::is_on("floor-ignored") {
        return Err(Refusal::OffsetExpired {
            earliest: Offset(stream.floor),
        });
    }
    let end = stream.tail.min(start.saturating_add(read.bytes_max.max(1)));
    // In JSON mode only the end of a message is an offset. The byte before tells; if it is not in memory, it
    // is planned in front of the others and the reader looks at it.
    let mut lead = 0;
    if stream.content_type.is_json() && start > stream.floor && start < stream.tail {
        match stream.bytes.hot_byte_before(start) {
            Some(b'\n') => {}
            Some(_) => return Err(Refusal::OffsetMisaligned),
            None => lead = 1,
        }
    }
    let mut pieces = Vec::new();
    if start < end {
        plan_range(at, stream, start - u64::from(lead), end, &mut pieces);
    }
    let mut ahead = Vec::new();
    if end < stream.bytes.cold_end() && matches!(pieces.last(), Some(Piece::Stored { .. })) {
        let until = stream.bytes.cold_end().min(end + AHEAD_BYTES);
        plan_range(at, stream, end, until, &mut ahead);
        ahead.retain(|piece| matches!(piece, Piece::Stored { .. }));
    }
    Ok(ReadPlan {
        meta: stream.meta(),
        start: Offset(start),
        end: Offset(end),
        lead,
        pieces,
        ahead,
    })
}

fn plan_range(at: Places, stream: &Stream, from: u64, to: u64, pieces: &mut Vec<Piece>) {
    let own = stream.own_start();
    if from < own
        && let Some(fork) = &stream.fork
    {
        pieces.push(Piece::Inherited {
            source: fork.source.clone(),
            incarnation: fork.incarnation,
            from: Offset(from),
            to: Offset(if mutation::is_on("fork-one-byte-more") {
                to.min(own + 1)
            } else {
                to.min(own)
            }),
        });
    }
    if to > own {
        stream.bytes.plan(at, from.max(own), to, pieces);
    }
}
