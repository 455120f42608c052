//! The cache over a real file: what it keeps, what it forgets, what it finds again, and that damage is never given.

use super::*;

/// Directories of the target's disk: the system's temporary one may have no direct I/O.
fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

const BYTES: u64 = 4 << 20;

fn key(position: u64) -> ChunkKey {
    ChunkKey {
        group: 1,
        number: 2,
        term: 3,
        nonce: 4,
        position,
    }
}

/// A chunk of `length` bytes that no other one has.
fn chunk(position: u64, length: usize) -> (Location, Vec<u8>) {
    let mut bytes = vec![0; length];
    let mut state = position.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in &mut bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    let location = Location {
        position,
        length: length as u32,
        stored: length as u32,
        crc32c: crc32c::crc32c(&bytes),
    };
    (location, bytes)
}

fn run<F: Future<Output = ()> + 'static>(work: impl FnOnce() -> F + Send + 'static) {
    glommio::LocalExecutorBuilder::default()
        .spawn(|| async move { work().await })
        .unwrap()
        .join()
        .unwrap();
}

async fn settle(cache: &Rc<DiskCache>) {
    while cache.writing.borrow().is_some() {
        glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
    }
}

async fn fill(cache: &Rc<DiskCache>, positions: std::ops::Range<u64>) {
    for position in positions {
        let (location, bytes) = chunk(position, 60_000);
        cache.put(key(position), &location, &bytes);
        settle(cache).await;
    }
}

async fn has(cache: &Rc<DiskCache>, position: u64) -> bool {
    let (location, bytes) = chunk(position, 60_000);
    match cache.get(&key(position), &location).await {
        Some(found) => {
            assert!(found == bytes, "{position} is another");
            true
        }
        None => false,
    }
}

#[test]
fn what_is_used_stays_and_what_is_not_goes_first() {
    let dir = dir();
    let path = dir.path().to_owned();
    run(move || async move {
        let cache = DiskCache::open(&path, 0, BYTES, 7).await.unwrap();
        fill(&cache, 0..40).await;
        for position in 0..40 {
            assert!(has(&cache, position).await, "{position}");
        }
        // A few are asked for again and again while many others come once.
        for position in 100..300 {
            fill(&cache, position..position + 1).await;
            for used in 0..4 {
                assert!(has(&cache, used).await, "{used} went after {position}");
            }
        }
        assert!(!has(&cache, 20).await && !has(&cache, 110).await);
        assert!(has(&cache, 299).await);
        assert!(cache.counts().evicted.get() > 100);
        assert!(cache.stored_bytes() <= BYTES + (1 << 20));
        let size = std::fs::metadata(path.join("chunks-0")).unwrap().len();
        assert!(size <= BYTES);
    });
}

#[test]
fn a_start_finds_what_was_there_and_nothing_of_another_cluster() {
    let dir = dir();
    let path = dir.path().to_owned();
    run(move || async move {
        let cache = DiskCache::open(&path, 3, BYTES, 7).await.unwrap();
        fill(&cache, 0..20).await;
        cache.close().await;
        drop(cache);
        for (owner, expected) in [(8, 0), (7, 20)] {
            let cache = DiskCache::open(&path, 3, BYTES, owner).await.unwrap();
            cache.clone().load().await;
            assert_eq!(cache.chunks(), expected);
            for position in 0..expected as u64 {
                assert!(has(&cache, position).await, "{position}");
            }
            // It goes on where it was: the oldest are written over first.
            if expected > 0 {
                fill(&cache, 50..60).await;
                assert!(has(&cache, 0).await);
            }
        }
    });
}

#[test]
fn damage_is_found_counted_and_never_given() {
    let dir = dir();
    let path = dir.path().to_owned();
    run(move || async move {
        let cache = DiskCache::open(&path, 0, BYTES, 7).await.unwrap();
        fill(&cache, 0..30).await;
        cache.close().await;
        let file = path.join("chunks-0");
        let good = std::fs::read(&file).unwrap();
        let bad: Vec<u8> = good.iter().map(|byte| byte ^ 1).collect();
        // In place, so that the open file is the damaged one.
        std::os::unix::fs::FileExt::write_all_at(
            &std::fs::OpenOptions::new().write(true).open(&file).unwrap(),
            &bad,
            0,
        )
        .unwrap();
        for position in 0..30 {
            assert!(!has(&cache, position).await, "{position}");
        }
        assert_eq!(cache.counts().damaged.get(), 30);
        assert_eq!((cache.chunks(), cache.stored_bytes()), (0, 0));
        // It takes them again.
        fill(&cache, 0..5).await;
        assert!(has(&cache, 3).await);
        let other = DiskCache::open(&path, 0, BYTES, 7).await.unwrap();
        other.clone().load().await;
        assert_eq!(other.chunks(), 0, "damaged regions are empty");
    });
}

#[test]
fn files_of_cores_that_are_no_more_go() {
    let dir = dir();
    for core in 0..4 {
        std::fs::write(dir.path().join(format!("chunks-{core}")), b"x").unwrap();
    }
    let lock = prepare(dir.path(), 2).unwrap();
    assert!(matches!(
        prepare(dir.path(), 2),
        Err(StorageError::Locked { .. })
    ));
    drop(lock);
    let there = |core: u16| dir.path().join(format!("chunks-{core}")).exists();
    assert!(there(0) && there(1) && !there(2) && !there(3));
}
