//! The command line: which servers, which scenario, and its figures.

use std::time::Duration;

use argh::FromArgs;

use crate::bounds;
use crate::record::Content;
use crate::result;
use crate::scenario::append::Appends;
use crate::scenario::catchup::Catchup;
use crate::scenario::create::Density;
use crate::scenario::hot::Hot;
use crate::scenario::live::Live;
use crate::scenario::replay::Replays;
use crate::scenario::{self, LoadError, Site};
use crate::target::Target;

/// Puts load on servers of the Durable Streams Protocol, and checks every byte that comes back.
#[derive(FromArgs)]
#[argh(
    example = "{command_name} --server ursula=http://127.0.0.1:4437/v1/stream append --streams 1000",
    example = "{command_name} --server a=http://127.0.0.1:4437/v1/stream --server b=http://127.0.0.1:4438/v1/stream \
               --rounds 5 append",
    error_code(
        1,
        "A run failed, or a request was refused, or bytes were lost, doubled, changed or out of order."
    )
)]
pub struct Arguments {
    /// a server, as NAME=http://host:port/base; streams are made below base; several take turns
    #[argh(option)]
    pub server: Vec<Target>,
    /// how often the servers take turns (1)
    #[argh(option, default = "1", from_str_fn(bounds::rounds))]
    pub rounds: usize,
    /// a file for all figures, with whole histograms, as JSON
    #[argh(option)]
    pub json: Option<String>,
    /// a file for a plot of p99 latency against rate, as SVG
    #[argh(option)]
    pub svg: Option<String>,
    /// what the names of streams begin with, for runs that come back to them
    #[argh(option)]
    pub prefix: Option<String>,
    #[argh(subcommand)]
    pub scenario: Scenario,
}

impl Arguments {
    /// What contradicts itself.
    ///
    /// # Errors
    /// What to do about it.
    pub fn check(&self) -> Result<(), String> {
        let mut names: Vec<&str> = self.server.iter().map(|s| s.name.as_str()).collect();
        names.sort_unstable();
        if let Some(two) = names.windows(2).find(|two| two[0] == two[1]) {
            return Err(format!(
                "two servers are called {}: give each a name, as NAME=http://...",
                two[0]
            ));
        }
        for file in [&self.json, &self.svg].into_iter().flatten() {
            let opened = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(file);
            opened.map_err(|e| format!("{file} cannot be written: {e}"))?;
        }
        self.scenario.check()
    }
}

#[derive(FromArgs)]
#[argh(subcommand)]
pub enum Scenario {
    Append(AppendArguments),
    Fanout(FanoutArguments),
    Catchup(CatchupArguments),
    Density(DensityArguments),
    Idle(IdleArguments),
    Mixed(MixedArguments),
    Fill(FillArguments),
    Replay(ReplayArguments),
    Hot(HotArguments),
}

/// Appends to S streams over C connections.
#[derive(FromArgs)]
#[argh(subcommand, name = "append")]
pub struct AppendArguments {
    /// streams (1000)
    #[argh(option, default = "1000", from_str_fn(bounds::streams))]
    streams: usize,
    /// connections (64)
    #[argh(option, default = "64", from_str_fn(bounds::connections))]
    connections: usize,
    /// bytes of an append, at least 40 (256)
    #[argh(option, default = "256", from_str_fn(bounds::record_bytes))]
    bytes: usize,
    /// streams are JSON (text)
    #[argh(switch)]
    json_streams: bool,
    /// streams are bytes of every value (text)
    #[argh(switch)]
    binary_streams: bool,
    /// each connection is an idempotent producer
    #[argh(switch)]
    producers: bool,
    /// appends per second whatever the answers do (open loop); give it more than once to sweep
    #[argh(option, from_str_fn(bounds::rate))]
    rate: Vec<f64>,
    /// measured seconds (10)
    #[argh(option, default = "10.0", from_str_fn(bounds::seconds))]
    seconds: f64,
    /// seconds before that (2)
    #[argh(option, default = "2.0", from_str_fn(bounds::warmup))]
    warmup: f64,
    /// read nothing back at the end
    #[argh(switch)]
    unread: bool,
}

/// Delivers appends to live readers.
#[derive(FromArgs)]
#[argh(subcommand, name = "fanout")]
pub struct FanoutArguments {
    /// live readers (1000)
    #[argh(option, default = "1000", from_str_fn(bounds::readers))]
    subscribers: usize,
    /// streams (1)
    #[argh(option, default = "1", from_str_fn(bounds::streams))]
    streams: usize,
    /// appends per second, over all streams (50)
    #[argh(option, default = "50.0", from_str_fn(bounds::rate))]
    rate: f64,
    /// bytes of an append, at least 40 (256)
    #[argh(option, default = "256", from_str_fn(bounds::record_bytes))]
    bytes: usize,
    /// streams are JSON (text)
    #[argh(switch)]
    json_streams: bool,
    /// streams are bytes of every value (text)
    #[argh(switch)]
    binary_streams: bool,
    /// long-polls instead of SSE
    #[argh(switch)]
    long_poll: bool,
    /// seconds (10)
    #[argh(option, default = "10.0", from_str_fn(bounds::seconds))]
    seconds: f64,
}

