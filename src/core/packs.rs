//! What the cold store is asked, in which order, and what its answers mean: putting, finding, deleting and reading packs.
//! Runs on any executor: what takes time to compute is handed to an [`Aside`], and the store is whatever stands behind its
//! trait; the simulator runs all of this over one that fails (`integration/sim`).
//! Invariants: a pack that may be there is looked for before it is put again; nothing is answered that no checksum covers.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;

use bytes::Bytes;
use storage::StorageError;
use storage::cold::{ColdBody, ColdError, ColdKey, ColdStore};
use storage::cold_pack::{self, Header, Location, PackDamage, Source};

use super::cold_cache::location_of;
use crate::group::{ColdAnswer, PackedChunk};
use crate::mutation;
use crate::protocol::{ColdChunk, Incarnation, PackName, Refusal, StreamKey};

/// Bytes of an object's end that are read at once, in the hope that its index is among them.
const END_BYTES: u64 = 64 << 10;

/// The key of a pack.
pub fn pack_key(cluster_id: &str, group: u32, name: PackName) -> Option<ColdKey> {
    ColdKey::new(format!("{cluster_id}/packs/{group:05}/{name}"))
}

/// Why a pack was not put, found or deleted.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// The store.
    #[error(transparent)]
    Cold(#[from] ColdError),
    /// The local disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What was to go into it.
    #[error("bytes of {0} could not be read: {1:?}")]
    Source(StreamKey, Refusal),
    /// What is there.
    #[error("{0}: {1}")]
    Damaged(ColdKey, PackDamage),
    /// The replicas would not find it.
    #[error("node {node} has its old data elsewhere ({place}): give all nodes the same `cold`")]
    PlacesDiffer {
        /// Which.
        node: u64,
        /// Where.
        place: String,
    },
    /// None is set.
    #[error("there is no cold store")]
    NoStore,
}

impl FlushError {
    /// It may be the store's, and then every group's.
    pub fn is_outage(&self) -> bool {
        match self {
            FlushError::Cold(_) | FlushError::PlacesDiffer { .. } | FlushError::NoStore => true,
            FlushError::Storage(_) | FlushError::Source(..) | FlushError::Damaged(..) => false,
        }
    }
}

/// Where computing is done that would hold up an executor.
pub trait Aside {
    /// Does it there.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T>;
}

/// Right here, for simulations and tests.
pub struct AtOnce;

impl Aside for AtOnce {
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> {
        std::future::ready(work())
    }
}

/// The blocking threads of glommio.
pub struct BlockingThreads;

impl Aside for BlockingThreads {
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> {
        storage::blocking::run(work)
    }
}

/// Names of packs that were put without an answer.
pub type Unsure = RefCell<BTreeSet<(u32, PackName)>>;

/// How a pack came to be there.
pub struct Put {
    /// For the group.
    pub answer: ColdAnswer,
    /// Size of what was put now; `None`: it was there, or is not.
    pub put_bytes: Option<u64>,
}

/// See the module's head.
pub struct PackStore<'a, A> {
    /// The objects.
    pub store: &'a dyn ColdStore,
    /// First word of their keys.
    pub cluster_id: &'a str,
    /// What this process put without an answer.
    pub unsure: &'a Unsure,
    /// For computing.
    pub aside: A,
}

