//! `ursula backup verify`: reads every object that was shipped, and every pack that the streams need, and checks all
//! checksums. What is wrong is named; nothing is changed.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use raftproto::backup::{Base, LogRange};
use raftproto::checkpoint::{GroupState, StreamState};
use raftproto::command::{CommandBatch, command::Kind};
use storage::cold::{ColdError, ColdKey, ColdObject};
use storage::cold_pack;

use super::format::{self, Content};
use super::lost::{Needed, needed_of};
use super::state::build;
use super::{BackupError, Inventory, Source, shipped_ms_of, shipper_of};
use crate::config::Config;
use crate::core::pack_key;
use crate::group::Exported;
use crate::protocol::{PackName, rfc3339_from_ms};

/// What was read, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Report {
    /// Objects that were shipped.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// States and log ranges in them.
    pub sections: u64,
    /// Packs that the newest state needs.
    pub packs: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Stream bytes of those chunks.
    pub chunk_bytes: u64,
    /// Streams of the newest state.
    pub streams: u64,
    /// Each core that shipped, and when it did so last.
    pub newest_ms: BTreeMap<String, u64>,
    /// What is wrong.
    pub damage: Vec<String>,
}

impl Report {
    /// As lines for people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "objects {}\nobject_bytes {}\nsections {}\nstreams {}\npacks {}\nchunks {}\nchunk_bytes {}\ndamaged {}\n",
            self.objects,
            self.object_bytes,
            self.sections,
            self.streams,
            self.packs,
            self.chunks,
            self.chunk_bytes,
            self.damage.len()
        );
        let newest_ms = self.newest_ms.values().max().copied().unwrap_or(0);
        text.push_str(&format!("newest {}\n", rfc3339_from_ms(newest_ms)));
        for (core, newest_ms) in &self.newest_ms {
            text.push_str(&format!(
                "core {core} newest {}\n",
                rfc3339_from_ms(*newest_ms)
            ));
        }
        text
    }
}

/// Groups of which nothing was shipped for so long. That the newest objects are gone is to be seen by nothing else: nothing
/// names an object but the one after it.
fn expect_fresh(inventory: &Inventory, max_lag_ms: u64, now_ms: u64, damage: &mut Vec<String>) {
    // Group 0 changes seldom.
    for group in 1..=inventory.group_count {
        let plan = inventory.groups.get(&group).and_then(|c| c.plan(u64::MAX));
        let Some(shipped_ms) = plan.map(|plan| plan.shipped_ms()) else {
            continue;
        };
        if now_ms.saturating_sub(shipped_ms) > max_lag_ms {
            damage.push(format!(
                "group {group}: nothing was shipped since {}, which is longer than --max-lag",
                rfc3339_from_ms(shipped_ms)
            ));
        }
    }
}

/// A pack by its group and name.
type PackId = (u32, PackName);

