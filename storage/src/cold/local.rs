//! A cold store that is a directory: a file per object, named as its key.
//! A file is written beside its place, synced, linked to its name, and the directory synced: after a crash it is there
//! whole or not at all. Linking fails where the name is taken, which makes a put create-only across processes too.
//! All of it is done by blocking threads.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::{
    ColdBody, ColdError, ColdFuture, ColdHost, ColdKey, ColdObject, ColdRequest, ColdStore,
    ColdVerb, InFlight,
};
use crate::files::WriteSynced;
use crate::{blocking, framed, io_error};

/// Where files are before they have their names; no key begins with a point.
const UNNAMED: &str = ".tmp";
/// Bytes gathered for a write, or read for a comparison.
const BUFFER_BYTES: usize = 256 << 10;

/// A directory as a cold store, for one core.
pub struct LocalStore {
    dir: PathBuf,
    owner: u16,
    host: Rc<dyn ColdHost>,
    next: Cell<u64>,
    in_flight: InFlight,
    /// Directories whose own names are known to be on disk.
    durable_dirs: RefCell<BTreeSet<PathBuf>>,
}

/// Makes the directory, and removes what a crash left unnamed. Once per process, before any core opens it. Blocks.
///
/// # Errors
/// The system's.
pub fn prepare(dir: &Path) -> Result<(), ColdError> {
    let unnamed = dir.join(UNNAMED);
    framed::create_dir(&unnamed)?;
    let failed = |e| io_error(&unnamed, "list", e);
    for entry in std::fs::read_dir(&unnamed).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        std::fs::remove_file(&path).map_err(|e| io_error(&path, "remove", e))?;
    }
    Ok(())
}

/// Whether it is a directory that [`prepare`] has made. Blocks.
pub fn is_prepared(dir: &Path) -> bool {
    dir.join(UNNAMED).is_dir()
}

impl LocalStore {
    /// The store in a directory that was prepared. `owner` is another number for each core.
    pub fn open(dir: &Path, owner: u16, host: Rc<dyn ColdHost>) -> LocalStore {
        LocalStore {
            dir: dir.to_owned(),
            owner,
            host,
            next: Cell::new(0),
            in_flight: InFlight::default(),
            durable_dirs: RefCell::default(),
        }
    }

    fn path(&self, key: &ColdKey) -> PathBuf {
        self.dir.join(key.as_str())
    }

    /// Does it on a blocking thread, and counts it.
    async fn run<T: Send + 'static>(
        &self,
        verb: ColdVerb,
        sent_bytes: u64,
        received_bytes: fn(&T) -> u64,
        work: impl FnOnce() -> Result<T, ColdError> + Send + 'static,
    ) -> Result<T, ColdError> {
        let began_us = self.host.monotonic_us();
        let under_way = self.in_flight.enter(&*self.host);
        let result = blocking::run(work).await;
        drop(under_way);
        self.host.requested(ColdRequest {
            verb,
            status: result.as_ref().err().map_or("ok", ColdError::word),
            micros: self.host.monotonic_us() - began_us,
            sent_bytes,
            received_bytes: result.as_ref().map_or(0, received_bytes),
        });
        result
    }
}

impl ColdStore for LocalStore {
    fn put<'a>(&'a self, key: &'a ColdKey, body: ColdBody) -> ColdFuture<'a, ()> {
        Box::pin(async move {
            let number = self.next.get();
            self.next.set(number + 1);
            let unnamed = self
                .dir
                .join(UNNAMED)
                .join(format!("{}-{number}", self.owner));
            let path = self.path(key);
            let parent = path.parent().unwrap_or(&self.dir).to_owned();
            let is_durable_dir = self.durable_dirs.borrow().contains(&parent);
            let put = Put {
                key: key.clone(),
                unnamed,
                path,
                parent: parent.clone(),
                is_durable_dir,
            };
            let length = body.length();
            self.run(ColdVerb::Put, length, |()| 0, move || put.run(&body))
                .await?;
            self.durable_dirs.borrow_mut().insert(parent);
            Ok(())
        })
    }

