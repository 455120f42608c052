//! What the cluster has committed, gathered from what its replicas apply, and whether what clients are told agrees.
//! Owns one log for each group. Invariants that it checks: replicas apply the same entries (I5) and have the same state
//! at the same index; an answer is what the log says, and the log's order is an order of real time.

mod reads;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use prost::Message;
use raftproto::command::{CommandBatch, command::Kind};
use ursula::group::Group;
use ursula::protocol::{Meta, Outcome, PackName, Refusal, StreamKey};

use crate::attempts::Attempts;
use crate::client::group_of;
use crate::history::{Op, What};
use crate::model::{Model, Seen};
use crate::node::Written;
use crate::verdict::Verdict;

/// What orders to the members go by.
const MEMBERS: &[u8] = b"members";

/// Below this level of the cluster, what a node sends again may be done to two streams at one key.
const ONCE_LEVEL: u32 = 5;

/// A command in the log.
#[derive(Debug)]
struct Logged {
    index: u64,
    verdict: Verdict,
    is_claimed: bool,
}

/// One group's.
#[derive(Debug, Default)]
struct GroupLedger {
    entries: Vec<Written>,
    model: Model,
    /// By the body; deletions by their key.
    logged: BTreeMap<Vec<u8>, Vec<Logged>>,
    /// What was said not to be done.
    forbidden: BTreeSet<Vec<u8>>,
    attempts: Attempts,
    hashes: BTreeMap<u64, u64>,
    /// Who leads, by term.
    leaders: BTreeMap<u64, u64>,
    /// Terms whose leader knew of members below [`ONCE_LEVEL`] when it began.
    old_terms: BTreeSet<u64>,
    /// What some client knows of the log.
    known: u64,
    /// What the clock that is most ahead ever showed.
    newest_ms: u64,
    /// When who led judged lifetimes by which time; those after which somebody judged by a later one are left out.
    judged: VecDeque<(u64, u64)>,
}

/// Of each group, so many times by which its leaders judged are remembered: more than go back.
const JUDGED_MAX: usize = 4096;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Ledger {
    groups: BTreeMap<u32, GroupLedger>,
    /// Version of commands that may be written before the log says more.
    level_first: u32,
    /// There is one node only, which answers without its log what it need not write down.
    is_alone: bool,
    /// What the clock that is most ahead ever showed.
    pub newest_ms: u64,
    /// What is wrong.
    pub findings: Vec<String>,
}

impl Ledger {
    /// Of a cluster that begins at this level, or of one node.
    pub fn new(level_first: u32, is_alone: bool) -> Ledger {
        Ledger {
            level_first,
            is_alone,
            ..Ledger::default()
        }
    }

    /// Version of commands that may be written: every member can apply it.
    pub fn level(&self) -> u32 {
        let noted = self.groups.get(&0).map_or(0, |g| g.model.meta.level);
        noted.max(self.level_first)
    }

    /// Who leads a group judges lifetimes by this time.
    pub fn judges(&mut self, group: u32, now_us: u64, ms: u64) {
        let judged = &mut self.groups.entry(group).or_default().judged;
        while judged.back().is_some_and(|(_, known)| *known <= ms) {
            judged.pop_back();
        }
        judged.push_back((now_us, ms));
        if judged.len() > JUDGED_MAX {
            judged.pop_front();
        }
    }

    /// A replica has applied an entry.
    pub fn applied(&mut self, node: u64, group: u32, index: u64, written: &Written) {
        let (level, newest_ms) = (self.level(), self.newest_ms);
        let ledger = self.groups.entry(group).or_default();
        if let Some(known) = ledger.entries.get(index as usize - 1) {
            if known.term != written.term || known.payload != written.payload {
                self.findings.push(format!(
                    "node {node} applied another entry {index} of group {group}: term {}, not {}",
                    written.term, known.term
                ));
            }
            return;
        }
        if ledger.entries.len() as u64 + 1 != index {
            self.findings.push(format!(
                "node {node} applied entry {index} of group {group}, {} follows",
                ledger.entries.len() + 1
            ));
            return;
        }
        ledger.entries.push(written.clone());
        ledger.newest_ms = newest_ms;
        if written.is_conf_change {
            return;
        }
        if let Err(wrong) = ledger.take(index, level, written) {
            self.findings
                .push(format!("group {group}, entry {index}: {wrong}"));
        }
    }

