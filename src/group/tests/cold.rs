//! The cold store: what is flushed and when, what counts, what is dropped, and what a new leader finds.

mod found;
mod late;
mod outage;

use super::checkpoint::checkpointed;
use super::*;
use crate::group::cold::ColdSettings;
use crate::protocol::{ColdChunk, Hold, Offset, PackName};

const SETTINGS: ColdSettings = ColdSettings {
    pack_bytes: 1000,
    flush_age_ms: 60_000,
    live_percent_min: 50,
    grace_ms: 10_000,
    backup_keep_ms: None,
    hot_bytes_target: 1 << 20,
};

/// An order of the group, and what the store would hold.
type Pack = (PackName, Vec<PackedChunk>);

fn cold_world() -> World {
    let mut world = World::of(1, 0);
    world.group.use_cold_store(SETTINGS);
    world
}

/// Ticks, and takes the packs that the group orders.
fn orders(world: &mut World) -> Vec<Pack> {
    world.others.clear();
    world.tick();
    world.settle();
    taken(world)
}

fn taken(world: &mut World) -> Vec<Pack> {
    let mut packs = Vec::new();
    for effect in std::mem::take(&mut world.others) {
        let Effect::WritePack { name, chunks } = effect else {
            continue;
        };
        let chunk_of = |source: &PackSource| {
            let length: usize = source.pieces.iter().map(piece_len).sum();
            PackedChunk {
                key: source.key.clone(),
                incarnation: source.incarnation,
                chunk: ColdChunk {
                    pack: 0,
                    stored: length as u32,
                    position: 32,
                    start: source.start,
                    length: length as u32,
                    crc32c: 7,
                },
            }
        };
        packs.push((name, chunks.iter().map(chunk_of).collect()));
    }
    packs
}

fn piece_len(piece: &crate::protocol::Piece) -> usize {
    match piece {
        crate::protocol::Piece::Hot(bytes) => bytes.len(),
        crate::protocol::Piece::Cold { from, to, .. }
        | crate::protocol::Piece::Stored { from, to, .. } => (to - from) as usize,
        crate::protocol::Piece::Inherited { .. } => unreachable!("own bytes only"),
    }
}

fn answer(world: &mut World, answer: ColdAnswer) {
    world.step(Input::Cold(Box::new(answer)));
    world.settle();
}

fn there(world: &mut World, (name, chunks): Pack) {
    let there = ColdAnswer::There {
        name,
        object_bytes: 100,
        chunks,
    };
    answer(world, there);
}

/// Appends, lets the data become old, and flushes it.
fn flushed(world: &mut World, name: &str, text: &'static str) -> PackName {
    world.ask(name, append(text));
    world.now_ms += SETTINGS.flush_age_ms;
    let mut packs = orders(world);
    assert_eq!(packs.len(), 1);
    let pack = packs.remove(0);
    let pack_name = pack.0;
    there(world, pack);
    pack_name
}

fn planned(world: &mut World, name: &str) -> String {
    match world.ask(name, read()) {
        Outcome::Read(plan) => plan
            .pieces
            .iter()
            .map(|piece| match piece {
                crate::protocol::Piece::Stored { chunk, .. } => format!("<{}>", chunk.length),
                piece => format!("{}", piece_len(piece)),
            })
            .collect(),
        other => format!("{other:?}"),
    }
}

fn agrees(world: &World) {
    assert_eq!(world.replica().state_hash(), world.group.state_hash());
}

#[test]
fn what_a_checkpoint_under_way_packs_leaves_memory_when_it_is_durable() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.group.checkpoint(&mut super::checkpoint::Pack(1));
    checkpointed(&mut world, 1, u64::MAX);
    world.now_ms += SETTINGS.flush_age_ms;
    let mut packs = orders(&mut world);
    world.ask("a", append("67890"));
    world.group.checkpoint(&mut super::checkpoint::Pack(2));
    // The cold store has a part while the rest is being written.
    there(&mut world, packs.remove(0));
    world.group.shed_hot_bytes(0);
    assert_eq!(world.group.hot_bytes(), 5);
    checkpointed(&mut world, 2, 0);
    assert_eq!(world.group.hot_bytes(), 0);
}

