//! A node that is removed while it is cut off from the leader of the meta group, and leads other groups with the rest.

use integration::cluster::Cluster;
use integration::load::{Links, Sent};
use integration::skip;

use crate::formation::{wait_for, works};
use crate::{beside_others, nodes};

/// The leaders of all groups, as the nodes that this one reaches say.
fn leaders(cluster: &Cluster, at: u32) -> Vec<(u64, u32)> {
    let groups = cluster.groups(at);
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    let all = groups.iter();
    all.map(|g| (number(&g["group"]), number(&g["leader"]) as u32))
        .collect()
}

#[test]
fn a_removed_leader_that_hears_no_leader_of_the_meta_group_learns_of_it_from_another() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("too few would be left");
    }
    let mut cluster = match Cluster::start_apart(3, &["--raft-group-count", "9"]) {
        Ok(cluster) => cluster,
        Err(reason) => return skip(format!("no network namespaces here: {reason}")),
    };
    works(&cluster, "before");
    let mut all = Vec::new();
    wait_for("each node leads some groups", || {
        all = leaders(&cluster, 1);
        let led = |node: u32| all.iter().filter(|(_, leader)| *leader == node).count();
        cluster.ids().into_iter().all(|node| led(node) > 1)
    });
    let meta = all.iter().find(|(group, _)| *group == 0);
    let meta = meta.expect("it is a group").1;
    let (cut, third) = (1 + meta % 3, 1 + (meta + 1) % 3);
    cluster.network().expect("it has one").partition(cut, meta);
    wait_for("who is cut off leads on, and is taken for gone", || {
        let status = cluster.status(cut, false).unwrap_or_default();
        let own = status["nodes"].as_array().into_iter().flatten();
        let own = own.into_iter().find(|n| n["node"] == cut).cloned();
        own.is_some_and(|n| {
            n["groups_led"].as_u64() > Some(0) && n["groups_without_leader"].as_u64() > Some(0)
        })
    });
    let words = ["--wait-s", "0", "remove", &cut.to_string()];
    let said = cluster.order(meta, &words).unwrap_or_else(|said| said);
    assert!(said.contains("members: "), "{said}");
    // By a word of the one that it hears, which leads nothing that is said of it.
    let mut left = [meta, third];
    left.sort_unstable();
    cluster.wait_members(third, &left);
    wait_for("it knows", || {
        cluster.log(cut).contains("event=not_a_member")
    });
    assert!(
        leaders(&cluster, third)
            .iter()
            .all(|(_, n)| left.contains(n))
    );
    let mut links = Links::new(&cluster.addresses(), std::time::Duration::from_secs(5));
    let headers = [("content-type", "text/plain")];
    wait_for("the others take writes", || {
        let at = third as usize - 1;
        let sent = links.send(at, "POST", "/v1/stream/before", &headers, b"x");
        matches!(sent, Sent::Answered(reply) if reply.status == 204)
    });
    cluster.network().expect("it has one").heal();
    assert!(cluster.stop(cut).success());
    cluster.expect_equal_states(&left);
}
