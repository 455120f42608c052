//! `sim --seed S` replays one history with its trace; `sim --seeds N` runs many and prints how to replay each that fails.

use std::process::ExitCode;

use argh::FromArgs;
use sim::report::Coverage;

/// Runs simulated clusters.
#[derive(FromArgs)]
struct Arguments {
    /// replay one seed with its trace
    #[argh(option)]
    seed: Option<u64>,
    /// run so many seeds
    #[argh(option, default = "100")]
    seeds: u64,
    /// the first one
    #[argh(option, default = "1")]
    from: u64,
    /// without the trace
    #[argh(switch)]
    quiet: bool,
    /// stop at so many failing seeds
    #[argh(option, default = "10")]
    failures: usize,
}

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    sim::keep_panics();
    match arguments.seed {
        Some(seed) => replay(seed, !arguments.quiet),
        None => run_many(&arguments),
    }
}

fn replay(seed: u64, is_shown: bool) -> ExitCode {
    let report = sim::run(seed, is_shown);
    println!(
        "seed {seed}: {:.1} virtual seconds, {} steps, {} operations, trace {:016x}",
        report.virtual_us as f64 / 1e6,
        report.steps,
        report.operations,
        report.hash
    );
    for finding in &report.findings {
        println!("FOUND: {finding}");
    }
    if report.findings.is_empty() {
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

fn run_many(arguments: &Arguments) -> ExitCode {
    #[expect(
        clippy::disallowed_methods,
        reason = "how fast it is; no history depends on it"
    )]
    let began = std::time::Instant::now();
    let mut coverage = Coverage::default();
    let (mut virtual_us, mut operations, mut steps) = (0, 0, 0);
    let mut failed = 0;
    let mut done = 0;
    for seed in arguments.from..arguments.from + arguments.seeds {
        let report = sim::run(seed, false);
        done += 1;
        coverage.add(&report.coverage);
        virtual_us += report.virtual_us;
        operations += report.operations;
        steps += report.steps;
        if let Some(finding) = report.findings.first() {
            failed += 1;
            println!("\rFOUND by `cargo sim --seed {seed}`:\n  {finding:.600}");
        }
        if done % 10 == 0 {
            eprint!("\r{done} of {} seeds, {failed} failed ", arguments.seeds);
        }
        if failed >= arguments.failures {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    eprintln!();
    for (path, count) in &coverage.0 {
        println!("{count:>10}  {path}");
    }
    println!(
        "{done} seeds, {failed} failed; {:.2} virtual hours, {operations} operations, {steps} steps; {:.0} seeds and {:.0} virtual minutes a minute",
        virtual_us as f64 / 3.6e9,
        done as f64 / seconds * 60.0,
        virtual_us as f64 / 6e7 / seconds * 60.0
    );
    if failed == 0 {
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}
