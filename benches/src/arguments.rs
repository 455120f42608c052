//! The command line: which servers, which scenario, and its figures.

use std::time::Duration;

use argh::FromArgs;

use crate::record;
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
    error_code(1, "A run failed, or bytes were lost, doubled or out of order.")
)]
pub struct Arguments {
    /// a server, as NAME=http://host:port/base; streams are made below base; several take turns
    #[argh(option)]
    pub server: Vec<Target>,
    /// how often the servers take turns (1)
    #[argh(option, default = "1")]
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
    #[argh(option, default = "1000")]
    streams: usize,
    /// connections (64)
    #[argh(option, default = "64")]
    connections: usize,
    /// bytes of an append, at least 40 (256)
    #[argh(option, default = "256")]
    bytes: usize,
    /// streams are JSON
    #[argh(switch)]
    json_streams: bool,
    /// each connection is an idempotent producer
    #[argh(switch)]
    producers: bool,
    /// appends per second whatever the answers do (open loop); give it more than once to sweep
    #[argh(option)]
    rate: Vec<f64>,
    /// measured seconds (10)
    #[argh(option, default = "10.0")]
    seconds: f64,
    /// seconds before that (2)
    #[argh(option, default = "2.0")]
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
    #[argh(option, default = "1000")]
    subscribers: usize,
    /// streams (1)
    #[argh(option, default = "1")]
    streams: usize,
    /// appends per second, over all streams (50)
    #[argh(option, default = "50.0")]
    rate: f64,
    /// bytes of an append, at least 40 (256)
    #[argh(option, default = "256")]
    bytes: usize,
    /// streams are JSON
    #[argh(switch)]
    json_streams: bool,
    /// long-polls instead of SSE
    #[argh(switch)]
    long_poll: bool,
    /// seconds (10)
    #[argh(option, default = "10.0")]
    seconds: f64,
}

/// Replays streams from the start.
#[derive(FromArgs)]
#[argh(subcommand, name = "catchup")]
pub struct CatchupArguments {
    /// readers (64)
    #[argh(option, default = "64")]
    readers: usize,
    /// streams (1)
    #[argh(option, default = "1")]
    streams: usize,
    /// bytes of each stream (16777216)
    #[argh(option, default = "16777216")]
    bytes: u64,
    /// streams are JSON
    #[argh(switch)]
    json_streams: bool,
    /// seconds (10)
    #[argh(option, default = "10.0")]
    seconds: f64,
}

/// Creates many streams.
#[derive(FromArgs)]
#[argh(subcommand, name = "density")]
pub struct DensityArguments {
    /// streams (100000)
    #[argh(option, default = "100000")]
    streams: usize,
    /// connections (64)
    #[argh(option, default = "64")]
    connections: usize,
}

/// Holds idle live readers.
#[derive(FromArgs)]
#[argh(subcommand, name = "idle")]
pub struct IdleArguments {
    /// live readers (1000)
    #[argh(option, default = "1000")]
    subscribers: usize,
    /// streams (1000)
    #[argh(option, default = "1000")]
    streams: usize,
    /// seconds (10)
    #[argh(option, default = "10.0")]
    seconds: f64,
}

/// Writers at a fixed rate, live readers and replays together.
#[derive(FromArgs)]
#[argh(subcommand, name = "mixed")]
pub struct MixedArguments {
    /// live readers (200)
    #[argh(option, default = "200")]
    subscribers: usize,
    /// streams (100)
    #[argh(option, default = "100")]
    streams: usize,
    /// appends per second, over all streams (2000)
    #[argh(option, default = "2000.0")]
    rate: f64,
    /// connections of writers (32)
    #[argh(option, default = "32")]
    connections: usize,
    /// connections that replay (4)
    #[argh(option, default = "4")]
    readers: usize,
    /// bytes of the stream that is replayed (16777216)
    #[argh(option, default = "16777216")]
    replay_bytes: u64,
    /// seconds (10)
    #[argh(option, default = "10.0")]
    seconds: f64,
}

/// Makes streams for `replay`; give a --prefix.
#[derive(FromArgs)]
#[argh(subcommand, name = "fill")]
pub struct FillArguments {
    /// streams (64)
    #[argh(option, default = "64")]
    streams: usize,
    /// bytes of each stream (16777216)
    #[argh(option, default = "16777216")]
    bytes: u64,
}

