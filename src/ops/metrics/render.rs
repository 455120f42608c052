//! The text of a scrape (Prometheus text format 0.0.4). Each family is described once, and each series of a core has the
//! label `core`.

use std::fmt::Write;

use super::node::NodeGauges;
use super::{CoreSnapshot, Histogram, OPERATIONS, PeerGauges, STAGES};

/// The text of a node; a core that did not answer in time has only `ursula_core_up 0`.
pub fn render(node: &NodeGauges, cores: &[Option<CoreSnapshot>]) -> String {
    let mut out = String::with_capacity(32 << 10);
    node.render(&mut out);
    let name = "ursula_core_up";
    family(
        &mut out,
        name,
        "gauge",
        "Whether the core answered the scrape in time.",
    );
    for (core, snapshot) in cores.iter().enumerate() {
        let is_up = u8::from(snapshot.is_some());
        let _ = writeln!(out, "{name}{{core=\"{core}\"}} {is_up}");
    }
    let up: Vec<&CoreSnapshot> = cores.iter().flatten().collect();
    plain(&mut out, &up);
    requests(&mut out, &up);
    bounds(&mut out, &up);
    histograms(&mut out, &up);
    let name = "ursula_longest_task_seconds";
    family(
        &mut out,
        name,
        "gauge",
        "Longest time in the last one to two minutes that a step of a group kept the core.",
    );
    for s in &up {
        let seconds = s.longest_task_us as f64 / 1e6;
        let _ = writeln!(out, "{name}{{core=\"{}\"}} {seconds}", s.core);
    }
    peers(&mut out, &up);
    let requests = up.iter().map(|s| (s.core, s.gauges.prices, &s.cold));
    super::cold::render(&mut out, requests);
    out
}

/// Head of a family.
pub(super) fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn plain(out: &mut String, up: &[&CoreSnapshot]) {
    for index in 0..up.first().map_or(0, |s| s.plain.len()) {
        for (position, snapshot) in up.iter().enumerate() {
            let (name, kind, help, value) = snapshot.plain[index];
            if position == 0 {
                family(out, name, kind, help);
            }
            let _ = writeln!(out, "{name}{{core=\"{}\"}} {value}", snapshot.core);
        }
    }
}

fn requests(out: &mut String, up: &[&CoreSnapshot]) {
    let name = "ursula_requests_total";
    family(out, name, "counter", "Answered requests.");
    for s in up {
        for (operation, requests) in OPERATIONS.iter().zip(&s.requests) {
            for (status, count) in &requests.statuses {
                let _ = writeln!(
                    out,
                    "{name}{{core=\"{}\",operation=\"{operation}\",status=\"{status}\"}} {count}",
                    s.core
                );
            }
        }
    }
    let name = "ursula_request_seconds";
    let help = "Time from a request's headers to its answer's headers.";
    family(out, name, "histogram", help);
    for s in up {
        for (operation, requests) in OPERATIONS.iter().zip(&s.requests) {
            if !requests.seconds.is_empty() {
                let labels = format!("core=\"{}\",operation=\"{operation}\"", s.core);
                requests.seconds.render(out, name, &labels);
            }
        }
    }
}

fn bounds(out: &mut String, up: &[&CoreSnapshot]) {
    let name = "ursula_refusals_total";
    family(out, name, "counter", "Requests refused at a bound.");
    for s in up {
        for (bound, count) in &s.refusals {
            let _ = writeln!(
                out,
                "{name}{{core=\"{}\",bound=\"{bound}\"}} {count}",
                s.core
            );
        }
    }
    let name = "ursula_saturation_ratio";
    family(
        out,
        name,
        "gauge",
        "How full each bounded queue or budget is, from 0 to 1.",
    );
    for s in up {
        for (bound, ratio) in &s.gauges.saturation {
            let _ = writeln!(
                out,
                "{name}{{core=\"{}\",bound=\"{bound}\"}} {ratio}",
                s.core
            );
        }
    }
}

fn histograms(out: &mut String, up: &[&CoreSnapshot]) {
    let name = "ursula_append_seconds";
    let help = "Time of a write in each stage: queue (until its turn), sync (own disk), replicate (majority), apply.";
    family(out, name, "histogram", help);
    for s in up {
        for (stage, histogram) in STAGES.iter().zip(&s.append_stages) {
            histogram.render(out, name, &format!("core=\"{}\",stage=\"{stage}\"", s.core));
        }
    }
    let mut one = |name: &str, help: &str, of: &dyn Fn(&CoreSnapshot) -> Histogram| {
        family(out, name, "histogram", help);
        for s in up {
            of(s).render(out, name, &format!("core=\"{}\"", s.core));
        }
    };
    let help = "Time of one write and sync of the WAL.";
    one("ursula_wal_commit_seconds", help, &|s| s.wal_sync.clone());
    let help = "Time from when a core hears of an append until it is handed to a reader of server-sent events.";
    one("ursula_delivery_seconds", help, &|s| s.delivery.clone());
    let help = "How much too late the core's clock comes: what other tasks, or other processes on its CPU, take at once.";
    one("ursula_reactor_delay_seconds", help, &|s| {
        s.reactor_delay.clone()
    });
}

fn peers(out: &mut String, up: &[&CoreSnapshot]) {
    type Of = fn(&PeerGauges) -> Option<f64>;
    let families: [(&str, &str, Of); 5] = [
        (
            "ursula_peer_up",
            "Whether the core's link to the node works.",
            |p| Some(f64::from(u8::from(p.is_up))),
        ),
        (
            "ursula_replication_lag_entries",
            "Log entries that the node lacks, summed over the groups led here.",
            |p| Some(p.lag_entries as f64),
        ),
        (
            "ursula_replication_lag_bytes",
            "Bytes of log that the node lacks, as far as they are still kept, summed over the groups led here.",
            |p| Some(p.lag_bytes as f64),
        ),
        (
            "ursula_replication_lag_seconds",
            "Age of the newest state that the node has wholly, of the group led here that is furthest behind.",
            |p| Some(p.lag_us as f64 / 1e6),
        ),
        (
            "ursula_clock_offset_seconds",
            "The node's wall clock minus this one's, asked every 15 seconds.",
            |p| p.clock_offset_ms.map(|ms| ms / 1e3),
        ),
    ];
    if up.iter().all(|s| s.gauges.peers.is_empty()) {
        return;
    }
    for (name, help, of) in families {
        family(out, name, "gauge", help);
        for s in up {
            for peer in &s.gauges.peers {
                if let Some(value) = of(peer) {
                    let _ = writeln!(
                        out,
                        "{name}{{core=\"{}\",peer=\"{}\"}} {value}",
                        s.core, peer.node
                    );
                }
            }
        }
    }
}
