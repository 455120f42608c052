//! This core's cold store, and what the store needs of the core.

use std::path::Path;
use std::rc::Rc;

use storage::cold::{ColdHost, ColdRequest, ColdStore, ColdVerb, LocalStore};

use super::clock::Clock;
use crate::config::{ColdPlace, Config};
use crate::ops::metrics::{CoreMetrics, add};

/// The store of core `id`; `None` for a node in memory. A directory was prepared before.
pub(super) fn open_cold(
    id: u16,
    config: &Config,
    metrics: Rc<CoreMetrics>,
) -> Option<Rc<dyn ColdStore>> {
    let clock = Clock::start();
    let host = Rc::new(Host { clock, metrics });
    let store = match config.cold_place()? {
        ColdPlace::Dir(dir) => Rc::new(LocalStore::open(Path::new(&dir), id, host)),
    };
    Some(store)
}

/// Gives a store clocks and chance, and counts what it does.
struct Host {
    clock: Clock,
    metrics: Rc<CoreMetrics>,
}

impl ColdHost for Host {
    fn monotonic_us(&self) -> u64 {
        self.clock.monotonic_us()
    }

    fn random(&self) -> u64 {
        self.clock.random()
    }

    fn requested(&self, request: ColdRequest) {
        self.metrics.cold_requested(request);
    }

    fn in_flight(&self, requests: u64) {
        self.metrics.plain.cold_requests_in_flight.set(requests);
    }

    fn retried(&self, _verb: ColdVerb) {
        add(&self.metrics.plain.cold_retries_total, 1);
    }
}