impl<A: Aside> PackStore<'_, A> {
    /// Builds a pack and puts it. `sources` are asked for only if it is not there already.
    ///
    /// # Errors
    /// [`FlushError`]: it is not known whether it is there.
    pub async fn put(
        &self,
        group: u32,
        name: PackName,
        sources: impl Future<Output = Result<Vec<Source>, FlushError>>,
    ) -> Result<Put, FlushError> {
        let found = |answer| Put {
            answer,
            put_bytes: None,
        };
        let is_unsure = self.unsure.borrow().contains(&(group, name));
        if is_unsure && let Some(there) = self.find(group, name).await? {
            self.unsure.borrow_mut().remove(&(group, name));
            return Ok(found(there));
        }
        let sources = sources.await?;
        let header = Header {
            group,
            term: name.term,
            number: name.number,
            nonce: name.nonce,
        };
        let built = self.aside.run(move || {
            let built = cold_pack::build(header, &sources);
            (built, sources)
        });
        let (built, sources) = built.await;
        let key = self.key(group, name)?;
        // From here on it may be there, whatever the answer is.
        self.unsure.borrow_mut().insert((group, name));
        match self.store.put(&key, ColdBody::new(built.pieces)).await {
            Ok(()) => {}
            Err(ColdError::Conflict { .. }) => {
                let there = self.find(group, name).await?;
                return Ok(found(there.unwrap_or(ColdAnswer::Conflict(name))));
            }
            Err(_) if mutation::is_on("published-before-put") => {}
            Err(error) => return Err(error.into()),
        }
        self.unsure.borrow_mut().remove(&(group, name));
        let chunks = sources.iter().zip(&built.locations);
        let chunks = chunks.map(|(source, at)| PackedChunk {
            key: StreamKey::from_stored(&source.key),
            incarnation: Incarnation(source.incarnation),
            chunk: chunk_at(source.start, at),
        });
        Ok(Put {
            answer: ColdAnswer::There {
                name,
                object_bytes: built.length,
                chunks: chunks.collect(),
            },
            put_bytes: Some(built.length),
        })
    }

    /// What is in a pack by its own index; `None`: it is not there. One whose index is damaged where it lies counts with nothing
    /// in it: what was to be in it goes into another pack, and the object is collected as what nobody needs is.
    ///
    /// # Errors
    /// [`FlushError`]: it is not known whether it is there.
    pub async fn find(&self, group: u32, name: PackName) -> Result<Option<ColdAnswer>, FlushError> {
        // What came damaged is read once more: the way here may have done it.
        for _ in 0..2 {
            match self.find_once(group, name).await {
                Err(FlushError::Damaged(key, damage))
                    if !mutation::is_on("unreadable-pack-waited-for") =>
                {
                    log::warn!("event=pack_index_damaged key={key} {damage}");
                }
                found => return found,
            }
        }
        let key = self.key(group, name)?;
        let object_bytes = self.store.head(&key).await?;
        Ok(Some(ColdAnswer::There {
            name,
            object_bytes,
            chunks: Vec::new(),
        }))
    }

    async fn find_once(
        &self,
        group: u32,
        name: PackName,
    ) -> Result<Option<ColdAnswer>, FlushError> {
        let key = self.key(group, name)?;
        let length = match self.store.head(&key).await {
            Ok(length) => length,
            Err(ColdError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |damage| FlushError::Damaged(key.clone(), damage);
        let from = length.saturating_sub(END_BYTES);
        let mut end = self.store.get_range(&key, from, length - from).await?;
        let index = cold_pack::index_position(&end, length).map_err(damaged)?;
        if index < from {
            end = self.store.get_range(&key, index, length - index).await?;
        } else {
            end = end.slice((index - from) as usize..);
        }
        let entries = cold_pack::read_index(&end).map_err(damaged)?;
        let chunk_of = |entry: cold_pack::Entry| PackedChunk {
            key: StreamKey::from_stored(&entry.key),
            incarnation: Incarnation(entry.incarnation),
            chunk: chunk_at(entry.start, &entry.location),
        };
        Ok(Some(ColdAnswer::There {
            name,
            object_bytes: length,
            chunks: entries.into_iter().map(chunk_of).collect(),
        }))
    }

    /// Deletes the objects of packs.
    ///
    /// # Errors
    /// [`FlushError`]: some may be there still.
    pub async fn delete(
        &self,
        group: u32,
        packs: &[(u32, PackName)],
    ) -> Result<ColdAnswer, FlushError> {
        let names = packs.iter().map(|(_, name)| *name);
        let keys: Result<Vec<ColdKey>, _> = names.map(|name| self.key(group, name)).collect();
        match self.store.delete(&keys?).await {
            Err(_) if mutation::is_on("forgotten-before-deleted") => {}
            done => done?,
        }
        let numbers = packs.iter().map(|(number, _)| *number);
        Ok(ColdAnswer::Deleted(numbers.collect()))
    }

    /// Reads chunks that lie one behind the other, and verifies them. What came damaged is read once more: the way here
    /// may have done it. `keep` is given each chunk as it is stored, once all are known to be sound.
    ///
    /// # Errors
    /// [`ColdError`].
    pub async fn read(
        &self,
        group: u32,
        pack: PackName,
        run: &[ColdChunk],
        keep: &dyn Fn(&ColdChunk, &[u8]),
    ) -> Result<Vec<Bytes>, ColdError> {
        match self.read_once(group, pack, run, keep).await {
            Err(ColdError::Corrupt { key, what }) => {
                log::warn!("event=cold_read_again key={key} what={what:?}");
                self.read_once(group, pack, run, keep).await
            }
            result => result,
        }
    }

    async fn read_once(
        &self,
        group: u32,
        pack: PackName,
        run: &[ColdChunk],
        keep: &dyn Fn(&ColdChunk, &[u8]),
    ) -> Result<Vec<Bytes>, ColdError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(Vec::new());
        };
        let wrong = |_| ColdError::Misconfigured {
            what: "the cluster's id makes no key of an object".to_owned(),
        };
        let key = self.key(group, pack).map_err(wrong)?;
        let from = first.position;
        let length = last.position + u64::from(last.stored) - from;
        let bytes = self.store.get_range(&key, from, length).await?;
        let locations: Vec<Location> = run.iter().map(location_of).collect();
        let fetched = bytes.clone();
        let opened = self.aside.run(move || {
            let open = |at: &Location| {
                let begin = (at.position - from) as usize;
                let end = begin + at.stored as usize;
                // A copy, where it is not decompressed: a slice would keep the whole run in memory.
                let is_plain = at.stored == at.length;
                let stored = if is_plain {
                    Bytes::copy_from_slice(bytes.get(begin..end).unwrap_or_default())
                } else {
                    bytes.slice(begin.min(bytes.len())..end.min(bytes.len()))
                };
                if is_plain && mutation::is_on("cold-read-unverified") {
                    return Ok(stored);
                }
                let chunk = cold_pack::open(stored, at);
                storage::blocking::give_way();
                chunk
            };
            locations.iter().map(open).collect::<Result<Vec<_>, _>>()
        });
        let opened = opened.await.map_err(|damage| ColdError::Corrupt {
            key,
            what: damage.to_string(),
        })?;
        for chunk in run {
            let begin = (chunk.position - from) as usize;
            if let Some(stored) = fetched.get(begin..begin + chunk.stored as usize) {
                keep(chunk, stored);
            }
        }
        Ok(opened)
    }

    fn key(&self, group: u32, name: PackName) -> Result<ColdKey, FlushError> {
        pack_key(self.cluster_id, group, name).ok_or(FlushError::NoStore)
    }
}

