//! A group without a disk: requests in, one entry, its commit, its application, replies out.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use raftproto::checkpoint::Membership;
use ursula::group::{Effect, Group, Input, Machine, Now, RaftStart, ReplyTo};
use ursula::protocol::{Append, ContentType, Create, Expiry, Op, Request, StreamKey};

const STREAMS: usize = 1000;
const BATCH: usize = 16;

/// Carries out what the group wants until it is quiet, as if the disk answered at once.
fn settle(group: &mut Group, effects: &mut Vec<Effect>) -> usize {
    let mut replies = 0;
    while !effects.is_empty() {
        for effect in std::mem::take(effects) {
            match effect {
                Effect::Persist(persist) => {
                    group.step(now(), Input::Persisted(persist.number), effects);
                }
                Effect::Reply { .. } => replies += 1,
                _ => {}
            }
        }
    }
    replies
}

fn now() -> Now {
    Now {
        wall_ms: 1,
        monotonic_us: 1,
    }
}

fn keys() -> Vec<StreamKey> {
    (0..STREAMS)
        .map(|n| StreamKey::from_stored(&format!("/load/stream-{n}")))
        .collect()
}

fn ask(group: &mut Group, key: &StreamKey, op: Op, effects: &mut Vec<Effect>) {
    let request = Request::on_key(key.clone(), op);
    let reply_to = ReplyTo(1);
    group.step(now(), Input::Request { request, reply_to }, effects);
}

fn leading_group(keys: &[StreamKey]) -> Group {
    let start = RaftStart {
        node_id: 1,
        membership: Membership {
            voters: vec![1],
            ..Membership::default()
        },
        ..RaftStart::default()
    };
    let mut group = Group::new(Machine::new(1), start, 0).expect("the configuration is valid");
    let mut effects = Vec::new();
    group
        .campaign(now(), &mut effects)
        .expect("the only voter wins");
    settle(&mut group, &mut effects);
    for key in keys {
        let create = Create {
            content_type: ContentType::default_type(),
            expiry: Expiry::Never,
            closed: false,
            body: Bytes::new(),
            bucket_generation: 0,
            retention: ursula::protocol::Retention::default(),
            is_bucket_retention: false,
            fork: None,
        };
        ask(&mut group, key, Op::Create(create), &mut effects);
    }
    group.step(now(), Input::Flush, &mut effects);
    assert_eq!(settle(&mut group, &mut effects), keys.len());
    group
}

/// 16 appends of 256 bytes in one entry: proposed, committed, applied, answered.
pub fn apply(c: &mut Criterion) {
    let keys = keys();
    let body = Bytes::from(vec![b'x'; 256]);
    let mut bench = c.benchmark_group("group_apply");
    bench.throughput(Throughput::Elements(BATCH as u64));
    bench.bench_function("16_appends_of_256_bytes", |b| {
        let mut group = leading_group(&keys);
        let mut next = 0;
        let batch = || (0..BATCH).map(|_| body.clone()).collect::<Vec<_>>();
        b.iter_batched(
            batch,
            |bodies| {
                let mut effects = Vec::new();
                for body in bodies {
                    next = (next + 1) % STREAMS;
                    let append = Append {
                        content_type: Some(ContentType::default_type()),
                        body,
                        close: false,
                        stream_seq: None,
                        producer: None,
                        incarnation_below: None,
                    };
                    ask(&mut group, &keys[next], Op::Append(append), &mut effects);
                }
                group.step(now(), Input::Flush, &mut effects);
                assert_eq!(settle(&mut group, &mut effects), BATCH);
            },
            BatchSize::SmallInput,
        );
    });
    bench.finish();
}
