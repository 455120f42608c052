//! Clients: each asks one thing after the other, of any node, and a producer asks again until it knows.

use std::collections::BTreeMap;

use bytes::Bytes;
use ursula::protocol::{Expiry, Outcome, Producer, Refusal, Retention, StreamKey};

use crate::clock::EPOCH_MS;
use crate::history::{Op, What};
use crate::plan::Plan;
use crate::rng::Rng;
use crate::siege::Siege;

/// A producer of one client for one stream.
#[derive(Debug, Clone, Default)]
struct Line {
    epoch: u64,
    seq: u64,
    /// What was asked and not answered for certain.
    open: Option<(Bytes, bool)>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Client {
    number: usize,
    lines: BTreeMap<String, Line>,
    /// The last tail that this client was told of a stream.
    tails: BTreeMap<String, u64>,
    /// Streams that this client made mortal, with their windows in seconds.
    windows: BTreeMap<String, u64>,
    /// The stream that is asked next, just before its time is over.
    aimed: Option<(u32, String)>,
    /// The operation under way.
    pub busy: Option<u64>,
    /// When it asks next.
    pub due_us: u64,
}

/// The group of a key.
pub fn group_of(key: &str) -> u32 {
    let group = key.split_once("/g").and_then(|(_, k)| k.split_once('-'));
    group.and_then(|(g, _)| g.parse().ok()).unwrap_or(0)
}

/// The keys of each group: such that their slots are the group's.
pub type Keys = Vec<Vec<String>>;

/// See [`Keys`]; the first group is 1.
pub fn keys(groups: u32, each: u64) -> Keys {
    let fits = |key: &String, group: u32| {
        let slot = StreamKey::from_stored(key).slot();
        1 + u32::from(slot.0) % groups == group
    };
    let of_group = |group: u32| {
        let all = (0..).map(move |number| format!("/g{group}-{number}"));
        let own = all.filter(|key| fits(key, group));
        own.take(each as usize).collect()
    };
    (1..=groups).map(of_group).collect()
}

impl Client {
    /// A client that asked nothing yet.
    pub fn new(number: usize) -> Client {
        Client {
            number,
            ..Client::default()
        }
    }

    /// What it asks next, as operation `id`.
    pub fn next(
        &mut self,
        id: u64,
        plan: &Plan,
        keys: &Keys,
        (nodes, siege): (u64, Option<Siege>),
        rng: &mut Rng,
        now_us: u64,
    ) -> Op {
        if let Some(siege) = siege {
            let key = &keys[siege.group as usize - 1][0];
            let op = siege.op(id, self.number, plan, key, rng);
            return Op {
                call_us: now_us,
                ..op
            };
        }
        let aimed = self.aimed.take();
        let is_aimed = aimed.is_some();
        let (group, key) = aimed.unwrap_or_else(|| {
            let group = rng.range(1, plan.groups) as u32;
            (group, rng.choose(&keys[group as usize - 1]).clone())
        });
        let what = match is_aimed {
            true => What::Append {
                producer: None,
                body: Client::body(id, plan, rng),
                close: false,
                seq: None,
            },
            false => self.what(id, &key, plan, keys, rng, now_us),
        };
        Op {
            id,
            client: self.number,
            node: rng.range(1, nodes),
            group,
            key,
            what,
            call_us: now_us,
            known: 0,
        }
    }

    fn what(
        &mut self,
        id: u64,
        key: &str,
        plan: &Plan,
        keys: &Keys,
        rng: &mut Rng,
        now_us: u64,
    ) -> What {
        let is_lasting = plan.lasting > 0;
        let close = rng.chance(if is_lasting { 100 } else { 10_000 });
        let drawn = match rng.below(100) {
            // Few ends, and reads of what came last instead.
            65..67 if is_lasting && !rng.chance(10_000) => 99,
            drawn => drawn,
        };
        match drawn {
            0..10 => What::Create {
                expiry: expiry(plan, rng, now_us),
                retention: retention(plan, rng),
                body: Client::body(id, plan, rng),
                closed: rng.chance(if is_lasting { 1_000 } else { 20_000 }),
            },
            10..35 => What::Append {
                producer: None,
                body: Client::body(id, plan, rng),
                close,
                seq: stream_seq(id, plan, rng),
            },
            35..65 => {
                let line = self.lines.entry(key.to_owned()).or_default();
                let (body, close) = line
                    .open
                    .get_or_insert_with(|| (Client::body(id, plan, rng), close))
                    .clone();
                let producer = Producer {
                    id: format!("p{}", self.number),
                    epoch: line.epoch,
                    seq: line.seq,
                };
                What::Append {
                    producer: Some(producer),
                    body,
                    close,
                    seq: None,
                }
            }
            65..67 => What::Delete,
            67..71 if plan.forks > 0 => {
                let group = rng.below(plan.groups) as usize;
                What::Fork {
                    source: rng.choose(&keys[group]).clone(),
                    offset: rng.chance(500_000).then(|| rng.pick(&[0, 1, 30, 500])),
                    body: Client::body(id, plan, rng),
                }
            }
            67..75 if plan.cold > 0 && rng.chance(300_000) => What::Trim {
                offset: rng.pick(&[1, 30, 500, 2_000]),
            },
            67..75 => What::Head,
            75..78 => What::Follow,
            _ if is_lasting && !rng.chance(10_000) => {
                let tail = self.tails.get(key).copied().unwrap_or(0);
                What::Read {
                    from: tail.saturating_sub(rng.pick(&[0, 100, 3_000, 100_000])),
                    bytes_max: rng.pick(&[1, 100, 3_000]),
                    is_live: rng.chance(300_000),
                }
            }
            _ => What::Read {
                from: rng.pick(&[0, 0, 1, 30, 500]),
                bytes_max: rng.pick(&[1, 100, 1 << 30]),
                is_live: rng.chance(300_000),
            },
        }
    }