#[test]
fn a_pack_is_due_by_size_by_quiet_and_by_age() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.now_ms += SETTINGS.flush_age_ms - 1;
    assert!(orders(&mut world).is_empty());
    world.now_ms += 1;
    let mut packs = orders(&mut world);
    assert_eq!(packs[0].1[0].chunk.length, 5);
    assert!(orders(&mut world).is_empty(), "one at a time");
    there(&mut world, packs.remove(0));
    assert_eq!(world.group.cold_figures(0).behind_bytes, 0);
    world.now_ms += SETTINGS.flush_age_ms * 2;
    assert!(orders(&mut world).is_empty(), "nothing is left");
    // A group that is never quiet flushes by age.
    let begun_ms = world.now_ms;
    let mut packs = Vec::new();
    while packs.is_empty() {
        world.ask("a", append("1"));
        world.now_ms += SETTINGS.flush_age_ms / 2;
        packs = orders(&mut world);
    }
    assert_eq!(world.now_ms - begun_ms, SETTINGS.flush_age_ms * 10);
    there(&mut world, packs.remove(0));
    // Or by size, the longest-waiting streams first, in packs of the size that was asked for.
    world.create("b", Expiry::Never);
    let text = "x".repeat(700).leak();
    for name in ["b", "a"] {
        world.ask(name, append(text));
    }
    let mut packs = orders(&mut world);
    let lengths: Vec<u32> = packs[0].1.iter().map(|c| c.chunk.length).collect();
    assert_eq!(lengths, [700, 300]);
    there(&mut world, packs.remove(0));
    assert_eq!(world.group.cold_figures(0).behind_bytes, 400);
    agrees(&world);
}

#[test]
fn nothing_leaves_memory_before_the_log_says_that_it_is_there() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.now_ms += SETTINGS.flush_age_ms;
    let pack = orders(&mut world).remove(0);
    world.group.shed_hot_bytes(0);
    assert_eq!(world.group.hot_bytes(), 5);
    world.ask("a", append("678"));
    there(&mut world, pack);
    assert_eq!(planned(&mut world, "a"), "8", "memory is nearer");
    world.group.shed_hot_bytes(0);
    assert_eq!(planned(&mut world, "a"), "8", "they share a block");
    flushed(&mut world, "a", "9");
    world.group.shed_hot_bytes(0);
    assert_eq!(world.group.hot_bytes(), 0);
    assert_eq!(planned(&mut world, "a"), "<5><4>");
    agrees(&world);
}

#[test]
fn a_store_that_fails_is_asked_again_and_one_that_conflicts_is_not() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.now_ms += SETTINGS.flush_age_ms;
    let (name, _) = orders(&mut world).remove(0);
    answer(&mut world, ColdAnswer::Failed(name));
    assert!(orders(&mut world).is_empty(), "not at once");
    world.now_ms += 60_000;
    let again = orders(&mut world).remove(0);
    assert_eq!(again.0, name);
    world.others.clear();
    answer(&mut world, ColdAnswer::Conflict(name));
    let other = taken(&mut world);
    let other = if other.is_empty() {
        orders(&mut world)
    } else {
        other
    };
    assert_ne!(other[0].0, name);
    assert_eq!(
        world.group.cold_names().len(),
        1,
        "the other name was given up"
    );
    agrees(&world);
}

#[test]
fn a_new_leader_finds_what_the_one_before_put() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    world.create("b", Expiry::Never);
    world.ask("a", append("12345"));
    world.ask("b", append("123"));
    world.now_ms += SETTINGS.flush_age_ms;
    let pack = orders(&mut world).remove(0);
    let name = pack.0;
    // Its leadership is over before the store has answered; the next one is this replica's again.
    world.group.cold.reset();
    world.ask("b", Op::Delete);
    world.create("b", Expiry::Never);
    world.ask("b", append("456"));
    world.others.clear();
    world.tick();
    let finds = |e: &Effect| matches!(e, Effect::FindPack(found) if *found == name);
    assert!(world.others.iter().any(finds), "{:?}", world.others);
    assert!(
        orders(&mut world).is_empty(),
        "it is found before more is flushed"
    );
    there(&mut world, pack.clone());
    let figures = world.group.cold_figures(0);
    assert_eq!((figures.live_bytes, figures.chunk_bytes), (5, 8));
    assert_eq!(figures.behind_bytes, 3, "another stream stands at b");
    let before = world.group.state_hash();
    there(&mut world, pack);
    assert_eq!(world.group.state_hash(), before, "it counts once");
    agrees(&world);
}

