//! The end of a stream against the writes and reads that keep it alive.

use super::*;

const TTL: Expiry = Expiry::Ttl(10);

#[test]
fn an_append_on_its_way_outlives_the_expiry_that_was_queued_behind_it() {
    for second_append in [false, true] {
        let mut world = World::of(1, 0);
        world.create("a", TTL);
        world.now_ms = 9_990;
        let first = world.send(GroupTarget::Key(key("a")), append("one"));
        world.flush();
        world.now_ms = 10_010;
        // Either of them judges by what is applied, and the first append is not.
        let second = second_append
            .then(|| world.send(GroupTarget::Key(key("a")), append("two")))
            .inspect(|_| world.flush());
        world.tick();
        world.settle();
        assert_eq!(tail_of(&world.answer(first)), Some(3));
        let tail = if second_append { 6 } else { 3 };
        if let Some(second) = second {
            assert_eq!(tail_of(&world.answer(second)), Some(tail));
        }
        assert_eq!(tail_of(&world.ask("a", Op::Head)), Some(tail), "I1");
        assert_eq!(world.replica().state_hash(), world.group.state_hash());
        // It still ends when its new window is over, and not a minute later.
        world.now_ms += 10_000;
        world.tick();
        world.settle();
        assert_eq!(world.group.stream_count(), 0);
    }
}

#[test]
fn a_stream_without_writes_ends_and_its_key_is_free() {
    let mut world = World::of(1, 0);
    world.create("a", TTL);
    world.now_ms = 10_000;
    assert!(matches!(
        world.ask("a", append("late")),
        Outcome::Refused(Refusal::NotFound)
    ));
    assert_eq!(world.group.stream_count(), 0);
    world.create("a", Expiry::Never);
}

#[test]
fn a_read_that_is_not_logged_keeps_a_stream_alive() {
    let mut world = World::of(1, 0);
    world.create("a", TTL);
    world.now_ms = 1_000;
    let entries = world.log.len();
    assert!(matches!(world.ask("a", read()), Outcome::Read(_)));
    assert_eq!(world.log.len(), entries, "slid by less than an eighth");
    world.now_ms = 10_500;
    world.tick();
    world.settle();
    assert_eq!(world.group.stream_count(), 1);
    world.now_ms = 11_000;
    world.tick();
    world.settle();
    assert_eq!(world.group.stream_count(), 0);
}

#[test]
fn a_touch_changes_nothing_that_is_replicated_before_it_is_applied() {
    let mut world = World::of(1, 0);
    world.create("a", TTL);
    let before = world.group.state_hash();
    world.now_ms = 5_000;
    for _ in 0..3 {
        world.send(GroupTarget::Key(key("a")), read());
        world.flush();
    }
    assert_eq!(world.group.state_hash(), before, "I5");
    let last = world.log.last().unwrap();
    let batch = decode_batch(last, raftproto::version::COMMANDS).unwrap();
    assert_eq!(batch.commands.len(), 1, "logged once");
    world.settle();
    assert_ne!(world.group.state_hash(), before);
    assert_eq!(world.replica().state_hash(), world.group.state_hash());
}

#[test]
fn a_streams_place_in_the_queue_goes_with_it() {
    let mut world = World::of(1, 0);
    for _ in 0..100 {
        world.create("a", Expiry::Ttl(1 << 39));
        assert!(matches!(world.ask("a", Op::Delete), Outcome::Done));
    }
    assert!(world.group.machine.deadlines.is_empty());
    world.create("a", TTL);
    world.now_ms = 10_000;
    world.tick();
    assert_eq!(world.group.machine.deadlines.len(), 1, "if it is lost");
    world.settle();
    assert!(world.group.machine.deadlines.is_empty());
}

#[test]
fn many_streams_that_are_due_end_in_many_entries() {
    let mut world = World::of(1, 0);
    for name in 0..2_500 {
        world.send(GroupTarget::Key(key(&name.to_string())), create(TTL));
    }
    world.settle();
    world.now_ms = 60_000;
    for left in [1_500, 500, 0] {
        world.tick();
        world.settle();
        assert_eq!(world.group.stream_count(), left);
    }
}

#[test]
fn a_wrong_clock_that_was_put_right_before_its_group_led_stamps_nothing() {
    const YEAR_MS: u64 = 365 * 24 * 3_600_000;
    let mut cluster = super::replicas::Cluster::new();
    let wrong = Now {
        wall_ms: cluster.now_us / 1000 + YEAR_MS,
        monotonic_us: cluster.now_us,
    };
    cluster
        .group(1)
        .step(wrong, Input::RaftTick, &mut Vec::new());
    cluster.elect(&[1]);
    cluster.ask(1, "a", create(Expiry::Never));
    assert!(cluster.group(1).machine.last_stamp_ms < YEAR_MS);
}
