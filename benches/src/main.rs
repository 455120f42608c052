//! `ursula-load`: measures any server of the Durable Streams Protocol, and several side by side.

mod arguments;
mod bounds;
mod engine;
mod proc;
mod record;
mod reply;
mod report;
mod result;
mod scenario;
mod target;

use std::process::ExitCode;
use std::time::Instant;

use arguments::Arguments;
use result::Run;
use scenario::{LoadError, Site};

fn main() -> ExitCode {
    let mut arguments: Arguments = argh::from_env();
    if arguments.server.is_empty() {
        match "ursula=http://127.0.0.1:4437/v1/stream".parse() {
            Ok(target) => arguments.server.push(target),
            Err(error) => eprintln!("{error}"),
        }
    }
    if let Err(error) = arguments.check() {
        eprintln!("ursula-load: {error}");
        return ExitCode::FAILURE;
    }
    proc::raise_descriptor_limit();
    let (rounds, failure) = measure(&arguments);
    print!("{}", report::ratios(&rounds));
    let runs: Vec<&Run> = rounds.iter().flatten().collect();
    let written = write(&arguments, &runs);
    let is_right = runs.iter().all(|run| run.is_right());
    match failure.or(written.err().map(LoadError::from)) {
        None if is_right => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
        Some(error) => {
            eprintln!("ursula-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the scenario on all servers in turns. What was measured until then stands beside what failed.
fn measure(arguments: &Arguments) -> (Vec<Vec<Run>>, Option<LoadError>) {
    let epoch = Instant::now();
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nonce = since_1970.map_or(0, |d| d.as_millis() % 100_000_000);
    println!("{}", report::head());
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds {
        rounds.push(Vec::new());
        for (number, target) in arguments.server.iter().enumerate() {
            for (step, rate) in arguments.scenario.rates().into_iter().enumerate() {
                let listeners = target.addresses.iter();
                let site = Site {
                    target,
                    pids: listeners.filter_map(|a| proc::listener(*a)).collect(),
                    epoch,
                    prefix: match &arguments.prefix {
                        Some(prefix) => prefix.clone(),
                        None => format!("load-{nonce}-{round}-{number}-{step}"),
                    },
                };
                match arguments.scenario.run(&site, rate) {
                    Ok(run) => {
                        println!("{}", report::row(&run));
                        rounds[round].push(run);
                    }
                    Err(error) => return (rounds, Some(error.of(&target.name))),
                }
            }
        }
    }
    (rounds, None)
}

fn write(arguments: &Arguments, runs: &[&Run]) -> std::io::Result<()> {
    if let Some(file) = &arguments.json {
        let all: Vec<_> = runs.iter().map(|run| report::to_json(run)).collect();
        std::fs::write(file, serde_json::Value::from(all).to_string())?;
    }
    match &arguments.svg {
        Some(file) if !runs.is_empty() => std::fs::write(file, report::plot(runs)),
        _ => Ok(()),
    }
}