    /// A replica leads a term and serves: no other one ever does.
    pub fn leads(&mut self, group: u32, term: u64, raft_id: u64, level: u32) {
        let ledger = self.groups.entry(group).or_default();
        if level < ONCE_LEVEL {
            ledger.old_terms.insert(term);
        }
        let known = *ledger.leaders.entry(term).or_insert(raft_id);
        if known != raft_id {
            self.findings.push(format!(
                "{known:#x} and {raft_id:#x} both led group {group} in term {term}"
            ));
        }
    }

    /// The members that the log of group 0 tells of, by raft id, and whether they are drained.
    pub fn members(&self) -> &[(u64, bool)] {
        self.groups.get(&0).map_or(&[], |g| &g.model.meta.members)
    }

    /// How few members the cluster ever was to have; `None`: never fewer than it was founded with.
    pub fn fewest_members(&self) -> Option<usize> {
        self.groups.get(&0).and_then(|g| g.model.meta.fewest)
    }

    /// The raft id that a node gets if it is added now.
    pub fn raft_id_if_added(&self, node: u64) -> u64 {
        let meta = self.groups.get(&0).map(|g| &g.model.meta);
        let former = meta.and_then(|m| m.removed.get(&node));
        former.map_or(node, |id| id + (1 << 16))
    }

    /// The state of a replica at an index.
    pub fn hashed(&mut self, node: u64, group: u32, index: u64, hash: u64) {
        let ledger = self.groups.entry(group).or_default();
        let known = *ledger.hashes.entry(index).or_insert(hash);
        if known != hash {
            self.findings.push(format!(
                "node {node} has another state of group {group} at index {index}"
            ));
        }
    }

    /// A replica that has applied all that is known has the streams that the log means.
    pub fn compare(&mut self, node: u64, group: u32, replica: &Group) {
        let Some(ledger) = self.groups.get(&group) else {
            return;
        };
        if ledger.entries.len() as u64 != replica.applied().index {
            return;
        }
        let is_same = |(has, means): ((&StreamKey, Meta, u64, bool), (&str, Seen))| {
            let (key, meta, floor, is_gone) = has;
            let (other, seen) = means;
            key.as_str() == other
                && (meta.incarnation.0, meta.tail.0, meta.closed)
                    == (seen.incarnation, seen.tail, seen.closed)
                && (floor, is_gone) == (seen.floor, seen.is_gone)
        };
        let count = replica.streams().count();
        let mut pairs = replica.streams().zip(ledger.model.standing());
        if count != ledger.model.standing().count() || !pairs.all(is_same) {
            let has: Vec<_> = replica.streams().collect();
            let means: Vec<_> = ledger.model.standing().collect();
            let index = replica.applied().index;
            self.findings.push(format!(
                "node {node} has other streams of group {group} at index {index} than the log means: {has:?}, not {means:?}"
            ));
        }
    }

    /// A client asks; what is known of the group's log by then.
    pub fn asked(&mut self, op: &Op) -> u64 {
        let group = self.groups.entry(op.group).or_default();
        group.attempts.note(op);
        group.known
    }

    /// Where a group's log ends, as far as somebody has applied it.
    pub fn end(&self, group: u32) -> u64 {
        self.groups
            .get(&group)
            .map_or(0, |g| g.entries.len() as u64)
    }

    /// A client was answered; `read` are a read's bytes.
    pub fn answered(&mut self, op: &Op, outcome: &Outcome, read: Option<&[u8]>) {
        let judged = self.judge_bytes(outcome, read, op);
        let (newest_ms, is_alone) = (self.newest_ms, self.is_alone);
        let ledger = self.groups.entry(op.group).or_default();
        ledger.newest_ms = newest_ms;
        let is_not_found = matches!(outcome, Outcome::Refused(Refusal::NotFound));
        let judged = judged.and_then(|()| match ledger.judge(op, outcome) {
            Err(_) if is_alone && is_not_found => ledger.judge_absence(op),
            judged => judged,
        });
        if let Err(wrong) = judged {
            self.findings.push(format!(
                "operation {} of client {} on node {} for {} (group {}), asked at {:.6}: {wrong}; it was told {outcome:?}",
                op.id, op.client, op.node, op.key, op.group, op.call_us as f64 / 1e6
            ));
        }
    }
}