/// Replays streams from the start.
#[derive(FromArgs)]
#[argh(subcommand, name = "catchup")]
pub struct CatchupArguments {
    /// readers (64)
    #[argh(option, default = "64", from_str_fn(bounds::connections))]
    readers: usize,
    /// streams (1)
    #[argh(option, default = "1", from_str_fn(bounds::streams))]
    streams: usize,
    /// bytes of each stream (16777216)
    #[argh(option, default = "16777216", from_str_fn(bounds::stream_bytes))]
    bytes: u64,
    /// streams are JSON (text)
    #[argh(switch)]
    json_streams: bool,
    /// streams are bytes of every value (text)
    #[argh(switch)]
    binary_streams: bool,
    /// seconds (10)
    #[argh(option, default = "10.0", from_str_fn(bounds::seconds))]
    seconds: f64,
}

/// Creates many streams.
#[derive(FromArgs)]
#[argh(subcommand, name = "density")]
pub struct DensityArguments {
    /// streams (100000)
    #[argh(option, default = "100000", from_str_fn(bounds::streams))]
    streams: usize,
    /// connections (64)
    #[argh(option, default = "64", from_str_fn(bounds::connections))]
    connections: usize,
    /// a shell command that kills and starts the server and returns; the time until a stream can be read is measured
    #[argh(option)]
    restart: Option<String>,
}

/// Holds idle live readers; how many groups there are is a setting of the server.
#[derive(FromArgs)]
#[argh(subcommand, name = "idle")]
pub struct IdleArguments {
    /// live readers (1000)
    #[argh(option, default = "1000", from_str_fn(bounds::readers))]
    subscribers: usize,
    /// streams (1000)
    #[argh(option, default = "1000", from_str_fn(bounds::streams))]
    streams: usize,
    /// seconds (10)
    #[argh(option, default = "10.0", from_str_fn(bounds::seconds))]
    seconds: f64,
}

/// Writers at a fixed rate, live readers and replays together.
#[derive(FromArgs)]
#[argh(subcommand, name = "mixed")]
pub struct MixedArguments {
    /// live readers (200)
    #[argh(option, default = "200", from_str_fn(bounds::readers))]
    subscribers: usize,
    /// streams (100)
    #[argh(option, default = "100", from_str_fn(bounds::streams))]
    streams: usize,
    /// streams are JSON (text)
    #[argh(switch)]
    json_streams: bool,
    /// bytes of an append, at least 40 (256)
    #[argh(option, default = "256", from_str_fn(bounds::record_bytes))]
    bytes: usize,
    /// appends per second, over all streams (2000)
    #[argh(option, default = "2000.0", from_str_fn(bounds::rate))]
    rate: f64,
    /// connections of writers (32)
    #[argh(option, default = "32", from_str_fn(bounds::connections))]
    connections: usize,
    /// connections that replay (4)
    #[argh(option, default = "4", from_str_fn(bounds::readers))]
    readers: usize,
    /// bytes of the stream that is replayed (16777216)
    #[argh(option, default = "16777216", from_str_fn(bounds::stream_bytes))]
    replay_bytes: u64,
    /// seconds (10)
    #[argh(option, default = "10.0", from_str_fn(bounds::seconds))]
    seconds: f64,
}

/// Makes streams for `replay`; give a --prefix.
#[derive(FromArgs)]
#[argh(subcommand, name = "fill")]
pub struct FillArguments {
    /// streams (64)
    #[argh(option, default = "64", from_str_fn(bounds::streams))]
    streams: usize,
    /// bytes of each stream (16777216)
    #[argh(option, default = "16777216", from_str_fn(bounds::stream_bytes))]
    bytes: u64,
}

/// Reads streams of an earlier run at random, each to its end; give its --prefix.
#[derive(FromArgs)]
#[argh(subcommand, name = "replay")]
pub struct ReplayArguments {
    /// readers (64)
    #[argh(option, default = "64", from_str_fn(bounds::connections))]
    readers: usize,
    /// streams that there are (64)
    #[argh(option, default = "64", from_str_fn(bounds::streams))]
    streams: usize,
    /// seconds (10)
    #[argh(option, default = "10.0", from_str_fn(bounds::seconds))]
    seconds: f64,
}

/// Appends and reads of the newest bytes at a fixed rate.
#[derive(FromArgs)]
#[argh(subcommand, name = "hot")]
pub struct HotArguments {
    /// streams (100)
    #[argh(option, default = "100", from_str_fn(bounds::streams))]
    streams: usize,
    /// appends per second, over all streams (1000)
    #[argh(option, default = "1000.0", from_str_fn(bounds::rate))]
    rate: f64,
    /// reads per second, over all streams (1000)
    #[argh(option, default = "1000.0", from_str_fn(bounds::rate))]
    read_rate: f64,
    /// connections that append, and as many that read (32)
    #[argh(option, default = "32", from_str_fn(bounds::connections))]
    connections: usize,
    /// bytes of an append, at least 40 (256)
    #[argh(option, default = "256", from_str_fn(bounds::record_bytes))]
    bytes: usize,
    /// measured seconds (10)
    #[argh(option, default = "10.0", from_str_fn(bounds::seconds))]
    seconds: f64,
    /// seconds before that (1)
    #[argh(option, default = "1.0", from_str_fn(bounds::warmup))]
    warmup: f64,
}

