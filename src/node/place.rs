//! Whether a path can be a data directory: looked at by each start before anything is written there, and by `ursula doctor`.

use std::path::Path;

use super::identity::identity_path;

/// What may stand in a data directory that has no identity yet: from a start that was cut short or waits to join, from a
/// restore or a rebuild, or from the filesystem.
const OWN: [&str; 11] = [
    "LOCK",
    "cache",
    "cold",
    "cold.ursula",
    "damage.ursula",
    "groups",
    "incoming",
    "lost+found",
    "peers",
    "rebuild.ursula",
    "wal",
];

/// Foreign names that are told.
const TOLD_MAX: usize = 3;

/// Why a path is no data directory and cannot become one, and what to do; `None` if nothing speaks against it.
pub fn misfit(dir: &Path) -> Option<String> {
    let shown = dir.display();
    let found = dir.ancestors().find(|d| d.symlink_metadata().is_ok())?;
    if !found.is_dir() {
        return Some(format!(
            "wal_dir {shown}: {} is no directory; give wal_dir a directory, which may be missing or empty",
            found.display()
        ));
    }
    if found != dir || identity_path(dir).exists() {
        return None;
    }
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            return Some(format!(
                "wal_dir {shown} cannot be read: {error}; give the directory to the server's user"
            ));
        }
    };
    let names = entries.flatten().map(|e| e.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let mut foreign: Vec<String> = names.filter(|name| !is_own(name)).collect();
    if foreign.is_empty() {
        return None;
    }
    foreign.sort_unstable();
    let count = foreign.len();
    foreign.truncate(TOLD_MAX);
    let more = if count > TOLD_MAX { ", ..." } else { "" };
    Some(format!(
        "wal_dir {shown} is no data directory and holds {count} entries that are not ursula's ({}{more}); give wal_dir an empty \
         directory of its own, or move them away",
        foreign.join(", ")
    ))
}

fn is_own(name: &str) -> bool {
    OWN.contains(&name)
        || name == super::RESTORING
        || name.starts_with("damaged-")
        || name.starts_with('.')
        || name.ends_with(".tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_missing_or_ours_can_be_a_data_directory() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        for (own, name) in [
            ("ours", "LOCK"),
            ("theirs", "photo.jpg"),
            ("known", "node.ursula"),
        ] {
            std::fs::create_dir(at(own)).unwrap();
            std::fs::write(at(own).join(name), "").unwrap();
        }
        std::fs::write(at("known").join("photo.jpg"), "").unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", at("dangling")).unwrap();
        for (name, expected) in [
            ("missing/deep", None),
            ("ours", None),
            ("known", None),
            ("file", Some("no directory")),
            ("file/below", Some("no directory")),
            ("dangling", Some("no directory")),
            ("theirs", Some("photo.jpg")),
        ] {
            let found = misfit(&at(name));
            assert_eq!(found.is_some(), expected.is_some(), "{name}: {found:?}");
            let found = found.unwrap_or_default();
            assert!(found.contains(expected.unwrap_or("")), "{name}: {found}");
        }
    }
}