/// What a client is told: to try again, unless that cannot help.
pub fn refusal_of(error: &ColdError) -> Refusal {
    match error {
        ColdError::Corrupt { .. } | ColdError::Conflict { .. } => Refusal::DataDamaged,
        // A pack goes a while after its last chunk was given up: a plan that is older finds nothing.
        _ => Refusal::Unavailable,
    }
}

fn chunk_at(start: u64, at: &Location) -> ColdChunk {
    ColdChunk {
        pack: 0,
        stored: at.stored,
        position: at.position,
        start,
        length: at.length,
        crc32c: at.crc32c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use futures_lite::future::block_on;
    use storage::cold::{ColdFuture, ColdObject};

    /// Objects in memory.
    #[derive(Default)]
    struct Objects(RefCell<BTreeMap<ColdKey, Bytes>>);

    impl Objects {
        fn of(&self, key: &ColdKey) -> Result<Bytes, ColdError> {
            let found = self.0.borrow().get(key).cloned();
            found.ok_or(ColdError::NotFound { key: key.clone() })
        }
    }

    impl ColdStore for Objects {
        fn put<'a>(&'a self, key: &'a ColdKey, body: ColdBody) -> ColdFuture<'a, ()> {
            let bytes = Bytes::from(body.pieces().concat());
            let mut objects = self.0.borrow_mut();
            let there = objects.entry(key.clone()).or_insert(bytes.clone());
            let is_same = *there == bytes;
            let conflict = ColdError::Conflict { key: key.clone() };
            Box::pin(std::future::ready(is_same.then_some(()).ok_or(conflict)))
        }

        fn get_range<'a>(
            &'a self,
            key: &'a ColdKey,
            from: u64,
            length: u64,
        ) -> ColdFuture<'a, Bytes> {
            let range = from as usize..(from + length) as usize;
            let found = self.of(key).map(|object| object.slice(range));
            Box::pin(std::future::ready(found))
        }

        fn get<'a>(&'a self, key: &'a ColdKey) -> ColdFuture<'a, Bytes> {
            Box::pin(std::future::ready(self.of(key)))
        }

        fn head<'a>(&'a self, key: &'a ColdKey) -> ColdFuture<'a, u64> {
            let found = self.of(key).map(|object| object.len() as u64);
            Box::pin(std::future::ready(found))
        }

        fn delete<'a>(&'a self, _keys: &'a [ColdKey]) -> ColdFuture<'a, ()> {
            unreachable!("nothing is deleted here")
        }

        fn list<'a>(
            &'a self,
            _prefix: &'a str,
            _after: Option<&'a ColdKey>,
            _limit: usize,
        ) -> ColdFuture<'a, Vec<ColdObject>> {
            unreachable!("nothing is listed here")
        }

        fn is_local(&self) -> bool {
            false
        }
    }

    /// Else its intent would be looked for without an end, and the bytes would go nowhere.
    #[test]
    fn a_pack_whose_index_is_damaged_counts_with_nothing_in_it() {
        let (store, unsure) = (Objects::default(), Unsure::default());
        let packs = PackStore {
            store: &store,
            cluster_id: "test",
            unsure: &unsure,
            aside: AtOnce,
        };
        let name = PackName {
            term: 1,
            number: 1,
            nonce: 1,
        };
        let sources = || async {
            Ok(vec![Source {
                key: "/a".to_owned(),
                incarnation: 1,
                start: 0,
                pieces: vec![Bytes::from_static(b"hello")],
            }])
        };
        let chunks_of = |answer| match answer {
            ColdAnswer::There { chunks, .. } => chunks.len(),
            other => panic!("{other:?}"),
        };
        let put = block_on(packs.put(1, name, sources())).unwrap();
        assert_eq!(chunks_of(put.answer), 1);
        let sound = block_on(packs.find(1, name)).unwrap().unwrap();
        assert_eq!(chunks_of(sound), 1);
        let key = pack_key("test", 1, name).unwrap();
        let object = store.of(&key).unwrap();
        for cut in 0..object.len() {
            store
                .0
                .borrow_mut()
                .insert(key.clone(), object.slice(..cut));
            let found = block_on(packs.find(1, name)).unwrap().unwrap();
            assert_eq!(chunks_of(found), 0, "cut at {cut}");
        }
        // Also where it was put without an answer, or somebody else's stands there.
        unsure.borrow_mut().insert((1, name));
        for _ in 0..2 {
            let again = block_on(packs.put(1, name, sources())).unwrap();
            assert_eq!(chunks_of(again.answer), 0);
        }
    }
}
