//! The scenarios, and what they share: creating streams, and measuring a run.

pub mod append;
pub mod catchup;
pub mod create;
mod homes;
pub mod hot;
pub mod live;
pub mod replay;
mod sse;
pub mod verify;

use std::time::{Duration, Instant};

use crate::engine::{Driver, Engine, Next};
use crate::proc::{self, Sample};
use crate::reply::Reply;
use crate::result::own_cpu_us;
use crate::target::Target;

pub use homes::{Homes, create_streams};

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the server refused it: {0}")]
    Refused(String),
    #[error("{0}")]
    Restart(String),
    #[error("{0}: {1}")]
    Of(String, Box<LoadError>),
}

impl LoadError {
    /// Of which server.
    pub fn of(self, name: &str) -> LoadError {
        LoadError::Of(name.to_owned(), Box::new(self))
    }
}

/// One of the servers and the moment that times count from.
pub struct Site<'a> {
    pub target: &'a Target,
    /// Of the server on this machine, one for each node.
    pub pids: Vec<u32>,
    pub epoch: Instant,
    /// Makes the names of streams differ from run to run.
    pub prefix: String,
}

impl Site<'_> {
    /// The path of a stream of this run.
    pub fn stream(&self, number: usize) -> String {
        self.target.path(&format!("{}-{number}", self.prefix))
    }

    fn sample(&self) -> Option<Sample> {
        let all = self.pids.iter().map(|pid| proc::sample(*pid));
        // One that is gone makes the sum meaningless.
        let all: Option<Vec<Sample>> = all.collect();
        all?.into_iter().reduce(proc::Sample::plus)
    }
}

/// What was measured beside the scenario's own figures.
pub struct Meter {
    began: Instant,
    server: Option<Sample>,
    own_us: u64,
}

impl Meter {
    pub fn start(site: &Site<'_>) -> Meter {
        Meter {
            began: Instant::now(),
            server: site.sample(),
            own_us: own_cpu_us(),
        }
    }

    /// Duration, the server's cost and the own CPU time.
    pub fn stop(&self, site: &Site<'_>) -> (Duration, Option<proc::Cost>, u64) {
        let duration = self.began.elapsed();
        let cost = site
            .sample()
            .and_then(|now| Some(now.since(self.server.as_ref()?)));
        (duration, cost, own_cpu_us() - self.own_us)
    }
}

/// A row of requests over all connections, each of which must succeed.
pub struct Requests<'a> {
    /// Puts the n-th request.
    pub put: &'a dyn Fn(usize, &mut Vec<u8>),
    pub count: usize,
    next: usize,
    done: usize,
    is_over: Vec<bool>,
    failure: Option<String>,
}

impl Requests<'_> {
    /// Sends them all.
    ///
    /// # Errors
    /// The first refusal.
    pub fn run(
        engine: &mut Engine,
        count: usize,
        put: &dyn Fn(usize, &mut Vec<u8>),
    ) -> Result<(), LoadError> {
        let mut requests = Requests {
            put,
            count,
            next: 0,
            done: 0,
            is_over: vec![false; engine.len()],
            failure: None,
        };
        engine.run(&mut requests)?;
        requests
            .failure
            .map_or(Ok(()), |f| Err(LoadError::Refused(f)))
    }
}

impl Driver for Requests<'_> {
    fn next(&mut self, connection: usize, _: Instant, request: &mut Vec<u8>) -> Next {
        if self.next >= self.count {
            self.is_over[connection] = true;
            return Next::Idle;
        }
        (self.put)(self.next, request);
        self.next += 1;
        Next::Send
    }

    fn reply(&mut self, _: usize, reply: Reply<'_>, _: Instant) {
        self.done += 1;
        if !(200..300).contains(&reply.status) {
            let text = String::from_utf8_lossy(reply.body).into_owned();
            self.failure
                .get_or_insert(format!("status {}: {text}", reply.status));
        }
    }

    fn lost(&mut self, _: usize, reason: &str) {
        self.failure.get_or_insert(reason.to_owned());
    }

    fn is_done(&self, _: Instant) -> bool {
        self.done == self.count || self.failure.is_some()
    }

    fn progress(&self) -> Option<String> {
        Some(format!("{} of {} requests done", self.done, self.count))
    }
}

/// Answers that were not as they should be, and what was said of the first ones.
#[derive(Debug, Default)]
pub struct Errors {
    pub count: u64,
    texts: Vec<String>,
}

impl Errors {
    pub fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.texts.len() < 3 {
            let text = text();
            eprintln!("  error: {text}");
            self.texts.push(text);
        }
    }
}
