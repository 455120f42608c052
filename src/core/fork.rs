//! Creates forks: hold, create, confirm. The source may live in any group (ARCHITECTURE.md, sagas).

use std::rc::Rc;

use super::Core;
use super::signal::{Slot, slot};
use crate::http::backend::ForkCreate;
use crate::protocol::{
    Created, ForkOrigin, ForkRequest, Held, Hold, Incarnation, Offset, Op, Outcome, Read, ReadFrom,
    Refusal, Request, StreamKey, json,
};

/// Bytes looked at in one step of counting messages.
const SCAN_BYTES: u64 = 256 << 10;

/// Whichever stream stands at the key: for the tail no offset was looked up.
const ANY: Incarnation = Incarnation(0);

impl Core {
    pub(super) async fn fork(
        self: &Rc<Self>,
        key: StreamKey,
        fork: ForkRequest,
        asked: ForkCreate,
    ) -> Result<Created, Refusal> {
        let probe = Op::MatchFork {
            create: asked.create.clone(),
            has_content_type: asked.has_content_type,
            has_expiry: asked.has_expiry,
        };
        match self.ask(Request::on_key(key.clone(), probe)).await {
            Outcome::Created(created) => return Ok(created),
            Outcome::Refused(Refusal::NotFound) => {}
            Outcome::Refused(refusal) => return Err(refusal),
            _ => return Err(Refusal::Unavailable),
        }
        let (offset, incarnation) = self.resolve_offset(&fork).await?;
        let hold = Hold {
            fork_key: key,
            hold_id: self.clock.random(),
            offset,
            incarnation,
        };
        // From the hold on it is carried through, also if the client goes: else each reset would leave a hold.
        let (slot, filled) = slot();
        let core = self.clone();
        super::tasks::spawn(async move { core.hold_and_create(fork, asked, hold, slot).await })
            .detach();
        filled.await.unwrap_or(Err(Refusal::OutcomeUnknown))
    }

    /// Hold, create, answer, settle. What a crash or a refusal leaves is found by the sweep of the source's group.
    async fn hold_and_create(
        self: &Rc<Self>,
        fork: ForkRequest,
        asked: ForkCreate,
        hold: Hold,
        answer: Slot<Result<Created, Refusal>>,
    ) {
        let (key, hold_id) = (hold.fork_key.clone(), hold.hold_id);
        let held = match self
            .ask(Request::on_key(fork.source.clone(), Op::Hold(hold)))
            .await
        {
            Outcome::Held(held) => held,
            Outcome::Refused(refusal) => return answer.fill(Err(refusal)),
            _ => return answer.fill(Err(Refusal::Unavailable)),
        };
        let result = self.create_held(key, &fork, asked, &held, hold_id).await;
        let incarnation = held.source.incarnation;
        let settled = match &result {
            Ok(created) if created.fresh => Op::ConfirmHold {
                incarnation,
                hold_id,
            },
            // Whether it was created is not known: the sweep will ask.
            Err(Refusal::OutcomeUnknown) => return answer.fill(result),
            _ => Op::ReleaseHold {
                incarnation,
                hold_id,
            },
        };
        let settled = Request::on_key(fork.source, settled);
        if result.is_ok() {
            answer.fill(result);
            self.ask(settled).await;
        } else {
            // Who is told of a refusal may look at the source at once: it must not seem held.
            self.ask(settled).await;
            answer.fill(result);
        }
    }

    async fn create_held(
        self: &Rc<Self>,
        key: StreamKey,
        fork: &ForkRequest,
        asked: ForkCreate,
        held: &Held,
        hold_id: u64,
    ) -> Result<Created, Refusal> {
        let mut create = asked.create;
        if !asked.has_content_type {
            create.content_type = held.source.content_type.clone();
        } else if !create.content_type.matches(&held.source.content_type) {
            let expected = held.source.content_type.as_str().to_owned();
            return Err(Refusal::ContentTypeMismatch { expected });
        }
        if !asked.has_expiry {
            create.expiry = held.source.expiry;
        }
        create.body = crate::http::stored(&create.content_type, asked.raw_body, true)?;
        create.fork = Some(ForkOrigin {
            source: fork.source.clone(),
            incarnation: held.source.incarnation,
            offset: held.offset,
            hold_id,
            requested_offset: fork.offset,
            requested_sub_offset: fork.sub_offset,
            floor: held.floor,
        });
        match self.ask(Request::on_key(key, Op::Create(create))).await {
            Outcome::Created(created) => Ok(created),
            Outcome::Refused(refusal) => Err(refusal),
            _ => Err(Refusal::OutcomeUnknown),
        }
    }

