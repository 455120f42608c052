//! The backup in the cold store (`--dr`): what its objects are called and hold, which of them make a group's state at a
//! point in time, and the commands that list, verify and restore it. What ships is `core/ship.rs`.

pub mod chain;
pub mod collect;
pub mod collector;
pub mod format;
mod inventory;
pub mod list;
pub mod lost;
pub mod restore;
pub mod state;
pub mod verify;

pub use inventory::{BackupError, Inventory, Source, history_name};

use raftproto::backup::Index;
use storage::cold::ColdKey;

use crate::core::executor;

/// The key of a shipped object: those of a cluster sort by time. Nobody writes over another's.
pub fn object_key(index: &Index, number: u64, nonce: u64) -> Option<ColdKey> {
    let (cluster, shipped_ms) = (&index.cluster_id, index.shipped_ms);
    let (raft_id, core) = (index.raft_id, index.core);
    ColdKey::new(format!(
        "{cluster}/dr/{shipped_ms:014}-{raft_id:x}-{core:02}-{number:08}-{nonce:016x}"
    ))
}

/// What stands before the keys of a cluster's shipped objects.
pub fn objects_prefix(cluster: &str) -> String {
    format!("{cluster}/dr/")
}

/// When an object was shipped, by its key; `None`: it is none of ours.
pub fn shipped_ms_of(key: &ColdKey) -> Option<u64> {
    let name = key.as_str().rsplit('/').next()?;
    let fields: Vec<&str> = name.split('-').collect();
    match fields[..] {
        [time, _raft_id, _core, _number, _nonce] if time.len() >= 14 => time.parse().ok(),
        _ => None,
    }
}

/// Who shipped an object, by its key: the node's number in Raft, and its core.
pub fn shipper_of(key: &ColdKey) -> Option<String> {
    let name = key.as_str().rsplit('/').next()?;
    let fields: Vec<&str> = name.split('-').collect();
    match fields[..] {
        [_time, raft_id, core, _number, _nonce] => Some(format!("{raft_id}-{core}")),
        _ => None,
    }
}

/// Runs a command on an executor of its own.
///
/// # Errors
/// The command's, or the machine's.
pub fn on_executor<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T, BackupError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, BackupError>> + 'static,
{
    let failed = |e| BackupError::Target(format!("no executor can run: {e}"));
    let running = executor::spawn_beside("backup", move || storage::blocking::awake(work()));
    running.map_err(failed)?.join_awake().map_err(failed)?
}
