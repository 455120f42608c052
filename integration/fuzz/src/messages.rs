//! What other nodes send, what a checkpoint holds, and the configuration file. The first byte of the input chooses which.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use prost::Message;
use raftproto::checkpoint::{GroupManifest, GroupState, Membership, StreamState};
use raftproto::peer::{Batch, Envelope, HibernateGroup, RaftMessage};
use ursula::group::{Fetched, Group, Input, LogPosition, Machine, Now, RaftSettings, RaftStart};
use ursula::peer::grpc::Encoding;
use ursula::peer::message::{Messages, Side};
use ursula::protocol::StreamKey;
use ursula::wire;

/// Largest message that a peer may send here.
const BYTES_MAX: usize = 1 << 16;

/// Reads the input as one of the things that come from a peer or from the node's own directory.
pub fn messages(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(rest);
    match choice % 6 {
        0 => frames(rest, Encoding::Identity),
        1 => frames(rest, Encoding::Zstd),
        2 => request_and_outcome(&bytes),
        3 => raft(bytes),
        4 => checkpoint(&bytes),
        _ => configuration(rest),
    }
}

/// A body that arrives in pieces of seven bytes.
struct Pieces(Vec<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
    }
}

/// Messages with their frames: each takes at most the bound, and the first bad one ends the call.
fn frames(bytes: &[u8], encoding: Encoding) {
    let pieces = bytes.chunks(7).rev().map(Bytes::copy_from_slice).collect();
    let mut messages = Messages::new(Pieces(pieces), Side::Caller, encoding, BYTES_MAX);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let next = std::pin::pin!(messages.next::<Envelope>()).poll(&mut context);
        let Poll::Ready(next) = next else {
            panic!("all pieces are there");
        };
        match next {
            Ok(Some(envelope)) => assert!(envelope.encoded_len() <= 2 * BYTES_MAX),
            Ok(None) | Err(_) => return,
        }
    }
}

/// What is taken is sent on as it was understood.
fn request_and_outcome(bytes: &Bytes) {
    if let Ok(request) = wire::decode_request(bytes.clone()) {
        let again = wire::encode_request(&request).expect("it was read");
        let read = wire::decode_request(again.clone()).expect("own bytes");
        assert_eq!(wire::encode_request(&read).expect("it was read"), again);
    }
    if let Ok(outcome) = wire::decode_outcome(bytes.clone()) {
        let again = wire::encode_outcome(&outcome);
        let read = wire::decode_outcome(again.clone()).expect("own bytes");
        assert_eq!(wire::encode_outcome(&read), again);
    }
}

/// Whatever another node says, a replica lives on: it takes it, or names what is wrong.
fn raft(bytes: Bytes) {
    let Ok(batch) = Batch::decode(bytes) else {
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
            ursula::group::Effect::Persist(persist) | ursula::group::Effect::Install(persist) => {
                Some(persist.number)
            }
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

/// A checkpoint's parts decode or are refused, and what decodes can be started from.
fn checkpoint(bytes: &Bytes) {
    let _ = GroupState::decode(bytes.clone());
    let _ = StreamState::decode(bytes.clone());
    if let Ok(manifest) = GroupManifest::decode(bytes.clone()) {
        let streams = [(StreamKey::from_stored("/a"), manifest.group_state.to_vec())];
        let loaded = Machine::load(1, &manifest.group_state, streams.into_iter());
        if let Ok(machine) = loaded {
            let hash = machine.state_hash();
            let fetched = Fetched {
                machine,
                position: LogPosition::default(),
                membership: manifest.membership.unwrap_or_default(),
                durable_pack: 0,
            };
            assert_eq!(fetched.machine.state_hash(), hash);
        }
    }
}

/// A configuration file is refused with a text, or every setting stands within its bounds.
fn configuration(bytes: &[u8]) {
    let file = crate::files::scratch();
    let path = file.path().join("ursula.toml");
    std::fs::write(&path, bytes).expect("a tmpfs takes it");
    let none = BTreeMap::new();
    match ursula::config::load(&none, std::iter::empty(), Some(&path)) {
        Ok((config, origins)) => {
            assert!(!ursula::config::describe(&config, &origins).is_empty());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_read() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/messages");
        let mut count = 0;
        for file in std::fs::read_dir(corpus).unwrap() {
            messages(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= 6, "one for each choice");
    }
}
