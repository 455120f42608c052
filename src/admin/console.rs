//! The console: one page out of the binary, and what it asks for.

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_SECURITY_POLICY, HeaderValue};
use hyper::{Request, StatusCode};
use raftproto::peer::{Hello, StatusReply};

use super::service::{Answer, Service, body, json, text};
use super::streams::small;
use crate::cli::{cluster_as_json, cluster_status};
use crate::http::ResponseBody;
use crate::ops::build::{COMMIT, VERSION};

/// The page; it asks for nothing from elsewhere.
const PAGE: &str = include_str!("console.html");

/// Nothing but what the page itself carries, and answers of this listener.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

impl Service {
    pub(super) fn console(&self) -> Answer {
        let page = ResponseBody::full(PAGE);
        let mut answer = body(StatusCode::OK, "text/html; charset=utf-8", page);
        let policy = HeaderValue::from_static(POLICY);
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        answer
    }

    /// Who this node is, and whether it is well.
    pub(super) async fn overview(&self) -> Answer {
        let reports = self.gatherer.reports().await;
        let cores = reports
            .iter()
            .enumerate()
            .map(|(core, report)| match report {
                None => serde_json::json!({ "core": core, "up": false }),
                Some(report) => serde_json::json!({
                    "core": core,
                    "up": true,
                    "failed": report.failed,
                    "disk_full": report.disk_full,
                    "groups": report.groups.iter().map(|g| serde_json::json!({
                        "group": g.group,
                        "leader": g.leader & 0xffff,
                        "streams": g.streams,
                        "hot_bytes": g.hot_bytes,
                    })).collect::<Vec<_>>(),
                }),
            });
        let value = serde_json::json!({
            "version": VERSION,
            "commit": COMMIT,
            "node": self.config.node_id,
            "cluster_id": self.config.cluster_id,
            "clients": self.client_address.to_string(),
            "is_durable": self.config.wal_dir.is_some(),
            "can_change": self.token.is_some(),
            "not_ready": crate::core::not_ready(&reports),
            "cores": cores.collect::<Vec<_>>(),
        });
        json(StatusCode::OK, &value)
    }

    /// The same as `ursula cluster status --json`, asked at this node.
    pub(super) async fn cluster(&self) -> Answer {
        let all = match self
            .config
            .cluster_listen
            .filter(|_| !self.config.peers.is_empty())
        {
            Some(_) => {
                let own = self
                    .config
                    .peers
                    .iter()
                    .find(|p| p.id == self.config.node_id);
                let at = own.map_or_else(String::new, |p| p.address.clone());
                cluster_status(&self.caller, &at, false).await
            }
            None => Ok(vec![(String::new(), Ok(self.alone().await))]),
        };
        match all {
            Ok(all) => json(StatusCode::OK, &cluster_as_json(&all)),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        }
    }

    /// The status of a node that has no cluster's port.
    async fn alone(&self) -> StatusReply {
        let reports = self.gatherer.reports().await;
        let own = self.config.node_id;
        let cores = crate::core::core_statuses(&reports, own);
        let mut groups: Vec<_> = reports
            .into_iter()
            .flatten()
            .flat_map(|r| r.groups)
            .collect();
        groups.sort_unstable_by_key(|g| g.group);
        StatusReply {
            node: Some(Hello {
                node_id: own,
                raft_id: own,
                client_address: self.client_address.to_string(),
                ..Hello::default()
            }),
            groups_led: groups.iter().filter(|g| g.leader == own).count() as u32,
            groups_without_leader: groups.iter().filter(|g| g.leader == 0).count() as u32,
            groups,
            cores,
            ..StatusReply::default()
        }
    }

    /// Sets how much is logged, until the next start.
    pub(super) async fn set_log_level(&self, request: Request<Incoming>) -> Answer {
        if let Some(refused) = self.refuse_change(&request) {
            return refused;
        }
        let given = small(request.into_body()).await.unwrap_or_default();
        let given = String::from_utf8_lossy(&given);
        match given.trim().parse::<log::LevelFilter>() {
            Ok(level) if level != log::LevelFilter::Off => {
                log::set_max_level(level);
                log::info!(
                    "event=log_level_set log_level={}",
                    level.as_str().to_lowercase()
                );
                text(
                    StatusCode::OK,
                    format!("{}\n", level.as_str().to_lowercase()),
                )
            }
            _ => text(
                StatusCode::BAD_REQUEST,
                "error, warn, info, debug or trace\n",
            ),
        }
    }

    /// Whether the token was given that changes need; an answer if not.
    pub(super) fn refuse_change(&self, request: &Request<Incoming>) -> Option<Answer> {
        let Some(token) = &self.token else {
            let said = "this listener only reads: the server has no admin_token_file\n";
            return Some(text(StatusCode::FORBIDDEN, said));
        };
        let given = request
            .headers()
            .get(AUTHORIZATION)
            .map(HeaderValue::as_bytes);
        let given = given
            .and_then(|g| g.strip_prefix(b"Bearer "))
            .unwrap_or_default();
        // Takes as long for a wrong token, wherever it is wrong.
        let differs = given.len() != token.len();
        let different = given
            .iter()
            .zip(token.bytes())
            .fold(u8::from(differs), |d, (a, b)| d | (a ^ b));
        (different != 0).then(|| {
            text(
                StatusCode::UNAUTHORIZED,
                "this needs the token of admin_token_file as Authorization: Bearer\n",
            )
        })
    }
}