    /// When it asks next to meet the end of a stream's time, which the answer has moved; `None`: at any time.
    pub fn aims(
        &mut self,
        op: &Op,
        outcome: Option<&Outcome>,
        plan: &Plan,
        rng: &mut Rng,
    ) -> Option<u64> {
        match (&op.what, outcome) {
            (What::Create { expiry, .. }, Some(Outcome::Created(created))) if created.fresh => {
                match expiry {
                    Expiry::Ttl(seconds) => self.windows.insert(op.key.clone(), *seconds),
                    _ => self.windows.remove(&op.key),
                };
            }
            (What::Append { .. }, Some(Outcome::Appended { .. })) => {}
            _ => return None,
        }
        let window_us = self.windows.get(&op.key)? * 1_000_000;
        if !rng.chance(plan.aim) {
            return None;
        }
        self.aimed = Some((op.group, op.key.clone()));
        let before_us = rng.below(plan.sync_us * 20 + plan.delay_us * 4 + 2_000);
        Some(op.call_us + window_us.saturating_sub(before_us))
    }

    /// Bytes that say whose they are.
    pub fn body(id: u64, plan: &Plan, rng: &mut Rng) -> Bytes {
        let mut text = format!("[{id:06}:");
        let length = rng.below(plan.body_max) as usize;
        text.extend((0..length).map(|i| char::from(b'a' + (i % 26) as u8)));
        text.push(']');
        text.into_bytes().into()
    }

    /// It was answered; `None`: its node is gone.
    pub fn answered(&mut self, op: &Op, outcome: Option<&Outcome>) {
        self.busy = None;
        if let Some(Outcome::Appended { tail, .. }) = outcome {
            self.tails.insert(op.key.clone(), tail.0);
        }
        let What::Append {
            producer: Some(producer),
            ..
        } = &op.what
        else {
            return;
        };
        let Some(line) = self.lines.get_mut(&op.key) else {
            return;
        };
        if (line.epoch, line.seq) != (producer.epoch, producer.seq) {
            return;
        }
        match outcome {
            Some(Outcome::Appended { .. }) => {
                line.seq += 1;
                line.open = None;
            }
            None
            | Some(Outcome::Refused(
                Refusal::OutcomeUnknown | Refusal::Unavailable | Refusal::Overloaded { .. },
            )) => {}
            Some(Outcome::Refused(Refusal::StaleEpoch { current })) => {
                *line = Line {
                    epoch: current + 1,
                    ..Line::default()
                };
            }
            Some(_) => {
                *line = Line {
                    epoch: line.epoch + 1,
                    ..Line::default()
                };
            }
        }
    }
}

/// How long a new stream lives.
fn expiry(plan: &Plan, rng: &mut Rng, now_us: u64) -> Expiry {
    if !rng.chance(plan.mortal) {
        return Expiry::Never;
    }
    if plan.aim > 0 && rng.chance(plan.aim / 4) {
        return Expiry::At(EPOCH_MS as u64 + now_us / 1000 + rng.pick(&[30, 300, 3_000]));
    }
    Expiry::Ttl(rng.range(1, 4))
}

/// The place of an append in its writers' order: most are above those before, some come too late.
fn stream_seq(id: u64, plan: &Plan, rng: &mut Rng) -> Option<String> {
    let wanted = id.saturating_sub(rng.pick(&[0, 0, 0, 3, 100]));
    rng.chance(plan.ordered).then(|| format!("{wanted:08}"))
}

/// What of a new stream is kept.
fn retention(plan: &Plan, rng: &mut Rng) -> Retention {
    if plan.cold == 0 || !rng.chance(plan.keep) {
        return Retention::default();
    }
    Retention {
        max_age_ms: rng.chance(300_000).then_some(5_000),
        max_bytes: rng.chance(700_000).then(|| rng.pick(&[100, 2_000])),
    }
}
