//! The requests to the cold store. On S3 each is billed, so they are counted by what they were and how they ended, and
//! what they cost is reckoned from that.

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

/// What a store bills requests with, in cents of the currency that is called dollars.
#[derive(Debug, Clone, Copy, Default)]
pub struct ColdPrices {
    /// A million puts, parts and lists.
    pub write_cents_per_million: u64,
    /// A million gets and heads.
    pub read_cents_per_million: u64,
}

impl ColdPrices {
    /// Of one request, by its verb and how it ended. A store bills what it answered and could have served: no error of its
    /// own, and nobody who may not ask.
    fn dollars(&self, verb: &str, status: &str) -> f64 {
        if !matches!(status.as_bytes().first(), Some(b'2'..=b'4'))
            || ["403", "429"].contains(&status)
        {
            return 0.0;
        }
        let cents = match verb {
            "delete" | "abort_upload" => 0,
            "get" | "head" => self.read_cents_per_million,
            _ => self.write_cents_per_million,
        };
        cents as f64 / 1e8
    }
}

pub(super) fn render<'a>(
    out: &mut String,
    cores: impl Iterator<Item = (u16, ColdPrices, &'a ColdRequests)> + Clone,
) {
    let name = "ursula_cold_requests_total";
    family(
        out,
        name,
        "counter",
        "Requests to the cold store, each one that is billed.",
    );
    for (core, _, requests) in cores.clone() {
        for ((verb, status), count) in &requests.by_status {
            let _ = writeln!(
                out,
                "{name}{{core=\"{core}\",verb=\"{verb}\",status=\"{status}\"}} {count}"
            );
        }
    }
    let name = "ursula_cold_cost_dollars_total";
    let help = "What those requests cost by the settings s3_write_cents_per_million and s3_read_cents_per_million; not what is stored and carried.";
    family(out, name, "counter", help);
    for (core, prices, requests) in cores.clone() {
        for verb in ColdVerb::ALL.map(ColdVerb::name) {
            let statuses = requests.by_status.iter().filter(|((v, _), _)| *v == verb);
            let costs = statuses.map(|((_, s), count)| *count as f64 * prices.dollars(verb, s));
            // Of nothing, the sum is -0.
            let dollars: f64 = costs.sum::<f64>() + 0.0;
            let _ = writeln!(out, "{name}{{core=\"{core}\",verb=\"{verb}\"}} {dollars}");
        }
    }
    let name = "ursula_cold_request_seconds";
    family(
        out,
        name,
        "histogram",
        "Time of one request to the cold store.",
    );
    for (core, _, requests) in cores {
        for (verb, seconds) in ColdVerb::ALL.iter().zip(&requests.seconds) {
            if !seconds.is_empty() {
                let labels = format!("core=\"{core}\",verb=\"{}\"", verb.name());
                seconds.render(out, name, &labels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_bills_is_reckoned_and_nothing_else() {
        let prices = ColdPrices {
            write_cents_per_million: 500,
            read_cents_per_million: 40,
        };
        for (verb, status, millionths) in [
            ("put", "200", 5.0),
            ("put", "412", 5.0),
            ("put", "503", 0.0),
            ("put", "timeout", 0.0),
            ("list", "200", 5.0),
            ("put_part", "200", 5.0),
            ("get", "206", 0.4),
            ("get", "404", 0.4),
            ("get", "403", 0.0),
            ("head", "200", 0.4),
            ("delete", "204", 0.0),
        ] {
            let found = prices.dollars(verb, status) * 1e6;
            assert!(
                (found - millionths).abs() < 1e-9,
                "{verb} {status}: {found}"
            );
        }
    }
}
