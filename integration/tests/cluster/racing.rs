//! A producer that runs twice, at two nodes at once (FAULTS.md, case 39): of each pair of appends with one number exactly one
//! is there, and who has been replaced hears so at every node.

use std::sync::Barrier;

use integration::Client;
use integration::cluster::Cluster;

use crate::{beside_others, nodes};

const TEXT: &str = "text/plain";
const PATH: &str = "/v1/stream/raced";
const ROUNDS: u64 = 200;

fn produce(client: &mut Client, epoch: u64, seq: u64, body: &str) -> u16 {
    let (epoch, seq) = (epoch.to_string(), seq.to_string());
    let headers = [
        ("content-type", TEXT),
        ("producer-id", "twice"),
        ("producer-epoch", epoch.as_str()),
        ("producer-seq", seq.as_str()),
    ];
    client.send("POST", PATH, &headers, body.as_bytes()).status
}

#[test]
fn of_two_appends_with_one_number_at_two_nodes_exactly_one_is_there() {
    let _beside = beside_others();
    let cluster = Cluster::start(nodes(), &[]);
    let created = cluster.client(1).create(PATH, TEXT);
    assert_eq!(created.status, 201, "{}", created.text());
    let at = [1, nodes().min(2)];
    let start = Barrier::new(at.len());
    let race = |(which, node): (usize, u32)| {
        let mut client = cluster.client(node);
        let mut statuses = Vec::new();
        for seq in 0..ROUNDS {
            start.wait();
            let body = format!("{seq}:{which};");
            statuses.push(produce(&mut client, 7, seq, &body));
        }
        statuses
    };
    let racers: [Vec<u16>; 2] = std::thread::scope(|scope| {
        let racers = [(0, at[0]), (1, at[1])].map(|racer| scope.spawn(move || race(racer)));
        racers.map(|racer| racer.join().expect("a racer's claim failed"))
    });
    let there = String::from_utf8(cluster.client(1).read_all(PATH)).expect("text");
    let there: Vec<&str> = there.split_terminator(';').collect();
    assert_eq!(there.len() as u64, ROUNDS, "{there:?}");
    let mut won = [0, 0];
    for (seq, found) in there.iter().enumerate() {
        let winner = usize::from(*found == format!("{seq}:1"));
        assert_eq!(*found, format!("{seq}:{winner}"));
        // New is 200, and what is there already 204.
        assert_eq!(racers[winner][seq], 200, "{seq}: who won");
        assert_eq!(racers[1 - winner][seq], 204, "{seq}: who lost");
        won[winner] += 1;
    }
    println!("{won:?} of {ROUNDS}");
    assert_eq!(produce(&mut cluster.client(at[1]), 8, 0, "new;"), 200);
    for node in cluster.ids() {
        let status = produce(&mut cluster.client(node), 7, ROUNDS, "old;");
        assert_eq!(status, 403, "at node {node}");
    }
    cluster.expect_equal_states(&cluster.ids());
}
