//! A core that knows two streams of every name: those whose ids end with `j` are of JSON messages, the others are text. It takes
//! what it is asked to, and checks that the edge asked for nothing that a group may not be given; or answers at once, where the
//! edge alone is measured.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ursula::http::backend::{
    Backend, BodyBudget, ForkCreate, HttpSettings, LiveTail, LiveUpdate, Operation, TailState,
    tail_state,
};
use ursula::http::path;
use ursula::protocol::{
    BucketInfo, BucketName, BucketTerms, ContentType, Created, Expiry, ForkRequest, GroupTarget,
    Incarnation, Listed, Meta, Offset, Op, Outcome, ReadFrom, ReadPlan, Refusal, Request,
    Retention, StreamKey, json,
};

/// See the module's head.
pub struct Stub {
    settings: Rc<HttpSettings>,
    answers: Cell<u64>,
    has_checks: bool,
}

impl Default for Stub {
    fn default() -> Stub {
        thread_local! {
            static SETTINGS: Rc<HttpSettings> = {
                let none = BTreeMap::default();
                let loaded = ursula::config::load(&none, std::iter::empty(), None);
                let (config, _) = loaded.expect("the defaults are valid");
                Rc::new(config.http_settings(7))
            };
        }
        Stub {
            settings: SETTINGS.with(Rc::clone),
            answers: Cell::new(0),
            has_checks: true,
        }
    }
}

impl Stub {
    /// One that takes each append without a look.
    pub fn quick() -> Stub {
        Stub {
            has_checks: false,
            ..Stub::default()
        }
    }

    /// Requests that were answered.
    pub fn answers(&self) -> u64 {
        self.answers.get()
    }

    fn take_body(&self, body: &Bytes) {
        // Frames of JSON are longer than what came.
        assert!(body.len() as u64 <= 2 * self.settings.body_bytes_max);
    }
}

fn is_json(key: &StreamKey) -> bool {
    key.id().ends_with('j')
}

fn content(key: &StreamKey) -> Bytes {
    match is_json(key) {
        true => json::frame(br#"[1, {"a": "two"}, "three"]"#, false).expect("it is JSON"),
        false => Bytes::from_static("a line\r\nand\rmore\n\u{2028}\u{e9}".as_bytes()),
    }
}

fn meta(key: &StreamKey) -> Meta {
    let content_type = if is_json(key) {
        "application/json"
    } else {
        "text/plain"
    };
    Meta {
        incarnation: Incarnation(1),
        content_type: ContentType::parse(content_type).expect("it is one"),
        tail: Offset(content(key).len() as u64),
        closed: key.id().starts_with('c'),
        expiry: Expiry::Never,
        retention: Retention::default(),
    }
}

fn plan(key: &StreamKey, from: ReadFrom) -> Outcome {
    let meta = meta(key);
    let end = meta.tail;
    let start = match from {
        ReadFrom::Start => Offset(0),
        ReadFrom::Now => end,
        ReadFrom::At(offset) if offset > end => {
            return Outcome::Refused(Refusal::OffsetMisaligned);
        }
        ReadFrom::At(offset) => offset,
    };
    Outcome::Read(ReadPlan {
        lead: u8::from(is_json(key) && start.0 > 0 && start < end),
        meta,
        start,
        end,
        pieces: Vec::new(),
        ahead: Vec::new(),
    })
}

/// Nothing is ever appended.
pub struct Still(TailState);

impl LiveTail for Still {
    fn state(&self) -> TailState {
        self.0
    }

    async fn changed(&self, _seen: Offset) -> TailState {
        std::future::pending().await
    }

    fn update_at(&self, _position: Offset) -> Option<Rc<LiveUpdate>> {
        None
    }
}

/// What a body may take in all.
pub struct Budget {
    left: u64,
}

impl BodyBudget for Budget {
    fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.left = self.left.checked_sub(bytes).expect("bodies have a bound");
        Ok(())
    }
}

impl Backend for Stub {
    type Tail = Still;
    type BodyBudget = Budget;

    async fn submit(&self, request: Request) -> Outcome {
        let GroupTarget::Key(key) = &request.target else {
            return Outcome::Refused(Refusal::Unavailable);
        };
        if self.has_checks {
            let own = path::path_of(key);
            assert_eq!(path::stream_path(&own).expect("it was a path"), *key);
        }
        match request.op {
            Op::Create(create) => {
                self.take_body(&create.body);
                Outcome::Created(Created {
                    fresh: true,
                    meta: Meta {
                        content_type: create.content_type,
                        expiry: create.expiry,
                        closed: create.closed,
                        ..meta(key)
                    },
                })
            }
            Op::Append(append) => {
                self.take_body(&append.body);
                Outcome::Appended {
                    tail: Offset(256),
                    closed: false,
                    duplicate: false,
                    producer: None,
                }
            }
            Op::Head => Outcome::Head(meta(key)),
            Op::Read(read) => plan(key, read.from),
            Op::Delete => Outcome::Done,
            _ => Outcome::Refused(Refusal::Unavailable),
        }
    }

    async fn materialize(&self, plan: &ReadPlan) -> Result<Vec<Bytes>, Refusal> {
        let key = StreamKey::from_stored(match plan.meta.content_type.is_json() {
            true => "/j",
            false => "/t",
        });
        let from = plan.start.0 as usize - usize::from(plan.lead);
        Ok(vec![content(&key).slice(from..plan.end.0 as usize)])
    }

    async fn watch(&self, key: &StreamKey) -> Result<Still, Refusal> {
        Ok(Still(tail_state(&meta(key))))
    }

    async fn create_fork(
        &self,
        key: StreamKey,
        _fork: ForkRequest,
        create: ForkCreate,
    ) -> Result<Created, Refusal> {
        self.take_body(&create.raw_body);
        Ok(Created {
            fresh: true,
            meta: meta(&key),
        })
    }

    async fn bucket_terms(&self, _name: &BucketName, _stale: bool) -> Result<BucketTerms, Refusal> {
        Ok(BucketTerms {
            generation: 1,
            retention: Retention::default(),
        })
    }

    async fn create_bucket(
        &self,
        name: BucketName,
        retention: Option<Retention>,
    ) -> Result<BucketInfo, Refusal> {
        Ok(BucketInfo {
            name,
            generation: 1,
            created_ms: 0,
            deleting: false,
            fresh: true,
            retention: retention.unwrap_or_default(),
        })
    }

    async fn delete_bucket(&self, _name: BucketName) -> Result<(), Refusal> {
        Ok(())
    }

    async fn list(
        &self,
        bucket: BucketName,
        prefix: String,
        _after: Option<String>,
        limit: u32,
    ) -> Result<Listed, Refusal> {
        assert!((1..=1000).contains(&limit));
        let key = StreamKey::from_stored(&format!("{}/{prefix}", bucket.as_str()));
        let meta = meta(&key);
        Ok(Listed {
            streams: vec![(key, meta)],
        })
    }

    fn take_body_budget(&self, bytes: u64) -> Result<Budget, Refusal> {
        let left = self.settings.body_bytes_max.checked_sub(bytes);
        Ok(Budget {
            left: left.expect("bodies have a bound"),
        })
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
        self.settings.clone()
    }

    fn answered(&self, _operation: Operation, status: u16, _micros: u64, _bytes_in: u64) {
        assert_ne!(status, 500, "a mistake of ours");
        self.answers.set(self.answers.get() + 1);
    }

    fn sent(&self, _bytes: u64) {}

    fn delivered(&self, _micros: u64) {}

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