fn writers(
    streams: usize,
    connections: usize,
    bytes: usize,
    content: Content,
    seconds: f64,
) -> Appends {
    Appends {
        streams,
        connections,
        bytes,
        content,
        with_producers: false,
        rate: None,
        duration: Duration::from_secs_f64(seconds),
        warmup: Duration::ZERO,
        is_unread: false,
    }
}

fn content(is_json: bool, is_binary: bool) -> Content {
    match (is_json, is_binary) {
        (true, _) => Content::Json,
        (false, true) => Content::Binary,
        (false, false) => Content::Text,
    }
}

impl Scenario {
    /// What is asked for twice, or not at all.
    ///
    /// # Errors
    /// What to do about it.
    pub fn check(&self) -> Result<(), String> {
        let (is_json, is_binary) = match self {
            Scenario::Append(a) => (a.json_streams, a.binary_streams),
            Scenario::Fanout(f) => (f.json_streams, f.binary_streams),
            Scenario::Catchup(c) => (c.json_streams, c.binary_streams),
            _ => (false, false),
        };
        if is_json && is_binary {
            return Err("give --json-streams or --binary-streams, not both".to_owned());
        }
        Ok(())
    }

    /// Runs it once against one server.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn run(&self, site: &Site<'_>, rate: Option<f64>) -> Result<result::Run, LoadError> {
        match self {
            Scenario::Append(a) => {
                let mut appends = writers(
                    a.streams,
                    a.connections,
                    a.bytes,
                    content(a.json_streams, a.binary_streams),
                    a.seconds,
                );
                appends.with_producers = a.producers;
                appends.rate = rate;
                appends.is_unread = a.unread;
                appends.warmup = Duration::from_secs_f64(a.warmup);
                scenario::append::run(site, &appends)
            }
            Scenario::Fanout(f) => {
                let connections = f.streams.clamp(1, 16);
                let mut appends = writers(
                    f.streams,
                    connections,
                    f.bytes,
                    content(f.json_streams, f.binary_streams),
                    f.seconds,
                );
                appends.rate = Some(f.rate);
                let live = live(f.subscribers, appends, f.long_poll);
                scenario::live::run(site, &live)
            }
            Scenario::Catchup(c) => {
                let catchup = Catchup {
                    streams: c.streams,
                    bytes: c.bytes,
                    readers: c.readers,
                    content: content(c.json_streams, c.binary_streams),
                    duration: Duration::from_secs_f64(c.seconds),
                };
                scenario::catchup::run(site, &catchup)
            }
            Scenario::Density(d) => {
                let density = Density {
                    streams: d.streams,
                    connections: d.connections,
                    restart: d.restart.clone(),
                };
                scenario::create::run(site, &density)
            }
            Scenario::Idle(i) => {
                let appends = writers(i.streams, 1, 256, Content::Text, i.seconds);
                let mut live = live(i.subscribers, appends, false);
                live.is_idle = true;
                scenario::live::run(site, &live)
            }
            Scenario::Mixed(m) => {
                let mut appends = writers(
                    m.streams,
                    m.connections,
                    m.bytes,
                    content(m.json_streams, false),
                    m.seconds,
                );
                appends.rate = Some(m.rate);
                let mut live = live(m.subscribers, appends, false);
                (live.readers, live.replay_bytes) = (m.readers, m.replay_bytes);
                scenario::live::run(site, &live)
            }
            Scenario::Fill(f) => scenario::replay::prepare(site, f.streams, f.bytes),
            Scenario::Replay(r) => {
                let replays = Replays {
                    streams: r.streams,
                    readers: r.readers,
                    duration: Duration::from_secs_f64(r.seconds),
                };
                scenario::replay::run(site, &replays)
            }
            Scenario::Hot(h) => {
                let mut appends =
                    writers(h.streams, h.connections, h.bytes, Content::Text, h.seconds);
                appends.rate = Some(h.rate);
                appends.warmup = Duration::from_secs_f64(h.warmup);
                let hot = Hot {
                    readers: appends.connections,
                    appends,
                    read_rate: h.read_rate,
                };
                scenario::hot::run(site, &hot)
            }
        }
    }

    /// The rates to sweep.
    pub fn rates(&self) -> Vec<Option<f64>> {
        match self {
            Scenario::Append(append) if !append.rate.is_empty() => {
                append.rate.iter().copied().map(Some).collect()
            }
            _ => vec![None],
        }
    }
}

fn live(subscribers: usize, appends: Appends, with_long_poll: bool) -> Live {
    Live {
        subscribers,
        with_long_poll,
        appends,
        is_idle: false,
        readers: 0,
        replay_bytes: 0,
    }
}
