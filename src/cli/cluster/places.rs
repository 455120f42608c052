//! Where the nodes of a cluster have their old data, as they say themselves.

use std::collections::BTreeMap;

use super::NodeStatus;

/// What is wrong with that, and what to do; `None`: all have it in one place, as far as they say.
pub(super) fn differ(all: &[NodeStatus]) -> Option<String> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let hellos = all
        .iter()
        .filter_map(|(_, s)| s.as_ref().ok()?.node.as_ref());
    for hello in hellos.filter(|h| !h.cold_place.is_empty()) {
        let nodes = places.entry(&hello.cold_place).or_default();
        nodes.push(hello.node_id.to_string());
    }
    let each = places
        .iter()
        .map(|(place, nodes)| format!("{place} (node {})", nodes.join(", ")));
    (places.len() > 1).then(|| {
        format!(
            "old data is in different places: {}; give all nodes the same `cold`: until then nothing goes to the store",
            each.collect::<Vec<_>>().join(", ")
        )
    })
}
