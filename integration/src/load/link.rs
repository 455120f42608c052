//! A worker's connections, one to each node, and what became of a request.

use std::time::Duration;

use crate::{Client, Reply};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_millis(500);

/// What became of a request.
pub enum Sent {
    /// Answered with something other than 503.
    Answered(Reply),
    /// Certainly not done: nobody took it, or 503.
    Refused,
    /// Sent, and the connection broke, or nobody answered in time, or 503 with an unknown outcome.
    Unknown,
}

/// Connections to all nodes.
pub struct Links {
    addresses: Vec<String>,
    open: Vec<Option<Client>>,
    /// Longest wait for an answer.
    pub patience: Duration,
    put_off: Option<Duration>,
}

impl Links {
    /// None is open yet.
    pub fn new(addresses: &[String], patience: Duration) -> Links {
        Links {
            addresses: addresses.to_vec(),
            open: addresses.iter().map(|_| None).collect(),
            patience,
            put_off: None,
        }
    }

    /// After how long the last answer said to come back, by `Retry-After`; none where it was no 503, or nobody answered.
    pub fn put_off(&self) -> Option<Duration> {
        self.put_off
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// A new connection to a node, outside of the kept ones.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(&self, node: usize) -> std::io::Result<Client> {
        let client = Client::try_connect(&self.addresses[node], CONNECT)?;
        client.set_patience(self.patience)?;
        Ok(client)
    }

    /// Asks a node.
    pub fn send(
        &mut self,
        node: usize,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Sent {
        self.put_off = None;
        let kept = self.open[node].take().filter(|c| !c.is_stale());
        let Some(mut client) = kept.or_else(|| self.connect(node).ok()) else {
            return Sent::Refused;
        };
        let Ok(reply) = client.try_send(method, path, headers, body) else {
            return Sent::Unknown;
        };
        if reply.header("connection") != "close" {
            self.open[node] = Some(client);
        }
        if reply.status == 503 {
            let seconds = reply.header("retry-after").parse();
            let seconds = seconds.unwrap_or_else(|e| panic!("a 503 without Retry-After: {e}"));
            self.put_off = Some(Duration::from_secs(seconds));
        }
        match (reply.status, reply.header("stream-outcome")) {
            (503, "unknown") => Sent::Unknown,
            (503, _) => Sent::Refused,
            _ => Sent::Answered(reply),
        }
    }
}
