//! Clients that do random things to a few streams over all nodes at once, and note what they did.

mod link;
mod live;
mod payload;
mod verify;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use link::{Links, Sent};
pub use payload::{length, offset, position, text};
pub use verify::{Verdict, judge, read_back};

use crate::cluster::PATIENCE;
use crate::history::History;
use crate::random::Random;
use worker::Worker;

/// What a load does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Makes two runs take the same choices.
    pub seed: u64,
    /// Clients at once.
    pub workers: u32,
    /// Longest pause between two requests of a client.
    pub pause: Duration,
    /// Longest wait for an answer.
    pub patience: Duration,
    /// Whether a live reader's "up to date" speaks of the one current state.
    pub is_live_exact: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            seed: 1,
            workers: 8,
            pause: Duration::from_millis(4),
            patience: Duration::from_secs(5),
            is_live_exact: false,
        }
    }
}

/// A stream under load.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Its path.
    pub path: String,
    /// Whether it is of JSON.
    pub is_json: bool,
    /// Whether it may be deleted and made anew; it is then read from its start only.
    pub is_mortal: bool,
}

impl Stream {
    /// Some of each kind, below a name.
    pub fn some(name: &str, count: usize) -> Vec<Stream> {
        let stream = |at: usize| Stream {
            path: format!("/v1/stream/{name}/s{at}"),
            is_json: at.is_multiple_of(2),
            is_mortal: at % 5 == 3,
        };
        (0..count).map(stream).collect()
    }

    /// Its content type.
    pub fn content_type(&self) -> &'static str {
        if self.is_json {
            "application/json"
        } else {
            "application/octet-stream"
        }
    }
}

/// Gives each message of a run its number.
#[derive(Debug, Default)]
pub struct Numbers(AtomicU32);

impl Numbers {
    fn take(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Load {
    /// Starts the clients.
    pub fn start(
        addresses: &[String],
        streams: &[Stream],
        plan: &Plan,
        history: &Arc<History>,
        numbers: &Arc<Numbers>,
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::default();
        let mut seeds = Random::new(plan.seed);
        let worker = |id: u32| {
            let worker = Worker {
                id,
                plan: plan.clone(),
                random: Random::new(seeds.draw()),
                links: Links::new(addresses, plan.patience),
                streams: streams.iter().cloned().map(Into::into).collect(),
                history: history.clone(),
                numbers: numbers.clone(),
                counts: Arc::clone(&counts),
            };
            let stop = stop.clone();
            std::thread::spawn(move || worker.run(&stop))
        };
        Load {
            workers: (0..plan.workers).map(worker).collect(),
            stop,
            counts,
        }
    }

    /// Waits until each of these was answered so often since the start.
    ///
    /// # Panics
    /// If that does not come.
    pub fn wait(&self, each: &[&str], least: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counts = self.counts();
            let has = |what: &&str| counts.get(*what).copied().unwrap_or(0) >= least;
            if each.iter().all(has) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "too little is answered: {counts:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }

    /// Stops them; how often each thing was answered how.
    ///
    /// # Panics
    /// If a client has seen what must not be.
    pub fn stop(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut has_failed = false;
        for worker in self.workers {
            has_failed |= worker.join().is_err();
        }
        assert!(!has_failed, "a client saw what must not be; see above");
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}

/// Adds counts to counts.
pub fn add(sum: &mut BTreeMap<String, u64>, some: &BTreeMap<String, u64>) {
    for (name, count) in some {
        *sum.entry(name.clone()).or_default() += count;
    }
}
