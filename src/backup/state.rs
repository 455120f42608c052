//! Builds a group's state at a point in time from what was shipped: the base, then the entries after it, one by one, as the
//! replicas applied them.

use raftproto::backup::LogRange;

use super::chain::{Part, Plan};
use super::format::Content;
use super::{BackupError, Source};
use crate::group::{Machine, stamp_of};
use crate::protocol::StreamKey;

/// A group's state, and how it was come by.
pub struct Built {
    /// The state.
    pub machine: Machine,
    /// Entries that were applied.
    pub entries: u64,
}

/// Builds it. On an executor.
///
/// # Errors
/// [`BackupError`]: what is missing or damaged is named.
pub async fn build(
    source: &Source,
    group: u32,
    plan: &Plan,
    at_ms: u64,
) -> Result<Built, BackupError> {
    if let Some((from, to)) = plan.gap {
        return Err(BackupError::State {
            group,
            what: format!(
                "log entries {from} to {to} are missing behind {}",
                plan.ranges.last().unwrap_or(&plan.base).key
            ),
        });
    }
    let Content::Base(base) = source.content(&plan.base).await? else {
        return Err(wrong(&plan.base, "is not the state that its index says"));
    };
    let streams = base.streams.into_iter().map(|stream| {
        let key = StreamKey::from_stored(&stream.key);
        (key, stream.state.to_vec(), stream.own)
    });
    let machine = Machine::load_base(group, &base.group_state, streams);
    let mut machine = machine.map_err(|e| wrong(&plan.base, &e.to_string()))?;
    let mut end = plan.base.section.last;
    let mut entries = 0;
    for part in &plan.ranges {
        let Content::Log(range) = source.content(part).await? else {
            return Err(wrong(part, "is not the log that its index says"));
        };
        if !apply(&mut machine, part, range, (&mut end, &mut entries), at_ms)? {
            break;
        }
    }
    Ok(Built { machine, entries })
}

/// Applies what is not applied yet; false: the wanted time is reached.
fn apply(
    machine: &mut Machine,
    part: &Part,
    range: LogRange,
    (end, entries): (&mut u64, &mut u64),
    at_ms: u64,
) -> Result<bool, BackupError> {
    for entry in range.entries {
        if entry.index <= *end {
            continue;
        }
        if entry.index != *end + 1 {
            return Err(wrong(part, &format!("lacks entry {}", *end + 1)));
        }
        *end = entry.index;
        if entry.is_conf_change || entry.payload.is_empty() {
            continue;
        }
        if stamp_of(&entry.payload).is_some_and(|stamp_ms| stamp_ms > at_ms) {
            return Ok(false);
        }
        let applied = machine.replay(&entry.payload);
        applied.map_err(|e| wrong(part, &e.to_string()))?;
        *entries += 1;
    }
    Ok(true)
}

fn wrong(part: &Part, what: &str) -> BackupError {
    BackupError::State {
        group: part.section.group,
        what: format!("{} {what}", part.key),
    }
}
