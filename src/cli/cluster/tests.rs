//! What an operator is told of groups and leaders, from made-up answers of two nodes.

use std::collections::BTreeSet;

use super::progress::Progress;
use super::transfer::leader_of;
use super::*;

#[test]
fn an_address_has_a_host_and_a_port() {
    for good in ["a:1", "10.0.0.1:4447", "[::1]:65535"] {
        assert!(is_address(good), "{good}");
    }
    for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "a:b", "nonsense"] {
        assert!(!is_address(bad), "{bad}");
    }
}

#[test]
fn a_number_of_a_node_fits_a_raft_id() {
    for (node, is_good) in [
        (0, false),
        (1, true),
        (65535, true),
        (65536, false),
        (70000, false),
    ] {
        assert_eq!(number(node).is_ok(), is_good, "{node}");
    }
}

#[test]
fn who_was_never_heard_of_is_named_with_its_address() {
    let mut all = cluster();
    for (_, status) in &mut all {
        let Ok(status) = status else { continue };
        status.members.push(StoredMember {
            raft_id: 6,
            cluster_address: "typo:4447".to_owned(),
            ..StoredMember::default()
        });
        status.groups[0].replicas = vec![raftproto::peer::ReplicaStatus {
            raft_id: 6,
            ..Default::default()
        }];
        let membership = status.groups[0].membership.get_or_insert_default();
        membership.learners.push(6);
    }
    let told = told(&progress(&all));
    assert!(
        told.ends_with("; node 6 at typo:4447 was never heard of"),
        "{told}"
    );
}

#[test]
fn what_is_left_follows_what_was_done() {
    let at = |done, behind| Progress {
        groups: 10,
        done,
        behind,
        waiting: Vec::new(),
        troubled: Vec::new(),
        unheard: BTreeSet::new(),
    };
    let took = Duration::from_secs(10);
    assert_eq!(left(&at(0, 100), &at(0, 100), took), None);
    assert_eq!(left(&at(0, 100), &at(0, 50), took), Some(took));
    assert_eq!(left(&at(0, 0), &at(5, 0), took), Some(took));
    assert_eq!(left(&at(0, 100), &at(2, 90), took), Some(took * 9));
    assert_eq!(left(&at(2, 0), &at(10, 0), took), None);
}

/// Node 1 leads groups 0 and 1, node 2 leads group 2; node 2 is drained.
fn cluster() -> Vec<NodeStatus> {
    let group = |group, leader| GroupStatus {
        group,
        leader,
        membership: Some(raftproto::checkpoint::Membership {
            voters: vec![1, 2],
            ..Default::default()
        }),
        ..GroupStatus::default()
    };
    let node = |raft_id| StatusReply {
        node: Some(raftproto::peer::Hello {
            raft_id,
            node_id: raft_id,
            ..Default::default()
        }),
        groups: vec![group(0, 1), group(1, 1), group(2, 2)],
        members: [1, 2]
            .map(|raft_id| StoredMember {
                raft_id,
                drained: raft_id == 2,
                ..StoredMember::default()
            })
            .into(),
        ..StatusReply::default()
    };
    vec![("a:1".into(), Ok(node(1))), ("b:2".into(), Ok(node(2)))]
}

#[test]
fn a_drained_node_that_leads_is_not_done() {
    let progress = progress(&cluster());
    assert_eq!((progress.groups, progress.done), (3, 2));
    assert_eq!(progress.waiting, ["2"]);
}

#[test]
fn a_replica_that_takes_no_part_is_named_at_the_end() {
    let mut all = cluster();
    if let Ok(status) = &mut all[1].1 {
        status.groups[1].trouble = "its log was lost".to_owned();
    }
    let told = told(&progress(&all));
    assert!(
        told.ends_with("; replicas that take no part: 1 on node 2"),
        "{told}"
    );
}

#[test]
fn who_hands_over_is_who_leads() {
    let all = cluster();
    assert_eq!(leader_of(&all, 2, Some(1)), Ok(Some("b:2".to_owned())));
    assert_eq!(leader_of(&all, 0, None), Ok(Some("a:1".to_owned())));
    assert_eq!(leader_of(&all, 2, Some(2)), Ok(None));
    let missing = leader_of(&all, 9, None).unwrap_err();
    assert_eq!(missing, "there is no group 9: they are 0 to 2");
    assert!(is_voter(&all, 2) && !is_voter(&all, 9));
}