/// Reads streams of an earlier run at random, each to its end; give its --prefix.
#[derive(FromArgs)]
#[argh(subcommand, name = "replay")]
pub struct ReplayArguments {
    /// readers (64)
    #[argh(option, default = "64")]
    readers: usize,
    /// streams that there are (64)
    #[argh(option, default = "64")]
    streams: usize,
    /// seconds (10)
    #[argh(option, default = "10.0")]
    seconds: f64,
}

/// Appends and reads of the newest bytes at a fixed rate.
#[derive(FromArgs)]
#[argh(subcommand, name = "hot")]
pub struct HotArguments {
    /// streams (100)
    #[argh(option, default = "100")]
    streams: usize,
    /// appends per second, over all streams (1000)
    #[argh(option, default = "1000.0")]
    rate: f64,
    /// reads per second, over all streams (1000)
    #[argh(option, default = "1000.0")]
    read_rate: f64,
    /// connections that append, and as many that read (32)
    #[argh(option, default = "32")]
    connections: usize,
    /// bytes of an append, at least 40 (256)
    #[argh(option, default = "256")]
    bytes: usize,
    /// measured seconds (10)
    #[argh(option, default = "10.0")]
    seconds: f64,
    /// seconds before that (1)
    #[argh(option, default = "1.0")]
    warmup: f64,
}

/// The shortest record is a mark, two quotes and a line's end.
const BYTES_MIN: usize = record::MARK_BYTES + 4;

fn writers(
    streams: usize,
    connections: usize,
    bytes: usize,
    is_json: bool,
    seconds: f64,
) -> Appends {
    Appends {
        streams: streams.max(1),
        connections: connections.max(1),
        bytes: bytes.max(BYTES_MIN),
        is_json,
        with_producers: false,
        rate: None,
        duration: Duration::from_secs_f64(seconds),
        warmup: Duration::ZERO,
        is_unread: false,
    }
}

impl Scenario {
    /// Runs it once against one server.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn run(&self, site: &Site<'_>, rate: Option<f64>) -> Result<result::Run, LoadError> {
        match self {
            Scenario::Append(a) => {
                let mut appends =
                    writers(a.streams, a.connections, a.bytes, a.json_streams, a.seconds);
                appends.with_producers = a.producers;
                appends.rate = rate;
                appends.is_unread = a.unread;
                appends.warmup = Duration::from_secs_f64(a.warmup);
                scenario::append::run(site, &appends)
            }
            Scenario::Fanout(f) => {
                let connections = f.streams.clamp(1, 16);
                let mut appends =
                    writers(f.streams, connections, f.bytes, f.json_streams, f.seconds);
                appends.rate = Some(f.rate);
                let live = live(f.subscribers, appends, f.long_poll);
                scenario::live::run(site, &live)
            }
            Scenario::Catchup(c) => {
                let catchup = Catchup {
                    streams: c.streams.max(1),
                    bytes: c.bytes,
                    readers: c.readers.max(1),
                    is_json: c.json_streams,
                    duration: Duration::from_secs_f64(c.seconds),
                };
                scenario::catchup::run(site, &catchup)
            }
            Scenario::Density(d) => {
                let density = Density {
                    streams: d.streams,
                    connections: d.connections.max(1),
                };
                scenario::create::run(site, &density)
            }
            Scenario::Idle(i) => {
                let appends = writers(i.streams, 1, BYTES_MIN, false, i.seconds);
                let mut live = live(i.subscribers, appends, false);
                live.is_idle = true;
                scenario::live::run(site, &live)
            }
            Scenario::Mixed(m) => {
                let mut appends = writers(m.streams, m.connections, 256, false, m.seconds);
                appends.rate = Some(m.rate);
                let mut live = live(m.subscribers, appends, false);
                (live.readers, live.replay_bytes) = (m.readers, m.replay_bytes);
                scenario::live::run(site, &live)
            }
            Scenario::Fill(f) => scenario::replay::prepare(site, f.streams.max(1), f.bytes),
            Scenario::Replay(r) => {
                let replays = Replays {
                    streams: r.streams.max(1),
                    readers: r.readers.max(1),
                    duration: Duration::from_secs_f64(r.seconds),
                };
                scenario::replay::run(site, &replays)
            }
            Scenario::Hot(h) => {
                let mut appends = writers(h.streams, h.connections, h.bytes, false, h.seconds);
                appends.rate = Some(h.rate.max(1.0));
                appends.warmup = Duration::from_secs_f64(h.warmup);
                let hot = Hot {
                    readers: appends.connections,
                    appends,
                    read_rate: h.read_rate.max(1.0),
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
