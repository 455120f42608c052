//! Handing over: who waits meanwhile, and for how long the old leader is needed.

use ::raft::prelude::MessageType;
use raftproto::peer::RaftMessage;

use super::replicas::{Cluster, others};
use super::*;

#[test]
fn leadership_is_handed_over_without_a_refusal() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    cluster.ask(old, "s", create(Expiry::Never));
    cluster.step(old, Input::TransferLeader(None));
    let asked = cluster.send(old, "s", append("x"));
    for _ in 0..4 {
        cluster.tick();
    }
    let outcome = cluster.answers.remove(&asked);
    assert!(
        matches!(outcome, Some(Outcome::Appended { .. })),
        "{outcome:?}"
    );
    assert!(!cluster.group(old).is_leader());
}

#[test]
fn a_hand_over_to_a_node_that_is_lost_holds_nobody_up() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    let (heir, _) = others(old);
    cluster.ask(old, "s", create(Expiry::Never));
    cluster.cut.insert(heir);
    cluster.step(old, Input::TransferLeader(Some(heir)));
    let asked = cluster.send(old, "s", append("x"));
    assert!(!cluster.answers.contains_key(&asked), "it waits");
    cluster.step(old, Input::LinkLost(heir));
    // Well before the time-out of a hand-over.
    cluster.tick();
    let outcome = cluster.answers.remove(&asked);
    assert!(
        matches!(outcome, Some(Outcome::Appended { .. })),
        "{outcome:?}"
    );
    assert!(cluster.group(old).is_leader());
}

#[test]
fn who_handed_over_is_needed_until_the_heir_has_committed() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    let (heir, third) = others(old);
    cluster.ask(old, "s", create(Expiry::Never));
    cluster.cut.insert(third);
    cluster.step(old, Input::TransferLeader(Some(heir)));
    let mut looks_between = 0;
    while !cluster.group(old).is_led_elsewhere() {
        assert!(cluster.settle_one(), "it never is");
        let has_stepped_down = !cluster.group(old).is_leader();
        looks_between += usize::from(has_stepped_down);
    }
    // Its vote, and the heir's first entry, had to be written and sent.
    assert!(looks_between > 4, "{looks_between}");
    assert!(cluster.group(heir).is_ready());
}

#[test]
fn who_has_just_started_votes_for_the_heir_of_a_hand_over_only() {
    let start = || RaftStart {
        node_id: 1,
        membership: members(&[1, 2, 3]),
        hard_state: SavedHardState {
            term: 5,
            ..SavedHardState::default()
        },
        ..RaftStart::default()
    };
    let request = |context: &'static [u8]| RaftMessage {
        group: 1,
        r#type: MessageType::MsgRequestVote as u32,
        to: 1,
        from: 2,
        term: 6,
        index: 9,
        log_term: 5,
        context: Some(Bytes::from_static(context)),
        ..RaftMessage::default()
    };
    for (context, term) in [(&b""[..], 5), (::raft::CAMPAIGN_TRANSFER, 6)] {
        let mut started = Group::new(Machine::new(1), start(), 0).unwrap();
        let mut effects = Vec::new();
        started.step(Now::default(), Input::Peer(request(context)), &mut effects);
        assert_eq!(started.term(), term, "{effects:?}");
        let is_written = effects.iter().any(|e| matches!(e, Effect::Persist(_)));
        assert_eq!(is_written, term == 6, "{effects:?}");
    }
}
