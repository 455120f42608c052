//! What two nodes must agree on before one listens to the other. Pure: two introductions in, a verdict out.

use raftproto::peer::Hello;
use raftproto::version::are_neighbours;

/// Above it, a difference of two nodes' wall clocks is worth a warning.
const CLOCKS_MS_MAX: u64 = 500;

/// Says whether `other` belongs to the own cluster; the text says what differs, with both values.
///
/// # Errors
/// What differs first.
pub fn judge(own: &Hello, other: &Hello, expected_node: Option<u64>) -> Result<(), String> {
    let there = format!("node {} ({})", other.node_id, other.cluster_address);
    let differs = |what: &str, here: &dyn std::fmt::Debug, at: &dyn std::fmt::Debug| {
        Err(format!("{what} is {here:?} here and {at:?} at {there}"))
    };
    // In a rolling upgrade, versions differ by one. What goes over the link is of the lower one: a node leaves out what a newer
    // one added, and is not asked for it before the cluster's level says that all know it (`meta/level.rs`).
    if !are_neighbours(own.version, other.version) {
        return differs("version", &own.version, &other.version);
    }
    if own.cluster_id != other.cluster_id {
        return differs("cluster_id", &own.cluster_id, &other.cluster_id);
    }
    if own.group_count != other.group_count {
        return differs("group_count", &own.group_count, &other.group_count);
    }
    if !are_neighbours(own.commands_version, other.commands_version) {
        return differs(
            "commands_version",
            &own.commands_version,
            &other.commands_version,
        );
    }
    // A leader's lease lasts as long as the others do not vote, which each takes from its own setting.
    if own.election_timeout_ms != other.election_timeout_ms {
        return differs(
            "election_timeout_ms",
            &own.election_timeout_ms,
            &other.election_timeout_ms,
        );
    }
    // What one puts into a bucket, the others do not find in another. (`local` beside a bucket is what a rolling change looks like.)
    if places_differ(own, other) && own.cold_place != LOCAL && other.cold_place != LOCAL {
        return differs("cold", &own.cold_place, &other.cold_place);
    }
    if other.node_id == 0 {
        return Err(format!("node_id is 0 at {there}: it begins with 1"));
    }
    if own.node_id == other.node_id {
        // By the same settings both have one cluster address: where each serves its clients tells them apart.
        return Err(format!(
            "node_id is {} here ({}, clients at {}) and at {} (clients at {}): two nodes cannot share it",
            own.node_id,
            own.cluster_address,
            own.client_address,
            other.cluster_address,
            other.client_address
        ));
    }
    match expected_node {
        Some(expected) if expected != other.node_id => Err(format!(
            "node_id is {} at {}, where node {expected} is expected",
            other.node_id, other.cluster_address
        )),
        _ => Ok(()),
    }
}

/// A node that keeps its old data itself.
const LOCAL: &str = "local";

/// Whether two nodes have their old data in different places, as far as both say.
pub fn places_differ(own: &Hello, other: &Hello) -> bool {
    own.cold_place != other.cold_place && !own.cold_place.is_empty() && !other.cold_place.is_empty()
}

/// By how many milliseconds the other's wall clock differs, if that is worth a warning.
pub fn clocks_differ_ms(own: &Hello, other: &Hello) -> Option<u64> {
    let difference = own.now_ms.abs_diff(other.now_ms);
    (difference > CLOCKS_MS_MAX).then_some(difference)
}

/// Logs what [`clocks_differ_ms`] finds.
pub(super) fn warn_of_clocks(own: &Hello, other: &Hello) {
    if let Some(difference_ms) = clocks_differ_ms(own, other) {
        log::warn!(
            "event=clocks_differ node={} difference_ms={difference_ms} expiry follows the leader's clock",
            other.node_id
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node_id: u64) -> Hello {
        Hello {
            version: 1,
            cluster_id: "a".into(),
            node_id,
            group_count: 16,
            cluster_address: format!("127.0.0.1:{}", 4436 + node_id),
            client_address: format!("a:{node_id}"),
            commands_version: 1,
            election_timeout_ms: 300,
            dr_keep_ms: 0,
            cold_place: "s3://b/x".into(),
            now_ms: 1_000_000,
            ..Hello::default()
        }
    }

    #[test]
    fn each_difference_is_named_with_both_values() {
        type Change = fn(&mut Hello);
        let table: [(Change, &str); 9] = [
            (
                |h| h.version = 3,
                "version is 1 here and 3 at node 2 (127.0.0.1:4438)",
            ),
            (
                |h| h.cluster_id = "b".into(),
                "cluster_id is \"a\" here and \"b\" at node 2 (127.0.0.1:4438)",
            ),
            (
                |h| h.group_count = 8,
                "group_count is 16 here and 8 at node 2 (127.0.0.1:4438)",
            ),
            (
                |h| h.commands_version = 3,
                "commands_version is 1 here and 3 at node 2 (127.0.0.1:4438)",
            ),
            (
                |h| h.election_timeout_ms = 900,
                "election_timeout_ms is 300 here and 900 at node 2 (127.0.0.1:4438)",
            ),
            (
                |h| h.cold_place = "s3://b/y".into(),
                "cold is \"s3://b/x\" here and \"s3://b/y\" at node 2 (127.0.0.1:4438)",
            ),
            (
                |h| h.node_id = 0,
                "node_id is 0 at node 0 (127.0.0.1:4438): it begins with 1",
            ),
            (
                |h| h.node_id = 1,
                "node_id is 1 here (127.0.0.1:4437, clients at a:1) and at 127.0.0.1:4438 (clients at a:2): two nodes cannot share it",
            ),
            (
                |h| h.node_id = 3,
                "node_id is 3 at 127.0.0.1:4438, where node 2 is expected",
            ),
        ];
        for (change, text) in table {
            let mut other = hello(2);
            change(&mut other);
            assert_eq!(judge(&hello(1), &other, Some(2)).unwrap_err(), text);
        }
    }

    #[test]
    fn nodes_of_two_versions_that_follow_one_another_work_together() {
        let mut other = hello(2);
        (other.version, other.commands_version) = (2, 2);
        assert_eq!(judge(&hello(1), &other, None), Ok(()));
        assert_eq!(judge(&other, &hello(1), None), Ok(()));
    }

    #[test]
    fn a_node_that_has_no_bucket_yet_is_spoken_with_and_known() {
        let mut other = hello(2);
        other.cold_place = LOCAL.into();
        assert_eq!(judge(&hello(1), &other, None), Ok(()));
        assert!(places_differ(&hello(1), &other));
        // One of an earlier version.
        other.cold_place = String::new();
        assert_eq!(judge(&hello(1), &other, None), Ok(()));
        assert!(!places_differ(&hello(1), &other));
    }

    #[test]
    fn a_node_of_the_cluster_passes_whatever_its_clock_says() {
        let mut other = hello(2);
        other.now_ms += 501;
        assert_eq!(judge(&hello(1), &other, Some(2)), Ok(()));
        assert_eq!(judge(&hello(1), &other, None), Ok(()));
        assert_eq!(clocks_differ_ms(&hello(1), &other), Some(501));
        assert_eq!(clocks_differ_ms(&hello(1), &hello(2)), None);
    }
}
