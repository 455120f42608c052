//! Where a data directory's old data is, in its file `cold.ursula`: a start with another place would take acknowledged data
//! for lost, and put new data where the next start does not look.

use std::path::{Path, PathBuf};

use storage::cold::ColdError;
use storage::{StorageError, framed};

use super::NodeError;
use crate::config::{ColdPlace, Config};

/// Compares the place that the settings name with the one of the earlier starts, and notes it at the first. Blocks.
///
/// A directory may be left for another place as long as nothing is in it; a bucket says nothing while it cannot be reached, so
/// it may not.
///
/// # Errors
/// [`NodeError::Misfit`] where they differ, or where a directory is not what it was. The disk's.
pub fn check(dir: &Path, config: &Config) -> Result<(), NodeError> {
    let Some(place) = config.cold_place() else {
        return Ok(());
    };
    let path = note_path(dir);
    let named = name(&place, dir);
    if let Some(noted) = framed::read(&path)? {
        let known = String::from_utf8_lossy(&noted);
        let left = known.strip_prefix(DIR).map(|left| dir.join(left));
        if known == named || is_same_dir(left.as_deref(), &place) {
            return check_is_there(&place, &path);
        }
        // One that is not as it was left may have its files elsewhere.
        let is_empty = |left: &PathBuf| storage::cold::is_prepared(left) && !has_files(left);
        if !left.as_ref().is_some_and(is_empty) {
            let known = left.map_or(known.into_owned(), |left| left.display().to_string());
            let shown = match &place {
                ColdPlace::Dir(dir) => dir.display().to_string(),
                ColdPlace::S3 { .. } => named,
            };
            return Err(NodeError::Misfit(format!(
                "the old data of {} is in {known}, not in {shown}: give --cold {known}; if all that is there was copied to \
                 {shown}, remove {}",
                dir.display(),
                path.display()
            )));
        }
    }
    prepare(&place)?;
    framed::write_atomic(&path, named.as_bytes())?;
    Ok(())
}

/// The directory that a data directory's old data is in, if it is one. Blocks.
///
/// # Errors
/// The disk's.
pub fn noted_dir(dir: &Path) -> Result<Option<PathBuf>, StorageError> {
    let noted = framed::read(&note_path(dir))?.unwrap_or_default();
    let known = String::from_utf8_lossy(&noted);
    Ok(known.strip_prefix(DIR).map(|left| dir.join(left)))
}

/// Before a directory's path, which could be that of a bucket.
const DIR: &str = "dir ";

/// A directory within `dir` by its path from there, since that may be moved.
fn name(place: &ColdPlace, dir: &Path) -> String {
    match place {
        ColdPlace::Dir(cold) => {
            let (dir, cold) = (whole(dir), whole(cold));
            format!(
                "{DIR}{}",
                cold.strip_prefix(&dir).unwrap_or(&cold).display()
            )
        }
        ColdPlace::S3 { .. } => place.shared_name(),
    }
}

/// Without what may be spelt otherwise, as far as it shows in the path.
fn whole(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    absolute.components().collect()
}

/// Whether two paths lead to one directory.
fn is_same_dir(left: Option<&Path>, place: &ColdPlace) -> bool {
    match (left.map(std::fs::canonicalize), place) {
        (Some(Ok(left)), ColdPlace::Dir(dir)) => {
            std::fs::canonicalize(dir).is_ok_and(|dir| dir == left)
        }
        _ => false,
    }
}

/// A directory that was prepared has more in it than one where a disk should be mounted.
fn check_is_there(place: &ColdPlace, note: &Path) -> Result<(), NodeError> {
    let place = match place {
        ColdPlace::Dir(dir) if !storage::cold::is_prepared(dir) => dir,
        _ => return prepare(place),
    };
    Err(NodeError::Misfit(format!(
        "{} is not the directory with the old data: is its disk mounted? If what it held is lost for good, remove {}",
        place.display(),
        note.display()
    )))
}

/// A place that is no directory and cannot become one is a wrong setting; what a disk refuses for now is not.
fn prepare(place: &ColdPlace) -> Result<(), NodeError> {
    use std::io::ErrorKind;
    let ColdPlace::Dir(dir) = place else {
        return Ok(());
    };
    storage::cold::prepare(dir).map_err(|error| match error {
        ColdError::Storage(StorageError::Io { source, .. })
            if matches!(
                source.kind(),
                ErrorKind::NotADirectory
                    | ErrorKind::PermissionDenied
                    | ErrorKind::ReadOnlyFilesystem
                    | ErrorKind::AlreadyExists
                    | ErrorKind::InvalidFilename
            ) =>
        {
            NodeError::Misfit(format!(
                "`cold` is {}, where no directory can be made: {source}",
                dir.display()
            ))
        }
        other => other.into(),
    })
}

fn has_files(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else {
        // What cannot be read may hold anything; what is not there holds nothing.
        return dir.exists();
    };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => has_files(&entry.path()),
        _ => true,
    })
}

fn note_path(dir: &Path) -> PathBuf {
    dir.join("cold.ursula")
}
