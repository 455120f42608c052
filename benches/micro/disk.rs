//! The write-ahead log on a real disk: one commit, and the scan of a start.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use glommio::{LocalExecutorBuilder, Placement};
use storage::wal::{IoMode, Record, Wal, WalConfig, has_direct_io, recover};

const STORE: [u8; 16] = [7; 16];

fn config(dir: &Path, segment_bytes: u64, wanted: IoMode) -> WalConfig {
    let is_direct = has_direct_io(dir).expect("the directory is writable");
    let io_mode = if is_direct { wanted } else { IoMode::Buffered };
    WalConfig {
        dir: dir.to_owned(),
        store_id: STORE,
        generation: 1,
        lane: 0,
        segment_bytes,
        io_mode,
    }
}

fn record(index: u64, payload: &Bytes) -> Record {
    Record {
        kind: 1,
        group: 1,
        index,
        term: 1,
        payload: payload.clone(),
    }
}

/// On the disk of the build directory: a temporary directory may be in memory.
fn scratch() -> tempfile::TempDir {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::fs::create_dir_all(&target).expect("the target directory is writable");
    tempfile::tempdir_in(target).expect("the target directory is writable")
}

/// `commits` commits of `records` records of 256 bytes each; the time of all.
fn commits(commits: u64, records: u64, mode: IoMode) -> Duration {
    let dir = scratch();
    let config = config(dir.path(), 32 << 20, mode);
    let executor = LocalExecutorBuilder::new(Placement::Unbound);
    let run = executor.spawn(move || async move {
        let wal = Wal::open(config, &[]).await.expect("a fresh directory");
        let payload = Bytes::from(vec![b'x'; 256]);
        let mut index = 0;
        let began = Instant::now();
        for _ in 0..commits {
            for _ in 0..records {
                index += 1;
                wal.buffer(&record(index, &payload)).expect("it is open");
            }
            wal.commit().await.expect("the disk takes it");
        }
        let took = began.elapsed();
        wal.close().await.expect("the disk takes it");
        took
    });
    let joined = run.expect("an executor starts").join();
    joined.expect("it ends")
}

/// One write and one sync, for one record and for sixteen.
pub fn append_and_sync(c: &mut Criterion) {
    let mut group = c.benchmark_group("wal_commit");
    for (name, mode) in [("fdatasync", IoMode::Direct), ("dsync", IoMode::DirectSync)] {
        for records in [1, 16] {
            group.throughput(Throughput::Elements(records));
            group.bench_function(format!("{name}_{records}_records_of_256_bytes"), |b| {
                b.iter_custom(|iterations| commits(iterations, records, mode));
            });
        }
    }
    group.finish();
}

/// Reading 64 MiB of log back, every checksum verified.
pub fn recovery(c: &mut Criterion) {
    const BYTES: u64 = 64 << 20;
    let dir = scratch();
    let config = config(dir.path(), 32 << 20, IoMode::Direct);
    let executor = LocalExecutorBuilder::new(Placement::Unbound);
    let written = executor.spawn(move || async move {
        let wal = Wal::open(config, &[]).await.expect("a fresh directory");
        let payload = Bytes::from(vec![b'x'; 16 << 10]);
        for index in 1..=BYTES / (16 << 10) {
            wal.buffer(&record(index, &payload)).expect("it is open");
            if index % 16 == 0 {
                wal.commit().await.expect("the disk takes it");
            }
        }
        wal.close().await.expect("the disk takes it");
    });
    let joined = written.expect("an executor starts").join();
    joined.expect("it ends");
    let mut group = c.benchmark_group("wal_recovery");
    group.throughput(Throughput::Bytes(BYTES));
    group.bench_function("64_mib", |b| {
        b.iter(|| {
            let recovered = recover(dir.path(), STORE, &|_| Ok(true), &mut |_, _| {});
            recovered.expect("the log is whole")
        });
    });
    group.finish();
}