impl Ledger {
    /// A read gives what the stream has there: its own bytes, and before them those of its source up to the fork.
    fn judge_bytes(&self, outcome: &Outcome, read: Option<&[u8]>, op: &Op) -> Result<(), String> {
        let Outcome::Read(plan) = outcome else {
            return Ok(());
        };
        let bytes = read.unwrap_or_default();
        let range = plan.start.0 as usize..plan.end.0 as usize;
        let content = self.content(op.group, plan.meta.incarnation.0);
        if content.get(range) != Some(bytes) {
            return Err(format!(
                "it was given {} bytes that the stream never had there",
                bytes.len()
            ));
        }
        Ok(())
    }

    /// All that a stream ever had.
    pub fn content(&self, group: u32, incarnation: u64) -> Cow<'_, [u8]> {
        let Some(ledger) = self.groups.get(&group) else {
            return Cow::default();
        };
        let own = ledger.model.content(incarnation);
        let Some(origin) = ledger.model.origin(incarnation) else {
            return Cow::Borrowed(own);
        };
        let source = self.content(group_of(&origin.source), origin.incarnation);
        let end = (origin.offset as usize).min(source.len());
        Cow::Owned([&source[..end], own].concat())
    }

    /// Packs that logs count since this was called last.
    pub fn take_published(&mut self) -> Vec<(u32, PackName)> {
        let mut all = Vec::new();
        for (group, ledger) in &mut self.groups {
            let names = ledger.model.published.drain(..);
            all.extend(names.map(|n| (*group, PackName::from_message(Some(&n)))));
        }
        all
    }

    /// A hold whose fork does not stand: which, and of which stream.
    pub fn forgotten_hold(&self) -> Option<String> {
        let all = self.groups.values();
        let forks: BTreeSet<u64> = all.flat_map(|g| g.model.fork_holds()).collect();
        self.groups.iter().find_map(|(group, ledger)| {
            let (key, hold) = ledger
                .model
                .holds()
                .find(|(_, hold)| !forks.contains(hold))?;
            Some(format!(
                "{key} of group {group} is held for a fork that does not stand: {hold:#x}"
            ))
        })
    }

    /// A stream that has more than it is to keep at a time.
    pub fn overlong(&self, now_ms: u64) -> Option<String> {
        let mut all = self.groups.values();
        all.find_map(|ledger| ledger.model.overlong(now_ms))
    }

    /// The stream that a read was planned of still stands.
    pub fn stands(&self, op: &Op, outcome: &Outcome) -> bool {
        let (Outcome::Read(plan), Some(ledger)) = (outcome, self.groups.get(&op.group)) else {
            return false;
        };
        let newest = ledger.model.versions(&op.key, u64::MAX);
        let seen = newest.last().and_then(|v| v.seen);
        seen.is_some_and(|s| s.incarnation == plan.meta.incarnation.0)
    }
}

impl GroupLedger {
    fn take(&mut self, index: u64, level: u32, written: &Written) -> Result<(), String> {
        if written.payload.is_empty() {
            return Ok(());
        }
        let is_old = self.old_terms.contains(&written.term);
        let batch = CommandBatch::decode(written.payload.clone()).map_err(|e| e.to_string())?;
        let is_raise = |kind: &Option<Kind>| matches!(kind, Some(Kind::RaiseLevel(_)));
        if batch.version > level && !batch.commands.iter().any(|c| is_raise(&c.kind)) {
            return Err(format!(
                "commands of version {} while some member may apply {level} only",
                batch.version
            ));
        }
        if batch.stamp_ms > self.newest_ms {
            return Err("its stamp is later than any clock ever showed".to_owned());
        }
        for command in &batch.commands {
            let (id, is_once) = match &command.kind {
                Some(Kind::Append(a)) => (a.body.to_vec(), a.producer.is_none()),
                Some(Kind::Create(c)) => (c.body.to_vec(), true),
                Some(Kind::Delete(d)) => (d.key.as_bytes().to_vec(), false),
                Some(Kind::ChangeMembers(_)) => (MEMBERS.to_vec(), false),
                Some(Kind::Trim(t)) => (trim_id(&t.key, t.offset), false),
                _ => (Vec::new(), false),
            };
            let text = || String::from_utf8_lossy(&id[..id.len().min(24)]).into_owned();
            if is_once && self.forbidden.contains(&id) {
                return Err(format!("{} was said not to be done", text()));
            }
            let logged = self.logged.entry(id.clone()).or_default();
            if is_once && !logged.is_empty() {
                return Err(format!(
                    "{} was asked once and stands twice in the log",
                    text()
                ));
            }
            if let Some(verdict) =
                self.model
                    .apply(index, batch.version, batch.stamp_ms, command)?
            {
                logged.push(Logged {
                    index,
                    verdict,
                    is_claimed: false,
                });
            }
            // In one life of a stream its producer's position makes that; each attempt may be done in another life.
            let done = logged.iter().filter(|l| l.verdict.is_append()).count();
            let asked = self.attempts.count(&id);
            if done > asked && !is_old {
                return Err(format!(
                    "{} was asked {asked} times and done {done} times",
                    text()
                ));
            }
        }
        Ok(())
    }

