//! A checkpoint's way to a replica that lacks the log before it, in parts, as `core/transfer.rs` and `core/give.rs` have it: the giver
//! keeps the files that it began with, the taker gathers them beside its own, and an attempt that broke off goes on where it was,
//! also after a crash. Neither files nor beginnings of files that are there are sent again. That a changed file is found is the work
//! of hashes, and assumed here.
//! Invariants: what is loaded is what was given, whatever came before.

use std::collections::VecDeque;

use bytes::Bytes;
use raftproto::checkpoint::GroupManifest;
use ursula::core::tables;

use crate::checkpoint::Checkpoint;
use crate::event::{Event, Life};
use crate::files::Dir;
use crate::world::World;

/// Bytes of a part at least: small, so that there are many; but no more of a transfer than so many, since it is no long time.
const PART: usize = 700;
const PARTS_MAX: usize = 16;

/// After an attempt that brought something and broke off, and how often.
const AGAIN_US: u64 = 100_000;
const ATTEMPTS: u32 = 100;

/// A part is changed on its way in so many of a million cases.
const FLIPPED: u64 = 2_000;

/// A transfer under way.
pub struct Transfer {
    group: u32,
    giver: Life,
    index: u64,
    /// What is given, and in which files from where on.
    given: Option<Checkpoint>,
    rest: VecDeque<(String, usize)>,
    /// Bytes of each part.
    part: usize,
    has_brought: bool,
    attempts: u32,
}

impl World {
    /// Asks another node for its checkpoint.
    pub fn fetch(&mut self, node: u64, giver: u64, group: u32, index: u64) {
        let giver = self.node(giver).life;
        let transfer = Transfer {
            group,
            giver,
            index,
            given: None,
            rest: VecDeque::new(),
            part: PART,
            has_brought: false,
            attempts: ATTEMPTS,
        };
        self.begin_attempt(node, transfer);
    }

    /// A part came, or it is time for another attempt.
    pub fn on_transfer(&mut self, node: u64, mut transfer: Transfer) {
        if transfer.given.is_none() {
            return self.begin_attempt(node, transfer);
        }
        self.take_part(node, &mut transfer);
        match transfer.rest.is_empty() {
            true => self.gathered(node, transfer),
            false => self.next_part(node, transfer),
        }
    }

    fn begin_attempt(&mut self, node: u64, mut transfer: Transfer) {
        let (group, giver) = (transfer.group, transfer.giver.node);
        transfer.has_brought = false;
        let is_there = self.answers(node, giver);
        if is_there {
            self.scrub_group(giver, group);
        }
        let source = self.node(giver);
        transfer.giver = source.life;
        let given = source.disk.checkpoints.get(&group);
        let given = given
            .filter(|c| is_there && c.manifest.index >= transfer.index)
            .filter(|c| c.hurt.iter().all(|pack| c.is_sound(*pack, &[])));
        let Some(given) = given.cloned() else {
            self.trace.show(self.now_us, || {
                format!("node {giver} gives no checkpoint of group {group} to node {node}")
            });
            return self.broke_off(node, transfer);
        };
        let me = self.node(node);
        let incoming = me.disk.incoming.entry(group).or_default();
        let is_resumed = !incoming.is_empty();
        if let Some(own) = me.disk.checkpoints.get(&group) {
            let is_sound = |name: &str| name != "manifest" && !own.bad.contains_key(name);
            for (name, bytes) in own.files.iter().filter(|(name, _)| is_sound(name)) {
                incoming.entry(name.clone()).or_insert(bytes.clone());
            }
        }
        transfer.rest.clear();
        let (mut is_spared, mut lacking) = (false, 0);
        for name in names(&given.manifest) {
            let whole = given.files.get(&name).cloned().unwrap_or_default();
            let there = incoming.get(&name).filter(|b| whole.starts_with(b));
            let from = there.map_or(0, Bytes::len);
            is_spared |= from > 0;
            if there.is_none() || from < whole.len() {
                transfer.rest.push_back((name, from));
                lacking += whole.len() - from;
            }
        }
        transfer.part = PART.max(lacking.div_ceil(PARTS_MAX));
        let files = transfer.rest.len();
        self.trace.show(self.now_us, || {
            format!("node {giver} gives {lacking} bytes in {files} files of group {group} to node {node}")
        });
        if is_resumed && is_spared {
            self.coverage.hit("a transfer goes on where it was");
        }
        transfer.given = Some(given);
        match transfer.rest.is_empty() {
            true => self.gathered(node, transfer),
            false => self.next_part(node, transfer),
        }
    }

