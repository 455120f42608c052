//! The whole run: events in the order of virtual time, until faults have ended and everything has settled.

use std::collections::BTreeMap;

use crate::client::{Client, key};
use crate::clock::Clock;
use crate::cold::SETTLED_WITHIN_US;
use crate::coverage::Coverage;
use crate::event::{Event, Life, Queue};
use crate::history::{Op, What};
use crate::ledger::Ledger;
use crate::net::Net;
use crate::node::{Node, Waiting};
use crate::plan::Plan;
use crate::report::{Lines, Report, Trace};
use crate::rng::Rng;
use crate::saga::Task;
use crate::store::ObjectStore;

/// After the end of faults every group has a leader within so much.
const LEADERS_WITHIN_US: u64 = 5_000_000;

/// After that, and after clients have stopped, every request is answered within so much.
const ANSWERS_WITHIN_US: u64 = 12_000_000;

/// After the end of faults all replicas agree within so much.
const AGREE_WITHIN_US: u64 = 40_000_000;

/// See the module's head.
pub struct World {
    /// What the seed means.
    pub plan: Plan,
    /// All chance.
    pub rng: Rng,
    /// The true time.
    pub now_us: u64,
    /// The latest time that any wall clock showed, in milliseconds.
    pub newest_ms: u64,
    /// What is to happen.
    pub queue: Queue,
    /// By number, less one.
    pub nodes: Vec<Node>,
    /// What all of them share.
    pub store: ObjectStore,
    /// Between the nodes.
    pub net: Net,
    /// The clients.
    pub clients: Vec<Client>,
    /// Operations under way by number.
    pub operations: BTreeMap<u64, Op>,
    /// The last operation's number.
    pub asked: u64,
    /// What is committed.
    pub ledger: Ledger,
    /// Rare paths.
    pub coverage: Coverage,
    /// What happened.
    pub trace: Trace,
    /// Clients ask no more.
    pub is_closing: bool,
    /// It is over.
    pub is_done: bool,
    /// Steps of groups.
    pub steps: u64,
    /// Answered operations.
    pub answered: u64,
}

impl World {
    /// A world at its beginning.
    pub fn new(plan: Plan, lines: Lines) -> World {
        let mut rng = Rng::new(plan.seed ^ (plan.salt << 48));
        let nodes = (1..=plan.nodes).map(|node| {
            let drift = rng.range(0, 2 * plan.drift) as i64 - plan.drift as i64;
            let offset = rng.range(0, 2 * plan.wall_offset_ms) as i64 - plan.wall_offset_ms as i64;
            let clock = Clock {
                drift,
                wall_offset_ms: offset,
                base_us: rng.below(1 << 40),
            };
            Node::new(node, clock)
        });
        World {
            nodes: nodes.collect(),
            store: ObjectStore::default(),
            net: Net::default(),
            clients: (0..plan.clients as usize).map(Client::new).collect(),
            operations: BTreeMap::new(),
            asked: 0,
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            trace: Trace {
                hash: plan.seed,
                lines,
            },
            is_closing: false,
            is_done: false,
            steps: 0,
            answered: 0,
            now_us: 0,
            newest_ms: 0,
            queue: Queue::default(),
            rng,
            plan,
        }
    }

    /// Runs to the end or to the first finding.
    pub fn run(&mut self) {
        self.trace.show(0, || format!("{:?}", self.plan));
        for node in 1..=self.plan.nodes {
            let at_us = self.rng.below(200_000);
            self.queue.at(at_us, Event::Restart(node));
        }
        for client in 0..self.clients.len() {
            let at_us = self.rng.below(1_000_000);
            self.queue.at(at_us, Event::Ask(client));
        }
        let first_us = self.rng.below(self.plan.fault_us);
        self.queue.at(first_us, Event::Fault);
        self.queue.at(self.plan.chaos_us, Event::Heal);
        self.schedule_outages();
        while !self.is_done && self.ledger.findings.is_empty() {
            let (at_us, event) = self.queue.pop().expect("the end is an event");
            self.now_us = at_us;
            self.happens(event);
        }
    }

