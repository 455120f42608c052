//! The cold store: asked for one key, as the node would ask; and whether the other nodes, as far as they run, use the same one.

use std::rc::Rc;
use std::time::Duration;

use raftproto::peer::StatusRequest;

use super::{Finding, Findings, Severity};
use crate::config::{ColdPlace, Config};
use crate::core::cold::open_cold;
use crate::core::timeouts::Timeouts;
use crate::peer::{Caller, PeerSettings};

/// How long the store is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long another node is waited for.
const NODE_PATIENCE: Duration = Duration::from_secs(2);

/// On an executor. `None`: there is no store that could be asked.
pub(super) async fn check(config: &Config) -> Option<Finding> {
    if !matches!(config.cold_place()?, ColdPlace::S3 { .. }) {
        return None;
    }
    let mut config = config.clone();
    config.s3_attempts_max = 1;
    let store = open_cold(0, &config, Rc::default())?;
    let asked = async { store.list("", None, 1).await.map_err(|e| e.to_string()) };
    let late = async {
        glommio::timer::sleep(PATIENCE).await;
        Err(format!("no answer within {} s", PATIENCE.as_secs()))
    };
    let answer = futures_lite::FutureExt::or(asked, late).await;
    let mut findings = Findings(Vec::new());
    findings.expect(
        "cold.store",
        answer.is_ok(),
        // The node starts without it, and serves what it has.
        Severity::Warn,
        (
            answer.err().unwrap_or_else(|| "answers".to_owned()),
            "lists a key with these settings",
        ),
        "mend what it says: `cold`, the `s3_` settings, the credentials, the line to the store",
    );
    findings.0.pop()
}

/// On an executor. `None`: there is no other node that says where its old data is.
pub(super) async fn check_place(config: &Config) -> Option<Finding> {
    let own = config.cold_place()?.shared_name();
    let timeouts: Rc<Timeouts> = Rc::default();
    let _running = crate::core::tasks::spawn(timeouts.clone().run());
    let settings = PeerSettings {
        call_timeout: NODE_PATIENCE,
        ..PeerSettings::default()
    };
    let caller = Caller::new(Rc::new(settings), timeouts);
    let request = StatusRequest {
        only_node: true,
        ..StatusRequest::default()
    };
    let mut said = Vec::new();
    for peer in config.peers.iter().filter(|p| p.id != config.node_id) {
        let status = caller.status(&peer.address, request.clone()).await;
        let place = status.ok().and_then(|status| status.node);
        let place = place.map(|hello| hello.cold_place);
        said.extend(place.filter(|p| !p.is_empty()).map(|p| (peer.id, p)));
    }
    if said.is_empty() {
        return None;
    }
    let others = said.iter().filter(|(_, place)| *place != own);
    let others: Vec<String> = others.map(|(id, p)| format!("{p} at node {id}")).collect();
    let current = match others.is_empty() {
        true => own,
        false => format!("{own} here, {}", others.join(", ")),
    };
    let mut findings = Findings(Vec::new());
    findings.expect(
        "cold.place",
        others.is_empty(),
        Severity::Fatal,
        (current, "one place for the old data of all nodes"),
        "give all nodes the same `cold`",
    );
    findings.0.pop()
}
