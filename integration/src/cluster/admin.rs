//! Orders and questions of an operator: `ursula cluster`, as its users run it.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Cluster, PATIENCE};
use crate::Server;

/// Between two looks at a state.
const LOOK: Duration = Duration::from_millis(50);

impl Cluster {
    /// Runs `ursula cluster` at a node, and waits for its end.
    ///
    /// # Errors
    /// What it said, if it failed.
    pub fn order(&self, at: u32, words: &[&str]) -> Result<String, String> {
        let output = self.order_command(at, words).output();
        let output = output.expect("the binary was built");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }

    /// The same, and nobody reads what it says of its progress; whether it succeeded.
    pub fn order_unread(&self, at: u32, words: &[&str]) -> bool {
        let mut order = self.order_command(at, words);
        let order = order.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut order = order.spawn().expect("the binary was built");
        drop(order.stderr.take());
        order.wait().expect("it is ours").success()
    }

    fn order_command(&self, at: u32, words: &[&str]) -> Command {
        let mut command = Command::new(Server::binary());
        let at = ["cluster", "--at", self.cluster_address(at)];
        command.args(at).args(words).stdin(Stdio::null());
        command
    }

    /// `ursula cluster status --json`, with the hashes of the groups' states if wanted; none if the node does not answer.
    pub fn status(&self, at: u32, with_hashes: bool) -> Option<Value> {
        let mut words = vec!["status", "--json"];
        if with_hashes {
            words.push("--hashes");
        }
        let text = self.order(at, &words).ok()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
    }

    /// What [`Cluster::status`] says of each group; nothing if the node does not answer.
    pub fn groups(&self, at: u32) -> Vec<Value> {
        let status = self.status(at, false).unwrap_or_default();
        status["groups"].as_array().cloned().unwrap_or_default()
    }

    /// The groups that `node` leads, by the word of the node `at`.
    pub fn groups_led(&self, at: u32, node: u32) -> Vec<u64> {
        let groups = self.groups(at);
        let own = groups.iter().filter(|g| g["leader"] == node);
        own.filter_map(|g| g["group"].as_u64()).collect()
    }

    /// Waits until all groups have the members that they shall have, which are these nodes.
    pub fn wait_members(&self, at: u32, wanted: &[u32]) {
        let mut last = None;
        let deadline = Instant::now() + PATIENCE;
        loop {
            last = self.status(at, false).or(last);
            if last.as_ref().is_some_and(|s| has_members(s, wanted)) {
                return;
            }
            let shown = last.as_ref().map(Value::to_string);
            assert!(
                Instant::now() < deadline,
                "not the members {wanted:?}: {shown:?}"
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Asks until all these nodes have applied each group equally far, and demands that wherever two have, at any time,
    /// their states have one hash.
    ///
    /// # Panics
    /// If two differ, or they never are equally far.
    pub fn expect_equal_states(&self, nodes: &[u32]) {
        // By group and applied index.
        let mut seen: BTreeMap<(u64, u64), (String, u64)> = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(nodes[0], true).unwrap_or_default();
            // By group: how far each node is.
            let mut applied: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for told in status["nodes"].as_array().into_iter().flatten() {
                let node = told["node"].as_u64().unwrap_or(0);
                if !nodes.contains(&(node as u32)) {
                    continue;
                }
                for group in told["groups"].as_array().into_iter().flatten() {
                    let at = [&group["group"], &group["applied"]].map(|v| v.as_u64().unwrap_or(0));
                    let hash = group["state_hash"].as_str().expect("it was asked for");
                    let (other, by) = seen
                        .entry((at[0], at[1]))
                        .or_insert((hash.to_owned(), node));
                    assert!(
                        other == hash,
                        "group {} at index {}: nodes {by} and {node} differ: {other} {hash}",
                        at[0],
                        at[1]
                    );
                    applied.entry(at[0]).or_default().push(at[1]);
                }
            }
            let is_equal =
                |all: &Vec<u64>| all.len() == nodes.len() && all.iter().all(|a| *a == all[0]);
            if !applied.is_empty() && applied.values().all(is_equal) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "nodes {nodes:?} are not equally far: {applied:?}, {status}"
            );
            std::thread::sleep(LOOK);
        }
    }
}

/// The order names these nodes, and all groups have followed it.
fn has_members(status: &Value, wanted: &[u32]) -> bool {
    let members = status["members"].as_array().into_iter().flatten();
    let named: Vec<u64> = members.filter_map(|m| m["node"].as_u64()).collect();
    let groups = status["groups"].as_array().into_iter().flatten();
    let mut voters = groups.map(|g| {
        let ids = g["voters"].as_array().into_iter().flatten();
        ids.filter_map(|v| v.as_u64().map(|id| id & 0xffff))
            .collect::<Vec<u64>>()
    });
    let wanted: Vec<u64> = wanted.iter().map(|n| u64::from(*n)).collect();
    let is_done = status["groups_waiting"]
        .as_array()
        .is_some_and(Vec::is_empty);
    let has_them = |mut ids: Vec<u64>| {
        ids.sort_unstable();
        ids == wanted
    };
    is_done && named == wanted && voters.all(has_them)
}