    /// How it went.
    pub fn report(&self) -> Report {
        Report {
            findings: self.ledger.findings.clone(),
            hash: self.trace.hash,
            lines: self.trace.lines.clone(),
            virtual_us: self.now_us,
            steps: self.steps,
            operations: self.answered,
            coverage: self.coverage.clone(),
        }
    }

    /// The node with this number.
    pub fn node(&mut self, node: u64) -> &mut Node {
        &mut self.nodes[node as usize - 1]
    }

    /// Something is wrong.
    pub fn find(&mut self, what: String) {
        self.ledger.findings.push(what);
    }

    fn happens(&mut self, event: Event) {
        if let Some(life) = event.life() {
            let node = self.node(life.node);
            if node.life != life || !node.is_up {
                return self.missed(event);
            }
            if node.is_paused {
                node.backlog.push_back(event);
                return;
            }
            return self.shell(life.node, event);
        }
        match event {
            Event::Ask(client) => self.ask(client),
            Event::GiveUp(client, op) => self.give_up(client, op),
            Event::Fault => self.fault(),
            Event::Restart(node) => self.start(node),
            Event::Resume(node) => self.resume(node),
            Event::Deafen(node) => self.deafen(node),
            Event::Reconnect => self.net.cut.clear(),
            Event::DiskWell(node) => {
                self.node(node).slowness = 1;
                self.node(node).is_full = false;
            }
            Event::StoreDoes(life, task, ask, what) => self.store_does(life, task, ask, &what),
            Event::LatePut(key, bytes) => self.late_put(key, bytes),
            Event::StoreOut => self.store_out(),
            Event::Heal => self.heal(),
            Event::LeadersDue => self.leaders_due(),
            Event::AnswersDue => self.answers_due(),
            Event::Agree(until_us) => self.agree(until_us),
            _ => unreachable!("the others belong to a process"),
        }
    }

    /// Its process is gone.
    fn missed(&mut self, event: Event) {
        if let Event::Asked(_, op) = event {
            self.lose_operation(op);
        }
    }

    /// The node of an operation went away.
    pub fn lose_operation(&mut self, op: u64) {
        let Some(op) = self.operations.remove(&op) else {
            return;
        };
        self.coverage.hit("operation lost with its node");
        self.client_answered(&op, None);
    }

    /// Lets a client go on after an answer.
    pub fn client_answered(&mut self, op: &Op, outcome: Option<&ursula::protocol::Outcome>) {
        let client = self.clients.get_mut(op.client);
        if let Some(client) = client.filter(|c| c.busy == Some(op.id)) {
            client.answered(op, outcome);
            if let Some(at_us) = client.aims(op, outcome, &self.plan, &mut self.rng) {
                self.coverage
                    .hit("append aimed at the end of a stream's time");
                return self.queue.at(at_us.max(self.now_us), Event::Ask(op.client));
            }
            let mut at_us = self.now_us + self.rng.latency(self.plan.think_us);
            if self.rng.chance(self.plan.rest) {
                at_us += self.rng.below(self.plan.rest_us);
            }
            self.queue.at(at_us, Event::Ask(op.client));
        }
    }

    fn give_up(&mut self, client: usize, op: u64) {
        if self.clients[client].busy == Some(op) {
            // A read whose bytes are being fetched ends by itself.
            if let Some(op) = self.operations.get(&op).cloned() {
                self.coverage.hit("client gave up");
                self.client_answered(&op, None);
            }
        }
    }

    fn ask(&mut self, client: usize) {
        if self.is_closing || self.clients[client].busy.is_some() {
            return;
        }
        self.asked += 1;
        let op = self.clients[client].next(self.asked, &self.plan, &mut self.rng, self.now_us);
        self.clients[client].busy = Some(op.id);
        let at_us = self.now_us + self.rng.latency(self.plan.patience_us);
        self.queue.at(at_us, Event::GiveUp(client, op.id));
        self.send_operation(op);
    }

