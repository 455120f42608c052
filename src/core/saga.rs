//! What spans two groups: idempotent commands, each recorded where it must not be forgotten. Whatever a crash
//! leaves half done is found in a group's state and carried on from there.

use std::rc::Rc;
use std::time::Duration;

use super::Core;
use super::signal::slot;
use crate::group::{Effect, request_of};
use crate::protocol::{
    BucketEnd, BucketName, GroupTarget, Incarnation, Op, Outcome, Refusal, Request, StreamKey,
};

/// Pause before a refused step is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How often a deletion begins anew because others of the same bucket ended first.
const REMOVALS_MAX: u32 = 8;

impl Core {
    /// Carries out an effect that concerns another group.
    pub(super) fn spawn_saga(self: &Rc<Self>, group: u32, effect: Effect) {
        let core = self.clone();
        super::tasks::spawn(async move {
            match effect {
                Effect::Deliver { outbox_id, command } => {
                    if let Some(request) = request_of(&command) {
                        core.deliver(group, outbox_id, request).await;
                    }
                }
                Effect::CheckHold {
                    source,
                    incarnation,
                    hold_id,
                    fork_key,
                } => {
                    core.check_hold(source, incarnation, hold_id, fork_key)
                        .await;
                }
                Effect::ResumeBucketDeletion(name) => {
                    if let Err(refusal) = core.carry_out_removal(&name).await {
                        log::info!("event=bucket_deletion_ended bucket={name} {refusal:?}");
                    }
                }
                _ => {}
            }
        })
        .detach();
    }

    /// Repeats a request until it is certainly done, then settles the outbox message.
    async fn deliver(self: &Rc<Self>, group: u32, outbox_id: u64, request: Request) {
        self.until_done(request).await;
        let settle = Request {
            target: GroupTarget::Group(group),
            op: Op::Settle { outbox_id },
        };
        self.until_done(settle).await;
    }

    async fn until_done(self: &Rc<Self>, request: Request) -> Outcome {
        loop {
            match self.ask(request.clone()).await {
                Outcome::Refused(
                    Refusal::Unavailable | Refusal::OutcomeUnknown | Refusal::Overloaded { .. },
                ) => self.sleep(RETRY).await,
                outcome => return outcome,
            }
        }
    }

    /// Asks the fork's group what stands, and does the same at the source. Once: the source's group sends it again
    /// while the hold is unconfirmed.
    async fn check_hold(
        self: &Rc<Self>,
        source: StreamKey,
        incarnation: Incarnation,
        hold_id: u64,
        fork_key: StreamKey,
    ) {
        let asked = self
            .ask(Request::on_key(fork_key, Op::AbandonFork { hold_id }))
            .await;
        let op = match asked {
            Outcome::Abandoned { exists: true } => Op::ConfirmHold {
                incarnation,
                hold_id,
            },
            Outcome::Abandoned { exists: false } => Op::ReleaseHold {
                incarnation,
                hold_id,
            },
            _ => return,
        };
        self.ask(Request::on_key(source, op)).await;
    }

    /// Deletes a bucket if no group holds a stream of it. Goes on if the one who asked does not wait for it: a bucket
    /// that was marked would take no creates until somebody deleted it again.
    pub(super) async fn remove_bucket(self: &Rc<Self>, name: BucketName) -> Result<(), Refusal> {
        let (answer, filled) = slot();
        let core = self.clone();
        super::tasks::spawn(async move { answer.fill(core.carry_out_removal(&name).await) })
            .detach();
        filled.await.unwrap_or(Err(Refusal::OutcomeUnknown))
    }

    async fn carry_out_removal(self: &Rc<Self>, name: &BucketName) -> Result<(), Refusal> {
        for _ in 0..REMOVALS_MAX {
            if let Some(result) = self.try_removal(name).await {
                return result;
            }
        }
        Err(Refusal::BucketStale)
    }

    /// Marks, fences all groups, finishes; `None`: another deletion ended first and the bucket stands.
    async fn try_removal(self: &Rc<Self>, name: &BucketName) -> Option<Result<(), Refusal>> {
        let meta = |op| Request {
            target: GroupTarget::Meta,
            op,
        };
        let mut groups: Vec<u32> = self.tables.borrow().slots.clone();
        groups.sort_unstable();
        groups.dedup();
        if groups.is_empty() {
            return Some(Err(Refusal::Unavailable));
        }
        let begin = || meta(Op::BeginDeleteBucket(name.clone()));
        let begun = match self.ask(begin()).await {
            // It may be marked: only an answer tells.
            Outcome::Refused(Refusal::OutcomeUnknown) => self.until_done(begin()).await,
            outcome => outcome,
        };
        let generation = match begun {
            Outcome::Bucket(info) => info.generation,
            Outcome::Refused(refusal) => return Some(Err(refusal)),
            _ => return Some(Err(Refusal::Unavailable)),
        };
        let counted = self.fence(name, generation, &groups).await;
        let finish = Op::FinishDeleteBucket {
            bucket: name.clone(),
            generation,
            // A bucket whose streams could not be counted is opened again.
            empty: matches!(counted, Ok(0)),
        };
        match (self.until_done(meta(finish)).await, counted) {
            (Outcome::Finished(BucketEnd::Removed), _) => Some(Ok(())),
            (Outcome::Finished(BucketEnd::Reopened), Ok(streams)) => {
                Some(Err(Refusal::BucketNotEmpty { streams }))
            }
            (Outcome::Finished(BucketEnd::Superseded), Ok(0)) => None,
            (Outcome::Finished(BucketEnd::Superseded), Ok(streams)) => {
                Some(Err(Refusal::BucketNotEmpty { streams }))
            }
            (_, Err(refusal)) | (Outcome::Refused(refusal), _) => Some(Err(refusal)),
            _ => Some(Err(Refusal::OutcomeUnknown)),
        }
    }

    /// Ends a generation in all groups; answers how many streams they have of the bucket. From then on there can
    /// only be fewer.
    async fn fence(
        self: &Rc<Self>,
        name: &BucketName,
        generation: u64,
        groups: &[u32],
    ) -> Result<u64, Refusal> {
        let mut streams = 0;
        for group in groups {
            let request = Request {
                target: GroupTarget::Group(*group),
                op: Op::FenceBucket {
                    bucket: name.clone(),
                    generation,
                },
            };
            match self.until_done(request).await {
                Outcome::Fenced { streams: found } => streams += found,
                Outcome::Refused(refusal) => return Err(refusal),
                _ => return Err(Refusal::Unavailable),
            }
        }
        Ok(streams)
    }
}
