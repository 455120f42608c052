//! The cold store as a core opens it: every operation on both backends, and on S3 under every fault.

mod cache;
mod contract;
mod credentials;
mod encryption;
mod faults;
mod lost;
mod scrub;
mod server;
mod suite;
mod tier;
mod tls;

use std::collections::BTreeMap;
use std::rc::Rc;

use glommio::{LocalExecutorBuilder, Placement};
use storage::cold::ColdStore;
use ursula::core::cold::open_cold;
use ursula::ops::metrics::node::NodeGauges;
use ursula::ops::metrics::{CoreMetrics, Gauges, render};

use integration::s3::{BUCKET, KEY_ID, SECRET};

/// Runs on an executor of its own.
fn on_executor<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(64 << 10)
        .spawn(move || async move { test().await })
        .unwrap()
        .join()
        .unwrap();
}

/// A store as a core has it, and what it counts.
struct Opened {
    store: Rc<dyn ColdStore>,
    metrics: Rc<CoreMetrics>,
}

impl Opened {
    /// With these settings; those of a node that keeps its log somewhere are added.
    fn new(settings: &[(&str, &str)]) -> Opened {
        let mut flags: BTreeMap<String, String> = settings
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        flags
            .entry("wal_dir".to_owned())
            .or_insert_with(|| "/nowhere".to_owned());
        let (config, _) = ursula::config::load(&flags, std::iter::empty(), None).unwrap();
        let metrics: Rc<CoreMetrics> = Rc::default();
        let store = open_cold(0, &config, metrics.clone()).unwrap();
        Opened { store, metrics }
    }

    /// On S3 there, with the server's own key.
    fn s3(endpoint: &str, more: &[(&str, &str)]) -> Opened {
        let place = format!("s3://{BUCKET}/some/prefix");
        let mut settings = vec![
            ("cold", place.as_str()),
            ("s3_endpoint", endpoint),
            ("s3_access_key_id", KEY_ID),
            ("s3_secret_access_key", SECRET),
            ("s3_part_bytes", "5MiB"),
            ("s3_request_timeout_ms", "1s"),
        ];
        settings.extend(more);
        Opened::new(&settings)
    }

    /// A series, summed over its labels.
    fn counted(&self, name: &str) -> u64 {
        let text = render(
            &NodeGauges::default(),
            &[Some(self.metrics.snapshot(0, Gauges::default()))],
        );
        let lines = text.lines().filter(|l| l.starts_with(name));
        lines
            .map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
            .sum()
    }
}
