//! What a checkpoint packs, and what may leave memory after it.

use ::raft::prelude::MessageType;
use raftproto::peer::{CheckpointInfo, RaftMessage};

use super::replicas::{Cluster, others};
use super::*;
use crate::protocol::ChunkRef;

/// Packs that nobody reads.
pub(super) struct Pack(pub(super) u32);

impl PlaceChunk for Pack {
    fn place(&mut self, _: &StreamKey, _: Incarnation, start: u64, pieces: Vec<Bytes>) -> ChunkRef {
        ChunkRef {
            pack: self.0,
            position: 0,
            start,
            length: pieces.iter().map(Bytes::len).sum::<usize>() as u32,
            crc32c: 0,
        }
    }
}

#[test]
fn what_was_packed_longest_ago_leaves_memory_first() {
    let mut world = World::of(1, 0);
    // The order of packing is not that of the keys.
    for (pack, name) in [(1, "c"), (2, "a"), (3, "b")] {
        world.create(name, Expiry::Never);
        world.ask(name, append("12345"));
        world.group.checkpoint(&mut Pack(pack));
    }
    world.ask("c", append("67890"));
    let hot = |world: &World, name: &str| world.group.machine.streams[name].bytes.hot_len();
    checkpointed(&mut world, 2, 15);
    assert_eq!((world.group.hot_bytes(), hot(&world, "/c")), (15, 5));
    checkpointed(&mut world, 2, 0);
    assert_eq!(
        (hot(&world, "/a"), hot(&world, "/b")),
        (0, 5),
        "3 is not durable"
    );
    world.group.checkpoint(&mut Pack(4));
    assert!(matches!(world.ask("b", Op::Delete), Outcome::Done));
    checkpointed(&mut world, 4, 0);
    assert_eq!(world.group.hot_bytes(), 0);
    assert!(world.group.machine.packed_hot.is_empty());
}

pub(super) fn checkpointed(world: &mut World, pack: u32, target: u64) {
    let position = world.group.applied();
    world
        .group
        .checkpointed(pack, position, &members(&[1]), target);
}

/// How many checkpoints a replica asks for, and the number under which it has one put in its place.
fn wishes(effects: &[Effect]) -> (usize, Option<u64>) {
    let asks = effects
        .iter()
        .filter(|e| matches!(e, Effect::FetchCheckpoint { .. }));
    let install = effects.iter().find_map(|e| match e {
        Effect::Install(persist) => Some(persist.number),
        _ => None,
    });
    (asks.count(), install)
}

#[test]
fn a_second_checkpoint_waits_until_the_first_is_in_its_place() {
    let mut cluster = Cluster::new();
    let late = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(late);
    cluster.cut.insert(late);
    let leader = cluster.elect(&[a, b]);
    let written = cluster.ask(leader, "s", create(Expiry::Never));
    assert!(matches!(written, Outcome::Created(_)), "{written:?}");
    cluster.checkpoint(leader);
    let first = cluster.fetched(leader);
    cluster.ask(leader, "s", append("x"));
    cluster.checkpoint(leader);
    let second = cluster.fetched(leader);
    let term = cluster.group(leader).term();
    let offer = |fetched: &Fetched, from: u64, term: u64| {
        Input::Peer(RaftMessage {
            group: 1,
            r#type: MessageType::MsgSnapshot as u32,
            to: late,
            from,
            term,
            checkpoint: Some(CheckpointInfo {
                index: fetched.position.index,
                term: fetched.position.term,
                membership: Some(fetched.membership.clone()),
            }),
            ..RaftMessage::default()
        })
    };
    let now = Now {
        wall_ms: 1000,
        monotonic_us: 1_000_000,
    };
    let step = |cluster: &mut Cluster, input| {
        let mut effects = Vec::new();
        cluster.group(late).step(now, input, &mut effects);
        wishes(&effects)
    };
    // Another leader of a later term may offer the second one.
    let other = if leader == a { b } else { a };
    let again = |fetched: &Fetched| offer(fetched, other, term + 1);
    assert_eq!(step(&mut cluster, offer(&first, leader, term)), (1, None));
    assert_eq!(step(&mut cluster, again(&second)), (0, None));
    let at = first.position;
    let (asks, install) = step(&mut cluster, Input::Fetched(Box::new(first)));
    assert_eq!(asks, 0);
    let number = install.expect("it goes to its place");
    assert_eq!(step(&mut cluster, again(&second)), (0, None));
    let early = cluster.fetched(leader);
    assert_eq!(
        step(&mut cluster, Input::Fetched(Box::new(early))),
        (0, None)
    );
    assert_eq!(cluster.group(late).applied(), at);
    step(&mut cluster, Input::Persisted(number));
    assert_eq!(step(&mut cluster, again(&second)), (1, None));
    let at = second.position;
    let (_, install) = step(&mut cluster, Input::Fetched(Box::new(second)));
    step(
        &mut cluster,
        Input::Persisted(install.expect("it goes to its place")),
    );
    assert_eq!(cluster.group(late).applied(), at);
}
