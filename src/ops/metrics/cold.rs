//! The requests to the cold store. On S3 each is billed, so they are counted by what they were and how they ended.

use std::collections::BTreeMap;
use std::fmt::Write;

use storage::cold::{ColdRequest, ColdVerb};

use super::Histogram;
use super::render::family;

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub(super) struct ColdRequests {
    by_status: BTreeMap<(&'static str, &'static str), u64>,
    seconds: [Histogram; ColdVerb::ALL.len()],
}

impl ColdRequests {
    pub(super) fn ended(&mut self, request: ColdRequest) {
        let key = (request.verb.name(), request.status);
        *self.by_status.entry(key).or_default() += 1;
        self.seconds[request.verb as usize].record(request.micros);
    }
}

pub(super) fn render<'a>(
    out: &mut String,
    cores: impl Iterator<Item = (u16, &'a ColdRequests)> + Clone,
) {
    let name = "ursula_cold_requests_total";
    family(
        out,
        name,
        "counter",
        "Requests to the cold store, each one that is billed.",
    );
    for (core, requests) in cores.clone() {
        for ((verb, status), count) in &requests.by_status {
            let _ = writeln!(
                out,
                "{name}{{core=\"{core}\",verb=\"{verb}\",status=\"{status}\"}} {count}"
            );
        }
    }
    let name = "ursula_cold_request_seconds";
    family(
        out,
        name,
        "histogram",
        "Time of one request to the cold store.",
    );
    for (core, requests) in cores {
        for (verb, seconds) in ColdVerb::ALL.iter().zip(&requests.seconds) {
            if !seconds.is_empty() {
                let labels = format!("core=\"{core}\",verb=\"{}\"", verb.name());
                seconds.render(out, name, &labels);
            }
        }
    }
}
