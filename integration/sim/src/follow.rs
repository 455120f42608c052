//! Live readers of a node, as its cores have them (`core/tails.rs`): whoever follows a stream asks the group of that node once
//! to be told, and hears from then on of each append, of the close and of the end, without asking again.
//! Checked after each step: what they heard is what the replica has, none of it is left out, and its bytes are the stream's.

use ursula::protocol::{Meta, Op as Asked, Request, StreamKey, TailNews};

use crate::client::group_of;
use crate::event::Event;
use crate::history::{Op, What};
use crate::saga::Task;
use crate::world::World;

/// Who asks to be told: all live readers of a node are of one core here.
pub const CORE: u16 = 0;

/// What readers of a stream know of it.
#[derive(Debug, Clone, Copy)]
pub struct Followed {
    incarnation: u64,
    tail: u64,
    closed: bool,
    /// The last of them leaves then.
    until_us: u64,
}

impl World {
    /// A group is going to tell the node what becomes of a stream.
    pub fn follow(&mut self, node: u64, op: &Op, meta: &Meta) {
        let longest_us = self.rng.pick(&[100_000, 2_000_000, 20_000_000]);
        let until_us = self.now_us + self.rng.range(1, longest_us);
        let life = self.node(node).life;
        self.queue
            .at(until_us, Event::Unfollow(life, op.key.clone()));
        let now = Followed {
            incarnation: meta.incarnation.0,
            tail: meta.tail.0,
            closed: meta.closed,
            until_us,
        };
        let follows = &mut self.node(node).process.follows;
        let before = follows.insert(op.key.clone(), now);
        if let Some(before) = before
            && (before.incarnation, before.tail, before.closed)
                != (now.incarnation, now.tail, now.closed)
        {
            let key = &op.key;
            self.find(format!(
                "node {node}: {key} is {meta:?}, and its live readers know {before:?}"
            ));
        }
    }

    /// The last reader of a stream may have left.
    pub fn unfollow(&mut self, node: u64, key: String) {
        let now_us = self.now_us;
        let is_coming =
            |op: &Op| op.node == node && op.key == key && matches!(op.what, What::Follow);
        if self.operations.values().any(is_coming) {
            // A reader is one before its question is answered.
            let life = self.node(node).life;
            return self.queue.at(now_us + 100_000, Event::Unfollow(life, key));
        }
        let follows = &mut self.node(node).process.follows;
        if follows.get(&key).is_some_and(|f| f.until_us <= now_us) {
            follows.remove(&key);
            let op = Asked::Unwatch { core: CORE };
            let request = Request::on_key(StreamKey::from_stored(&key), op);
            self.ask_for(node, Task::Last, request);
        }
    }

    /// A group tells what became of a stream.
    pub fn on_news(&mut self, node: u64, news: &TailNews) {
        let key = news.key.as_str();
        let follows = &mut self.nodes[node as usize - 1].process.follows;
        let Some(known) = follows.get_mut(key) else {
            return;
        };
        if news.incarnation.0 < known.incarnation {
            // Of a stream that stood there before.
            return;
        }
        let before = *known;
        known.incarnation = news.incarnation.0;
        known.tail = news.end.0;
        known.closed = news.closed;
        if news.ended {
            follows.remove(key);
        }
        if news.pieces.is_empty() {
            return;
        }
        self.coverage.hit("live readers told of an append");
        let is_next = (before.incarnation, before.tail) == (news.incarnation.0, news.start.0);
        let content = self.ledger.content(group_of(key), news.incarnation.0);
        let range = news.start.0 as usize..news.end.0 as usize;
        let is_right = content.get(range) == Some(&news.pieces.concat()[..]);
        if !is_next || !is_right {
            let text = format!(
                "node {node}: live readers of {key} know {before:?} and are told of {} to {} of {:?}, bytes right: {is_right}",
                news.start.0, news.end.0, news.incarnation
            );
            self.find(text);
        }
    }

    /// After a step: live readers know what the replica knows.
    pub fn look_at_follows(&mut self, node: u64, group: u32) {
        let process = &self.nodes[node as usize - 1].process;
        let Some(hosted) = process
            .groups
            .get(&group)
            .filter(|_| !process.follows.is_empty())
        else {
            return;
        };
        let own = process.follows.iter();
        let own = own.filter(|(key, _)| group_of(key) == group);
        let untold = own.filter_map(|(key, known)| {
            let mut all = hosted.group.streams();
            let found = all.find(|(k, _, _, is_gone)| k.as_str() == key && !is_gone);
            let has = found.map(|(_, m, ..)| (m.incarnation.0, m.tail.0, m.closed));
            (has != Some((known.incarnation, known.tail, known.closed))).then(|| {
                format!("node {node}: {key} is {has:?}, and its live readers know {known:?}")
            })
        });
        self.ledger.findings.extend(untold.take(1));
    }
}
