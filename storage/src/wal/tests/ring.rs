//! The ring of the log's own: what it tells of writes and syncs that go well, and of those that do not.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsRawFd;

use futures_lite::FutureExt;

use super::*;
use crate::wal::ring::Ring;

/// A ring that is looked at, as a core's poller does.
pub(super) fn watched() -> Rc<Ring> {
    let ring = Rc::new(Ring::new().unwrap());
    let looked_at = Rc::downgrade(&ring);
    glommio::spawn_local(async move {
        while let Some(ring) = looked_at.upgrade() {
            ring.on_event();
            drop(ring);
            glommio::timer::sleep(std::time::Duration::from_micros(50)).await;
        }
    })
    .detach();
    ring
}

fn block() -> glommio::io::DmaBuffer {
    let mut block = glommio::allocate_dma_buffer(4096);
    block.as_bytes_mut().fill(7);
    block
}

/// The failed step, and the system's code.
async fn failure(ring: &Ring, file: &File, has_sync: bool) -> Option<(&'static str, Option<i32>)> {
    let written = ring.write(file.as_raw_fd(), block(), (4096, 0), has_sync);
    written.await.err().map(|e| (e.op, e.source.raw_os_error()))
}

#[test]
fn what_a_ring_committed_is_read_back_whatever_the_mode() {
    for mode in [IoMode::Buffered, IoMode::Direct, IoMode::DirectSync] {
        let dir = scratch();
        if mode != IoMode::Buffered && !has_direct_io(dir.path()).unwrap() {
            continue;
        }
        let path = dir.path().to_owned();
        on_executor(move || async move {
            let config = WalConfig {
                io_mode: mode,
                ..config(&path, 1)
            };
            let wal = Wal::open(config, &[]).await.unwrap();
            wal.set_ring(watched());
            // Some segments' worth.
            for index in 1..=100 {
                wal.buffer(&record(1, index, 3000)).unwrap();
                wal.commit().await.unwrap();
            }
            wal.close().await.unwrap();
        });
        let recovered = read(dir.path()).unwrap();
        let all: Vec<u64> = (1..=100).collect();
        assert_eq!(indexes(&recovered, 1), all, "{mode:?}");
        assert!(recovered.torn.is_empty());
        assert!(segments(dir.path()).len() > 2);
    }
}

#[test]
fn a_step_that_fails_is_named() {
    on_executor(|| async {
        let ring = watched();
        let open = |path: &str| File::options().read(true).write(true).open(path).unwrap();
        let full = open("/dev/full");
        let unsynced = open("/dev/null");
        let read_only = File::open("/dev/zero").unwrap();
        let no_space = Some(("write", Some(libc::ENOSPC)));
        for _ in 0..20 {
            for has_sync in [false, true] {
                assert_eq!(failure(&ring, &full, has_sync).await, no_space);
                let not_open = Some(("write", Some(libc::EBADF)));
                assert_eq!(failure(&ring, &read_only, has_sync).await, not_open);
            }
            let refused = Some(("sync", Some(libc::EINVAL)));
            assert_eq!(failure(&ring, &unsynced, true).await, refused);
            assert_eq!(failure(&ring, &unsynced, false).await, None);
        }
    });
}

#[test]
fn after_a_write_that_nobody_waited_for_the_next_says_whether_it_failed() {
    on_executor(|| async {
        let ring = watched();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let null = File::options().write(true).open("/dev/null").unwrap();
        let no_space = Some(("write", Some(libc::ENOSPC)));
        let mut unheard = 0;
        for _ in 0..50 {
            for (file, has_sync, expected) in [(&full, true, no_space), (&null, false, None)] {
                let is_heard = Cell::new(false);
                let left = async {
                    let _ = failure(&ring, file, has_sync).await;
                    is_heard.set(true);
                };
                left.or(futures_lite::future::ready(())).await;
                // It may end at once.
                let expected = expected.filter(|_| !is_heard.get());
                assert_eq!(failure(&ring, &null, false).await, expected);
                assert_eq!(failure(&ring, &null, false).await, None);
                unheard += usize::from(expected.is_some());
            }
        }
        assert!(unheard > 0);
    });
}

#[test]
fn a_ring_can_go_while_a_write_is_under_way() {
    on_executor(|| async {
        let null = File::options().write(true).open("/dev/null").unwrap();
        for _ in 0..50 {
            let ring = Ring::new().unwrap();
            let left = async {
                let _ = failure(&ring, &null, true).await;
            };
            left.or(futures_lite::future::ready(())).await;
        }
    });
}
