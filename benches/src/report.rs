//! Results as a table for people, as JSON with whole histograms, and as a plot.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::result::Run;

/// The table's head.
pub fn head() -> String {
    format!(
        "{:<22} {:<34} {:>12} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>7}",
        "server",
        "scenario",
        "per second",
        "CPU us/op",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "RSS MiB",
        "B/op",
        "errors"
    )
}

/// One row.
pub fn row(run: &Run) -> String {
    let none = || "-".to_owned();
    let cost =
        |show: &dyn Fn(&crate::proc::Cost) -> String| run.cost.as_ref().map_or_else(none, show);
    let mut text = format!(
        "{:<22} {:<34} {:>12.0} {:>11} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9} {:>8} {:>7}",
        run.server,
        run.scenario,
        run.per_second(),
        run.cpu_per_operation()
            .map_or_else(none, |cpu| format!("{cpu:.2}")),
        run.quantile_ms(0.5),
        run.quantile_ms(0.99),
        run.quantile_ms(0.999),
        run.quantile_ms(1.0),
        cost(&|c| format!("{:.0}", c.resident_bytes as f64 / 1_048_576.0)),
        run.written_per_operation()
            .map_or_else(none, |bytes| format!("{bytes:.0}")),
        run.errors,
    );
    if run.late > 0 {
        text.push_str(&format!("  late {}", run.late));
    }
    for (name, value) in &run.extra {
        text.push_str(&format!("  {name} {value:.1}"));
    }
    let shown = run.violations.texts.len().min(5);
    for violation in &run.violations.texts[..shown] {
        text.push_str(&format!("\n    WRONG: {violation}"));
    }
    match run.violations.count - shown as u64 {
        0 => {}
        more => text.push_str(&format!("\n    WRONG: and {more} more")),
    }
    text
}

/// A whole histogram: pairs of microseconds and how often.
fn pairs(histogram: &Histogram<u64>) -> Vec<Value> {
    let recorded = histogram.iter_recorded();
    recorded
        .map(|v| json!([v.value_iterated_to(), v.count_at_value()]))
        .collect()
}

/// Everything that is known of a run.
pub fn to_json(run: &Run) -> Value {
    let further: serde_json::Map<String, Value> = run
        .further
        .iter()
        .map(|(name, histogram)| (name.replace(' ', "_"), json!(pairs(histogram))))
        .collect();
    let extra: serde_json::Map<String, Value> = run
        .extra
        .iter()
        .map(|(name, value)| (name.replace(' ', "_"), json!(value)))
        .collect();
    json!({
        "server": run.server,
        "scenario": run.scenario,
        "unit": run.unit,
        "operations": run.operations,
        "late": run.late,
        "seconds": run.duration.as_secs_f64(),
        "per_second": run.per_second(),
        "cpu_us_per_operation": run.cpu_per_operation(),
        "written_bytes_per_operation": run.written_per_operation(),
        "client_cpu_us_per_operation": run.own_cpu_us as f64 / (run.operations + run.late).max(1) as f64,
        "latency_ms": {
            "p50": run.quantile_ms(0.5), "p90": run.quantile_ms(0.9), "p99": run.quantile_ms(0.99),
            "p999": run.quantile_ms(0.999), "max": run.quantile_ms(1.0),
        },
        "latency_us_histogram": pairs(&run.latency),
        "further_us_histograms": further,
        "errors": run.errors,
        "violations": run.violations.texts,
        "violations_count": run.violations.count,
        "server_cost": run.cost.map(|c| json!({
            "cpu_us": c.cpu_us, "context_switches": c.context_switches, "written_bytes": c.written_bytes,
            "resident_bytes": c.resident_bytes, "resident_growth": c.resident_growth,
        })),
        "extra": extra,
    })
}

/// The middle of some figures, and the lowest and highest.
fn spread(mut figures: Vec<f64>) -> Option<(f64, f64, f64)> {
    figures.sort_by(f64::total_cmp);
    let (low, high) = (*figures.first()?, *figures.last()?);
    let count = figures.len();
    Some((
        (figures[(count - 1) / 2] + figures[count / 2]) / 2.0,
        low,
        high,
    ))
}

