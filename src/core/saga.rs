//! What spans two groups: idempotent commands, each recorded where it must not be forgotten. Whatever a crash
//! leaves half done is found in a group's state and carried on from there.

use std::rc::Rc;
use std::time::Duration;

use super::Core;
use crate::group::{Effect, request_of};
use crate::protocol::{
    BucketName, GroupTarget, Incarnation, Op, Outcome, Refusal, Request, StreamKey,
};

/// Pause before a refused step is tried again.
const RETRY: Duration = Duration::from_millis(200);

impl Core {
    /// Carries out an effect that concerns another group.
    pub(super) fn spawn_saga(self: &Rc<Self>, group: u32, effect: Effect) {
        let core = self.clone();
        glommio::spawn_local(async move {
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
                    if let Err(refusal) = core.remove_bucket(name.clone()).await {
                        log::info!("event=bucket_deletion_ended bucket={name} result={refusal:?}");
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

    /// Asks the fork's group what stands, and does the same at the source.
    async fn check_hold(
        self: &Rc<Self>,
        source: StreamKey,
        incarnation: Incarnation,
        hold_id: u64,
        fork_key: StreamKey,
    ) {
        let asked = self
            .until_done(Request::on_key(fork_key, Op::AbandonFork { hold_id }))
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
        self.until_done(Request::on_key(source, op)).await;
    }

    /// Deletes a bucket if no group holds a stream of it: mark, fence all groups, finish.
    pub(super) async fn remove_bucket(self: &Rc<Self>, name: BucketName) -> Result<(), Refusal> {
        let meta = |op| Request {
            target: GroupTarget::Meta,
            op,
        };
        let generation = match self.ask(meta(Op::BeginDeleteBucket(name.clone()))).await {
            Outcome::Bucket(info) => info.generation,
            Outcome::Refused(refusal) => return Err(refusal),
            _ => return Err(Refusal::Unavailable),
        };
        let mut groups: Vec<u32> = self.tables.borrow().slots.clone();
        groups.sort_unstable();
        groups.dedup();
        let mut streams = 0;
        for group in groups {
            let op = Op::FenceBucket {
                bucket: name.clone(),
                generation,
            };
            let request = Request {
                target: GroupTarget::Group(group),
                op,
            };
            if let Outcome::Fenced { streams: found } = self.until_done(request).await {
                streams += found;
            }
        }
        let empty = streams == 0;
        let finish = Op::FinishDeleteBucket {
            bucket: name,
            generation,
            empty,
        };
        self.until_done(meta(finish)).await;
        if empty {
            Ok(())
        } else {
            Err(Refusal::BucketNotEmpty { streams })
        }
    }
}
