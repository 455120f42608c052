//! Reads all that a stopped node has on its disk and checks it: identity, manifests, state tables, packs, the log, and the objects of a
//! cold store that is a directory.
//! Changes nothing that a start would not change either. What is damaged is named, and the rest is still checked.

use std::path::Path;

use raftproto::checkpoint::GroupManifest;
use storage::cold_pack::{self, Header};
use storage::lock::DirLock;
use storage::{framed, io_error, pack, table, wal};

use super::identity::Identity;
use super::recovery::read_manifest;
use super::replay::is_needed;
use super::{NodeError, cold_place};
use crate::core::{pack_path, table_path, tables};

/// What was checked, and what is damaged.
#[derive(Debug, Default)]
pub struct Report {
    /// Files of each kind that are sound.
    pub manifests: u64,
    /// State tables.
    pub tables: u64,
    /// Packs.
    pub packs: u64,
    /// Chunks of the packs.
    pub chunks: u64,
    /// Bytes of the packs.
    pub pack_bytes: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Objects of the cold store, if it is a directory.
    pub cold_packs: u64,
    /// Damage, in words that name file and place.
    pub damage: Vec<String>,
}

/// Checks a data directory that no server uses. Blocks.
///
/// # Errors
/// [`NodeError`] if it is no data directory, or in use.
pub fn scrub(dir: &Path) -> Result<Report, NodeError> {
    let identity_path = dir.join("node.ursula");
    if !identity_path.is_file() {
        return Err(NodeError::Data(format!(
            "{} is no data directory: {} is not there",
            dir.display(),
            identity_path.display()
        )));
    }
    let _lock = DirLock::acquire(dir)?;
    let mut report = Report::default();
    let (store_id, groups) = Identity::peek(&identity_path)?;
    let mut indexes = Vec::new();
    for group in 0..=groups {
        match read_manifest(dir, group) {
            Ok(manifest) => {
                indexes.push(manifest.index);
                report.manifests += u64::from(manifest.index > 0);
                report.check_group(dir, &manifest);
            }
            Err(error) => {
                indexes.push(0);
                report.damage.push(error.to_string());
            }
        }
    }
    let index_of = |group: u32| indexes.get(group as usize).copied().unwrap_or(0);
    // Decoded, and then thrown away: what it holds may not fit into memory.
    let recovered = wal::recover(
        &dir.join("wal"),
        store_id,
        &|record| is_needed(record, index_of(record.group)).map(|_| false),
        &mut |_, all| report.segments = all as u64,
    );
    if let Err(error) = recovered {
        report.damage.push(error.to_string());
    }
    match cold_place::noted_dir(dir) {
        Ok(Some(cold)) => report.check_cold(&cold),
        Ok(None) => {}
        Err(error) => report.damage.push(error.to_string()),
    }
    Ok(report)
}

impl Report {
    fn check_group(&mut self, dir: &Path, manifest: &GroupManifest) {
        for number in tables(manifest) {
            let path = table_path(dir, manifest.group, number);
            match table::read(&path, &mut |_, _| Ok(())) {
                Ok(()) => self.tables += 1,
                Err(error) => self.damage.push(error.to_string()),
            }
        }
        for number in &manifest.packs {
            let path = pack_path(dir, manifest.group, *number);
            match pack::verify_named(&path, manifest.group, *number) {
                Ok(summary) => {
                    self.packs += 1;
                    self.chunks += summary.chunks;
                    self.pack_bytes += summary.bytes;
                }
                Err(error) => self.damage.push(error.to_string()),
            }
        }
    }
}

impl Report {
    /// The packs below a directory, `CLUSTER/packs/GROUP/NAME`.
    fn check_cold(&mut self, dir: &Path) {
        let list = |dir: &Path| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        for cluster in list(dir) {
            for group in list(&cluster.join("packs")) {
                for path in list(&group) {
                    let Some(header) = header_of(&path) else {
                        continue;
                    };
                    let checked = std::fs::read(&path)
                        .map_err(|e| io_error(&path, "read", e).to_string())
                        .and_then(|object| {
                            let checked = cold_pack::verify(&object.into(), header);
                            checked.map_err(|e| format!("{}: {e}", path.display()))
                        });
                    match checked {
                        Ok(_) => self.cold_packs += 1,
                        Err(error) => self.damage.push(error),
                    }
                }
            }
        }
    }
}

/// What a pack must be by its name; `None`: it is another file.
fn header_of(path: &Path) -> Option<Header> {
    let group = path.parent()?.file_name()?.to_str()?.parse().ok()?;
    let mut parts = path.file_name()?.to_str()?.split('-');
    let header = Header {
        group,
        term: parts.next()?.parse().ok()?,
        number: parts.next()?.parse().ok()?,
        nonce: u64::from_str_radix(parts.next()?, 16).ok()?,
    };
    parts.next().is_none().then_some(header)
}

impl Identity {
    /// Store and number of groups of a data directory, whatever the settings are.
    fn peek(path: &Path) -> Result<([u8; 16], u32), NodeError> {
        let unreadable = || NodeError::Data(format!("{} is not readable", path.display()));
        let bytes = framed::read(path)?.ok_or_else(unreadable)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut fields = text.split_whitespace().skip(1);
        let store = fields.next().and_then(|f| u128::from_str_radix(f, 16).ok());
        let groups = fields.next().and_then(|f| f.parse().ok());
        match (store, groups) {
            (Some(store), Some(groups)) if groups <= 4096 => Ok((store.to_le_bytes(), groups)),
            _ => Err(unreadable()),
        }
    }
}
