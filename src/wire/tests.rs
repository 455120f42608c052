//! Every kind makes the round trip; what is not a message is refused without a panic; bodies are not copied.

mod samples;

use bytes::Bytes;
use prost::Message;
use raftproto::{command, wire};

use self::samples::{append, create, key, meta, outcomes, plan, requests};
use super::*;
use crate::protocol::{Append, Create, Offset, Op, Outcome, Piece, ReadPlan, Refusal, Request};

fn encoded(request: &Request) -> Bytes {
    encode_request(request).unwrap().concat().into()
}

#[test]
fn every_request_makes_the_round_trip() {
    for request in requests() {
        let bytes = encoded(&request);
        let back = decode_request(bytes).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
    }
}

#[test]
fn every_outcome_makes_the_round_trip() {
    for outcome in outcomes() {
        let back = decode_outcome(encode_outcome(&outcome)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{outcome:?}"));
    }
}

#[test]
fn what_names_a_core_is_never_sent() {
    for op in [Op::Watch { core: 0 }, Op::Unwatch { core: 0 }] {
        let error = encode_request(&Request::on_key(key("/a"), op)).unwrap_err();
        assert!(matches!(error, WireError::Local { .. }), "{error}");
    }
}

/// SplitMix64: the same numbers on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let byte = self.below(256) as u8;
        match self.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, byte),
            2 => drop(bytes.drain(at..(at + self.below(4)).min(bytes.len()))),
            3 => bytes.extend_from_within(at..),
            _ if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
            _ => bytes.push(byte),
        }
    }
}

/// What decodes is encoded again and must come back: a value that only looks right would not.
fn decode_both(bytes: &Bytes) {
    if let Ok(request) = decode_request(bytes.clone()) {
        let back = decode_request(encoded(&request)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
    }
    if let Ok(outcome) = decode_outcome(bytes.clone()) {
        let back = decode_outcome(encode_outcome(&outcome)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{outcome:?}"));
    }
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let mut valid: Vec<Bytes> = outcomes().iter().map(encode_outcome).collect();
    valid.extend(requests().iter().map(encoded));
    let mut random = Random(42);
    for bytes in &valid {
        for _ in 0..500 {
            let mut garbage = bytes.to_vec();
            for _ in 0..=random.below(3) {
                random.mutate(&mut garbage);
            }
            decode_both(&Bytes::from(garbage));
        }
    }
    for _ in 0..5_000 {
        let len = random.below(64);
        decode_both(&(0..len).map(|_| random.below(256) as u8).collect());
    }
}

#[test]
fn a_body_shares_memory_with_the_message() {
    let body = Bytes::from(vec![7; 100_000]);
    let lies_in = |part: &Bytes, whole: &Bytes| {
        assert_eq!(part, &body);
        whole.as_ptr_range().contains(&part.as_ptr())
    };
    let mut created = create();
    created.body = body.clone();
    for op in [Op::Append(append(body.clone())), Op::Create(created)] {
        let bytes = encoded(&Request::on_key(key("/a"), op));
        let (Op::Append(Append { body: got, .. }) | Op::Create(Create { body: got, .. })) =
            decode_request(bytes.clone()).unwrap().op
        else {
            panic!("another operation came back");
        };
        assert!(lies_in(&got, &bytes));
    }
    let bytes = encode_outcome(&Outcome::Read(ReadPlan {
        meta: meta(),
        start: Offset(0),
        end: Offset(100_000),
        lead: 0,
        pieces: vec![Piece::Hot(body.clone())],
        ahead: Vec::new(),
    }));
    let Outcome::Read(got) = decode_outcome(bytes.clone()).unwrap() else {
        panic!("another outcome came back");
    };
    assert!(matches!(&got.pieces[..], [Piece::Hot(hot)] if lies_in(hot, &bytes)));
}

#[test]
fn a_refused_field_is_named() {
    let on_key = |op| wire::Request {
        target: Some(wire::request::Target::Key("/a".into())),
        op: Some(op),
    };
    let head = || wire::request::Op::Head(wire::Nothing {});
    let mut created = command::Create {
        content_type: "text/plain".into(),
        ..Default::default()
    };
    let mut cases = vec![
        (wire::Request::default(), "Request.target"),
        (
            wire::Request {
                op: None,
                ..on_key(head())
            },
            "Request.op",
        ),
        (
            wire::Request {
                target: Some(wire::request::Target::Meta(wire::Nothing {})),
                ..on_key(head())
            },
            "Request.target",
        ),
    ];
    for bad in ["", "a", "/", "x/a", "demo/streams", "/a\n"] {
        let target = Some(wire::request::Target::Key(bad.into()));
        let op = Some(head());
        cases.push((wire::Request { target, op }, "Request.key"));
    }
    for (ttl_seconds, at_ms) in [(None, None), (Some(1), Some(1)), (Some(u64::MAX), None)] {
        created.expiry = Some(command::Expiry { ttl_seconds, at_ms });
        cases.push((
            on_key(wire::request::Op::Create(created.clone())),
            "Create.expiry",
        ));
    }
    let untyped = command::Append {
        body: Bytes::from_static(b"x"),
        ..Default::default()
    };
    cases.push((
        on_key(wire::request::Op::Append(untyped)),
        "Append.content_type",
    ));
    for (message, field) in cases {
        let error = decode_request(message.encode_to_vec().into()).unwrap_err();
        assert!(error.to_string().starts_with(field), "{field}: {error}");
    }
}

#[test]
fn a_plan_is_as_long_as_it_says() {
    for (start, end, lead) in [(11, 41, 1), (11, 39, 1), (10, 40, 1), (11, 40, 0)] {
        let bytes = encode_outcome(&Outcome::Read(ReadPlan {
            start: Offset(start),
            end: Offset(end),
            lead,
            ..plan()
        }));
        let field = "ReadPlan.pieces";
        assert_eq!(
            decode_outcome(bytes).unwrap_err(),
            WireError::Invalid { field }
        );
    }
}

#[test]
fn names_that_only_a_newer_node_has_become_general_ones() {
    use wire::refusal::Kind;
    let decoded = |kind| {
        let refusal = wire::Refusal { kind: Some(kind) };
        let kind = Some(wire::outcome::Kind::Refused(refusal));
        let bytes = wire::Outcome { kind }.encode_to_vec();
        match decode_outcome(bytes.into()).unwrap() {
            Outcome::Refused(refusal) => refusal,
            outcome => panic!("{outcome:?}"),
        }
    };
    let bound = "another node's bound";
    assert_eq!(
        decoded(Kind::Overloaded("new_max".into())),
        Refusal::Overloaded { bound }
    );
    assert_eq!(
        decoded(Kind::LimitReached(String::new())),
        Refusal::LimitReached { bound }
    );
    assert_eq!(
        decoded(Kind::ConfigMismatch("colour".into())),
        Refusal::ConfigMismatch {
            what: "configuration"
        }
    );
}
