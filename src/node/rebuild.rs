//! A data directory that is damaged, of a node that is not alone: its replicas are built anew from the others.
//!
//! Nothing of it is cut or deleted. A majority replaces the node's replicas first, by the same order as `ursula cluster
//! replace`, so that the damaged log never votes and never counts again. Then the files are set aside in the directory
//! `damaged-N`, and the new replicas join. Where no majority answers, nothing is touched.
//!
//! A disk that damages what it is given again and again would be filled so: at [`SET_ASIDE_MAX`] directories the node refuses.

use std::path::{Path, PathBuf};

use storage::{StorageError, framed, io_error};

use super::NodeError;
use super::identity::{Identity, draw_store_id, identity_path};
use crate::config::Config;
use crate::core::{SET_ASIDE_MAX, damage_note_path, set_aside_count};

/// What is set aside beside the identity.
const PARTS: [&str; 3] = ["wal", "groups", "incoming"];

/// Whether an error says that bytes are not what was written, and nothing else.
pub fn is_damage(error: &NodeError) -> bool {
    match error {
        NodeError::Damaged(_) => true,
        NodeError::Storage(StorageError::Corrupt { .. } | StorageError::Foreign { .. }) => true,
        NodeError::Storage(StorageError::Io { source, .. }) => {
            source.raw_os_error() == Some(libc::EIO)
        }
        _ => false,
    }
}

/// Written before anything is moved: an interrupted move goes on from it. Holds the number of the directory and the new
/// identity's store and raft ids.
fn plan_path(dir: &Path) -> PathBuf {
    dir.join("rebuild.ursula")
}

struct Plan {
    number: u64,
    store_id: [u8; 16],
    raft_id: u64,
}

/// Replaces this node's replicas, sets their files aside and leaves a new data directory.
///
/// # Errors
/// `error` itself where nobody could be asked or it happened too often; else the disk's.
pub fn rebuild(dir: &Path, config: &Config, error: NodeError) -> Result<(), NodeError> {
    if !has_others(config) || config.no_rebuild {
        return Err(error);
    }
    let count = set_aside_count(dir);
    if count >= SET_ASIDE_MAX {
        return Err(NodeError::Data(format!(
            "{error}. This happened {count} times: the disk is not to be trusted. Replace it, or remove the directories \
             {}/damaged-* to let the node rebuild its replicas once more",
            dir.display()
        )));
    }
    log::error!("event=damaged {error}");
    log::error!(
        "event=rebuilding node={} its replicas are built anew from the other nodes; the damaged files are kept",
        config.node_id
    );
    // Its own damage leaves nothing that could be said to the others.
    let Ok(identity) = Identity::of(dir, config) else {
        return Err(error);
    };
    let raft_id = super::join::await_replacement(dir, config, identity.raft_id)?;
    let plan = Plan {
        number: (1..).find(|n| !set_aside(dir, *n).exists()).unwrap_or(0),
        store_id: draw_store_id()?,
        raft_id,
    };
    let text = format!(
        "1 {} {:032x} {}",
        plan.number,
        u128::from_le_bytes(plan.store_id),
        plan.raft_id
    );
    framed::write_atomic(&plan_path(dir), text.as_bytes())?;
    carry_out(dir, config, &plan)
}

/// Goes on with what a crash interrupted.
///
/// # Errors
/// The disk's.
pub fn resume(dir: &Path, config: &Config) -> Result<(), NodeError> {
    let Some(bytes) = framed::read(&plan_path(dir))? else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let fields: Vec<&str> = text.split_whitespace().collect();
    let plan = match fields[..] {
        ["1", number, store, raft_id] => number.parse().ok().and_then(|number| {
            let store_id = u128::from_str_radix(store, 16).ok()?.to_le_bytes();
            let raft_id = raft_id.parse().ok()?;
            Some(Plan {
                number,
                store_id,
                raft_id,
            })
        }),
        _ => None,
    };
    let plan = plan.ok_or_else(|| {
        NodeError::Data(format!(
            "{} is not readable by this ursula: start the one that wrote it",
            plan_path(dir).display()
        ))
    })?;
    carry_out(dir, config, &plan)
}

