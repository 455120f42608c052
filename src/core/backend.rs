//! The executor as the HTTP layer sees it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::Core;
use super::status::{not_ready, silent_cores};
use super::tails::Tail;
use crate::http::backend::{Backend, BodyBudget, ForkCreate, HttpSettings, Operation};
use crate::meta::Tables;
use crate::ops::metrics::{self, add};
use crate::protocol::{
    BucketInfo, BucketName, BucketTerms, Created, ForkRequest, GroupTarget, Listed, Op, Outcome,
    ReadPlan, Refusal, Request, Retention, StreamKey,
};

/// The [`Backend`] of one core.
pub struct CoreBackend(pub(super) Rc<Core>);

/// Bytes of the core's budget; given back when dropped.
pub struct Budget {
    bytes: u64,
    max: u64,
    in_flight: Rc<Cell<u64>>,
}

impl BodyBudget for Budget {
    fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        let total = self.in_flight.get() + bytes;
        if total > self.max {
            return Err(Refusal::Overloaded {
                bound: "body_bytes_in_flight_max",
            });
        }
        self.in_flight.set(total);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get() - self.bytes);
    }
}

impl Backend for CoreBackend {
    type Tail = Tail;
    type BodyBudget = Budget;

    async fn submit(&self, request: Request) -> Outcome {
        self.0.ask(request).await
    }

    async fn materialize(&self, plan: &ReadPlan) -> Result<Vec<Bytes>, Refusal> {
        self.0.materialize_plan(plan).await
    }

    async fn watch(&self, key: &StreamKey) -> Result<Tail, Refusal> {
        let core = &self.0;
        if core.hub.readers() >= core.config.live_readers_max {
            core.metrics.refused("live_readers_max");
            return Err(Refusal::Overloaded {
                bound: "live_readers_max",
            });
        }
        let weak = Rc::downgrade(core);
        let on_idle = Rc::new(move |key: &StreamKey| {
            let Some(core) = weak.upgrade() else {
                return;
            };
            core.unwatch(key.clone());
        });
        let (tail, is_first) = core.hub.join(key, on_idle);
        if is_first {
            let request = Request::on_key(key.clone(), Op::Watch { core: core.id });
            match core.ask(request).await {
                Outcome::Watched(watched) => tail.established(&watched.meta),
                Outcome::Refused(refusal) => return Err(refusal),
                _ => return Err(Refusal::Unavailable),
            }
        }
        Ok(tail)
    }

    async fn create_fork(
        &self,
        key: StreamKey,
        fork: ForkRequest,
        create: ForkCreate,
    ) -> Result<Created, Refusal> {
        self.0.fork(key, fork, create).await
    }

    async fn bucket_terms(
        &self,
        name: &BucketName,
        is_known_stale: bool,
    ) -> Result<BucketTerms, Refusal> {
        let known = self.0.tables.borrow().buckets.get(name).copied();
        if let Some(terms) = known.filter(|_| !is_known_stale) {
            return Ok(terms);
        }
        // This core's copy may be older than a create that was acknowledged elsewhere.
        let request = Request {
            target: GroupTarget::Meta,
            op: Op::GetBucket(name.clone()),
        };
        match self.0.ask(request).await {
            Outcome::Bucket(info) if info.deleting => Err(Refusal::BucketDeleting),
            Outcome::Bucket(info) => Ok(BucketTerms {
                generation: info.generation,
                retention: info.retention,
            }),
            Outcome::Refused(refusal) => Err(refusal),
            _ => Err(Refusal::Unavailable),
        }
    }

    async fn create_bucket(
        &self,
        name: BucketName,
        retention: Option<Retention>,
    ) -> Result<BucketInfo, Refusal> {
        let request = Request {
            target: GroupTarget::Meta,
            op: Op::CreateBucket {
                bucket: name,
                retention,
            },
        };
        match self.0.ask(request).await {
            Outcome::Bucket(info) => Ok(info),
            Outcome::Refused(refusal) => Err(refusal),
            _ => Err(Refusal::Unavailable),
        }
    }

    async fn delete_bucket(&self, name: BucketName) -> Result<(), Refusal> {
        self.0.remove_bucket(name).await
    }

    async fn list(
        &self,
        bucket: BucketName,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<Listed, Refusal> {
        let tables: std::sync::Arc<Tables> = self.0.tables.borrow().clone();
        let mut groups = tables.slots.clone();
        groups.sort_unstable();
        groups.dedup();
        let mut streams = Vec::new();
        for group in groups {
            let op = Op::List {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                after: after.clone(),
                limit,
            };
            match self
                .0
                .ask(Request {
                    target: GroupTarget::Group(group),
                    op,
                })
                .await
            {
                Outcome::Listed(listed) => streams.extend(listed.streams),
                Outcome::Refused(refusal) => return Err(refusal),
                _ => return Err(Refusal::Unavailable),
            }
        }
        streams.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        streams.truncate(limit as usize);
        Ok(Listed { streams })
    }

    fn take_body_budget(&self, bytes: u64) -> Result<Budget, Refusal> {
        let mut budget = Budget {
            bytes: 0,
            max: self.0.config.body_bytes_in_flight_max,
            in_flight: self.0.body_bytes.clone(),
        };
        let taken = budget.grow(bytes);
        if taken.is_err() {
            self.0.metrics.refused("body_bytes_in_flight_max");
        }
        taken.map(|()| budget)
    }

    fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }

    fn monotonic_us(&self) -> u64 {
        self.0.clock.monotonic_us()
    }

    fn random(&self) -> u64 {
        self.0.clock.random()
    }

    async fn sleep(&self, duration: Duration) {
        self.0.timeouts.after(duration).await;
    }

    async fn stopping(&self) {
        self.0.stop.beyond(0).await;
    }

    fn leader_elsewhere(&self, key: &StreamKey) -> Option<String> {
        let core = &self.0;
        let links = core.links.borrow();
        if links.is_empty() {
            return None;
        }
        let group = core.tables.borrow().group_of(key.slot())?;
        let node = core.leaders.borrow().get(group as usize).copied()?;
        core.client_addresses.borrow().get(&node).cloned()
    }

    fn settings(&self) -> Rc<HttpSettings> {
        self.0.http.clone()
    }

    fn answered(&self, operation: Operation, status: u16, micros: u64, bytes_in: u64) {
        self.0.metrics.answered(operation, status, micros, bytes_in);
    }

    fn sent(&self, bytes: u64) {
        add(&self.0.metrics.plain.response_body_bytes_total, bytes);
    }

    fn delivered(&self, micros: u64) {
        self.0.metrics.delivered(micros);
    }

    async fn metrics(&self) -> String {
        let reports = self.0.probe_all(false).await;
        let snapshots: Vec<_> = reports.into_iter().map(|r| r.map(|r| r.snapshot)).collect();
        metrics::render(&self.0.config.node_gauges(), &snapshots)
    }

    async fn health(&self) -> Result<(), String> {
        silent_cores(&self.0.probe_all(false).await).map_or(Ok(()), Err)
    }

    async fn readiness(&self) -> Result<(), Vec<String>> {
        let reasons = not_ready(&self.0.probe_all(false).await);
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }
}
