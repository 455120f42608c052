//! One group's checkpoint on a simulated disk: its files, as the server's own code writes and reads them (`core/checkpoint.rs`,
//! `storage`'s tables, packs and framed files).

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use raftproto::checkpoint::GroupManifest;
use storage::StorageError;
use storage::framed;
use storage::pack::{self, ChunkLocation, NeededChunk, PackPlan};
use ursula::core::{
    location_of, manifest_path, pack_path, read_tables_of, sweep_of, table_path, tables,
    write_checkpoint,
};
use ursula::group::{CheckpointPlan, Fetched, LogPosition, Machine, PlaceChunk};
use ursula::protocol::{ChunkRef, Incarnation, StreamKey};

use crate::disk::SECTOR;
use crate::files::{Act, Bad, BadSectors, Dir, Room, SimFiles, crash};
use crate::rng::Rng;
use crate::transfer::names;

/// One group's newest checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// As the process knows it.
    pub manifest: GroupManifest,
    /// What its directory holds.
    pub files: Dir,
    /// Packs that were damaged: what only the damage knows.
    pub hurt: BTreeSet<u32>,
    /// Packs that were mended: they have what the state needed then, which may be less than the manifest's.
    pub mended: BTreeSet<u32>,
    /// Sectors of its files that are not read as they were written.
    pub bad: BadSectors,
}

/// A checkpoint on its way to the disk.
pub struct Writing {
    next: Checkpoint,
    acts: Vec<Act>,
    /// A write failed: the process ends.
    pub has_failed: bool,
}

/// Lays out a new pack.
pub struct Placer(pub PackPlan);

impl PlaceChunk for Placer {
    fn place(
        &mut self,
        key: &StreamKey,
        incarnation: Incarnation,
        start: u64,
        pieces: Vec<Bytes>,
    ) -> ChunkRef {
        let location = self.0.add(key.as_str(), incarnation.0, start, pieces);
        ChunkRef {
            pack: self.0.number(),
            position: location.position,
            start,
            length: location.length,
            crc32c: location.crc32c,
        }
    }
}

/// Where the files are to be; only their names count.
fn root() -> &'static Path {
    Path::new("/")
}

impl Checkpoint {
    fn on_disk(&self) -> SimFiles {
        SimFiles::of(self.files.clone(), &self.bad, Room::Endless)
    }

    /// Begins to write the checkpoint that follows this one by a plan, where there is so much room.
    ///
    /// # Errors
    /// There was not; all that counts is as it was.
    pub fn begin(
        &self,
        group: u32,
        plan: &CheckpointPlan,
        pack: &Placer,
        room: Room,
    ) -> Result<Writing, StorageError> {
        let files = SimFiles::of(self.files.clone(), &self.bad, room);
        let before = self.manifest.clone();
        let written = write_checkpoint(&files, root(), group, before, plan, &pack.0);
        let (files, acts) = files.into_parts();
        let manifest = match written {
            Ok((manifest, _)) => manifest,
            Err(StorageError::Io { .. }) if matches!(room, Room::FailsAt(_)) => {
                let next = self.clone();
                return Ok(Writing {
                    next,
                    acts,
                    has_failed: true,
                });
            }
            Err(error) => {
                let is_as_it_was = |(name, bytes)| self.files.get(name) == Some(bytes);
                assert!(files.iter().all(is_as_it_was), "left behind: {error}");
                let mut named = names(&self.manifest).chain(["manifest".to_owned()]);
                let is_kept = |name| files.contains_key(&name) || !self.files.contains_key(&name);
                assert!(named.all(is_kept), "lost: {error}");
                return Err(error);
            }
        };
        let mut next = Checkpoint {
            manifest,
            files,
            hurt: self.hurt.clone(),
            mended: self.mended.clone(),
            bad: self.bad.clone(),
        };
        next.forget_hurt(&self.files);
        Ok(Writing {
            next,
            acts,
            has_failed: false,
        })
    }

    /// Reads the newest checkpoint of a directory and removes what it does not name, as a start does.
    ///
    /// # Errors
    /// What is damaged.
    pub fn read_again(&mut self, group: u32) -> Result<(), StorageError> {
        let before = std::mem::take(&mut self.files);
        let files = SimFiles::of(before.clone(), &self.bad, Room::Endless);
        let path = manifest_path(root(), group);
        let manifest = match framed::read_of(&files, &path)? {
            Some(bytes) => GroupManifest::decode(bytes).map_err(|e| StorageError::Corrupt {
                path,
                offset: 0,
                what: e.to_string(),
            })?,
            None => GroupManifest {
                group,
                ..GroupManifest::default()
            },
        };
        read_tables_of(&files, root(), &manifest)?;
        sweep_of(&files, root(), &manifest)?;
        self.manifest = manifest;
        (self.files, _) = files.into_parts();
        self.forget_hurt(&before);
        Ok(())
    }

    /// What no manifest names any more is not damaged, nor what is another file than before.
    fn forget_hurt(&mut self, before: &Dir) {
        let packs = &self.manifest.packs;
        self.hurt.retain(|pack| packs.contains(pack));
        self.mended.retain(|pack| packs.contains(pack));
        let (files, bad) = (&self.files, &mut self.bad);
        bad.retain(|name, _| files.contains_key(name) && files.get(name) == before.get(name));
    }

    /// The state that it holds.
    ///
    /// # Errors
    /// What is damaged.
    pub fn machine(&self, group: u32) -> Result<Machine, String> {
        let files = self.on_disk();
        let tables = read_tables_of(&files, root(), &self.manifest).map_err(|e| e.to_string())?;
        let streams = tables.into_iter();
        let streams = streams.map(|(key, value)| (StreamKey::from_stored(&key), value));
        let machine = Machine::load(group, &self.manifest.group_state, streams);
        machine.map_err(|e| e.to_string())
    }

