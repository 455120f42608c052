//! What is at which path of the operators' listener.

use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};

use super::Gatherer;
use super::streams::PREFIX;
use crate::config::{Config, Origins, SETTINGS};
use crate::core::{not_ready, silent_cores};
use crate::doctor::{self, Scope};
use crate::http::ResponseBody;
use crate::ops::metrics;
use crate::peer::Caller;

/// See the module's head.
pub struct Service {
    pub(super) client_address: std::net::SocketAddr,
    pub(super) caller: Caller,
    /// What changes need; `None`: nothing is changed.
    pub(super) token: Option<String>,
    pub(super) config: Config,
    pub(super) origins: Origins,
    pub(super) gatherer: Gatherer,
}

/// An answer.
pub type Answer = Response<ResponseBody>;

impl Service {
    /// Serves one request.
    pub async fn serve(&self, request: Request<Incoming>) -> Answer {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            path if path
                .strip_prefix(PREFIX)
                .is_some_and(|p| p.starts_with('/')) =>
            {
                self.hand_on(request).await
            }
            "/_/api/log-level" if *request.method() == Method::PUT => {
                self.set_log_level(request).await
            }
            _ if !is_read => not_allowed(),
            "/" | "/_/" | "/_" => see("/_/console"),
            "/_/console" => self.console(),
            "/_/api/overview" => self.overview().await,
            "/_/api/cluster" => self.cluster().await,
            "/_/api/streams" => self.list(request.uri().query()).await,
            "/healthz" => self.health().await,
            "/readyz" => self.readiness().await,
            "/metrics" => self.metrics().await,
            "/_/api/doctor" => self.doctor(request.uri().query()).await,
            "/_/api/settings" => json(StatusCode::OK, &self.settings()),
            _ => text(
                StatusCode::NOT_FOUND,
                "nothing is here: /_/console, /healthz, /readyz, /metrics\n",
            ),
        }
    }

    /// The same checks as `ursula doctor`, by the node itself. They hold up this listener for as long as they take.
    async fn doctor(&self, query: Option<&str>) -> Answer {
        let scope = Scope {
            disk_probe: query == Some("disk"),
            is_the_node: true,
        };
        let report = doctor::as_json(&doctor::check_all(&self.config, scope).await);
        json(StatusCode::OK, &report)
    }

    /// The settings in force, each with where it comes from.
    fn settings(&self) -> serde_json::Value {
        let settings = SETTINGS.iter().zip(self.config.values());
        let all = settings.map(|(setting, value)| {
            let origin = self.origins.get(setting.key);
            serde_json::json!({
                "key": setting.key,
                "value": value,
                "origin": origin.map_or("default", |o| o.source.as_str()),
                "help": setting.help,
                "allowed": setting.allowed,
            })
        });
        all.collect()
    }

    async fn health(&self) -> Answer {
        match silent_cores(&self.gatherer.reports().await) {
            None => text(StatusCode::OK, "ok\n"),
            Some(said) => text(StatusCode::SERVICE_UNAVAILABLE, said),
        }
    }

    async fn readiness(&self) -> Answer {
        let reasons = not_ready(&self.gatherer.reports().await);
        let status = match reasons.is_empty() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        let value = match reasons.is_empty() {
            true => serde_json::json!({ "ready": true }),
            false => serde_json::json!({ "ready": false, "reasons": reasons }),
        };
        json(status, &value)
    }

    async fn metrics(&self) -> Answer {
        let reports = self.gatherer.reports().await;
        let snapshots: Vec<_> = reports.into_iter().map(|r| r.map(|r| r.snapshot)).collect();
        let mut answer = text(
            StatusCode::OK,
            metrics::render(&self.config.node_gauges(), &snapshots),
        );
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, kind);
        answer
    }
}

/// A body of some type, which no cache keeps.
pub fn body(status: StatusCode, kind: &'static str, body: ResponseBody) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// A plain text.
pub fn text(status: StatusCode, said: impl Into<bytes::Bytes>) -> Answer {
    body(
        status,
        "text/plain; charset=utf-8",
        ResponseBody::full(said),
    )
}

/// A JSON text.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    body(
        status,
        "application/json",
        ResponseBody::full(value.to_string()),
    )
}

fn see(path: &'static str) -> Answer {
    let mut answer = text(StatusCode::SEE_OTHER, "");
    let path = HeaderValue::from_static(path);
    answer.headers_mut().insert(hyper::header::LOCATION, path);
    answer
}

fn not_allowed() -> Answer {
    text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n")
}