type Figure = (&'static str, fn(&Run) -> Option<f64>);

/// What ratios are made of; for all but the first, less is better.
const FIGURES: [Figure; 3] = [
    ("per second", |run| Some(run.per_second())),
    ("CPU us/op", Run::cpu_per_operation),
    ("p99", |run| Some(run.quantile_ms(0.99))),
];

/// Ratios of the first server to each other one, of runs of the same round, scenario by scenario.
pub fn ratios(rounds: &[Vec<Run>]) -> String {
    let mut text = String::new();
    let Some(first) = rounds.first() else {
        return text;
    };
    let mut servers: Vec<&str> = first.iter().map(|r| r.server.as_str()).collect();
    servers.dedup();
    let mut scenarios: Vec<&str> = first.iter().map(|r| r.scenario.as_str()).collect();
    scenarios.sort_unstable();
    scenarios.dedup();
    let Some((own, others)) = servers.split_first() else {
        return text;
    };
    for scenario in scenarios {
        for other in others.iter().filter(|o| *o != own) {
            text.push_str(&format!("{scenario}: {own} / {other}:"));
            for (name, figure) in FIGURES {
                let of = |round: &[Run], server: &str| {
                    let run = round
                        .iter()
                        .find(|r| r.server == server && r.scenario == scenario);
                    run.and_then(figure)
                };
                let found = rounds.iter().filter_map(|round| {
                    let divisor = of(round, other)?;
                    (divisor > 0.0).then_some(of(round, own)? / divisor)
                });
                if let Some((middle, low, high)) = spread(found.collect()) {
                    text.push_str(&format!("  {name} {middle:.2} ({low:.2} to {high:.2})"));
                }
            }
            text.push('\n');
        }
    }
    text
}

/// p99 latency against the rate that was reached, a line for each server, both axes logarithmic.
pub fn plot(runs: &[&Run]) -> String {
    const COLOURS: [&str; 6] = [
        "#1b6ca8", "#c0392b", "#27864b", "#8e44ad", "#b9770e", "#555",
    ];
    let (width, height, left, bottom) = (720.0, 420.0, 70.0, 50.0);
    // One point for a scenario of a server, whatever the rounds.
    let mut rounds: BTreeMap<(&str, &str), Vec<&Run>> = BTreeMap::new();
    for run in runs {
        let name = (run.server.as_str(), run.scenario.as_str());
        rounds.entry(name).or_default().push(run);
    }
    let points: Vec<(&str, f64, f64)> = rounds
        .into_iter()
        .filter_map(|((server, _), runs)| {
            let rate = spread(runs.iter().map(|r| r.per_second()).collect())?.0;
            let latency = spread(runs.iter().map(|r| r.quantile_ms(0.99)).collect())?.0;
            Some((server, rate.max(1.0), latency.max(0.01)))
        })
        .collect();
    let bounds = |pick: fn(&(&str, f64, f64)) -> f64| {
        let low = points
            .iter()
            .map(pick)
            .fold(f64::MAX, f64::min)
            .log10()
            .floor();
        let high = points
            .iter()
            .map(pick)
            .fold(f64::MIN, f64::max)
            .log10()
            .ceil();
        (low, high.max(low + 1.0))
    };
    let ((x_low, x_high), (y_low, y_high)) = (bounds(|p| p.1), bounds(|p| p.2));
    let x = |value: f64| left + (value.log10() - x_low) / (x_high - x_low) * (width - left - 20.0);
    let y = |value: f64| {
        height - bottom - (value.log10() - y_low) / (y_high - y_low) * (height - bottom - 20.0)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    for power in x_low as i32..=x_high as i32 {
        let at = x(10f64.powi(power));
        line(format!(
            "<path d=\"M{at:.1} 20V{:.1}\" stroke=\"#ddd\"/>",
            height - bottom
        ));
        line(format!(
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            height - bottom + 16.0,
            10f64.powi(power)
        ));
    }
    for power in y_low as i32..=y_high as i32 {
        let at = y(10f64.powi(power));
        line(format!(
            "<path d=\"M{left} {at:.1}H{:.1}\" stroke=\"#ddd\"/>",
            width - 20.0
        ));
        line(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            at + 4.0,
            10f64.powi(power)
        ));
    }
    line(format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">operations per second</text>",
        width / 2.0,
        height - 12.0
    ));
    line(format!(
        "<text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">p99 latency, ms</text>",
        height / 2.0
    ));
    let mut servers: Vec<&str> = Vec::new();
    for (server, ..) in &points {
        if !servers.contains(server) {
            servers.push(server);
        }
    }
    for (number, server) in servers.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let mut own: Vec<_> = points.iter().filter(|p| p.0 == *server).collect();
        own.sort_by(|a, b| a.1.total_cmp(&b.1));
        let path: Vec<String> = own
            .iter()
            .map(|p| format!("{:.1} {:.1}", x(p.1), y(p.2)))
            .collect();
        line(format!(
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join("L")
        ));
        for p in &own {
            line(format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>",
                x(p.1),
                y(p.2)
            ));
        }
        line(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{server}</text>",
            left + 10.0,
            36.0 + 16.0 * number as f64
        ));
    }
    line("</svg>".to_owned());
    svg
}
