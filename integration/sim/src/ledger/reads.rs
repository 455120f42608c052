//! Whether what a reader was told is what the log means, at a place after all that was known when it asked.

use ursula::protocol::{Meta, Outcome, Refusal};

use super::GroupLedger;
use crate::history::{Op, What};
use crate::model::Version;

impl GroupLedger {
    pub(super) fn judge_head(&mut self, op: &Op, outcome: &Outcome) -> Result<(), String> {
        let (incarnation, tail, closed) = match outcome {
            Outcome::Head(meta) => (meta.incarnation.0, meta.tail.0, meta.closed),
            Outcome::Refused(Refusal::NotFound) => return self.judge_absence(op),
            Outcome::Refused(Refusal::Gone) => {
                return self.see(op, |v| v.seen.is_some_and(|s| s.is_gone));
            }
            _ => return Err("not an answer to this".to_owned()),
        };
        self.see(op, |v| {
            v.seen
                .is_some_and(|s| (s.incarnation, s.tail, s.closed) == (incarnation, tail, closed))
        })
    }

    /// Any replica answers with what it has, be that old: what comes after it is told. Whoever asks later is told no less.
    pub(super) fn judge_follow(&mut self, op: &Op, outcome: &Outcome) -> Result<(), String> {
        let meta = match outcome {
            Outcome::Watched(watched) => &watched.meta,
            Outcome::Refused(Refusal::NotFound | Refusal::Gone) => return Ok(()),
            _ => return Err("not an answer to this".to_owned()),
        };
        match self.learn(&op.key, meta) {
            true => Ok(()),
            false => Err("the stream never was so".to_owned()),
        }
    }

    /// Somebody was told that a stream is so; `false`: it never was.
    fn learn(&mut self, key: &str, meta: &Meta) -> bool {
        let told = (meta.incarnation.0, meta.tail.0, meta.closed);
        let versions = self.model.versions(key, 0);
        let first = versions.iter().find(|v| {
            v.seen
                .is_some_and(|s| (s.incarnation, s.tail, s.closed) == told)
        });
        self.known = self.known.max(first.map_or(0, |v| v.since));
        first.is_some()
    }

    pub(super) fn judge_absence(&mut self, op: &Op) -> Result<(), String> {
        // Whether a stream's time is over is the leader's judgement, by its clock; the log follows.
        let since = self.judged.iter().find(|(at_us, _)| *at_us >= op.call_us);
        let judged_ms = since.map_or(0, |(_, ms)| *ms);
        let may_be_over = |v: &Version| {
            let standing = v.seen.filter(|s| !s.is_gone);
            let deadline = standing.and_then(|s| self.model.deadline_ms(s.incarnation, op.known));
            deadline.is_some_and(|deadline| deadline <= judged_ms)
        };
        let versions = self.model.versions(&op.key, op.known);
        if versions.iter().any(may_be_over) {
            return Ok(());
        }
        self.see(op, |v| v.seen.is_none())
    }

    /// Some version after what was known when it was asked is the one that was seen.
    fn see(&mut self, op: &Op, matches: impl Fn(&Version) -> bool) -> Result<(), String> {
        let versions = self.model.versions(&op.key, op.known);
        let Some(version) = versions.iter().find(|v| matches(v)) else {
            return Err(format!(
                "what it was told is not of index {} or later: {versions:?}",
                op.known
            ));
        };
        self.known = self.known.max(version.since);
        Ok(())
    }

    pub(super) fn judge_read(&mut self, op: &Op, outcome: &Outcome) -> Result<(), String> {
        let asked = match op.what {
            What::Read { from, .. } => from,
            _ => 0,
        };
        let plan = match outcome {
            Outcome::Read(plan) => plan,
            Outcome::Refused(Refusal::NotFound) => return self.judge_absence(op),
            Outcome::Refused(Refusal::Gone) => {
                return self.see(op, |v| v.seen.is_some_and(|s| s.is_gone));
            }
            Outcome::Refused(Refusal::OffsetBeyondTail { tail }) => {
                return self.see(op, |v| v.seen.is_some_and(|s| s.tail == tail.0));
            }
            Outcome::Refused(Refusal::OffsetExpired { earliest }) if asked < earliest.0 => {
                return self.see(op, |v| v.seen.is_some_and(|s| s.floor == earliest.0));
            }
            _ => return Err("not an answer to this".to_owned()),
        };
        let meta = &plan.meta;
        let is_partial = plan.end < meta.tail;
        if is_partial || matches!(op.what, What::Read { is_live: true, .. }) {
            // What a replica has may be old, and no answer to a later question is older.
            let is_known = self.learn(&op.key, meta).then_some(());
            return is_known.ok_or("the stream never was like that".to_owned());
        }
        self.see(op, |v| {
            v.seen.is_some_and(|s| {
                let meta_of = (meta.incarnation.0, meta.tail.0, meta.closed);
                let from = if asked == 0 { s.floor } else { asked };
                (s.incarnation, s.tail, s.closed) == meta_of
                    && s.floor <= plan.start.0
                    && plan.start.0 == from
            })
        })
    }
}