    /// A pack is what was written, and holds these chunks.
    pub fn is_sound(&self, pack: u32, needed: &[ChunkLocation]) -> bool {
        let files = self.on_disk();
        let group = self.manifest.group;
        let path = pack_path(root(), group, pack);
        let verified = pack::verify_named_of(&files, &path, group, pack);
        verified.is_ok() && pack::has_chunks_of(&files, &path, needed).unwrap_or(false)
    }

    /// The bytes of chunks, where they are sound.
    pub fn read_sound(&self, pack: u32, chunks: &[ChunkLocation]) -> Vec<Option<Bytes>> {
        let files = self.on_disk();
        let path = pack_path(root(), self.manifest.group, pack);
        pack::read_sound_of(&files, &path, chunks)
    }

    /// Bytes of a pack, whatever they are.
    pub fn read_unverified(&self, pack: u32, position: u64, length: u32) -> Option<Bytes> {
        let files = self.on_disk();
        let path = pack_path(root(), self.manifest.group, pack);
        pack::read_unverified_of(&files, &path, position, length)
    }

    /// Writes a pack anew from these chunks.
    ///
    /// # Errors
    /// They are not what lay there.
    pub fn rebuild(
        &mut self,
        pack: u32,
        chunks: Vec<(NeededChunk, Bytes)>,
    ) -> Result<(), StorageError> {
        let group = self.manifest.group;
        let files = self.on_disk();
        let path = pack_path(root(), group, pack);
        pack::rebuild_of(&files, &path, (group, pack), chunks)?;
        (self.files, _) = files.into_parts();
        self.hurt.remove(&pack);
        self.mended.insert(pack);
        self.bad.remove(&format!("pack-{pack}"));
        Ok(())
    }

    /// As it comes to another replica.
    ///
    /// # Errors
    /// What is damaged.
    pub fn fetched(&self, group: u32) -> Result<Fetched, String> {
        Ok(Fetched {
            machine: self.machine(group)?,
            position: LogPosition {
                index: self.manifest.index,
                term: self.manifest.term,
            },
            membership: self.manifest.membership.clone().unwrap_or_default(),
            durable_pack: self.manifest.next_pack.saturating_sub(1),
        })
    }

    /// A part of a chunk; `None`: no pack of that name has it.
    ///
    /// # Errors
    /// The pack is damaged.
    pub fn read_chunk(
        &self,
        chunk: &ChunkRef,
        from: u32,
        to: u32,
    ) -> Result<Option<Bytes>, StorageError> {
        let path = pack_path(root(), self.manifest.group, chunk.pack);
        let name = format!("pack-{}", chunk.pack);
        let Some(file) = self.files.get(&name) else {
            return Ok(None);
        };
        let only = Dir::from([(name, file.clone())]);
        let files = SimFiles::of(only, &self.bad, Room::Endless);
        let read = pack::read_of(&files, &path, location_of(chunk))?;
        Ok(read.map(|whole| whole.slice(from as usize..to as usize)))
    }

    /// A bit of its manifest or of one of its tables is another, or the file ends early; or a sector is not read as it was
    /// written. Answers whether there is one.
    pub fn damage(&mut self, how: Spoil, rng: &mut Rng) -> bool {
        let group = self.manifest.group;
        let mut paths = vec![manifest_path(root(), group)];
        paths.extend(tables(&self.manifest).map(|number| table_path(root(), group, number)));
        let path = rng.choose(&paths);
        let name = path.file_name().and_then(|n| n.to_str());
        self.spoil(name.unwrap_or_default(), how, rng)
    }

    /// The same of one of its packs, or it is gone; answers whether there is one.
    pub fn damage_pack(&mut self, how: Spoil, rng: &mut Rng) -> bool {
        let number = rng.pick(&self.manifest.packs);
        let name = format!("pack-{number}");
        if !self.spoil(&name, how, rng) {
            return false;
        }
        if how == Spoil::Content && rng.chance(200_000) {
            self.files.remove(&name);
        }
        self.hurt.insert(number);
        true
    }

    fn spoil(&mut self, name: &str, how: Spoil, rng: &mut Rng) -> bool {
        let Some(file) = self.files.get_mut(name) else {
            return false;
        };
        let sectors = file.len().div_ceil(SECTOR).max(1) as u64;
        let sector = rng.below(sectors) as usize;
        let bad = match how {
            Spoil::Content => {
                *file = spoilt(file, rng);
                return true;
            }
            Spoil::Unreadable => Bad::Unreadable,
            Spoil::Misread => Bad::Misread(sector + 1 + rng.below(sectors) as usize),
        };
        self.bad.insert(name.to_owned(), (sector, bad));
        true
    }
}

/// How a file is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// What it holds.
    Content,
    /// A sector cannot be read.
    Unreadable,
    /// Another sector is read in the place of one.
    Misread,
}

fn spoilt(file: &Bytes, rng: &mut Rng) -> Bytes {
    let mut bytes = file.to_vec();
    let at = rng.below(bytes.len().max(1) as u64) as usize;
    if bytes.is_empty() || rng.chance(300_000) {
        bytes.truncate(at);
    } else {
        bytes[at] ^= 1 << rng.below(8);
    }
    bytes.into()
}

impl Writing {
    /// All of it is there.
    pub fn end(self) -> Checkpoint {
        self.next
    }

    /// What a crash leaves of it where the checkpoint before stood.
    pub fn crash(&self, before: &Checkpoint, rng: &mut Rng) -> Dir {
        crash(&before.files, &self.acts, rng)
    }
}