#[test]
fn of_two_packs_with_the_same_bytes_one_counts_and_the_other_is_deleted() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.now_ms += SETTINGS.flush_age_ms;
    let late = orders(&mut world).remove(0);
    world.group.cold.reset();
    world.tick();
    answer(&mut world, ColdAnswer::Missing(late.0));
    let ordered = taken(&mut world);
    let own = ordered.into_iter().find(|(n, _)| *n != late.0);
    let own = own.unwrap_or_else(|| orders(&mut world).remove(0));
    let second = own.0;
    there(&mut world, own);
    assert_eq!(world.group.cold_figures(0).live_bytes, 5);
    world.now_ms += SETTINGS.grace_ms;
    world.tick();
    there(&mut world, late.clone());
    let figures = world.group.cold_figures(0);
    assert_eq!((figures.packs, figures.live_bytes), (2, 5));
    // Nothing refers to it: it is deleted after the grace.
    world.others.clear();
    world.tick();
    assert!(world.others.is_empty());
    world.now_ms += SETTINGS.grace_ms;
    world.tick();
    let Some(Effect::DeletePacks(dead)) = world.others.pop() else {
        panic!("nothing is deleted");
    };
    assert!(dead.len() == 1 && [late.0, second].contains(&dead[0].1));
    answer(&mut world, ColdAnswer::Deleted(vec![dead[0].0]));
    assert_eq!(world.group.cold_figures(0).packs, 1);
    agrees(&world);
}

#[test]
fn a_pack_that_is_mostly_dead_is_written_again_and_deleted() {
    let mut world = cold_world();
    for name in ["a", "b", "c"] {
        world.create(name, Expiry::Never);
        world.ask(name, append("0123456789"));
    }
    world.now_ms += SETTINGS.flush_age_ms;
    let pack = orders(&mut world).remove(0);
    let first = pack.0;
    there(&mut world, pack);
    world.group.shed_hot_bytes(0);
    world.ask("a", Op::Delete);
    assert!(orders(&mut world).is_empty(), "two thirds live");
    world.ask("b", Op::Delete);
    let mut packs = orders(&mut world);
    assert_eq!(packs[0].1.len(), 1);
    assert_eq!(packs[0].1[0].key, key("c"));
    there(&mut world, packs.remove(0));
    assert_eq!(planned(&mut world, "c"), "<10>");
    world.now_ms += SETTINGS.grace_ms;
    world.others.clear();
    world.tick();
    let is_first = |e: &Effect| matches!(e, Effect::DeletePacks(dead) if dead[0].1 == first);
    assert!(world.others.iter().any(is_first));
    agrees(&world);
}

#[test]
fn what_is_trimmed_is_gone_for_readers_and_kept_for_forks() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    flushed(&mut world, "a", "01234");
    flushed(&mut world, "a", "56789");
    world.group.shed_hot_bytes(0);
    let hold = |hold_id| {
        Op::Hold(Hold {
            fork_key: key("fork"),
            hold_id,
            offset: None,
            incarnation: Incarnation(0),
        })
    };
    assert!(matches!(world.ask("a", hold(1)), Outcome::Held(h) if h.floor == Offset(0)));
    let incarnation = Incarnation(1);
    let trim = |offset| Op::Trim {
        offset: Offset(offset),
        incarnation,
    };
    assert!(matches!(world.ask("a", trim(5)), Outcome::Done));
    assert!(matches!(
        world.ask("a", trim(11)),
        Outcome::Refused(Refusal::OffsetBeyondTail { .. })
    ));
    let from = |at| {
        Op::Read(Read {
            from: ReadFrom::At(Offset(at)),
            bytes_max: 100,
            is_live: false,
        })
    };
    assert!(matches!(
        world.ask("a", from(4)),
        Outcome::Refused(Refusal::OffsetExpired {
            earliest: Offset(5)
        })
    ));
    assert_eq!(planned(&mut world, "a"), "<5>");
    let inherited = Op::ReadInherited {
        incarnation,
        from: Offset(0),
        to: Offset(10),
    };
    assert!(matches!(world.ask("a", inherited.clone()), Outcome::Read(p) if p.pieces.len() == 2));
    assert!(matches!(world.ask("a", hold(2)), Outcome::Held(h) if h.floor == Offset(5)));
    assert_eq!(world.group.cold_figures(0).live_bytes, 10);
    for hold_id in [1, 2] {
        let release = Op::ReleaseHold {
            incarnation,
            hold_id,
        };
        world.ask("a", release);
    }
    assert_eq!(world.group.cold_figures(0).live_bytes, 5);
    assert!(matches!(world.ask("a", inherited), Outcome::Refused(_)));
    agrees(&world);
}

