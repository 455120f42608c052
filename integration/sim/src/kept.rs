//! What a stream keeps, once more and simply: each append with its time. What must go and what must stay follows from it.

use std::collections::VecDeque;

use raftproto::command::Retention;

use crate::plan::WRONG_MS_MAX;

/// What stays longer than it is to is this part of it at most.
const PARTS: u64 = 32;

/// A leader's word about what goes is that old at most when the log has it, and what came since it did not know: so long it
/// waits for its entry, and meanwhile the clock may jump from one end of what is wrong to the other.
const LATE_MS: u64 = 10_000 + 2 * WRONG_MS_MAX;

/// One stream's.
#[derive(Debug)]
pub struct Kept {
    /// As it was created.
    pub policy: Retention,
    /// Where each append that is kept ended, its length, and when it was.
    appends: VecDeque<(u64, u64, u64)>,
}

impl Kept {
    /// Nothing was appended yet.
    pub fn new(policy: Retention) -> Kept {
        Kept {
            policy,
            appends: VecDeque::new(),
        }
    }

    /// Bytes were appended, up to `end`.
    pub fn append(&mut self, end: u64, length: usize, stamp_ms: u64) {
        if length > 0 {
            self.appends.push_back((end, length as u64, stamp_ms));
        }
    }

    /// Bytes before `floor` are gone.
    pub fn trim(&mut self, floor: u64) {
        self.appends.retain(|(end, ..)| *end > floor);
    }

    /// A leader says that bytes before `floor` go.
    ///
    /// # Errors
    /// They are to be kept, an append is divided, or more should go.
    pub fn judge(&self, floor: u64, before: u64, stamp_ms: u64) -> Result<(), String> {
        let policy = &self.policy;
        let tail = self.appends.back().map_or(before, |(end, ..)| *end);
        let last = self.appends.iter().rfind(|(end, ..)| *end <= floor);
        let Some((end, _, at_ms)) = last else {
            // All that it names is gone already.
            return match floor <= before {
                true => Ok(()),
                false => Err(format!("it divides the first append after {before}")),
            };
        };
        if floor > before && *end != floor {
            return Err(format!("it divides the append that begins at {end}"));
        }
        let is_old = policy.max_age_ms.is_some_and(|max| at_ms + max <= stamp_ms);
        let is_spare = policy.max_bytes.is_some_and(|max| floor + max <= tail);
        if !is_old && !is_spare {
            return Err(format!(
                "{policy:?} keeps the append of {at_ms} that ends at {end} of {tail}, at {stamp_ms}"
            ));
        }
        // As the leader may have seen it some time ago.
        match self.excess(floor.max(before), stamp_ms.saturating_sub(LATE_MS)) {
            Some(excess) => Err(format!("it leaves {excess}")),
            None => Ok(()),
        }
    }

    /// What should be gone by `now_ms`, if all before `floor` is.
    pub fn overlong(&self, key: &str, floor: u64, now_ms: u64) -> Option<String> {
        let excess = self.excess(floor, now_ms)?;
        Some(format!("{key} keeps {excess}"))
    }

    fn excess(&self, floor: u64, now_ms: u64) -> Option<String> {
        let known = || self.appends.iter().filter(|(_, _, at_ms)| *at_ms <= now_ms);
        let tail = known().next_back()?.0;
        let largest = known().map(|(_, length, _)| *length).max()?;
        if let Some(max) = self.policy.max_bytes {
            let has = tail.saturating_sub(floor);
            let most = max + max / PARTS + 2 * largest;
            if has > most {
                return Some(format!("{has} bytes of {tail}, not {most} at most"));
            }
        }
        let max_age_ms = self.policy.max_age_ms?;
        let most_ms = max_age_ms + max_age_ms / PARTS + 2;
        let (end, _, at_ms) = known().find(|(end, ..)| *end > floor)?;
        (at_ms + most_ms < now_ms)
            .then(|| format!("the append of {at_ms} that ends at {end}, at {now_ms}"))
    }
}
