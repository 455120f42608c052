//! What a node costs that nobody needs: 1,024 groups, no clients. And sleeping groups whose leader dies (FAULTS.md, R18).

use std::path::Path;
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::load::{Links, Sent};
use integration::metric;
use integration::skip;

use crate::formation::{wait_for, wait_for_leaders, works};
use crate::{alone, nodes, number};

/// Of a node, in a second, however many of the tested numbers of cores it has: each core has links of its own, and says on them
/// that it lives.
const PACKETS_MAX: u64 = 20;

/// Of one core, in percent. On a quiet machine it is below 1 (`benches/RESULTS.md`); beside other work the same takes longer.
const SHARE_MAX: f64 = 2.0;

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
    idle(1);
}

#[test]
fn idle_groups_on_several_cores_send_next_to_nothing() {
    idle(2);
}

fn idle(cores: u64) {
    let _alone = alone();
    if nodes() == 1 {
        return skip("one node has no network");
    }
    let count = cores.to_string();
    let settings = ["--raft-group-count", "1024", "--core-count", &count];
    let mut cluster = match Cluster::start_apart(3, &settings) {
        Ok(cluster) => cluster,
        Err(reason) => return skip(format!("no network namespaces here: {reason}")),
    };
    works(&cluster, "before");
    let metric = |node: u32, name: &str| metric(&mut cluster.client(node), name);
    // Each node leads its share, and then nobody has anything to do.
    wait_for_leaders(
        &cluster,
        "leadership is spread and all groups sleep",
        || {
            cluster.ids().into_iter().all(|node| {
                metric(node, "ursula_groups_asleep") >= 1025
                    && (341..=342).contains(&metric(node, "ursula_groups_led"))
            })
        },
    );
    let seconds = u64::from(number("URSULA_TEST_IDLE_S", 30));
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
        println!(
            "node {node}, {cores} cores: {packets} packets in {seconds} s, {share:.2} % of a core"
        );
        assert!(
            packets < PACKETS_MAX * seconds,
            "node {node} sent {packets} packets"
        );
        assert!(share < SHARE_MAX, "node {node}: {share:.2} % of a core");
    }
    cluster.expect_all_alive();
}

/// A request to a sleeping group whose leader died is answered so soon, and where nobody asks, there is another leader; once in
/// two times something else may keep the machine busy.
const AWAKE: Duration = Duration::from_secs(1);

/// On the slowest machine.
const AWAKE_LOADED: Duration = Duration::from_secs(5);

const SLEEPERS: u64 = 32;

#[test]
fn sleeping_groups_whose_leader_dies_have_another_soon() {
    let _alone = alone();
    if nodes() < 3 {
        return skip("nobody takes over");
    }
    let groups = SLEEPERS.to_string();
    let mut cluster = Cluster::start(3, &["--raft-group-count", &groups]);
    let path = |stream: usize| format!("/v1/stream/asleep/s{stream}");
    let mut client = cluster.client(1);
    for stream in 0..24 {
        assert_eq!(client.create(&path(stream), "text/plain").status, 201);
    }
    let addresses = cluster.addresses();
    let (mut asked, mut unasked) = (Vec::new(), Vec::new());
    for victim in [1, 2] {
        let other = 1 + victim % 3;
        let at = other as usize - 1;
        wait_for_leaders(&cluster, "each node leads some groups", || {
            let led = |n: u32| metric(&mut cluster.client(n), "ursula_groups_led");
            cluster.ids().into_iter().all(|node| led(node) > 8)
        });
        let mut streams = 0..24;
        let led = streams.find(|s| cluster.leader_by(other, &path(*s)) == Some(victim));
        let path = path(led.expect("each node leads some streams"));
        wait_for("all groups sleep", || {
            let asleep = |n: u32| metric(&mut cluster.client(n), "ursula_groups_asleep");
            cluster
                .ids()
                .into_iter()
                .all(|node| asleep(node) == SLEEPERS + 1)
        });
        let slept = cluster.groups_led(other, victim);
        let asleep = metric(&mut cluster.client(other), "ursula_groups_asleep");
        assert_eq!(asleep, SLEEPERS + 1, "to be asked about groups wakes them");
        let mut links = Links::new(&addresses, Duration::from_secs(5));
        cluster.kill(victim);
        let began = Instant::now();
        loop {
            let headers = [("content-type", "text/plain")];
            match links.send(at, "POST", &path, &headers, b"x") {
                Sent::Answered(reply) if reply.status == 204 => break,
                Sent::Answered(reply) => panic!("{} {}", reply.status, reply.text()),
                Sent::Refused | Sent::Unknown => {}
            }
            assert!(began.elapsed() < AWAKE_LOADED, "{path} takes nothing");
        }
        asked.push(began.elapsed());
        // Of all but that stream's, nobody has asked for anything.
        let is_led = || {
            let groups = cluster.groups(other);
            let is_taken_over = |g: &&serde_json::Value| {
                let leads = g["replicas"].as_array().is_some_and(|r| !r.is_empty());
                leads && g["leader"] != victim && g["leader"] != 0
            };
            let taken = groups.iter().filter(is_taken_over);
            let taken: Vec<u64> = taken.filter_map(|g| g["group"].as_u64()).collect();
            slept.iter().all(|group| taken.contains(group))
        };
        while !is_led() {
            assert!(
                began.elapsed() < AWAKE_LOADED * 2,
                "groups without a leader"
            );
        }
        unasked.push(began.elapsed());
        println!(
            "node {victim} led {} groups: {asked:?} {unasked:?}",
            slept.len()
        );
        cluster.start_node(victim);
        cluster.wait_ready();
    }
    for mut took in [asked, unasked] {
        took.sort();
        assert!(took[0] < AWAKE && took[1] < AWAKE_LOADED, "{took:?}");
    }
}