    fn get_range<'a>(&'a self, key: &'a ColdKey, from: u64, length: u64) -> ColdFuture<'a, Bytes> {
        Box::pin(async move {
            let (key, path) = (key.clone(), self.path(key));
            self.run(
                ColdVerb::Get,
                0,
                |bytes: &Bytes| bytes.len() as u64,
                move || {
                    let (file, size) = open(&key, &path)?;
                    if from.checked_add(length).is_none_or(|end| end > size) {
                        let what = format!("it has {size} bytes, not {length} from {from} on");
                        return Err(ColdError::Corrupt { key, what });
                    }
                    read(&file, &path, from, length)
                },
            )
            .await
        })
    }

    fn get<'a>(&'a self, key: &'a ColdKey) -> ColdFuture<'a, Bytes> {
        Box::pin(async move {
            let (key, path) = (key.clone(), self.path(key));
            self.run(
                ColdVerb::Get,
                0,
                |bytes: &Bytes| bytes.len() as u64,
                move || {
                    let (file, size) = open(&key, &path)?;
                    read(&file, &path, 0, size)
                },
            )
            .await
        })
    }

    fn head<'a>(&'a self, key: &'a ColdKey) -> ColdFuture<'a, u64> {
        Box::pin(async move {
            let (key, path) = (key.clone(), self.path(key));
            self.run(
                ColdVerb::Head,
                0,
                |_| 0,
                move || open(&key, &path).map(|(_, size)| size),
            )
            .await
        })
    }

    fn delete<'a>(&'a self, keys: &'a [ColdKey]) -> ColdFuture<'a, ()> {
        Box::pin(async move {
            let paths: Vec<PathBuf> = keys.iter().map(|key| self.path(key)).collect();
            self.run(ColdVerb::Delete, 0, |()| 0, move || remove(&paths))
                .await
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a ColdKey>,
        limit: usize,
    ) -> ColdFuture<'a, Vec<ColdObject>> {
        Box::pin(async move {
            let mut listing = Listing {
                prefix: prefix.to_owned(),
                after: after.cloned(),
                limit,
                found: BTreeMap::new(),
            };
            let dir = self.dir.clone();
            self.run(
                ColdVerb::List,
                0,
                |_| 0,
                move || {
                    listing.walk(&dir, "")?;
                    let objects = listing.found.into_iter();
                    Ok(objects
                        .map(|(key, size)| ColdObject { key, size })
                        .collect())
                },
            )
            .await
        })
    }

    fn is_local(&self) -> bool {
        true
    }
}

fn open(key: &ColdKey, path: &Path) -> Result<(File, u64), ColdError> {
    let opened = File::open(path).and_then(|file| {
        let metadata = file.metadata()?;
        Ok((file, metadata))
    });
    match opened {
        Ok((file, metadata)) if metadata.is_file() => Ok((file, metadata.len())),
        Ok(_) => Err(ColdError::NotFound { key: key.clone() }),
        Err(error) if is_absent(&error) => Err(ColdError::NotFound { key: key.clone() }),
        Err(error) => Err(io_error(path, "open", error).into()),
    }
}

/// Also where a word of the key is a file.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn read(file: &File, path: &Path, from: u64, length: u64) -> Result<Bytes, ColdError> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, from)
        .map_err(|e| io_error(path, "read", e))?;
    Ok(bytes.into())
}

fn remove(paths: &[PathBuf]) -> Result<(), ColdError> {
    let mut parents = BTreeSet::new();
    for path in paths {
        match std::fs::remove_file(path) {
            Ok(()) => {
                #[cfg(any(test, feature = "tape"))]
                crate::tape::note(path, || crate::tape::Act::Remove(path.clone()));
                parents.extend(path.parent());
            }
            Err(error) if is_absent(&error) => {}
            // A key that only the beginning of others is.
            Err(error) if error.kind() == ErrorKind::IsADirectory => {}
            Err(error) => return Err(io_error(path, "remove", error).into()),
        }
    }
    for parent in parents {
        framed::sync_dir(parent)?;
    }
    Ok(())
}

