//! The search: all configurations that explain the answers so far, carried from one answer to the next.

use std::collections::{BTreeMap, BTreeSet};

use super::positions::{Positions, idle};
use super::state::{Lists, State};
use super::{CONFIGURATIONS_MAX, Checked, Violation};
use crate::history::{Call, Message, Operation, Outcome};

/// A state, and which of the pending operations have had their moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration {
    state: State,
    /// Sorted.
    done: Vec<usize>,
}

struct Search<'a> {
    operations: Vec<&'a Operation>,
    positions: &'a Positions,
    lists: Lists<'a>,
    /// For an operation that was never answered, the same one called before and never answered either. They can stand in
    /// for each other, so the earlier one goes first.
    twins: Vec<Option<usize>>,
    /// Called and not answered yet, or never.
    pending: Vec<usize>,
}

pub(super) fn run<'a>(
    operations: &'a [Operation],
    length: &'a dyn Fn(Message) -> u64,
    positions: &'a Positions,
) -> Result<Checked, Violation> {
    let idle = idle(operations, positions);
    // A node may send a producer's append on twice by itself: the effect of one answers the other as a duplicate.
    let hidden: Vec<Operation> = operations
        .iter()
        .filter(|o| matches!(o.outcome, Outcome::Duplicate { .. }))
        .map(|o| Operation {
            returned: None,
            outcome: Outcome::Unknown,
            ..o.clone()
        })
        .collect();
    let kept = (0..operations.len()).filter(|at| !idle.contains(at));
    let all: Vec<&Operation> = kept.map(|at| &operations[at]).chain(&hidden).collect();
    let count = all.len();
    // Calls before answers at one moment: then they are concurrent.
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * count);
    for (at, operation) in all.iter().enumerate() {
        events.push((operation.invoked, false, at));
        if let Some(returned) = operation.returned {
            events.push((returned, true, at));
        }
    }
    events.sort_unstable();
    let mut latest = BTreeMap::new();
    let mut twins = vec![None; count];
    for (_, _, at) in events.iter().filter(|e| all[e.2].returned.is_none()) {
        twins[*at] = latest.insert(format!("{:?}", all[*at].call), *at);
    }
    let mut search = Search {
        twins,
        operations: all,
        positions,
        lists: Lists::new(length),
        pending: Vec::new(),
    };
    let mut configurations = BTreeSet::from([Configuration {
        state: State::absent(),
        done: Vec::new(),
    }]);
    let mut most = 1;
    for (_, is_answer, at) in events {
        configurations = if is_answer {
            search.answered(&configurations, at)?
        } else {
            search.pending.push(at);
            let mark = |mut c: Configuration| {
                search.settle(&mut c);
                c
            };
            configurations.into_iter().map(mark).collect()
        };
        most = most.max(configurations.len());
    }
    Ok(Checked {
        operations: count,
        messages: positions.starts.len(),
        configurations: most,
    })
}

impl Search<'_> {
    /// The configurations in which the operation has had its moment, which it is then rid of.
    fn answered(
        &mut self,
        configurations: &BTreeSet<Configuration>,
        at: usize,
    ) -> Result<BTreeSet<Configuration>, Violation> {
        let mut after = BTreeSet::new();
        let mut visited = BTreeSet::new();
        let mut open: Vec<Configuration> = configurations.iter().cloned().collect();
        while let Some(mut configuration) = open.pop() {
            if let Ok(place) = configuration.done.binary_search(&at) {
                configuration.done.remove(place);
                after.insert(configuration);
                continue;
            }
            for next in 0..self.pending.len() {
                let next = self.pending[next];
                if let Some(reached) = self.step(&configuration, next)
                    && !visited.contains(&reached)
                {
                    visited.insert(reached.clone());
                    open.push(reached);
                }
            }
            if visited.len() > CONFIGURATIONS_MAX || after.len() > CONFIGURATIONS_MAX {
                return Err(Violation::Inconclusive(format!(
                    "more than {CONFIGURATIONS_MAX} configurations before {:?}",
                    self.operations[at]
                )));
            }
        }
        if after.is_empty() {
            return Err(Violation::Impossible(self.describe(configurations, at)));
        }
        self.pending.retain(|p| *p != at);
        Ok(after)
    }

    /// Gives a pending operation that changes something its moment.
    fn step(&mut self, from: &Configuration, at: usize) -> Option<Configuration> {
        let operation = self.operations[at];
        let place = from.done.binary_search(&at).err()?;
        if let Some(twin) = self.twins[at] {
            from.done.binary_search(&twin).ok()?;
        }
        let state = self.lists.apply(
            &from.state,
            &operation.call,
            &operation.outcome,
            self.positions,
        )?;
        let mut done = from.done.clone();
        done.insert(place, at);
        let mut reached = Configuration { state, done };
        self.settle(&mut reached);
        Some(reached)
    }

    /// Gives all pending answers that are right in this state, and change nothing, their moment: no later one is better.
    fn settle(&self, configuration: &mut Configuration) {
        for at in &self.pending {
            let operation = self.operations[*at];
            if let Err(place) = configuration.done.binary_search(at)
                && (self.lists).agrees(&configuration.state, &operation.call, &operation.outcome)
            {
                configuration.done.insert(place, *at);
            }
        }
    }

    fn describe(&self, configurations: &BTreeSet<Configuration>, at: usize) -> String {
        let mut text = format!("nothing explains {:?}", Short(self.operations[at]));
        for configuration in configurations.iter().take(3) {
            text.push_str(&format!(
                "\n  it could be {:?} with tail {}",
                configuration.state.status,
                self.lists.tail(configuration.state.list)
            ));
        }
        for pending in self.pending.iter().filter(|p| **p != at).rev().take(8) {
            let is_done = configurations.iter().all(|c| c.done.contains(pending));
            let word = if is_done { "done" } else { "open" };
            text.push_str(&format!(
                "\n  {word} beside it: {:?}",
                Short(self.operations[*pending])
            ));
        }
        text
    }
}

/// An operation for people: long reads are cut.
struct Short<'a>(&'a Operation);

impl std::fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Operation {
            client,
            node,
            invoked,
            returned,
            call,
            outcome,
        } = self.0;
        write!(
            f,
            "client {client} at node {node}, {invoked}..{returned:?}: {call:?}"
        )?;
        if let (
            Call::Read { .. },
            Outcome::Content {
                messages,
                next,
                up_to_date,
                closed,
            },
        ) = (call, outcome)
        {
            let last = &messages[messages.len().saturating_sub(5)..];
            let count = messages.len();
            return write!(
                f,
                " -> {count} messages, last {last:?}, next {next}, up_to_date {up_to_date}, closed {closed}"
            );
        }
        write!(f, " -> {outcome:?}")
    }
}
