//! Which objects make a group's state at a point in time. Pure.
//! A chain is what one leadership shipped of a group: bases, and log ranges that follow each other. All of it was committed,
//! so of several chains the one that reaches furthest in the log is right, whoever shipped last.

use std::collections::BTreeMap;

use raftproto::backup::Section;
use storage::cold::ColdKey;

/// A part of a group in an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The object.
    pub key: ColdKey,
    /// When it was shipped.
    pub shipped_ms: u64,
    /// Where it is, and what.
    pub section: Section,
}

/// What a group's state is built from.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The state to begin with.
    pub base: Part,
    /// Log ranges in the order in which they are applied; the last one may have entries after the wanted time.
    pub ranges: Vec<Part>,
    /// Entries that are missing although the same leadership has shipped later ones.
    pub gap: Option<(u64, u64)>,
}

impl Plan {
    /// Term and index of the last entry.
    pub fn reach(&self) -> (u64, u64) {
        let last = self.ranges.last().unwrap_or(&self.base);
        (last.section.last_term, last.section.last)
    }

    /// The stamp of the last entry.
    pub fn last_ms(&self) -> u64 {
        let all = self.ranges.iter().chain([&self.base]);
        all.map(|part| part.section.last_ms).max().unwrap_or(0)
    }

    /// When the first part was shipped.
    pub fn first_shipped_ms(&self) -> u64 {
        let ranges = self.ranges.iter().map(|part| part.shipped_ms);
        ranges.min().unwrap_or(u64::MAX).min(self.base.shipped_ms)
    }

    /// When the last part was shipped.
    pub fn shipped_ms(&self) -> u64 {
        let all = self.ranges.iter().chain([&self.base]);
        all.map(|part| part.shipped_ms).max().unwrap_or(0)
    }
}

/// Parts of one group, as all objects have them, by chain.
#[derive(Debug, Default)]
pub struct Chains {
    by_id: BTreeMap<u64, Vec<Part>>,
}

impl Chains {
    /// Takes a part.
    pub fn add(&mut self, part: Part) {
        let chain = self.by_id.entry(part.section.chain).or_default();
        chain.push(part);
    }

    /// All parts.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.by_id.values().flatten()
    }

    /// What to build the state from that holds all entries stamped up to `at_ms` (`u64::MAX`: all). `None`: no base is that old.
    pub fn plan(&self, at_ms: u64) -> Option<Plan> {
        let plans = self
            .by_id
            .values()
            .filter_map(|parts| plan_of(parts, at_ms));
        // With the same reach, the newer base has less to apply.
        plans.max_by_key(|plan| (plan.reach(), plan.base.section.last, plan.base.shipped_ms))
    }
}

fn plan_of(parts: &[Part], at_ms: u64) -> Option<Plan> {
    let is_old = |part: &&Part| part.section.is_base && part.section.last_ms <= at_ms;
    let base = parts
        .iter()
        .filter(is_old)
        .max_by_key(|p| (p.section.last, p.shipped_ms))?;
    let mut ranges: Vec<&Part> = parts.iter().filter(|p| !p.section.is_base).collect();
    ranges.sort_by_key(|p| (p.section.first, p.section.last));
    let mut plan = Plan {
        base: base.clone(),
        ranges: Vec::new(),
        gap: None,
    };
    let mut end = base.section.last;
    for range in ranges {
        let section = &range.section;
        if section.last <= end {
            continue;
        }
        if section.first_ms > at_ms {
            break;
        }
        if section.first > end + 1 {
            plan.gap = Some((end + 1, section.first - 1));
            break;
        }
        end = section.last;
        plan.ranges.push(range.clone());
    }
    Some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(chain: u64, is_base: bool, (first, last): (u64, u64), ms: u64) -> Part {
        Part {
            key: ColdKey::new(format!("c/dr/{chain}-{first}-{last}")).unwrap(),
            shipped_ms: ms,
            section: Section {
                is_base,
                chain,
                first,
                last,
                last_term: chain,
                first_ms: ms,
                last_ms: ms,
                ..Section::default()
            },
        }
    }

    fn planned(parts: &[Part], at_ms: u64) -> Option<(u64, Vec<(u64, u64)>)> {
        let mut chains = Chains::default();
        parts.iter().for_each(|p| chains.add(p.clone()));
        let plan = chains.plan(at_ms)?;
        let ranges = plan.ranges.iter();
        let ranges = ranges.map(|r| (r.section.first, r.section.last));
        Some((plan.base.section.last, ranges.collect()))
    }

    #[test]
    fn a_state_is_built_from_the_newest_base_and_what_follows() {
        let all = [
            part(1, true, (10, 10), 100),
            part(1, false, (11, 20), 110),
            part(1, false, (15, 18), 111),
            part(1, false, (21, 30), 120),
            part(1, true, (25, 25), 115),
            part(1, false, (32, 40), 130),
        ];
        assert_eq!(planned(&all, u64::MAX), Some((25, vec![(21, 30)])));
        assert_eq!(planned(&all, 112), Some((10, vec![(11, 20)])));
        assert_eq!(planned(&all, 100), Some((10, vec![])));
        assert_eq!(planned(&all, 99), None);
    }

    #[test]
    fn a_deposed_leader_that_ships_late_changes_nothing() {
        let all = [
            part(1, true, (10, 10), 100),
            part(2, true, (30, 30), 200),
            part(2, false, (31, 40), 210),
            // The leader of term 1 had not heard of it.
            part(1, false, (11, 20), 300),
            part(1, true, (20, 20), 310),
        ];
        assert_eq!(planned(&all, u64::MAX), Some((30, vec![(31, 40)])));
        // What follows a base of another leadership is not taken for its log.
        let torn = [part(1, true, (10, 10), 1), part(2, false, (11, 12), 2)];
        assert_eq!(planned(&torn, u64::MAX), Some((10, vec![])));
    }
}
