//! What must not change between starts of a data directory, in its file `node.ursula`: format 2, the store's id, the
//! number of groups, the node's number, the cluster's name, the nodes that founded it (`-` for one that joined), and the
//! raft id of its replicas.

use std::path::Path;

use storage::{StorageError, framed};

use super::NodeError;
use crate::config::Config;

/// See the module's head.
pub struct Identity {
    /// Which data directory this is: drawn when it is made.
    pub store_id: [u8; 16],
    /// The first members of all groups; none where the node joined later.
    pub voters: Vec<u64>,
    /// Of this node's replicas.
    pub raft_id: u64,
}

impl Identity {
    /// Reads a directory's identity, or gives a new directory one.
    ///
    /// # Errors
    /// [`NodeError::Misfit`] where the settings are not those of the directory.
    pub fn of(dir: &Path, config: &Config) -> Result<Identity, NodeError> {
        let path = identity_path(dir);
        match framed::read(&path)? {
            Some(bytes) => read(dir, &path, &String::from_utf8_lossy(&bytes), config),
            None => make(dir, &path, config),
        }
    }

    /// Writes it as that of a directory.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, path: &Path, config: &Config) -> Result<(), StorageError> {
        let listed: Vec<String> = self.voters.iter().map(u64::to_string).collect();
        let listed = listed.join(",");
        let text = format!(
            "2 {:032x} {} {} {} {} {}",
            u128::from_le_bytes(self.store_id),
            config.raft_group_count,
            config.node_id,
            config.cluster_id,
            if listed.is_empty() { "-" } else { &listed },
            self.raft_id
        );
        framed::write_atomic(path, text.as_bytes())
    }
}

/// Where a restore gathers a directory's groups; there only while it is under way, or if it was cut short.
pub const RESTORING: &str = "restoring";

/// Makes what a restore has gathered in a directory the data of its node. Blocks.
///
/// # Errors
/// The disk's.
pub fn found_directory(dir: &Path, config: &Config) -> Result<(), NodeError> {
    let failed = |e| storage::io_error(dir, "rename", e);
    let gathered = dir.join(RESTORING);
    std::fs::rename(gathered.join("groups"), dir.join("groups")).map_err(failed)?;
    framed::sync_dir(dir)?;
    let founders = match config.peers.is_empty() {
        true => vec![config.node_id],
        false => config.peers.iter().map(|p| p.id).collect(),
    };
    let identity = Identity {
        store_id: draw_store_id()?,
        voters: founders,
        raft_id: config.node_id,
    };
    identity.write(&identity_path(dir), config)?;
    std::fs::remove_dir_all(&gathered).map_err(failed)?;
    framed::sync_dir(dir)?;
    Ok(())
}

/// Takes [`found_directory`] back: no node starts from what is left, which is as if the restore had been cut short. Blocks.
///
/// # Errors
/// The disk's.
pub fn unmake_directory(dir: &Path) -> Result<(), NodeError> {
    let failed = |e| storage::io_error(dir, "remove", e);
    framed::create_dir(&dir.join(RESTORING))?;
    std::fs::remove_file(identity_path(dir)).map_err(failed)?;
    framed::sync_dir(dir)?;
    Ok(())
}

/// The file of a directory's identity.
pub fn identity_path(dir: &Path) -> std::path::PathBuf {
    dir.join("node.ursula")
}

fn read(dir: &Path, path: &Path, text: &str, config: &Config) -> Result<Identity, NodeError> {
    let unreadable = || NodeError::Data(format!("{} is not readable", path.display()));
    let fields: Vec<&str> = text.split_whitespace().collect();
    let (store, groups, node, cluster, voters, raft_id) = match fields[..] {
        ["1", store, groups, node] => (store, groups, node, None, node, node),
        ["2", store, groups, node, cluster, voters, raft_id] => {
            (store, groups, node, Some(cluster), voters, raft_id)
        }
        [version, ..] if version.parse::<u32>().is_ok_and(|v| v > 2) => {
            return Err(NodeError::Data(format!(
                "{} was written by a newer ursula: start that one",
                path.display()
            )));
        }
        _ => return Err(unreadable()),
    };
    if groups.parse() != Ok(config.raft_group_count) {
        return Err(NodeError::Misfit(format!(
            "raft_group_count is {groups} in {}, not {}: it is fixed when a data directory is made; give --raft-group-count {groups}",
            dir.display(),
            config.raft_group_count
        )));
    }
    if node.parse() != Ok(config.node_id) {
        return Err(NodeError::Misfit(format!(
            "{} belongs to node {node}, not {}; give --node-id {node}",
            dir.display(),
            config.node_id
        )));
    }
    if let Some(cluster) = cluster
        && cluster != config.cluster_id
    {
        return Err(NodeError::Misfit(format!(
            "{} belongs to the cluster {cluster}, not {}; give --cluster-id {cluster}",
            dir.display(),
            config.cluster_id
        )));
    }
    let listed = voters.split(',').filter(|v| *v != "-");
    let voters: Result<Vec<u64>, _> = listed.map(str::parse).collect();
    let store_id = u128::from_str_radix(store, 16).map_err(|_| unreadable())?;
    Ok(Identity {
        store_id: store_id.to_le_bytes(),
        voters: voters.map_err(|_| unreadable())?,
        raft_id: raft_id.parse().map_err(|_| unreadable())?,
    })
}

fn make(dir: &Path, path: &Path, config: &Config) -> Result<Identity, NodeError> {
    if dir.join(RESTORING).is_dir() {
        return Err(NodeError::Data(format!(
            "a restore into {} was cut short: remove all that is there, and restore again",
            dir.display()
        )));
    }
    let wal_dir = dir.join("wal");
    if wal_dir.is_dir()
        && std::fs::read_dir(&wal_dir).is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(NodeError::Data(format!(
            "{} is missing, but {} holds data: restore the directory as a whole from a backup",
            path.display(),
            wal_dir.display()
        )));
    }
    let store_id = draw_store_id()?;
    let (voters, raft_id) = match (config.join, config.peers.is_empty()) {
        (true, _) => (Vec::new(), super::join::await_membership(dir, config)?),
        (false, true) => (vec![config.node_id], config.node_id),
        (false, false) => (config.peers.iter().map(|p| p.id).collect(), config.node_id),
    };
    let identity = Identity {
        store_id,
        voters,
        raft_id,
    };
    identity.write(path, config)?;
    Ok(identity)
}

/// Names a new data directory.
///
/// # Errors
/// The system's.
pub fn draw_store_id() -> Result<[u8; 16], NodeError> {
    let mut store_id = [0u8; 16];
    // SAFETY: the pointer and the length are those of the array.
    let got = unsafe { libc::getrandom(store_id.as_mut_ptr().cast(), store_id.len(), 0) };
    if got != store_id.len() as isize {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(store_id)
}