/// Each step may have been done before. The old identity goes first: what is left of the old files never belongs to it.
fn carry_out(dir: &Path, config: &Config, plan: &Plan) -> Result<(), NodeError> {
    let path = identity_path(dir);
    let is_done = path.exists() && Identity::of(dir, config)?.store_id == plan.store_id;
    if !is_done {
        let aside = set_aside(dir, plan.number);
        framed::create_dir(&aside)?;
        let identity = path.file_name().unwrap_or_default();
        for name in std::iter::once(identity).chain(PARTS.iter().map(std::ffi::OsStr::new)) {
            let (from, to) = (dir.join(name), aside.join(name));
            if from.exists() {
                std::fs::rename(&from, &to).map_err(|e| io_error(&from, "set aside", e))?;
                framed::sync_dir(&aside)?;
                framed::sync_dir(dir)?;
            }
        }
        let identity = Identity {
            store_id: plan.store_id,
            voters: Vec::new(),
            raft_id: plan.raft_id,
        };
        identity.write(&path, config)?;
        log::warn!(
            "event=set_aside path={:?} raft_id={} remove it once nobody wants to look into it",
            aside.display(),
            plan.raft_id
        );
    }
    for file in [damage_note_path(dir), plan_path(dir)] {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_error(&file, "remove", error).into());
            }
            _ => {}
        }
    }
    framed::sync_dir(dir)?;
    Ok(())
}

fn set_aside(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("damaged-{number}"))
}

fn has_others(config: &Config) -> bool {
    config.peers.iter().any(|p| p.id != config.node_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_move_that_was_cut_at_any_step_is_brought_to_its_end() {
        let nothing = std::collections::BTreeMap::new();
        let (mut config, _) = crate::config::load(&nothing, std::iter::empty(), None).unwrap();
        config.node_id = 2;
        let plan = Plan {
            number: 1,
            store_id: [7; 16],
            raft_id: (1 << 16) + 2,
        };
        let text = format!("1 1 {:032x} {}", u128::from_le_bytes([7; 16]), plan.raft_id);
        for done in 0..=3 {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path();
            let old = Identity {
                store_id: [1; 16],
                voters: vec![1, 2, 3],
                raft_id: 2,
            };
            old.write(&identity_path(dir), &config).unwrap();
            for part in ["wal", "groups"] {
                std::fs::create_dir(dir.join(part)).unwrap();
                std::fs::write(dir.join(part).join("file"), part).unwrap();
            }
            std::fs::write(dir.join("peers"), b"stay").unwrap();
            framed::write_atomic(&plan_path(dir), text.as_bytes()).unwrap();
            let aside = set_aside(dir, 1);
            if done > 0 {
                std::fs::create_dir(&aside).unwrap();
            }
            for name in ["node.ursula", "wal", "groups"].iter().take(done) {
                std::fs::rename(dir.join(name), aside.join(name)).unwrap();
            }
            resume(dir, &config).unwrap();
            assert_eq!(files(dir), ["damaged-1", "node.ursula", "peers"]);
            assert_eq!(files(&aside), ["groups", "node.ursula", "wal"]);
            let new = Identity::of(dir, &config).unwrap();
            assert_eq!((new.store_id, new.raft_id), (plan.store_id, plan.raft_id));
            assert!(new.voters.is_empty());
            resume(dir, &config).unwrap();
            assert_eq!(set_aside_count(dir), 1);
        }
    }

    #[test]
    fn only_damage_is_damage() {
        let path = PathBuf::from("x");
        let io = |code| {
            let source = std::io::Error::from_raw_os_error(code);
            NodeError::Storage(StorageError::Io {
                path: path.clone(),
                op: "read",
                source,
            })
        };
        let newer = StorageError::NewerVersion {
            path: path.clone(),
            found: 9,
            known: 1,
        };
        let corrupt = StorageError::Corrupt {
            path: path.clone(),
            offset: 0,
            what: String::new(),
        };
        for (error, is_one) in [
            (io(libc::EIO), true),
            (io(libc::EACCES), false),
            (newer.into(), false),
            (corrupt.into(), true),
            (NodeError::Damaged(String::new()), true),
            (NodeError::Data(String::new()), false),
        ] {
            assert_eq!(is_damage(&error), is_one, "{error:?}");
        }
    }
}
