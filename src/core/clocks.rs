//! How far the other nodes' wall clocks are from this one's. Each is asked a few times over one connection, until an answer is
//! quick enough, and the quickest counts: the question and the answer may take differently long, so an offset is in doubt by half
//! of what both took, and the first one also pays for what a connection begins with. What is too doubtful is not told.

use std::rc::Rc;
use std::time::Duration;

use raftproto::peer::StatusRequest;

use super::Core;
use crate::peer::GrpcError;

/// Between two looks at the other nodes' clocks.
const INTERVAL: Duration = Duration::from_secs(30);

/// The same before any of them was seen.
const INTERVAL_FIRST: Duration = Duration::from_secs(1);

/// Questions to one node at each look, at most.
const QUESTIONS: usize = 5;

/// After an answer with so little doubt, in microseconds, no more are asked: they would be most of what an idle node sends.
const DOUBT_US_ENOUGH: u64 = 1_000;

/// Doubt with which an offset is told, in microseconds: less than what anybody is woken for.
const DOUBT_US_MAX: u64 = 40_000;

/// One question and its answer.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// The own wall clock when it was asked, in milliseconds.
    asked_ms: u64,
    /// What the other one's said.
    told_ms: u64,
    /// How long it took.
    took_us: u64,
}

impl Sample {
    fn doubt_us(&self) -> u64 {
        self.took_us / 2
    }

    fn offset_ms(&self) -> f64 {
        self.told_ms as f64 - self.asked_ms as f64 - self.took_us as f64 / 2e3
    }
}

/// By how many milliseconds the other clock is ahead, if that can be said.
fn offset_ms(samples: &[Sample]) -> Option<f64> {
    let best = samples.iter().min_by_key(|s| s.took_us)?;
    (best.doubt_us() <= DOUBT_US_MAX).then(|| best.offset_ms())
}

impl Core {
    /// Asks the other nodes for their clocks, for as long as the core lives.
    pub(super) async fn watch_clocks(self: Rc<Self>) {
        loop {
            let links: Vec<(u64, String)> = {
                let links = self.links.borrow();
                let up = links.iter().filter(|(_, l)| l.is_up());
                up.map(|(node, l)| (*node, l.address().to_owned()))
                    .collect()
            };
            let is_linked = |node: u64| links.iter().any(|(n, _)| *n == node);
            self.clock_offsets
                .borrow_mut()
                .retain(|node, _| is_linked(*node));
            self.clock.heed_only(is_linked);
            for (node, address) in &links {
                let samples = self.ask_for_clock(address).await.unwrap_or_default();
                if let Some(newest) = samples.last() {
                    self.clock.heed(*node, newest.told_ms);
                }
                // One that is known stays until there is a better one.
                if let Some(offset_ms) = offset_ms(&samples) {
                    self.clock_offsets.borrow_mut().insert(*node, offset_ms);
                }
            }
            let is_new = self.clock_offsets.borrow().is_empty();
            self.sleep(if is_new { INTERVAL_FIRST } else { INTERVAL })
                .await;
        }
    }

    async fn ask_for_clock(&self, address: &str) -> Result<Vec<Sample>, GrpcError> {
        let mut asking = self.caller.open(address).await?;
        let mut samples = Vec::new();
        for _ in 0..QUESTIONS {
            let request = StatusRequest {
                only_node: true,
                ..StatusRequest::default()
            };
            let (began_us, asked_ms) = (self.clock.monotonic_us(), self.clock.system_ms());
            let reply = asking.status(&request).await?;
            let took_us = self.clock.monotonic_us() - began_us;
            if let Some(hello) = reply.node {
                let sample = Sample {
                    asked_ms,
                    told_ms: hello.now_ms,
                    took_us,
                };
                samples.push(sample);
                if sample.doubt_us() <= DOUBT_US_ENOUGH {
                    break;
                }
            }
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_answer_counts_and_doubtful_ones_are_not_told() {
        let sample = |told_ms, took_us| Sample {
            asked_ms: 1_000_000,
            told_ms,
            took_us,
        };
        // The clocks agree; the first answer came after the handshake and on a busy core.
        let slow = sample(1_000_395, 400_000);
        let quick = sample(1_000_001, 2_000);
        assert_eq!(offset_ms(&[]), None);
        assert_eq!(offset_ms(&[slow]), None);
        assert_eq!(offset_ms(&[slow, quick]), Some(0.0));
        assert_eq!(offset_ms(&[quick, slow]), Some(0.0));
        let ahead = sample(1_000_301, 2_000);
        assert_eq!(offset_ms(&[slow, ahead]), Some(300.0));
    }
}
