//! Damage at the end of a log, which looks like a write that a crash has cut.

use super::*;

/// Cuts the newest records of a node, from within the last one that holds `mark` on.
fn zero_from(cluster: &Cluster, node: u32, mark: &str) {
    let holds = |path: PathBuf| {
        let bytes = fs::read(&path).expect("readable");
        let mut windows = bytes.windows(mark.len());
        Some((windows.rposition(|w| w == mark.as_bytes())?, path))
    };
    let mut found = segments(cluster, node).into_iter().filter_map(holds);
    let (at, path) = found.next().expect("it was written");
    let mut bytes = fs::read(&path).expect("readable");
    bytes[at + 100..].fill(0);
    fs::write(&path, bytes).expect("ours");
}

#[test]
fn a_damaged_last_record_that_others_count_on_is_rebuilt_by_them() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("a node alone cannot tell");
    }
    let mut cluster = Cluster::start(3, &["--checkpoint-bytes", "1GiB"]);
    let mut written = Written::create(&cluster);
    written.append(&cluster, 1, 2, "first");
    cluster.expect_equal_states(&[1, 2, 3]);
    // Of a group that it leads itself, the next leader counts on nothing of its.
    let is_others = |s: &usize| cluster.leader(&path(*s)) != Some(3);
    let stream = (0..STREAMS).rfind(is_others).expect("others lead some");
    cluster.kill(3);
    zero_from(&cluster, 3, &format!("first-1-{stream}-"));
    // What is new finds the leaders counting on what it has acknowledged.
    written.append(&cluster, 1, 1, "away");
    let before = cluster.log(3).len();
    cluster.start_node(3);
    wait_for("it is rebuilt", || {
        written.append(&cluster, 1, 1, "more");
        written.append(&cluster, 3, 1, "there"); // Who lacks it sends on what comes for the group.
        !set_aside(&cluster, 3).is_empty()
    });
    cluster.wait_members(1, &[1, 2, 3]);
    cluster.wait_ready();
    let log = cluster.log(3).split_off(before);
    for text in ["torn_tail", "log was lost", "starting_again"] {
        assert!(log.contains(text), "{text}: {log}");
    }
    written.append(&cluster, 3, 1, "last");
    written.expect_at(&cluster, 3);
    cluster.expect_equal_states(&[1, 2, 3]);
}
