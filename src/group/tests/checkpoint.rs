//! What a checkpoint packs, and what may leave memory after it.

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