    /// The precise byte position that a request names, `None`: the tail, and the stream in which it was found.
    async fn resolve_offset(
        self: &Rc<Self>,
        fork: &ForkRequest,
    ) -> Result<(Option<Offset>, Incarnation), Refusal> {
        let Some(anchor) = fork.offset else {
            return if fork.sub_offset == 0 {
                Ok((None, ANY))
            } else {
                Err(self.beyond_tail(fork).await)
            };
        };
        // The read also refuses an anchor inside of a message.
        let (plan, pieces) = self.source_bytes(fork, anchor, SCAN_BYTES).await?;
        let (tail, incarnation) = (plan.meta.tail, plan.meta.incarnation);
        if fork.sub_offset == 0 {
            return Ok((Some(anchor), incarnation));
        }
        if !plan.meta.content_type.is_json() {
            let offset = Offset(anchor.0.saturating_add(fork.sub_offset));
            return if offset <= tail {
                Ok((Some(offset), incarnation))
            } else {
                Err(Refusal::SubOffsetBeyondData)
            };
        }
        let mut position = anchor.0;
        let mut left = fork.sub_offset;
        let mut pieces = pieces;
        loop {
            for piece in &pieces {
                match json::nth_message_end(piece, left) {
                    Ok(end) => {
                        let offset = Offset(position + end as u64);
                        return Ok((Some(offset), incarnation));
                    }
                    Err(seen) => {
                        left -= seen;
                        position += piece.len() as u64;
                    }
                }
            }
            if position >= tail.0 {
                return Err(Refusal::SubOffsetBeyondData);
            }
            // The scan goes on in the middle of a message if need be: inherited bytes have no alignment rule.
            let request = Op::ReadInherited {
                incarnation,
                from: Offset(position),
                to: Offset(tail.0.min(position + SCAN_BYTES)),
            };
            let more = match self
                .ask(Request::on_key(fork.source.clone(), request))
                .await
            {
                Outcome::Read(plan) => plan,
                Outcome::Refused(refusal) => return Err(refusal),
                _ => return Err(Refusal::Unavailable),
            };
            pieces = self.materialize_plan(&more).await?;
        }
    }

    /// A sub-offset past the tail: wrong, unless the source is not there at all.
    async fn beyond_tail(self: &Rc<Self>, fork: &ForkRequest) -> Refusal {
        match self
            .ask(Request::on_key(fork.source.clone(), Op::Head))
            .await
        {
            Outcome::Refused(refusal) => source_refusal(refusal),
            _ => Refusal::SubOffsetBeyondData,
        }
    }

    async fn source_bytes(
        self: &Rc<Self>,
        fork: &ForkRequest,
        from: Offset,
        bytes_max: u64,
    ) -> Result<(crate::protocol::ReadPlan, Vec<bytes::Bytes>), Refusal> {
        let read = Read {
            from: ReadFrom::At(from),
            bytes_max,
            is_live: false,
        };
        let plan = match self
            .ask(Request::on_key(fork.source.clone(), Op::Read(read)))
            .await
        {
            Outcome::Read(plan) => plan,
            Outcome::Refused(refusal) => return Err(source_refusal(refusal)),
            _ => return Err(Refusal::Unavailable),
        };
        let is_needed = fork.sub_offset > 0 || plan.lead > 0;
        let mut pieces = if is_needed {
            self.materialize_plan(&plan).await?
        } else {
            Vec::new()
        };
        if plan.lead > 0 {
            let first = pieces
                .iter_mut()
                .find(|p| !p.is_empty())
                .ok_or(Refusal::OffsetMisaligned)?;
            if first.split_to(1).first() != Some(&b'\n') {
                return Err(Refusal::OffsetMisaligned);
            }
        }
        Ok((plan, pieces))
    }
}

fn source_refusal(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::NotFound => Refusal::SourceNotFound,
        Refusal::Gone => Refusal::SourceGone,
        other => other,
    }
}
