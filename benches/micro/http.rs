//! HTTP without a socket: hyper parses a row of appends out of memory, a backend answers at once, the answers are
//! rendered into nothing.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use ursula::http::backend::{
    Backend, BodyBudget, ForkCreate, HttpSettings, LiveTail, LiveUpdate, Operation, TailState,
};
use ursula::protocol::{
    BucketInfo, BucketName, BucketTerms, Created, ForkRequest, Listed, Offset, Outcome, ReadPlan,
    Refusal, Request, Retention, StreamKey,
};

const REQUESTS: usize = 100;

/// What a client sent, and a place for what it gets.
struct Memory {
    input: Bytes,
    written: usize,
}

impl Read for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.input.is_empty() {
            // A client that waits for its last answer, which ends the connection.
            return Poll::Pending;
        }
        let len = self.input.len().min(buf.remaining());
        buf.put_slice(&self.input.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.written += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Accepts every append and knows nothing else.
struct Accepting(Rc<HttpSettings>);

struct NoTail;

impl LiveTail for NoTail {
    fn state(&self) -> TailState {
        unreachable!("no live reads here")
    }

    async fn changed(&self, _seen: Offset) -> TailState {
        unreachable!("no live reads here")
    }

    fn update_at(&self, _position: Offset) -> Option<Rc<LiveUpdate>> {
        None
    }
}

struct Unbounded;

impl BodyBudget for Unbounded {
    fn grow(&mut self, _bytes: u64) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Backend for Accepting {
    type Tail = NoTail;
    type BodyBudget = Unbounded;

    async fn submit(&self, _request: Request) -> Outcome {
        Outcome::Appended {
            tail: Offset(256),
            closed: false,
            duplicate: false,
            producer: None,
        }
    }

    async fn materialize(&self, _plan: &ReadPlan) -> Result<Vec<Bytes>, Refusal> {
        Err(Refusal::Unavailable)
    }

    async fn watch(&self, _key: &StreamKey) -> Result<NoTail, Refusal> {
        Err(Refusal::Unavailable)
    }

    async fn create_fork(
        &self,
        _key: StreamKey,
        _fork: ForkRequest,
        _create: ForkCreate,
    ) -> Result<Created, Refusal> {
        Err(Refusal::Unavailable)
    }

    async fn bucket_terms(&self, _name: &BucketName, _stale: bool) -> Result<BucketTerms, Refusal> {
        Err(Refusal::Unavailable)
    }

    async fn create_bucket(
        &self,
        _name: BucketName,
        _retention: Option<Retention>,
    ) -> Result<BucketInfo, Refusal> {
        Err(Refusal::Unavailable)
    }

    async fn delete_bucket(&self, _name: BucketName) -> Result<(), Refusal> {
        Err(Refusal::Unavailable)
    }

    async fn list(
        &self,
        _bucket: BucketName,
        _prefix: String,
        _after: Option<String>,
        _limit: u32,
    ) -> Result<Listed, Refusal> {
        Err(Refusal::Unavailable)
    }

    fn take_body_budget(&self, _bytes: u64) -> Result<Unbounded, Refusal> {
        Ok(Unbounded)
    }

    fn now_ms(&self) -> u64 {
        0
    }

    fn monotonic_us(&self) -> u64 {
        0
    }

    fn random(&self) -> u64 {
        0
    }

    async fn sleep(&self, _duration: Duration) {
        std::future::pending().await
    }

    async fn stopping(&self) {
        std::future::pending().await
    }

    fn leader_elsewhere(&self, _key: &StreamKey) -> Option<String> {
        None
    }

    fn settings(&self) -> Rc<HttpSettings> {
        self.0.clone()
    }

    fn answered(&self, _operation: Operation, _status: u16, _micros: u64, _bytes_in: u64) {}

    fn sent(&self, _bytes: u64) {}

    fn delivered(&self, _: u64) {}

    async fn metrics(&self) -> String {
        String::new()
    }

    async fn health(&self) -> Result<(), String> {
        Ok(())
    }

    async fn readiness(&self) -> Result<(), Vec<String>> {
        Ok(())
    }
}

/// 100 appends of 256 bytes on one connection.
pub fn parse_to_reply(c: &mut Criterion) {
    let request = |connection: &str| {
        let body = "x".repeat(256);
        format!(
            "POST /v1/stream/load/stream-17 HTTP/1.1\r\nhost: 127.0.0.1:4437\r\nconnection: {connection}\r\n\
             content-type: application/octet-stream\r\ncontent-length: 256\r\n\r\n{body}"
        )
    };
    let requests = request("keep-alive").repeat(REQUESTS - 1) + &request("close");
    let input = Bytes::from(requests);
    let (config, _) = ursula::config::load(&BTreeMap::default(), std::iter::empty(), None)
        .expect("the defaults are valid");
    let backend = Rc::new(Accepting(Rc::new(config.http_settings(0))));
    let mut group = c.benchmark_group("http_parse_to_reply");
    group.throughput(Throughput::Elements(REQUESTS as u64));
    group.bench_function("100_appends_of_256_bytes", |b| {
        b.iter(|| {
            let backend = backend.clone();
            let service = service_fn(move |request| {
                let answer = ursula::http::serve(backend.clone(), request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            let memory = Memory {
                input: input.clone(),
                written: 0,
            };
            let mut builder = http1::Builder::new();
            builder.header_read_timeout(None);
            let served = futures_lite::future::block_on(
                builder.serve_connection(memory, service).without_shutdown(),
            );
            let parts = served.expect("nothing is malformed");
            assert!(parts.io.written > 100 * REQUESTS);
        });
    });
    group.finish();
}
