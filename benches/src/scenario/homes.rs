//! Which node takes a stream's appends, where the others only point at it (307): asked once per stream, then the client
//! goes straight there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{LoadError, Site};
use crate::engine::{Driver, Engine, Next};
use crate::record::Content;
use crate::reply::Reply;
use crate::target::Target;

/// A connection whose node has nothing to be asked for now looks again after this.
const GLANCE: Duration = Duration::from_millis(1);

/// More redirects than this of one request are a circle, or an election.
const REDIRECTS_MAX: u32 = 50;

/// By stream, the number of its node; `None`: any node takes it.
#[derive(Debug, Default)]
pub struct Homes {
    by_stream: Vec<Option<usize>>,
}

impl Homes {
    /// For each connection the node that it goes to and the streams that it writes: its own, if there are as many, else one
    /// that it shares. A node gets connections by the number of its streams.
    pub fn plan(
        &self,
        nodes: usize,
        streams: usize,
        connections: usize,
    ) -> Vec<(usize, Vec<usize>)> {
        let is_led = self.by_stream.iter().any(Option::is_some);
        if !is_led {
            let all: Vec<usize> = (0..streams).collect();
            let shares = deal(&all, connections).into_iter().enumerate();
            return shares.map(|(c, share)| (c % nodes, share)).collect();
        }
        let mut of_node: Vec<(usize, Vec<usize>)> = (0..nodes).map(|n| (n, Vec::new())).collect();
        for (stream, home) in self.by_stream.iter().enumerate() {
            of_node[home.unwrap_or(0)].1.push(stream);
        }
        of_node.retain(|(_, led)| !led.is_empty());
        of_node.sort_by_key(|(_, led)| std::cmp::Reverse(led.len()));
        of_node.truncate(connections);
        let led: usize = of_node.iter().map(|(_, led)| led.len()).sum();
        let mut left = connections;
        let mut plan = Vec::with_capacity(connections);
        for (place, (node, streams)) in of_node.iter().enumerate() {
            let after = of_node.len() - place - 1;
            let fair = (connections * streams.len()).div_ceil(led).max(1);
            let count = if after == 0 {
                left
            } else {
                fair.min(left - after)
            };
            left -= count;
            plan.extend(deal(streams, count).into_iter().map(|share| (*node, share)));
        }
        plan
    }
}

impl Homes {
    /// The node that a stream is read from.
    pub fn reader_of(&self, stream: usize, nodes: usize) -> usize {
        let home = self.by_stream.get(stream).copied().flatten();
        home.unwrap_or(stream % nodes)
    }
}

fn deal(streams: &[usize], connections: usize) -> Vec<Vec<usize>> {
    let share = |c: usize| -> Vec<usize> {
        if connections >= streams.len() {
            return vec![streams[c % streams.len()]];
        }
        streams
            .iter()
            .copied()
            .skip(c)
            .step_by(connections)
            .collect()
    };
    (0..connections).map(share).collect()
}

struct Creates<'a> {
    site: &'a Site<'a>,
    headers: String,
    homes: Homes,
    next: usize,
    done: usize,
    /// By node: what another one pointed there.
    pointed: Vec<Vec<usize>>,
    in_flight: Vec<Option<usize>>,
    redirects: Vec<u32>,
    failure: Option<String>,
}

/// Creates the streams of a run, at their leaders where the server points there.
///
/// # Errors
/// The first refusal.
pub fn create_streams(
    site: &Site<'_>,
    engine: &mut Engine,
    count: usize,
    content: Content,
) -> Result<Homes, LoadError> {
    let kind = content.media_type();
    let mut creates = Creates {
        site,
        headers: format!("content-type: {kind}\r\ncontent-length: 0\r\n"),
        homes: Homes {
            by_stream: vec![None; count],
        },
        next: 0,
        done: 0,
        pointed: vec![Vec::new(); site.target.addresses.len()],
        in_flight: vec![None; engine.len()],
        redirects: vec![0; count],
        failure: None,
    };
    engine.run(&mut creates)?;
    match creates.failure {
        Some(failure) => Err(LoadError::Refused(failure)),
        // A server that forwards never points anywhere.
        None if creates.redirects.iter().all(|r| *r == 0) => Ok(Homes::default()),
        None => Ok(creates.homes),
    }
}

fn node_of(target: &Target, location: &str) -> Option<usize> {
    let host = location.strip_prefix("http://")?.split('/').next()?;
    let address: SocketAddr = host.parse().ok()?;
    target.addresses.iter().position(|a| *a == address)
}

impl Driver for Creates<'_> {
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next {
        let node = connection % self.pointed.len();
        let stream = match self.pointed[node].pop() {
            Some(stream) => stream,
            None if self.next < self.redirects.len() => {
                self.next += 1;
                self.next - 1
            }
            None if self.is_done(now) => return Next::Idle,
            None => return Next::At(now + GLANCE),
        };
        self.in_flight[connection] = Some(stream);
        let path = self.site.stream(stream);
        self.site.target.put(request, "PUT", &path, &self.headers);
        Next::Send
    }

    fn reply(&mut self, connection: usize, reply: Reply<'_>, _: Instant) {
        let Some(stream) = self.in_flight[connection].take() else {
            return;
        };
        let node = connection % self.pointed.len();
        match reply.status {
            200..300 => {
                self.done += 1;
                self.homes.by_stream[stream] = Some(node);
            }
            307 if self.redirects[stream] < REDIRECTS_MAX => {
                self.redirects[stream] += 1;
                let location = reply.header("location").unwrap_or_default();
                match node_of(self.site.target, location) {
                    Some(node) => self.pointed[node].push(stream),
                    None => {
                        let text =
                            format!("a redirect to {location:?}, which is no node that was named");
                        self.failure.get_or_insert(text);
                    }
                }
            }
            status => {
                let text = String::from_utf8_lossy(reply.body).into_owned();
                self.failure
                    .get_or_insert(format!("status {status}: {text}"));
            }
        }
    }

    fn lost(&mut self, _: usize, reason: &str) {
        self.failure.get_or_insert(reason.to_owned());
    }

    fn progress(&self) -> Option<String> {
        Some(format!(
            "{} of {} streams created",
            self.done,
            self.redirects.len()
        ))
    }

    fn is_done(&self, _: Instant) -> bool {
        self.done == self.redirects.len() || self.failure.is_some()
    }
}