    fn judge(&mut self, op: &Op, outcome: &Outcome) -> Result<(), String> {
        match outcome {
            Outcome::Refused(Refusal::OutcomeUnknown) if op.what.is_write() => return Ok(()),
            Outcome::Refused(_) if self.has_appended(op) => return Err("it is in the log".into()),
            Outcome::Refused(Refusal::NotLeader { .. } | Refusal::BegunSince { .. }) => {
                return Err("nodes only tell each other so".into());
            }
            Outcome::Refused(Refusal::Unavailable | Refusal::Overloaded { .. })
            | Outcome::Refused(Refusal::BytesSought { .. } | Refusal::BytesLost { .. }) => {
                return self.not_done(op);
            }
            _ => {}
        }
        match &op.what {
            What::Create { body, .. } | What::Append { body, .. } => {
                self.claim(&body.to_vec(), op, outcome, false)
            }
            What::Delete => self.claim(&op.key.as_bytes().to_vec(), op, outcome, true),
            What::Members { .. } => self.claim(&MEMBERS.to_vec(), op, outcome, true),
            What::Trim { offset } => self.claim(&trim_id(&op.key, *offset), op, outcome, false),
            What::Head => self.judge_head(op, outcome),
            What::Follow => self.judge_follow(op, outcome),
            What::Fork { body, .. } => {
                let body = body.to_vec();
                let is_refused = matches!(outcome, Outcome::Refused(_));
                // Refused by its source, it was never asked of its own group.
                if is_refused && self.logged.get(&body).is_none_or(Vec::is_empty) {
                    return self.not_done(op);
                }
                self.claim(&body, op, outcome, false)
            }
            What::Read { .. } => self.judge_read(op, outcome),
        }
    }

    /// It is in the log, and nobody else asked for it.
    fn has_appended(&self, op: &Op) -> bool {
        let logged = self.attempts.only(op).and_then(|b| self.logged.get(&**b));
        logged.is_some_and(|all| all.iter().any(|l| l.verdict.is_append()))
    }

    fn not_done(&mut self, op: &Op) -> Result<(), String> {
        if let Some(body) = op.what.body_asked_once() {
            if self.logged.get(&body).is_some_and(|l| !l.is_empty()) {
                return Err("it is in the log".to_owned());
            }
            self.forbidden.insert(body);
        }
        Ok(())
    }

    /// The answer to a write is what the log says at one place, after all that was known when it was asked.
    fn claim(
        &mut self,
        id: &Vec<u8>,
        op: &Op,
        outcome: &Outcome,
        is_exclusive: bool,
    ) -> Result<(), String> {
        let verdict = Verdict::of(outcome).ok_or("not an answer to a write")?;
        let logged = self
            .logged
            .get_mut(id)
            .map_or(&mut [][..], Vec::as_mut_slice);
        let found = logged.iter_mut().find(|l| {
            l.index > op.known && l.verdict == verdict && !(is_exclusive && l.is_claimed)
        });
        let Some(found) = found else {
            return Err(format!(
                "no entry after {} says so, the log has {logged:?}",
                op.known
            ));
        };
        found.is_claimed = true;
        self.known = self.known.max(found.index);
        Ok(())
    }
}

fn trim_id(key: &str, offset: u64) -> Vec<u8> {
    format!("trim {key} {offset}").into_bytes()
}