/// Checks a backup. On an executor.
///
/// # Errors
/// [`BackupError`], if it cannot be looked at. Damage is in the report.
pub async fn verify(
    config: &Config,
    from: Option<&str>,
    cluster: Option<&str>,
    history: Option<&str>,
    max_lag_ms: Option<u64>,
) -> Result<Report, BackupError> {
    let source = Source::open(config, from, cluster).await?;
    let objects = source.objects().await?;
    let inventory = Inventory::read(&source, &objects, history).await?;
    let mut report = Report::default();
    for object in &objects {
        if let (Some(core), Some(ms)) = (shipper_of(&object.key), shipped_ms_of(&object.key)) {
            let newest_ms = report.newest_ms.entry(core).or_default();
            *newest_ms = ms.max(*newest_ms);
        }
    }
    if let Some(max_lag_ms) = max_lag_ms {
        let now_ms = crate::core::clock::Clock::start().now_ms();
        expect_fresh(&inventory, max_lag_ms, now_ms, &mut report.damage);
    }
    for missing in inventory.missing() {
        let text = format!("{missing}: it is missing, and a later object follows it");
        report.damage.push(text);
    }
    let kept = Kept {
        history: inventory.history,
        from_ms: inventory.kept_from_ms,
        began: crate::core::clock::instant(),
    };
    let mut named = BTreeMap::new();
    for object in &objects {
        match check_object(&source, object, &kept, &mut named).await {
            Ok(None) => {}
            Ok(Some(sections)) => {
                report.objects += 1;
                report.object_bytes += object.size;
                report.sections += sections;
            }
            Err(BackupError::Cold(ColdError::NotFound { .. }))
                if kept.may_be_gone(shipped_ms_of(&object.key)) => {}
            Err(error) if is_damage(&error) => report.damage.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    let mut checked = BTreeSet::new();
    for group in 0..=inventory.group_count {
        let Some(plan) = inventory.groups.get(&group).and_then(|c| c.plan(u64::MAX)) else {
            let text = format!("group {group}: no state of it is in the backup");
            report.damage.push(text);
            continue;
        };
        match build(&source, group, &plan, u64::MAX).await {
            Ok(built) => {
                let mut packs: BTreeMap<PackName, Vec<Needed>> = BTreeMap::new();
                for exported in built.machine.export() {
                    report.streams += 1;
                    gather(&exported, &mut packs);
                }
                for (pack, chunks) in packs {
                    checked.insert((group, pack));
                    check_pack(&source, (group, pack), &chunks, &mut report).await?;
                }
            }
            Err(error) if is_damage(&error) => report.damage.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    named.retain(|pack, _| !checked.contains(pack));
    for (pack, named_ms) in named {
        check_there(&source, pack, &kept, named_ms, &mut report).await?;
    }
    // What is missing or damaged in an object is said of the object and of the group.
    report.damage.dedup();
    Ok(report)
}

/// What must be there still.
struct Kept {
    history: u64,
    from_ms: u64,
    began: std::time::Instant,
}

impl Kept {
    /// While a verification runs, the cluster may go on, and collects.
    fn may_be_gone(&self, ms: Option<u64>) -> bool {
        let passed_ms = self.began.elapsed().as_millis() as u64;
        ms < Some(self.from_ms + passed_ms)
    }
}

/// The backup is to blame, and not the store, which may answer the next time.
fn is_damage(error: &BackupError) -> bool {
    matches!(
        error,
        BackupError::Cold(ColdError::NotFound { .. } | ColdError::Corrupt { .. })
            | BackupError::State { .. }
            | BackupError::Damaged { .. }
            | BackupError::Pack { .. }
    )
}

/// Checks all sections of an object, and notes which packs they name.
async fn check_object(
    source: &Source,
    object: &ColdObject,
    kept: &Kept,
    named: &mut BTreeMap<PackId, u64>,
) -> Result<Option<u64>, BackupError> {
    let index = source.index(object).await?;
    if index.history != kept.history {
        return Ok(None);
    }
    let bytes = source.store.get(&object.key).await?;
    let mut sections = 0;
    for section in &index.sections {
        let (from, to) = (
            section.position,
            section.position.saturating_add(section.stored),
        );
        let stored = bytes.get(from as usize..to as usize).unwrap_or_default();
        let content = format::open(section, stored).map_err(|damage| BackupError::Damaged {
            key: object.key.clone(),
            damage,
        })?;
        sections += 1;
        if index.shipped_ms < kept.from_ms {
            continue;
        }
        let packs = match &content {
            Content::Base(base) => packs_of_base(base),
            Content::Log(range) => packs_of_log(range, kept.from_ms),
        };
        let packs = packs.ok_or_else(|| BackupError::State {
            group: section.group,
            what: format!("{} does not decode", object.key),
        })?;
        for pack in packs {
            let named_ms: &mut u64 = named.entry((section.group, pack)).or_default();
            *named_ms = section.last_ms.max(*named_ms);
        }
    }
    Ok(Some(sections))
}

fn packs_of_base(base: &Base) -> Option<Vec<PackName>> {
    let state = GroupState::decode(base.group_state.clone()).ok()?;
    let mut used = BTreeSet::new();
    for stream in &base.streams {
        let state = StreamState::decode(stream.state.clone()).ok()?;
        used.extend(state.cold.iter().map(|chunk| chunk.pack));
    }
    let packs = state.cold_packs.iter().filter(|p| used.contains(&p.pack));
    Some(
        packs
            .map(|p| PackName::from_message(p.name.as_ref()))
            .collect(),
    )
}

/// A pack that was published so late is not deleted yet, whatever became of it.
fn packs_of_log(range: &LogRange, kept_from_ms: u64) -> Option<Vec<PackName>> {
    let mut packs = Vec::new();
    for entry in range.entries.iter().filter(|e| !e.is_conf_change) {
        let batch = CommandBatch::decode(entry.payload.clone()).ok()?;
        if batch.stamp_ms < kept_from_ms {
            continue;
        }
        for command in batch.commands {
            if let Some(Kind::PublishPack(publish)) = command.kind {
                packs.push(PackName::from_message(publish.name.as_ref()));
            }
        }
    }
    Some(packs)
}

/// Where a stream's chunks lie, by pack.
fn gather(exported: &Exported, packs: &mut BTreeMap<PackName, Vec<Needed>>) {
    for (pack, chunk) in &exported.cold {
        packs.entry(*pack).or_default().push(Needed {
            key: exported.key.clone(),
            incarnation: exported.state.incarnation,
            chunk: *chunk,
        });
    }
}

async fn check_pack(
    source: &Source,
    (group, pack): PackId,
    chunks: &[Needed],
    report: &mut Report,
) -> Result<(), BackupError> {
    let key = pack_key_of(source, group, pack)?;
    report.packs += 1;
    let object = match source.store.get(&key).await {
        Ok(object) => object,
        Err(error @ (ColdError::NotFound { .. } | ColdError::Corrupt { .. })) => {
            report
                .damage
                .push(format!("{error}; {}", needed_of(chunks.iter())));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let length = object.len() as u64;
    let index = cold_pack::index_position(&object, length)
        .and_then(|from| cold_pack::read_index(&object[from as usize..]));
    if let Err(damage) = index {
        report.damage.push(format!("{key}: {damage}"));
    }
    let mut damaged: Vec<&Needed> = Vec::new();
    for needed in chunks {
        report.chunks += 1;
        report.chunk_bytes += u64::from(needed.chunk.length);
        if needed.open(&object).is_err() {
            damaged.push(needed);
        }
    }
    if let Some(first) = damaged.first() {
        report.damage.push(format!(
            "{key}: {}; {}",
            first.damage(),
            needed_of(damaged.iter().copied())
        ));
    }
    Ok(())
}

/// Packs that only other points in time need.
async fn check_there(
    source: &Source,
    (group, pack): PackId,
    kept: &Kept,
    named_ms: u64,
    report: &mut Report,
) -> Result<(), BackupError> {
    let key = pack_key_of(source, group, pack)?;
    match source.store.head(&key).await {
        Ok(_) => Ok(()),
        Err(ColdError::NotFound { .. }) if kept.may_be_gone(Some(named_ms)) => Ok(()),
        Err(error @ ColdError::NotFound { .. }) => {
            report.damage.push(format!("{key}: {error}"));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn pack_key_of(source: &Source, group: u32, pack: PackName) -> Result<ColdKey, BackupError> {
    pack_key(&source.cluster, group, pack).ok_or_else(|| BackupError::State {
        group,
        what: format!("{pack:?} makes no key"),
    })
}
