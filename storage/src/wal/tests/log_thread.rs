//! The thread of the log's own: what it tells of writes and syncs that go well, and of those that do not.

use std::fs::File;
use std::os::fd::AsRawFd;

use futures_lite::FutureExt;

use super::*;
use crate::wal::log_thread::LogThread;

/// A thread that is looked at, as a core's poller does.
pub(super) fn watched() -> Rc<LogThread> {
    looked_at(|| ())
}

/// The same, which calls `notify` behind each write.
fn looked_at(notify: impl Fn() + Send + 'static) -> Rc<LogThread> {
    let thread = Rc::new(LogThread::start("log".into(), notify).unwrap());
    let alive = Rc::downgrade(&thread);
    glommio::spawn_local(async move {
        while let Some(thread) = alive.upgrade() {
            thread.on_event();
            drop(thread);
            glommio::timer::sleep(std::time::Duration::from_micros(50)).await;
        }
    })
    .detach();
    thread
}

fn block() -> glommio::io::DmaBuffer {
    let mut block = glommio::allocate_dma_buffer(4096);
    block.as_bytes_mut().fill(7);
    block
}

/// The failed step, and the system's code.
async fn failure(
    thread: &LogThread,
    file: &Rc<File>,
    has_sync: bool,
) -> Option<(&'static str, Option<i32>)> {
    let written = thread.write(
        (file.as_raw_fd(), file.clone()),
        block(),
        (4096, 0),
        has_sync,
    );
    written.await.err().map(|e| (e.op, e.source.raw_os_error()))
}

#[test]
fn what_a_thread_committed_is_read_back_whatever_the_mode() {
    for mode in [IoMode::Buffered, IoMode::Direct, IoMode::DirectSync] {
        let dir = scratch();
        if !can_write(dir.path(), mode) {
            continue;
        }
        let path = dir.path().to_owned();
        on_executor(move || async move {
            let config = WalConfig {
                io_mode: mode,
                ..config(&path, 1)
            };
            let wal = Wal::open(config, &[]).await.unwrap();
            wal.set_thread(watched());
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
        let thread = watched();
        let open = |path: &str| Rc::new(File::options().read(true).write(true).open(path).unwrap());
        let full = open("/dev/full");
        let unsynced = open("/dev/null");
        let read_only = Rc::new(File::open("/dev/zero").unwrap());
        let no_space = Some(("write", Some(libc::ENOSPC)));
        for _ in 0..20 {
            for has_sync in [false, true] {
                assert_eq!(failure(&thread, &full, has_sync).await, no_space);
                let not_open = Some(("write", Some(libc::EBADF)));
                assert_eq!(failure(&thread, &read_only, has_sync).await, not_open);
            }
            let refused = Some(("sync", Some(libc::EINVAL)));
            assert_eq!(failure(&thread, &unsynced, true).await, refused);
            assert_eq!(failure(&thread, &unsynced, false).await, None);
        }
    });
}

#[test]
fn after_a_write_that_nobody_waited_for_the_next_says_whether_it_failed() {
    on_executor(|| async {
        // Behind each write the thread stands still until it may go on.
        let (go_on, stands) = std::sync::mpsc::channel::<()>();
        let thread = looked_at(move || {
            let _is_over = stands.recv();
        });
        let full = Rc::new(File::options().write(true).open("/dev/full").unwrap());
        let null = Rc::new(File::options().write(true).open("/dev/null").unwrap());
        let no_space = Some(("write", Some(libc::ENOSPC)));
        assert_eq!(failure(&thread, &null, false).await, None);
        for _ in 0..50 {
            for (file, has_sync, expected) in [(&full, true, no_space), (&null, false, None)] {
                let left = async {
                    let failed = failure(&thread, file, has_sync).await;
                    panic!("it is not under way yet: {failed:?}");
                };
                left.or(futures_lite::future::ready(())).await;
                go_on.send(()).unwrap();
                if expected.is_none() {
                    // Behind a failure nothing is written.
                    go_on.send(()).unwrap();
                }
                assert_eq!(failure(&thread, &null, false).await, expected);
                go_on.send(()).unwrap();
                assert_eq!(failure(&thread, &null, false).await, None);
            }
        }
    });
}

#[test]
fn a_thread_can_go_while_a_write_is_under_way() {
    on_executor(|| async {
        let null = Rc::new(File::options().write(true).open("/dev/null").unwrap());
        for _ in 0..50 {
            let thread = LogThread::start("log".into(), || ()).unwrap();
            let left = async {
                let _ = failure(&thread, &null, true).await;
            };
            left.or(futures_lite::future::ready(())).await;
        }
    });
}
