//! What another node says of groups: a replica takes it, or names what is wrong.

use bytes::Bytes;
use prost::Message;
use raftproto::checkpoint::Membership;
use raftproto::peer::{Batch, HibernateGroup, RaftMessage};
use ursula::group::{Effect, Group, Input, Machine, Now, RaftSettings, RaftStart};

/// Whatever another node says, a replica lives on: it takes it, or names what is wrong.
pub fn raft(data: &[u8]) {
    let Ok(batch) = Batch::decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let start = RaftStart {
        node_id: 1,
        membership: Membership {
            voters: vec![1, 2, 3],
            ..Membership::default()
        },
        settings: RaftSettings::default(),
        ..RaftStart::default()
    };
    let mut group = Group::new(Machine::new(1), start, 0).expect("a sound start");
    let mut effects = Vec::new();
    let mut now = Now {
        wall_ms: 1_700_000_000_000,
        monotonic_us: 1_000_000,
    };
    let mut step = |input| {
        now.monotonic_us += 1_000;
        group.step(now, input, &mut effects);
        let persisted = effects.drain(..).filter_map(|effect| match effect {
            Effect::Persist(persist) | Effect::Install(persist) => Some(persist.number),
            _ => None,
        });
        for number in persisted.collect::<Vec<_>>() {
            group.step(now, Input::Persisted(number), &mut effects);
        }
        effects.clear();
    };
    for message in batch.raft.into_iter().take(16) {
        // What is in the entries was committed by a sound leader, which a peer that lies is not: they are empty here.
        let is_empty = |e: &raftproto::peer::LogEntry| e.payload.is_empty() && e.r#type == 0;
        if message.entries.iter().all(is_empty) {
            step(Input::Peer(RaftMessage { to: 1, ..message }));
        }
    }
    for notice in batch.hibernate.into_iter().take(4) {
        let notice = HibernateGroup { group: 1, ..notice };
        step(Input::Hibernate { node: 2, notice });
    }
    step(Input::RaftTick);
}
