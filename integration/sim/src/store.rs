//! The object store that all nodes share: puts that are late, that fail, or whose answer is lost; nothing that is there
//! changes. A put arrives also when its node is gone by then.
//! Invariants: what a group's log counts is there (I6), and a name is put with one content.

use std::collections::BTreeMap;

use ursula::group::{ColdAnswer, PackSource, PackedChunk};
use ursula::protocol::{ColdChunk, PackName, ReadPlan};

use crate::event::{Event, Life};
use crate::world::World;

/// An object.
#[derive(Debug, Clone)]
pub struct Object {
    bytes: Vec<u8>,
    chunks: Vec<PackedChunk>,
}

/// By group and name.
pub type Store = BTreeMap<(u32, PackName), Object>;

/// Packs that a leader has given up, and what it had applied by then.
pub type GivenUp = BTreeMap<(u32, PackName), u64>;

/// What is on its way to the store.
pub enum Order {
    /// A put.
    Put(PackName, Object),
    /// A look.
    Find(PackName),
    /// A deletion.
    Delete(Vec<(u32, PackName)>),
}

impl World {
    /// Builds a pack and sends it.
    pub fn write_pack(&mut self, node: u64, group: u32, name: PackName, sources: Vec<PackSource>) {
        let mut object = Object {
            bytes: Vec::new(),
            chunks: Vec::new(),
        };
        for source in sources {
            let Some(bytes) = self.bytes_of(node, group, &source.pieces) else {
                let (life, failed) = (self.node(node).life, Box::new(ColdAnswer::Failed(name)));
                let event = Event::StoreAnswers(life, group, failed);
                return self.queue.at(self.now_us, event);
            };
            let position = object.bytes.len() as u64;
            object.chunks.push(PackedChunk {
                key: source.key,
                incarnation: source.incarnation,
                chunk: ColdChunk {
                    pack: 0,
                    stored: bytes.len() as u32,
                    position,
                    start: source.start,
                    length: bytes.len() as u32,
                    crc32c: xxhash_rust::xxh3::xxh3_64(&bytes) as u32,
                },
            });
            object.bytes.extend_from_slice(&bytes);
        }
        self.order(node, group, Order::Put(name, object));
    }

    /// Something is on its way to the store, and may be for long.
    pub fn order(&mut self, node: u64, group: u32, order: Order) {
        if let Order::Delete(packs) = &order {
            let at = self.applied(node, group);
            for (_, name) in packs {
                self.given_up.entry((group, *name)).or_insert(at);
            }
        }
        let life = self.node(node).life;
        let typical = self.rng.pick(&[1_000, 50_000, 1_000_000]);
        let at_us = self.now_us + self.rng.latency(typical);
        self.queue
            .at(at_us, Event::Ordered(life, group, Box::new(order)));
    }

    /// It arrives; its answer may not.
    pub fn on_ordered(&mut self, life: Life, group: u32, order: Order) {
        let fails = !self.net.is_calm && self.rng.chance(200_000);
        let is_lost = !self.net.is_calm && self.rng.chance(200_000);
        if fails {
            self.coverage.hit("the store fails");
        }
        let answer = match order {
            Order::Put(name, object) => {
                let is_there = self.store.contains_key(&(group, name));
                if !fails && !is_there {
                    self.store.insert((group, name), object.clone());
                }
                if fails || is_lost {
                    ColdAnswer::Failed(name)
                } else {
                    self.coverage.hit("pack put");
                    self.there(group, name)
                }
            }
            Order::Find(name) if fails => ColdAnswer::Failed(name),
            Order::Find(name) if self.store.contains_key(&(group, name)) => {
                self.coverage.hit("pack of a leader before found");
                self.there(group, name)
            }
            Order::Find(name) => {
                self.coverage.hit("pack of a leader before not there");
                ColdAnswer::Missing(name)
            }
            Order::Delete(packs) => {
                for (_, name) in packs.iter().filter(|_| !fails) {
                    self.store.remove(&(group, *name));
                }
                if fails || is_lost {
                    ColdAnswer::NotDeleted
                } else {
                    self.coverage.hit("packs deleted");
                    ColdAnswer::Deleted(packs.iter().map(|(pack, _)| *pack).collect())
                }
            }
        };
        self.queue.at(
            self.now_us,
            Event::StoreAnswers(life, group, Box::new(answer)),
        );
    }

    fn there(&self, group: u32, name: PackName) -> ColdAnswer {
        let object = &self.store[&(group, name)];
        ColdAnswer::There {
            name,
            object_bytes: object.bytes.len() as u64,
            chunks: object.chunks.clone(),
        }
    }

    /// A part of a chunk, if it is there and whole.
    pub fn read_stored(
        &self,
        group: u32,
        name: PackName,
        chunk: &ColdChunk,
        from: u32,
        to: u32,
    ) -> Option<Vec<u8>> {
        let object = self.store.get(&(group, name))?;
        let begin = chunk.position as usize;
        let whole = object.bytes.get(begin..begin + chunk.stored as usize)?;
        let is_whole = xxhash_rust::xxh3::xxh3_64(whole) as u32 == chunk.crc32c;
        is_whole.then(|| whole[from as usize..to as usize].to_vec())
    }

    /// Whether the pack was deleted by a leader that had applied more than this replica has.
    pub fn is_given_up(&mut self, node: u64, group: u32, name: PackName) -> bool {
        let own = self.applied(node, group);
        self.given_up
            .get(&(group, name))
            .is_some_and(|at| own < *at)
    }

    fn applied(&mut self, node: u64, group: u32) -> u64 {
        let hosted = self.node(node).process.groups.get(&group);
        hosted.map_or(0, |h| h.group.applied().index)
    }

    /// A plan's bytes.
    pub fn materialize(&mut self, node: u64, group: u32, plan: &ReadPlan) -> Option<Vec<u8>> {
        let mut bytes = self.bytes_of(node, group, &plan.pieces)?;
        Some(bytes.split_off(usize::from(plan.lead)))
    }
}
