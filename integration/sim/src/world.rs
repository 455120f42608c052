//! The whole run: events in the order of virtual time, until faults have ended and everything has settled.

use std::collections::{BTreeMap, BTreeSet};

use crate::backup::Backups;
use crate::behind::Behind;
use crate::client::{Client, Keys, keys};
use crate::clock::Clock;
use crate::closing::{CLOSER, Closing};
use crate::coverage::Coverage;
use crate::event::{Event, Life, Queue};
use crate::history::Op;
use crate::ledger::Ledger;
use crate::members::{Identity, Introduced};
use crate::mend::{CopyAsked, Wanted};
use crate::net::Net;
use crate::node::Node;
use crate::operator::Operator;
use crate::plan::Plan;
use crate::report::{Lines, Report, Trace};
use crate::rng::Rng;
use crate::siege::Siege;
use crate::stall::Stall;
use crate::store::ObjectStore;

/// See the module's head.
pub struct World {
    /// What the seed means.
    pub plan: Plan,
    /// All chance.
    pub rng: Rng,
    /// The true time.
    pub now_us: u64,
    /// What is to happen.
    pub queue: Queue,
    /// By number, less one.
    pub nodes: Vec<Node>,
    /// What all of them share.
    pub store: ObjectStore,
    /// What was shipped to it.
    pub backups: Backups,
    /// Who ships too little.
    pub behind: Behind,
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
    /// Steps that are under way: what one leads to may be another one.
    pub depth: u32,
    /// Answered operations.
    pub answered: u64,
    /// Streams' keys by group.
    pub keys: Keys,
    /// Who is besieged, or was last.
    pub siege: Siege,
    /// Whose disk was slow last, and nothing else disturbed.
    pub stall: Stall,
    /// The operator.
    pub operator: Operator,
    /// What clients that come back at the end ask.
    pub closing: Closing,
    /// Replicas whose disk was lost or damaged, or that stay away for ever.
    pub lost: BTreeSet<u64>,
    /// Nodes that stay cut off after the end of faults.
    pub isolated: BTreeSet<u64>,
    /// How each process that ever ran introduces itself.
    pub lives: BTreeMap<Life, Introduced>,
    /// The last data directory's number.
    pub stores: u64,
    /// How near to its bound each figure of `bounds.rs` came, in thousandths.
    pub peaks: [u64; 5],
    /// Which replicas were asked for copies of late, and what they answered.
    pub copies: BTreeMap<Wanted, CopyAsked>,
}

impl World {
    /// A world at its beginning.
    pub fn new(plan: Plan, lines: Lines) -> World {
        let mut rng = Rng::new(plan.seed ^ (plan.salt << 48));
        let nodes = (1..=plan.nodes + plan.spares).map(|node| {
            let drift = rng.range(0, 2 * plan.drift) as i64 - plan.drift as i64;
            let offset = rng.range(0, 2 * plan.wall_offset_ms) as i64 - plan.wall_offset_ms as i64;
            let clock = Clock {
                drift,
                wall_offset_ms: offset,
                base_us: rng.below(1 << 40),
            };
            let identity = (node <= plan.nodes).then(|| Identity {
                raft_id: node,
                store: node,
                voters: (1..=plan.nodes).collect(),
            });
            Node::new(node, clock, identity, plan.version_first())
        });
        World {
            nodes: nodes.collect(),
            store: ObjectStore::default(),
            backups: Backups::default(),
            behind: Behind::default(),
            net: Net::default(),
            clients: (0..plan.clients as usize).map(Client::new).collect(),
            operations: BTreeMap::new(),
            asked: 0,
            ledger: Ledger::new(plan.level_first(), plan.nodes == 1),
            coverage: Coverage::default(),
            trace: Trace {
                hash: plan.seed,
                lines,
            },
            is_closing: false,
            is_done: false,
            steps: 0,
            depth: 0,
            answered: 0,
            keys: keys(plan.groups as u32, plan.keys),
            siege: Siege::default(),
            stall: Stall::default(),
            operator: Operator::default(),
            closing: Closing::default(),
            lost: BTreeSet::new(),
            isolated: BTreeSet::new(),
            lives: BTreeMap::new(),
            stores: 100,
            copies: BTreeMap::new(),
            peaks: [0; 5],
            now_us: 0,
            queue: Queue::default(),
            rng,
            plan,
        }
    }