    fn send_operation(&mut self, mut op: Op) {
        op.known = self.ledger.known(op.group);
        let (id, node) = (op.id, op.node);
        self.trace.show(self.now_us, || {
            format!(
                "client {} asks node {node} #{id} {} {:?}",
                op.client, op.key, op.what
            )
        });
        self.operations.insert(id, op);
        let at_us = self.now_us + self.rng.below(500);
        let life = self.node(node).life;
        self.queue.at(at_us, Event::Asked(life, id));
    }

    fn start(&mut self, node: u64) {
        let plan = self.plan.clone();
        if self.node(node).is_up || self.node(node).is_broken {
            return;
        }
        let cores = self.rng.range(1, 3) as u32;
        let me = self.node(node);
        if me.life.life > 0 && me.cores != cores {
            self.coverage.hit("another number of cores");
        }
        if let Err(wrong) = self.node(node).start(&plan, cores) {
            if !self.node(node).disk.is_damaged {
                return self.find(format!("node {node} does not start: {wrong}"));
            }
            self.coverage.hit("damage found at the start");
            self.trace
                .show(self.now_us, || format!("node {node} stays away: {wrong}"));
            self.node(node).is_up = false;
            self.node(node).is_broken = true;
            return;
        }
        let life = self.node(node).life;
        self.trace.show(self.now_us, || {
            format!("node {node} starts, life {}", life.life)
        });
        let tick_us = self.rng.below(50_000);
        self.queue.at(self.now_us + tick_us, Event::Tick(life));
        let checkpoint_us = self.rng.range(1_000_000, 20_000_000);
        self.queue
            .at(self.now_us + checkpoint_us, Event::CheckpointDue(life));
        let hosted: Vec<_> = self.node(node).process.groups.iter().collect();
        let hashes: Vec<_> = hosted
            .iter()
            .filter(|(_, h)| h.applied.index > 0)
            .map(|(id, h)| (**id, h.applied.index, h.group.state_hash()))
            .collect();
        for (group, index, hash) in hashes {
            self.ledger.hashed(node, group, index, hash);
        }
        if self.rng.chance(500_000) {
            for group in self.node(node).untouched(plan.nodes) {
                self.campaign(node, group);
            }
        }
    }

    fn resume(&mut self, node: u64) {
        let resumed = self.node(node);
        if !std::mem::take(&mut resumed.is_paused) {
            return;
        }
        let backlog = std::mem::take(&mut resumed.backlog);
        self.trace.show(self.now_us, || {
            format!("node {node} goes on, {} wait", backlog.len())
        });
        for event in backlog {
            self.queue.at(self.now_us, event);
        }
    }

    fn heal(&mut self) {
        self.trace.show(self.now_us, || "faults end".to_owned());
        self.net.is_calm = true;
        self.net.cut.clear();
        self.heal_store();
        self.set_clocks_right();
        if self.rng.chance(300_000) {
            // A quorum is enough: whatever else is broken stays so.
            let node = self.rng.range(1, self.plan.nodes);
            if self.may_break(node) {
                self.coverage.hit("a node left broken");
                self.give_up_node(node);
            }
        }
        for node in 1..=self.plan.nodes {
            self.node(node).slowness = 1;
            self.node(node).is_full = false;
            self.resume(node);
            let at_us = self.now_us + self.rng.below(500_000);
            self.queue.at(at_us, Event::Restart(node));
        }
        self.queue
            .at(self.now_us + LEADERS_WITHIN_US, Event::LeadersDue);
    }