    fn next_part(&mut self, node: u64, transfer: Transfer) {
        let giver = &self.nodes[transfer.giver.node as usize - 1];
        let is_there = giver.life == transfer.giver && giver.is_up && !giver.is_paused;
        let arrival = self.net.link(
            &self.plan,
            &mut self.rng,
            transfer.giver.node,
            node,
            self.now_us,
        );
        match arrival.filter(|_| is_there) {
            Some(at_us) => {
                let life = self.node(node).life;
                self.queue
                    .at(at_us, Event::Transfer(life, Box::new(transfer)));
            }
            None => self.broke_off(node, transfer),
        }
    }

    /// A part may hold the end of one file and the beginning of the next.
    fn take_part(&mut self, node: u64, transfer: &mut Transfer) {
        let Some(given) = &transfer.given else {
            return;
        };
        let mut room = transfer.part;
        while room > 0
            && let Some((name, from)) = transfer.rest.pop_front()
        {
            let whole = given.files.get(&name).cloned().unwrap_or_default();
            let end = whole.len().min(from + room);
            room -= end - from;
            let mut piece = whole[from..end].to_vec();
            if !self.net.is_calm && !piece.is_empty() && self.rng.chance(FLIPPED) {
                self.coverage
                    .hit("a part of a checkpoint came with a flipped bit");
                let at = self.rng.below(piece.len() as u64) as usize;
                piece[at] ^= 1 << self.rng.below(8);
            }
            let incoming = self.node(node).disk.incoming.entry(transfer.group);
            let file = incoming.or_default().entry(name.clone()).or_default();
            let mut gathered = file[..from.min(file.len())].to_vec();
            gathered.extend_from_slice(&piece);
            *file = gathered.into();
            transfer.has_brought |= !piece.is_empty();
            if end < whole.len() {
                transfer.rest.push_front((name, end));
            }
        }
    }

    /// All parts came: they are verified, and count from now on.
    fn gathered(&mut self, node: u64, mut transfer: Transfer) {
        let Some(given) = transfer.given.take() else {
            return;
        };
        let incoming = self.node(node).disk.incoming.entry(transfer.group);
        let incoming = incoming.or_default();
        let names: Vec<String> = names(&given.manifest).collect();
        let is_wrong = |name: &&String| incoming.get(*name) != given.files.get(*name);
        if let Some(wrong) = names.iter().find(is_wrong) {
            incoming.remove(wrong);
            return self.broke_off(node, transfer);
        }
        incoming.retain(|name, _| names.contains(name));
        let mut files: Dir = incoming.clone();
        let manifest = given.files.get_key_value("manifest");
        files.extend(manifest.map(|(name, bytes)| (name.clone(), bytes.clone())));
        let fetched = Checkpoint {
            manifest: given.manifest,
            files,
            mended: given.mended,
            ..Checkpoint::default()
        };
        self.on_fetched(node, transfer.group, Some(Box::new(fetched)));
    }

    /// The attempt is over. If it brought something, another one follows; else the leader is asked again.
    fn broke_off(&mut self, node: u64, mut transfer: Transfer) {
        let life = self.node(node).life;
        transfer.given = None;
        if !transfer.has_brought || transfer.attempts == 0 {
            let at_us = self.now_us + self.rng.latency(self.plan.delay_us * 10);
            return self
                .queue
                .at(at_us, Event::Fetched(life, transfer.group, None));
        }
        self.coverage.hit("a transfer breaks off");
        transfer.attempts -= 1;
        let at_us = self.now_us + AGAIN_US;
        self.queue
            .at(at_us, Event::Transfer(life, Box::new(transfer)));
    }
}

/// The files that a manifest names.
pub fn names(manifest: &GroupManifest) -> impl Iterator<Item = String> {
    let tables = tables(manifest).map(|number| format!("table-{number}"));
    tables.chain(manifest.packs.iter().map(|number| format!("pack-{number}")))
}
