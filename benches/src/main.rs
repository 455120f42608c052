//! `ursula-load`: measures any server of the Durable Streams Protocol, and several side by side.

mod arguments;
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
use scenario::{LoadError, Site};

fn main() -> ExitCode {
    let mut arguments: Arguments = argh::from_env();
    if arguments.server.is_empty() {
        match "ursula=http://127.0.0.1:4437/v1/stream".parse() {
            Ok(target) => arguments.server.push(target),
            Err(error) => eprintln!("{error}"),
        }
    }
    proc::raise_descriptor_limit();
    match measure(&arguments) {
        Ok(is_right) if is_right => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ursula-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<bool, LoadError> {
    let epoch = Instant::now();
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nonce = since_1970.map_or(0, |d| d.as_millis() % 100_000_000);
    println!("{}", report::head());
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds.max(1) {
        let mut runs = Vec::new();
        for (number, target) in arguments.server.iter().enumerate() {
            for (step, rate) in arguments.scenario.rates().into_iter().enumerate() {
                let site = Site {
                    target,
                    pids: target
                        .addresses
                        .iter()
                        .filter_map(|a| proc::listener(*a))
                        .collect(),
                    epoch,
                    prefix: match &arguments.prefix {
                        Some(prefix) => prefix.clone(),
                        None => format!("load-{nonce}-{round}-{number}-{step}"),
                    },
                };
                let run = arguments.scenario.run(&site, rate)?;
                println!("{}", report::row(&run));
                runs.push(run);
            }
        }
        rounds.push(runs);
    }
    print!("{}", report::ratios(&rounds));
    let runs: Vec<&result::Run> = rounds.iter().flatten().collect();
    if let Some(file) = &arguments.json {
        let all: Vec<_> = runs.iter().map(|run| report::to_json(run)).collect();
        std::fs::write(file, serde_json::Value::from(all).to_string())?;
    }
    if let Some(file) = &arguments.svg {
        std::fs::write(file, report::plot(&runs))?;
    }
    Ok(runs.iter().all(|run| run.violations.is_empty()))
}
