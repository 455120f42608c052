//! What a node costs that nobody needs: 1,024 groups, no clients.

use std::path::Path;
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::metric;

use crate::formation::{wait_for, works};
use crate::{alone, nodes, number};

/// Of a node, in a second.
const PACKETS_MAX: u64 = 20;

/// Packets that a node has sent to other nodes and clients.
fn sent_packets(cluster: &Cluster, node: u32) -> u64 {
    let network = cluster.network().expect("it has one");
    let output = network
        .command(node, Path::new("cat"))
        .arg("/proc/net/dev")
        .output()
        .expect("cat is everywhere");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let of_line = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let sent = counts.split_whitespace().nth(9)?.parse::<u64>().ok()?;
        (name.trim() != "lo").then_some(sent)
    };
    text.lines().filter_map(of_line).sum()
}

fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let number = |at| {
        let field = rest.split_whitespace().nth(at);
        field.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    Duration::from_millis((number(11) + number(12)) * 10)
}

#[test]
fn idle_groups_send_next_to_nothing() {
    let _alone = alone();
    if nodes() == 1 {
        return println!("skipped: one node has no network");
    }
    let mut cluster = match Cluster::start_apart(3, &["--raft-group-count", "1024"]) {
        Ok(cluster) => cluster,
        Err(reason) => return println!("skipped: no network namespaces here: {reason}"),
    };
    works(&cluster, "before");
    let metric = |node: u32, name: &str| metric(&mut cluster.client(node), name);
    // Each node leads its share, and then nobody has anything to do.
    wait_for("leadership is spread and all groups sleep", || {
        cluster.ids().into_iter().all(|node| {
            metric(node, "ursula_groups_asleep") >= 1025
                && (341..=342).contains(&metric(node, "ursula_groups_led"))
        })
    });
    let seconds = u64::from(number("URSULA_TEST_IDLE_S", 10));
    let before: Vec<_> = cluster
        .ids()
        .into_iter()
        .map(|node| (node, sent_packets(&cluster, node), cpu(cluster.pid(node))))
        .collect();
    let began = Instant::now();
    // The time that is measured.
    std::thread::sleep(Duration::from_secs(seconds));
    for (node, packets, spent) in before {
        let packets = sent_packets(&cluster, node) - packets;
        let spent = cpu(cluster.pid(node)).saturating_sub(spent);
        let share = 100.0 * spent.as_secs_f64() / began.elapsed().as_secs_f64();
        println!("node {node}: {packets} packets in {seconds} s, {share:.2} % of a core");
        assert!(
            packets <= PACKETS_MAX * seconds,
            "node {node} sent {packets} packets"
        );
    }
    cluster.expect_all_alive();
}