    fn leaders_due(&mut self) {
        for group in 1..=self.plan.groups as u32 {
            let ready = self
                .nodes
                .iter()
                .filter(|n| n.is_up && n.process.groups[&group].group.is_ready());
            if ready.count() != 1 {
                let seconds = LEADERS_WITHIN_US / 1_000_000;
                let all: Vec<String> = self.nodes.iter().map(|n| shown(n, group)).collect();
                self.find(format!(
                    "group {group} has no leader {seconds} s after the end of faults: {all:?}"
                ));
            }
        }
        self.is_closing = true;
        for group in 1..=self.plan.groups as u32 {
            let up = self.nodes.iter().filter(|n| n.is_up);
            for node in up.map(|n| n.life.node).collect::<Vec<_>>() {
                for number in 0..self.plan.keys {
                    self.asked += 1;
                    self.send_operation(Op {
                        id: self.asked,
                        client: usize::MAX,
                        node,
                        group,
                        key: key(group, number),
                        what: What::Read {
                            from: 0,
                            bytes_max: u64::MAX,
                            is_live: false,
                        },
                        call_us: self.now_us,
                        known: 0,
                    });
                }
            }
        }
        self.queue
            .at(self.now_us + ANSWERS_WITHIN_US, Event::AnswersDue);
    }

    fn answers_due(&mut self) {
        if let Some(op) = self.operations.values().next() {
            let text = format!(
                "operation {} on node {} was never answered: {op:?}",
                op.id, op.node
            );
            self.find(text);
        }
        for node in 0..self.nodes.len() {
            let is_clients = |t: &&Task| matches!(t, Task::Fork(_) | Task::Read(_));
            let mut tasks = self.nodes[node].process.tasks.values();
            if tasks.any(|t| is_clients(&t)) {
                self.find(format!("node {} owes a client an answer", node + 1));
            }
            let waiting = &self.nodes[node].process.waiting;
            if let Some((_, Waiting::Node(life, group, _))) = waiting.iter().next() {
                let text = format!(
                    "node {} owes node {} an answer of group {group}",
                    node + 1,
                    life.node
                );
                self.find(text);
            }
        }
        let until_us = self.now_us + AGREE_WITHIN_US;
        self.agree(until_us);
    }

    fn agree(&mut self, until_us: u64) {
        // What goes to the store goes through the logs: as long as anything does, replicas follow one another.
        if let Some(what) = self.unsettled() {
            if self.now_us >= self.plan.chaos_us + SETTLED_WITHIN_US {
                return self.find(format!("the object store: {what}"));
            }
            let again = Event::Agree(self.now_us + AGREE_WITHIN_US);
            return self.queue.at(self.now_us + 500_000, again);
        }
        let has_parted = (1..=self.plan.groups as u32).find(|group| {
            let up = self.nodes.iter().filter(|n| n.is_up);
            let mut ends = up.map(|n| {
                let group = &n.process.groups[group].group;
                (
                    group.applied().index,
                    group.last_index(),
                    group.state_hash(),
                )
            });
            let first = ends.next();
            ends.any(|end| Some(end) != first)
        });
        match has_parted {
            None => self.is_done = true,
            Some(_) if self.now_us < until_us => {
                self.queue.at(self.now_us + 500_000, Event::Agree(until_us));
            }
            Some(group) => {
                let all: Vec<String> = self.nodes.iter().map(|n| shown(n, group)).collect();
                self.find(format!(
                    "the replicas of group {group} do not agree: {all:?}"
                ));
            }
        }
    }
}

fn shown(node: &Node, group: u32) -> String {
    if !node.is_up {
        return format!("node {}: away", node.life.node);
    }
    let group = &node.process.groups[&group].group;
    format!(
        "node {}: term {} leader {} ready {} applied {} commit {} last {} trouble {:?}",
        node.life.node,
        group.term(),
        group.leader(),
        group.is_ready(),
        group.applied().index,
        group.commit(),
        group.last_index(),
        group.trouble()
    )
}

/// A process that may be gone by now.
pub fn life_of(world: &mut World, node: u64) -> Life {
    world.node(node).life
}