/// One put, as a blocking thread does it.
struct Put {
    key: ColdKey,
    unnamed: PathBuf,
    path: PathBuf,
    parent: PathBuf,
    is_durable_dir: bool,
}

impl Put {
    fn run(self, body: &ColdBody) -> Result<(), ColdError> {
        if !self.is_durable_dir {
            framed::create_dir(&self.parent)?;
        }
        let put = self.write(body).and_then(|()| self.name(body));
        // Linked or not, this name is not needed; a start removes it too.
        let _ = std::fs::remove_file(&self.unnamed);
        put?;
        Ok(framed::sync_dir(&self.parent)?)
    }

    fn write(&self, body: &ColdBody) -> Result<(), ColdError> {
        let written = File::create(&self.unnamed).and_then(|file| {
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
            for piece in body.pieces() {
                out.write_all(piece)?;
            }
            Box::new(out.into_inner()?).sync()
        });
        written.map_err(|e| io_error(&self.unnamed, "write", e).or_no_space().into())
    }

    fn name(&self, body: &ColdBody) -> Result<(), ColdError> {
        match std::fs::hard_link(&self.unnamed, &self.path) {
            Ok(()) => {
                #[cfg(any(test, feature = "tape"))]
                crate::tape::note(&self.path, || {
                    crate::tape::Act::Link(self.unnamed.clone(), self.path.clone())
                });
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if is_content(&self.path, body).map_err(|e| io_error(&self.path, "read", e))? {
                    return Ok(());
                }
                Err(ColdError::Conflict {
                    key: self.key.clone(),
                })
            }
            Err(error) => Err(io_error(&self.path, "link", error).or_no_space().into()),
        }
    }
}

fn is_content(path: &Path, body: &ColdBody) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() != body.length() {
        return Ok(false);
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    for piece in body.pieces() {
        for expected in piece.chunks(BUFFER_BYTES) {
            let found = &mut buffer[..expected.len()];
            file.read_exact(found)?;
            if found != expected {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The first objects in order, found by a walk that knows no order.
struct Listing {
    prefix: String,
    after: Option<ColdKey>,
    limit: usize,
    found: BTreeMap<ColdKey, u64>,
}

impl Listing {
    fn walk(&mut self, dir: &Path, words: &str) -> Result<(), ColdError> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(io_error(dir, "list", error).into()),
        };
        for entry in entries {
            let entry = entry.map_err(|e| io_error(dir, "list", e))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                continue;
            };
            let text = format!("{words}{name}");
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            if is_dir && !name.starts_with('.') {
                let below = format!("{text}/");
                if below.starts_with(&self.prefix) || self.prefix.starts_with(&below) {
                    self.walk(&entry.path(), &below)?;
                }
                continue;
            }
            let Some(key) = ColdKey::new(text).filter(|key| self.is_wanted(key)) else {
                continue;
            };
            // Gone meanwhile: then it is not listed.
            if let Ok(metadata) = entry.metadata() {
                self.found.insert(key, metadata.len());
            }
            if self.found.len() > self.limit {
                self.found.pop_last();
            }
        }
        Ok(())
    }

    fn is_wanted(&self, key: &ColdKey) -> bool {
        let is_before_last = || {
            let last = self.found.last_key_value();
            self.found.len() < self.limit || last.is_some_and(|(last, _)| key < last)
        };
        let after = self
            .after
            .as_ref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        key.as_str().starts_with(&self.prefix)
            && std::ops::RangeBounds::contains(&(after, Bound::Unbounded), key)
            && is_before_last()
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
