//! A [`Tree`] as a file system.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use super::tree::{Body, Directory, File, ROOT};
use super::{State, lock};

/// The kernel may believe nothing of what it was told: a loss of power changes all.
const TTL: Duration = Duration::ZERO;

struct Mount(Arc<Mutex<State>>);

pub(super) fn mount(state: &Arc<Mutex<State>>, path: &Path) -> std::io::Result<BackgroundSession> {
    fuser::spawn_mount(Mount(state.clone()), path, &Config::default())
}

impl Mount {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// A slow disk does one thing after the other.
    fn dawdle(&self) {
        let delay = self.state().faults.delay;
        std::thread::sleep(delay);
    }

    fn make(&self, parent: u64, name: &OsStr, body: Body) -> Result<FileAttr, Errno> {
        let mut state = self.state();
        let number = state.tree.add(body);
        if !state.tree.link(parent, name, number) {
            return Err(Errno::ENOENT);
        }
        attributes(&mut state, number)
    }

    fn remove(&self, parent: u64, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        let number = state.tree.look_up(parent, name);
        let directory = number.and_then(|n| state.tree.directory(n));
        if directory.is_some_and(|d| !d.names.is_empty()) {
            return reply.error(Errno::ENOTEMPTY);
        }
        match state.tree.unlink(parent, name) {
            true => reply.ok(),
            false => reply.error(Errno::ENOENT),
        }
    }
}

fn attributes(state: &mut State, number: u64) -> Result<FileAttr, Errno> {
    let (kind, size) = match state.tree.body(number).ok_or(Errno::ENOENT)? {
        Body::File(file) => (FileType::RegularFile, file.bytes.len() as u64),
        Body::Directory(_) => (FileType::Directory, 4096),
    };
    Ok(FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

impl Filesystem for Mount {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.state();
        let found = state.tree.look_up(parent.0, name).ok_or(Errno::ENOENT);
        match found.and_then(|number| attributes(&mut state, number)) {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(&mut self.state(), number.0) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        if let (Some(size), Some(file)) = (size, state.tree.file(number.0)) {
            file.set_length(size);
        }
        match attributes(&mut state, number.0) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        match self.make(parent.0, name, Body::Directory(Directory::default())) {
            Ok(made) => reply.entry(&TTL, &made, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(parent.0, name, Body::File(File::default())) {
            Ok(made) => {
                self.state().tree.open(made.ino.0);
                let none = FopenFlags::empty();
                reply.created(&TTL, &made, Generation(0), FileHandle(0), none);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent.0, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent.0, name, reply);
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.state();
        if state.tree.look_up(parent.0, name).is_some() {
            return reply.error(Errno::EEXIST);
        }
        if !state.tree.link(parent.0, name, number.0) {
            return reply.error(Errno::ENOENT);
        }
        match attributes(&mut state, number.0) {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        if flags.contains(RenameFlags::RENAME_NOREPLACE)
            && state.tree.look_up(to.0, to_name).is_some()
        {
            return reply.error(Errno::EEXIST);
        }
        match (state.tree).rename((parent.0, name), (to.0, to_name), exchange) {
            true => reply.ok(),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut state = self.state();
        if flags.0 & libc::O_TRUNC != 0
            && let Some(file) = state.tree.file(number.0)
        {
            file.set_length(0);
        }
        state.tree.open(number.0);
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.state().tree.close(number.0);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.state();
        let end = offset + u64::from(size);
        if state.faults.reads || state.is_bad(number.0, offset, end) {
            return reply.error(Errno::EIO);
        }
        let mut at = offset;
        if let Some((name, begins, bytes)) = state.misread.clone()
            && begins.contains(&offset)
            && state.is_file(number.0, &name)
        {
            at += bytes;
            state.misread = None;
        }
        let Some(file) = state.tree.file(number.0) else {
            return reply.error(Errno::ENOENT);
        };
        let from = file.bytes.len().min(at as usize);
        let end = file.bytes.len().min(from + size as usize);
        reply.data(&file.bytes[from..end]);
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.dawdle();
        let mut guard = self.state();
        let state = &mut *guard;
        if state.faults.writes {
            return reply.error(Errno::EIO);
        }
        let mut at = offset;
        if let Some((name, bytes)) = state.misdirect.clone()
            && state.is_file(number.0, &name)
        {
            at += bytes;
            state.misdirect = None;
        }
        state.heal(number.0, at, at + data.len() as u64);
        let Some(file) = state.tree.file(number.0) else {
            return reply.error(Errno::ENOENT);
        };
        file.write(at, data, flags.0 & libc::O_DSYNC != 0);
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.dawdle();
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(file) = state.tree.file(number.0) else {
            return reply.error(Errno::ENOENT);
        };
        if state.faults.syncs {
            file.fail_to_sync(&mut state.random);
            return reply.error(Errno::EIO);
        }
        file.sync();
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.dawdle();
        let mut state = self.state();
        if state.faults.syncs {
            return reply.error(Errno::EIO);
        }
        if let Some(directory) = state.tree.directory(number.0) {
            directory.sync();
        }
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let Some(file) = state.tree.file(number.0) else {
            return reply.error(Errno::ENOENT);
        };
        let end = offset + length;
        match mode {
            0 if end > file.bytes.len() as u64 => file.set_length(end),
            0 | libc::FALLOC_FL_KEEP_SIZE => {}
            _ => return reply.error(Errno::EOPNOTSUPP),
        }
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut state = self.state();
        let Some(directory) = state.tree.directory(number.0) else {
            return reply.error(Errno::ENOTDIR);
        };
        let names: Vec<_> = directory.names.clone().into_iter().collect();
        for (at, (name, number)) in names.into_iter().enumerate().skip(offset as usize) {
            let kind = match state.tree.body(number) {
                Some(Body::Directory(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // 16 GiB, all free.
        let blocks = 4 << 20;
        reply.statfs(blocks, blocks, blocks, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}

const _: () = assert!(ROOT == 1, "FUSE's root has this number");
