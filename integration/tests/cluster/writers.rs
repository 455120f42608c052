//! Appends as fast as they are answered beside a node that falls behind: what the others do meanwhile, and what is there afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::load::{Links, Sent, position};

/// Of each append.
const BODY_BYTES: u64 = 16 << 10;

/// With these, what a node holds has bounds that are soon reached.
pub const BOUNDED: [&str; 6] = [
    "--hot-bytes-max",
    "64MiB",
    "--checkpoint-bytes",
    "8MiB",
    "--wal-segment-bytes",
    "8MiB",
];

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    waited_ms: AtomicU64,
}

/// What came of them: streams, how many appends were acknowledged, and how many may have been done besides.
pub struct Written(Vec<(String, (u64, u64))>);

/// One for each stream.
pub struct Writers {
    shared: Arc<Shared>,
    /// Streams, with who writes to them.
    threads: Vec<(String, JoinHandle<(u64, u64)>)>,
}

impl Writers {
    /// Each asks the node whose place among the addresses `at` gives for its stream, and waits so long for an answer.
    pub fn start(
        paths: impl Iterator<Item = String>,
        addresses: &[String],
        at: impl Fn(usize) -> usize,
        patience: Duration,
    ) -> Writers {
        let shared: Arc<Shared> = Arc::default();
        let start = |(stream, path): (usize, String)| {
            let (shared, place, to) = (shared.clone(), at(stream), path.clone());
            let addresses = addresses.to_vec();
            let write = move || shared.write(&to, place, &addresses, patience);
            (path, std::thread::spawn(write))
        };
        let threads = paths.enumerate().map(start).collect();
        Writers { shared, threads }
    }

    /// Appends so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// The bytes of these.
    pub fn bytes(&self) -> u64 {
        self.acknowledged() * BODY_BYTES
    }

    /// What an acknowledgement was waited for at most since this was called last.
    pub fn take_longest_wait(&self) -> Duration {
        Duration::from_millis(self.shared.waited_ms.swap(0, Ordering::Relaxed))
    }

    /// Each ends with the answer that it waits for.
    pub fn stop(&mut self) -> Written {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = |(path, thread): (String, JoinHandle<_>)| {
            (path, thread.join().expect("a writer's claim failed"))
        };
        Written(self.threads.drain(..).map(ended).collect())
    }
}

impl Written {
    /// Demands that all nodes of three have what was acknowledged, and nothing that was not asked for.
    pub fn expect_all(self, cluster: &Cluster) {
        let began = Instant::now();
        cluster.expect_equal_states(&[1, 2, 3]);
        println!("it has caught up after {:?}", began.elapsed());
        for (path, (sure, unsure)) in self.0 {
            for node in [1, 2, 3] {
                let head = cluster.client(node).send("HEAD", &path, &[], b"");
                let tail = position(head.header("stream-next-offset")) / BODY_BYTES;
                assert!(
                    (sure..=sure + unsure).contains(&tail),
                    "{path}: {sure} acknowledged, {tail} there"
                );
            }
        }
    }
}

impl Shared {
    fn write(&self, path: &str, at: usize, addresses: &[String], patience: Duration) -> (u64, u64) {
        let mut links = Links::new(addresses, patience);
        let body = [b'x'; BODY_BYTES as usize];
        let headers = [("content-type", "text/plain")];
        let (mut sure, mut unsure) = (0, 0);
        let mut began = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            match links.send(at, "POST", path, &headers, &body) {
                Sent::Answered(reply) => {
                    assert_eq!(reply.status, 204, "{}", reply.text());
                    let waited_ms = began.elapsed().as_millis() as u64;
                    self.waited_ms.fetch_max(waited_ms, Ordering::Relaxed);
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    sure += 1;
                    began = Instant::now();
                }
                Sent::Refused => std::thread::sleep(Duration::from_millis(5)),
                Sent::Unknown => unsure += 1,
            }
        }
        (sure, unsure)
    }
}
