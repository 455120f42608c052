//! A restart of all nodes, one after the other, which clients that honour `Retry-After` do not see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use integration::Reply;
use integration::cluster::Cluster;
use integration::load::{Links, Sent, offset, position};

use crate::{alone, nodes, number};

/// A client gives up after so long: that is a failed request.
const PATIENCE: Duration = Duration::from_secs(20);

/// After a connection that was not taken.
const REFUSED: Duration = Duration::from_millis(20);

const CLIENTS: usize = 8;

/// What one client saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub done: u64,
    /// Refused with `Retry-After`: this node is asked again after that, and another one meanwhile.
    put_off: u64,
    /// The connection was not taken: then another node.
    not_taken: u64,
    /// The connection broke after the request was sent.
    broken: u64,
    longest: Duration,
}

struct Polite {
    links: Links,
    node: usize,
    /// When each node may be asked again.
    not_before: Vec<Instant>,
    seen: Seen,
}

impl Polite {
    /// The next node that may be asked, once there is one.
    fn turn(&mut self) {
        self.node = (self.node + 1) % self.links.count();
        let places = (0..self.links.count()).map(|step| (self.node + step) % self.links.count());
        // Of those that may be asked the first in turn.
        let now = Instant::now();
        let soonest = places.min_by_key(|n| self.not_before[*n].max(now));
        self.node = soonest.expect("there are nodes");
        let wait = self.not_before[self.node].saturating_duration_since(Instant::now());
        std::thread::sleep(wait);
    }

    /// Asks until there is an answer. What broke off is repeated only if that is safe.
    fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        is_safe: bool,
    ) -> Reply {
        let began = Instant::now();
        loop {
            match self.links.send(self.node, method, path, headers, body) {
                Sent::Answered(reply) => {
                    self.seen.done += 1;
                    self.seen.longest = self.seen.longest.max(began.elapsed());
                    return reply;
                }
                Sent::Refused if self.links.put_off().is_some() => self.seen.put_off += 1,
                Sent::Refused => self.seen.not_taken += 1,
                Sent::Unknown => {
                    self.seen.broken += 1;
                    assert!(
                        is_safe,
                        "{method} {path}: broken off, and it cannot be repeated"
                    );
                }
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{method} {path}: no answer in {PATIENCE:?}"
            );
            // A node that took no connection says nothing of when: it starts, and is tried soon again.
            let wait = self.links.put_off().unwrap_or(REFUSED);
            self.not_before[self.node] = Instant::now() + wait;
            self.turn();
        }
    }
}

/// Appends and reads until stopped; `may_break`: connections may break off, so all appends can be repeated.
pub fn client(id: (&str, usize), addresses: &[String], stop: &AtomicBool, may_break: bool) -> Seen {
    let (name, id) = id;
    let mut client = Polite {
        links: Links::new(addresses, PATIENCE),
        node: id % addresses.len(),
        not_before: vec![Instant::now(); addresses.len()],
        seen: Seen::default(),
    };
    let path = format!("/v1/stream/{name}-polite/s{id}");
    let text = ("content-type", "text/plain");
    let created = client.ask("PUT", &path, &[text], b"", true);
    assert!(matches!(created.status, 200 | 201), "{}", created.text());
    // Half are producers; the others cannot repeat what was broken off, and need not.
    let is_producer = may_break || id.is_multiple_of(2);
    let mut seq = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let number = seq.to_string();
        let mut headers = vec![text];
        if is_producer {
            headers.extend([
                ("producer-id", "c"),
                ("producer-epoch", "0"),
                ("producer-seq", &*number),
            ]);
        }
        let body = format!("{seq:08}");
        let reply = client.ask("POST", &path, &headers, body.as_bytes(), is_producer);
        assert!(
            matches!(reply.status, 200 | 204),
            "{path}: {} {}",
            reply.status,
            reply.text()
        );
        seq += 1;
        let query = format!("{path}?offset={}", offset(8 * (seq - 1)));
        let reply = client.ask("GET", &query, &[], b"", true);
        assert_eq!(reply.text(), body, "{query}: {}", reply.status);
        assert_eq!(position(reply.header("stream-next-offset")), 8 * seq);
        // Load with pauses, so that connections are idle at times when a node stops.
        std::thread::sleep(Duration::from_millis(1 + seq * 7 % 30));
    }
    client.seen
}

#[test]
fn a_rolling_restart_fails_no_request() {
    let _alone = alone();
    let mut cluster = Cluster::start(nodes(), &[]);
    let addresses = cluster.addresses();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|id| {
            let (addresses, stop) = (addresses.clone(), stop.clone());
            std::thread::spawn(move || client(("rolling", id), &addresses, &stop, false))
        })
        .collect();
    for _ in 0..number("URSULA_TEST_ROUNDS", 2) {
        for node in cluster.ids() {
            // Load between two restarts.
            std::thread::sleep(Duration::from_millis(500));
            let status = cluster.stop(node);
            assert!(status.success(), "node {node} ended with {status}");
            cluster.start_node(node);
            cluster.wait_ready();
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    let mut done = 0;
    let mut failed = 0;
    for client in clients {
        match client.join() {
            Ok(seen) => {
                println!("{seen:?}");
                done += seen.done;
            }
            Err(_) => failed += 1,
        }
    }
    assert_eq!(failed, 0, "clients whose request failed");
    assert!(done > 500, "too little load to mean anything: {done}");
}