    /// Runs to the end or to the first finding.
    pub fn run(&mut self) {
        if self.nodes.iter().any(|node| node.clock.drift != 0) {
            self.coverage.hit("clock drifts");
        }
        if self.plan.nodes == 1 {
            self.coverage.hit("a node alone");
        }
        self.trace.show(0, || format!("{:?}", self.plan));
        for node in self.all_nodes() {
            let at_us = self.rng.below(200_000);
            let event = match node <= self.plan.nodes {
                true => Event::Restart(node),
                false => Event::Join(node),
            };
            self.queue.at(at_us, event);
        }
        if self.plan.upgrade > 0 {
            let at_us = self.rng.latency(self.plan.upgrade_us);
            self.queue.at(at_us, Event::Upgrade);
        }
        if self.plan.operate_us > 0 {
            let at_us = self.rng.latency(self.plan.operate_us);
            self.queue.at(at_us, Event::Operate);
        }
        for client in 0..self.clients.len() {
            let at_us = self.rng.below(1_000_000);
            self.ask_at(client, at_us);
        }
        let first_us = self.rng.below(self.plan.fault_us);
        self.queue.at(first_us, Event::Fault);
        self.queue.at(self.plan.chaos_us, Event::Heal);
        self.schedule_outages();
        self.schedule_rot();
        self.schedule_link_trouble();
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
            peaks: self.peaks,
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
            Event::Operate => self.operate(),
            Event::Upgrade => self.upgrade(),
            Event::TakeBack(node) => self.take_back(node),
            Event::Join(node) => self.try_join(node),
            Event::Newborn(life) => self.lose_newborn(life),
            Event::Deafen(node) => self.deafen(node),
            Event::Siege(blow) => self.blow(blow),
            Event::Link(trouble) => self.link(trouble),
            Event::Reconnect if self.net.is_calm => {}
            Event::Reconnect => {
                self.net.cut.clear();
                self.net.late_to = None;
            }
            Event::DiskWell(node) => {
                self.node(node).slowness = 1;
                self.node(node).is_full = false;
            }
            Event::StoreDoes(life, task, ask, what) => self.store_does(life, task, ask, &what),
            Event::LatePut(key, bytes) => self.late_put(key, bytes),
            Event::StoreOut => self.store_out(),
            Event::Rot => self.rot(),
            Event::Restore(key) => self.restore(&key),
            Event::LeadersFall => self.leaders_fall(),
            Event::Heal => self.heal(),
            Event::LeadersDue => self.leaders_due(),
            Event::Close(errand) => self.close(errand),
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
        self.ordered(op, outcome);
        if op.client == CLOSER {
            return self.closing_answered(op, outcome);
        }
        let client = self.clients.get_mut(op.client);
        if let Some(client) = client.filter(|c| c.busy == Some(op.id)) {
            client.answered(op, outcome);
            let aimed = client.aims(op, outcome, &self.plan, &mut self.rng);
            let mut at_us = self.now_us;
            if self.siege().is_some() {
                at_us += Siege::think_us(&mut self.rng);
            } else if let Some(aimed_us) = aimed {
                self.coverage
                    .hit("append aimed at the end of a stream's time");
                at_us = at_us.max(aimed_us);
            } else {
                at_us += self.rng.latency(self.plan.think_us);
                if self.rng.chance(self.plan.rest) {
                    at_us += self.rng.below(self.plan.rest_us);
                }
            }
            self.ask_at(op.client, at_us);
        }
    }

    /// When a client asks next, whatever it intended before.
    pub fn ask_at(&mut self, client: usize, at_us: u64) {
        self.clients[client].due_us = at_us;
        self.queue.at(at_us, Event::Ask(client));
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
        let asker = &self.clients[client];
        if self.is_closing || asker.busy.is_some() || asker.due_us != self.now_us {
            return;
        }
        self.asked += 1;
        let nodes = self.nodes.len() as u64;
        let siege = self.siege();
        let op = self.clients[client].next(
            self.asked,
            &self.plan,
            &self.keys,
            (nodes, siege),
            &mut self.rng,
            self.now_us,
        );
        self.clients[client].busy = Some(op.id);
        let at_us = self.now_us
            + match siege {
                Some(_) => Siege::patience_us(&mut self.rng),
                None => self.rng.latency(self.plan.patience_us),
            };
        self.queue.at(at_us, Event::GiveUp(client, op.id));
        self.send_operation(op);
    }

    pub fn send_operation(&mut self, mut op: Op) {
        op.known = self.ledger.asked(&op);
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

    pub fn start(&mut self, node: u64) {
        let me = self.node(node);
        if me.is_up || me.is_broken || me.identity.is_none() {
            return;
        }
        let plan = self.plan.clone();
        let is_again = self.node(node).life.life > 0 && !self.net.is_calm;
        if is_again && self.rng.chance(plan.reformat) && self.may_break(node) {
            self.coverage.hit("a restart without a disk");
            return self.wipe(node, false);
        }
        let cores = self.rng.range(1, 3) as u32;
        let me = self.node(node);
        if me.life.life > 0 && me.cores != cores {
            self.coverage.hit("another number of cores");
        }
        if let Err(wrong) = self.node(node).start(&plan, cores) {
            if self.node(node).needs_newer {
                return self.run_version(node, plan.version_last());
            }
            if !self.node(node).disk.is_damaged {
                return self.find(format!("node {node} does not start: {wrong}"));
            }
            self.coverage.hit("damage found at the start");
            self.trace
                .show(self.now_us, || format!("node {node} stays away: {wrong}"));
            self.node(node).is_up = false;
            return self.wipe(node, true);
        }
        let life = self.node(node).life;
        let identity = self.node(node).identity.clone().expect("it started");
        let introduced = Introduced {
            raft_id: identity.raft_id,
            store: identity.store,
            version: self.node(node).version,
        };
        self.lives.insert(life, introduced);
        self.trace.show(self.now_us, || {
            format!("node {node} starts, life {}", life.life)
        });
        let tick_us = self.rng.below(50_000);
        self.queue.at(self.now_us + tick_us, Event::Tick(life));
        let checkpoint_us = self.rng.range(1_000_000, 20_000_000);
        self.queue
            .at(self.now_us + checkpoint_us, Event::CheckpointDue(life));
        self.schedule_scrub(life);
        self.schedule_backup(life);
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
            for group in self.node(node).untouched() {
                self.campaign(node, group);
            }
        }
    }

    /// A paused node goes on.
    pub fn resume(&mut self, node: u64) {
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
}

/// A process that may be gone by now.
pub fn life_of(world: &mut World, node: u64) -> Life {
    world.node(node).life
}