/// What a checkpoint writes and a start reads.
struct Tables(BTreeMap<StreamKey, Vec<u8>>);

impl Tables {
    fn checkpoint(&mut self, world: &mut World, pack: u32) -> Machine {
        struct Place(u32);
        impl PlaceChunk for Place {
            fn place(
                &mut self,
                _: &StreamKey,
                _: Incarnation,
                start: u64,
                pieces: Vec<Bytes>,
            ) -> crate::protocol::ChunkRef {
                crate::protocol::ChunkRef {
                    pack: self.0,
                    position: 0,
                    start,
                    length: pieces.iter().map(Bytes::len).sum::<usize>() as u32,
                    crc32c: 0,
                }
            }
        }
        let plan = world.group.checkpoint(&mut Place(pack));
        for (key, value) in plan.delta {
            match value {
                Some(value) => {
                    let older = self.0.get(&key).map(Vec::as_slice);
                    let joined = combine_stream_states(older, &value);
                    self.0.insert(key, joined);
                }
                None => {
                    self.0.remove(&key);
                }
            }
        }
        let streams = self.0.iter().map(|(k, v)| (k.clone(), v.clone()));
        Machine::load(1, &plan.group_state, streams).unwrap()
    }
}

#[test]
fn tables_hold_what_was_flushed_moved_and_trimmed() {
    let mut world = cold_world();
    let mut tables = Tables(BTreeMap::new());
    for name in ["a", "b"] {
        world.create(name, Expiry::Never);
    }
    let mut pack = 0;
    let mut check = |world: &mut World, tables: &mut Tables| {
        pack += 1;
        let loaded = tables.checkpoint(world, pack);
        assert_eq!(loaded.state_hash(), world.group.state_hash());
        let own = &world.group.machine;
        for (key, stream) in &own.streams {
            let other = &loaded.streams[key];
            assert_eq!(other.bytes.chunks(), stream.bytes.chunks(), "{key:?}");
            assert_eq!(other.bytes.end(), stream.bytes.end());
        }
        let live = |m: &Machine| {
            m.cold
                .packs
                .values()
                .map(|p| p.live_bytes)
                .collect::<Vec<_>>()
        };
        assert_eq!(live(&loaded), live(own));
    };
    world.ask("a", append("0123456789"));
    check(&mut world, &mut tables);
    world.ask("b", append("0123456789"));
    check(&mut world, &mut tables);
    flushed(&mut world, "a", "abc");
    check(&mut world, &mut tables);
    world.ask("b", append("x"));
    check(&mut world, &mut tables);
    flushed(&mut world, "a", "def");
    check(&mut world, &mut tables);
    // All of the first pack but what b has there goes: that is moved to another one.
    let trim = Op::Trim {
        offset: Offset(14),
        incarnation: Incarnation(1),
    };
    world.ask("a", trim);
    check(&mut world, &mut tables);
    let mut packs = orders(&mut world);
    assert_eq!(packs.len(), 1, "nothing is written again");
    there(&mut world, packs.remove(0));
    check(&mut world, &mut tables);
    flushed(&mut world, "b", "y");
    check(&mut world, &mut tables);
    agrees(&world);
}

#[test]
fn a_moved_chunk_of_which_a_part_was_trimmed_is_where_it_was_moved_to() {
    let mut world = cold_world();
    let mut tables = Tables(BTreeMap::new());
    for name in ["a", "b"] {
        world.create(name, Expiry::Never);
    }
    world.ask("a", append("0123456789"));
    flushed(&mut world, "b", "0123456789abcde");
    tables.checkpoint(&mut world, 1);
    world.ask("b", Op::Delete);
    let mut packs = orders(&mut world);
    assert_eq!(packs.len(), 1, "nothing is written again");
    there(&mut world, packs.remove(0));
    let trim = Op::Trim {
        offset: Offset(3),
        incarnation: Incarnation(1),
    };
    world.ask("a", trim);
    let loaded = tables.checkpoint(&mut world, 2);
    assert_eq!(loaded.state_hash(), world.group.state_hash());
}
