//! Many seeds at once: a thread for each core, every one with worlds of its own.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::coverage::Coverage;
use crate::plan::Plan;
use crate::report::{Lines, Report};

/// The progress line is written at least so often: it names the seeds that are under way, and one of them may never end.
const SHOWN_EACH: Duration = Duration::from_secs(5);

/// What many seeds came to.
#[derive(Default)]
pub struct Sum {
    /// Seeds that were run.
    pub done: u64,
    /// Failing seeds with their reports, the lowest first.
    pub failed: Vec<(Plan, Report)>,
    /// Virtual time.
    pub virtual_us: u64,
    /// Answered operations.
    pub operations: u64,
    /// Steps of groups.
    pub steps: u64,
    /// Paths.
    pub coverage: Coverage,
    /// How near to their bounds figures came, in thousandths.
    pub peaks: [u64; 5],
    /// Seeds that found something, which does not count.
    pub other: Other,
}

/// See [`Sum::other`].
#[derive(Default)]
pub struct Other {
    /// How many.
    pub count: u64,
    /// One of them.
    pub seed: u64,
    /// What it found.
    pub first: String,
}

/// Which seeds, and how.
pub struct Order<'a> {
    /// The first.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// The plan's changes.
    pub changes: &'a str,
    /// A deliberate bug; empty: none.
    pub mutation: &'static str,
    /// Whether a seed fails by a finding; where it does not, the finding is another one.
    pub counts: &'a (dyn Fn(&str) -> bool + Sync),
    /// Seeds that are not run: what they show is known.
    pub except: &'a [u64],
    /// Ends early at so many failing seeds.
    pub failures_max: usize,
    /// Threads.
    pub threads: usize,
    /// Shows how far it is.
    pub has_progress: bool,
}

/// Runs them. `is_over` is asked after each seed whether it is time to stop.
pub fn run(order: &Order, is_over: &dyn Fn() -> bool) -> Sum {
    let next = AtomicU64::new(order.from);
    let end = order.from + order.count;
    let has_ended = AtomicBool::new(false);
    let under_way = Mutex::new(BTreeSet::new());
    let (tell, told) = mpsc::channel();
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        for _ in 0..order.threads {
            let (next, has_ended, tell) = (&next, &has_ended, tell.clone());
            let under_way = &under_way;
            scope.spawn(move || {
                crate::mutations::switch_on(order.mutation);
                while !has_ended.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    if order.except.contains(&seed) {
                        continue;
                    }
                    let plan = Plan::of(seed).with(order.changes);
                    let plan = plan.expect("it was read before");
                    of(under_way).insert(seed);
                    let report = crate::run_plan(plan.clone(), Lines::Dropped);
                    of(under_way).remove(&seed);
                    let _ = tell.send((plan, report));
                }
            });
        }
        drop(tell);
        loop {
            let is_due = match told.recv_timeout(SHOWN_EACH) {
                Ok((plan, report)) => {
                    let (seed, failed) = (plan.seed, sum.failed.len());
                    sum.take(plan, report, order.counts);
                    if order.has_progress && sum.failed.len() > failed {
                        eprintln!("\nfound by seed {seed}");
                    }
                    sum.done.is_multiple_of(10) || sum.done == order.count
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if order.has_progress && is_due {
                sum.show(order.count, &of(&under_way));
            }
            if sum.failed.len() >= order.failures_max || is_over() {
                has_ended.store(true, Ordering::Relaxed);
            }
        }
    });
    if order.has_progress {
        eprintln!();
    }
    sum.failed.sort_by_key(|(plan, _)| plan.seed);
    sum
}

fn of(under_way: &Mutex<BTreeSet<u64>>) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sum {
    /// How far it is, and at which seeds: `.ci/run` reads it.
    fn show(&self, count: u64, under_way: &BTreeSet<u64>) {
        let at: Vec<_> = under_way.iter().map(u64::to_string).collect();
        let (done, failed, hours) = (self.done, self.failed.len(), self.virtual_us as f64 / 3.6e9);
        eprint!(
            "\r{done} of {count} seeds, {failed} failed, at {}, {hours:.1} virtual hours ",
            at.join(" ")
        );
        let _ = std::io::stderr().flush();
    }

    fn take(&mut self, plan: Plan, report: Report, counts: &dyn Fn(&str) -> bool) {
        self.done += 1;
        self.virtual_us += report.virtual_us;
        self.operations += report.operations;
        self.steps += report.steps;
        self.coverage.add(&report.coverage);
        for (peak, other) in self.peaks.iter_mut().zip(report.peaks) {
            *peak = other.max(*peak);
        }
        if report.findings.iter().any(|f| counts(f)) {
            self.failed.push((plan, report));
        } else if let Some(first) = report.findings.into_iter().next() {
            self.other.count += 1;
            (self.other.seed, self.other.first) = (plan.seed, first);
        }
    }
}
