//! `sim --seed S` replays one history with its trace; `sim --seeds N` runs many, shrinks each that fails and prints the
//! command that replays it; `sim --mutations` shows that deliberate bugs are found.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use argh::FromArgs;
use sim::fan::{Order, Sum};
use sim::hunt::Hunt;
use sim::plan::Plan;
use sim::report::{Lines, Report, command, kind_of};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs simulated clusters.
#[derive(FromArgs)]
struct Arguments {
    /// replay one seed with its trace
    #[argh(option)]
    seed: Option<u64>,
    /// changes of the seeds' plans: NAME=NUMBER,NAME=NUMBER
    #[argh(option, default = "String::new()")]
    set: String,
    /// a deliberate bug that is switched on
    #[argh(option, default = "String::new()")]
    mutation: String,
    /// run so many seeds
    #[argh(option, default = "100")]
    seeds: u64,
    /// the first one
    #[argh(option, default = "1")]
    from: u64,
    /// without these seeds, as NUMBER,NUMBER: what they show is known and open
    #[argh(option, default = "String::new()")]
    except: String,
    /// run seeds for so many hours
    #[argh(option)]
    hours: Option<f64>,
    /// threads; 0: one for each core
    #[argh(option, default = "0")]
    threads: usize,
    /// stop at so many failing seeds
    #[argh(option, default = "3")]
    failures: usize,
    /// without the trace
    #[argh(switch)]
    quiet: bool,
    /// without making failing seeds smaller
    #[argh(switch)]
    no_shrink: bool,
    /// fail if a path of the list was never hit
    #[argh(switch)]
    covered: bool,
    /// run so many seeds twice, and in two more processes, and compare their traces byte for byte
    #[argh(option)]
    twice: Option<u64>,
    /// find every deliberate bug, or the one of --mutation, by the plans that are made for it
    #[argh(switch)]
    mutations: bool,
}

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    sim::keep_panics();
    match carry_out(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(wrong) => {
            eprintln!("{wrong}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(arguments: &Arguments) -> Result<bool, String> {
    let plan = Plan::of(arguments.seed.unwrap_or(1)).with(&arguments.set)?;
    let mutation = mutation_of(arguments)?;
    if arguments.mutations {
        return Ok(find_mutations(arguments));
    }
    if let Some(seeds) = arguments.twice {
        return Ok(compare(arguments.from, seeds));
    }
    if arguments.seed.is_some() {
        return Ok(replay(plan, mutation, arguments.quiet));
    }
    let except = arguments.except.split(',').filter(|s| !s.is_empty());
    let except: Result<Vec<u64>, _> = except.map(str::parse).collect();
    let except = except.map_err(|e| format!("--except {:?}: {e}", arguments.except))?;
    Ok(run_many(arguments, mutation, &except))
}

fn mutation_of(arguments: &Arguments) -> Result<&'static str, String> {
    if !sim::mutations::HAS_THEM && (arguments.mutations || !arguments.mutation.is_empty()) {
        return Err("built without deliberate bugs: add `--features mutations`".to_owned());
    }
    if arguments.mutation.is_empty() {
        return Ok("");
    }
    let found = sim::mutations::named(&arguments.mutation);
    let names: Vec<&str> = sim::mutations::all().map(|m| m.name).collect();
    found
        .map(|m| m.name)
        .ok_or(format!("no such bug; there are: {}", names.join(", ")))
}

fn replay(plan: Plan, mutation: &'static str, is_quiet: bool) -> bool {
    sim::mutations::switch_on(mutation);
    let lines = if is_quiet {
        Lines::Dropped
    } else {
        Lines::Printed
    };
    let seed = plan.seed;
    let report = sim::run_plan(plan, lines);
    println!(
        "seed {seed}: {:.1} virtual seconds, {} steps, {} operations, trace {:016x}",
        report.virtual_us as f64 / 1e6,
        report.steps,
        report.operations,
        report.hash
    );
    for (path, count) in report.coverage.counts().filter(|(_, count)| *count > 0) {
        println!("{count:>8} × {path}");
    }
    for finding in &report.findings {
        println!("FOUND: {finding}");
    }
    report.findings.is_empty()
}

/// Each seed twice: one seed is one history.
fn compare(from: u64, seeds: u64) -> bool {
    let mut bytes = 0;
    for seed in from..from + seeds {
        let [first, second] = [(); 2].map(|()| {
            let report = sim::run(seed, Lines::Kept(String::new()));
            let Lines::Kept(text) = report.lines else {
                unreachable!("it was to be kept");
            };
            (text, report.hash)
        });
        bytes += first.0.len();
        if let Some(text) = parted_processes(seed) {
            println!("seed {seed} has two histories in two processes:\n{text}");
            return false;
        }
        if first != second {
            let lines = first.0.lines().zip(second.0.lines());
            let parted = lines.clone().find(|(one, other)| one != other);
            println!("seed {seed} has two histories, which part here:\n{parted:?}");
            return false;
        }
    }
    println!(
        "{seeds} seeds run twice, and in two more processes: {bytes} bytes of traces, byte for byte the same"
    );
    true
}

/// Runs a seed in two processes, which have other addresses and other seeds of hash maps, and of which one has another environment;
/// answers where they part.
fn parted_processes(seed: u64) -> Option<String> {
    let run = |padding: usize| {
        let mut process = Command::new(std::env::current_exe().ok()?);
        process.args(["--seed", &seed.to_string()]);
        process.env("URSULA_SIM_PADDING", "x".repeat(padding));
        Some(process.output().ok()?.stdout)
    };
    let (Some(one), Some(other)) = (run(1), run(3_000)) else {
        return Some("a process could not be run".to_owned());
    };
    if one == other && !one.is_empty() {
        return None;
    }
    let lines = one.split(|b| *b == b'\n').zip(other.split(|b| *b == b'\n'));
    let parted = lines.into_iter().find(|(one, other)| one != other);
    let shown = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    Some(parted.map_or("one is longer".to_owned(), |(one, other)| {
        format!("{}\n{}", shown(one), shown(other))
    }))
}

#[expect(
    clippy::disallowed_methods,
    reason = "how fast it is and when to stop; no history depends on it"
)]
fn now() -> Instant {
    Instant::now()
}

fn threads(arguments: &Arguments) -> usize {
    match arguments.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => given,
    }
}

fn run_many(arguments: &Arguments, mutation: &'static str, except: &[u64]) -> bool {
    let began = now();
    let until = arguments.hours.map(|h| Duration::from_secs_f64(h * 3600.0));
    let is_over = || until.is_some_and(|until| began.elapsed() >= until);
    let order = Order {
        from: arguments.from,
        count: until.map_or(arguments.seeds, |_| u64::MAX - arguments.from),
        changes: &arguments.set,
        mutation,
        counts: &|_| true,
        except,
        failures_max: arguments.failures,
        threads: threads(arguments),
        has_progress: true,
    };
    let sum = sim::fan::run(&order, &is_over);
    let seconds = began.elapsed().as_secs_f64();
    for (path, count) in sum.coverage.counts() {
        println!("{count:>12}  {path}");
    }
    println!(
        "{} seeds from {}, {} failed; {:.2} virtual hours, {} operations, {} steps; {seconds:.0} s: {:.0} seeds and {:.0} virtual minutes a minute",
        sum.done,
        arguments.from,
        sum.failed.len(),
        sum.virtual_us as f64 / 3.6e9,
        sum.operations,
        sum.steps,
        sum.done as f64 / seconds * 60.0,
        sum.virtual_us as f64 / 6e7 / seconds * 60.0
    );
    println!(
        "nearest to their bounds, in thousandths: {:?} (log, proposals, without a leader, before a sync, refused at the end)",
        sum.peaks
    );
    let is_covered = !arguments.covered || is_all_covered(&sum);
    sim::mutations::switch_on(mutation);
    for (plan, report) in &sum.failed {
        show_failure(plan, report, mutation, !arguments.no_shrink);
    }
    sum.failed.is_empty() && is_covered
}

fn is_all_covered(sum: &Sum) -> bool {
    let missed: Vec<_> = sum.coverage.counts().filter(|(_, n)| *n == 0).collect();
    for (path, _) in &missed {
        println!("NEVER HIT: {path}");
    }
    missed.is_empty()
}

fn show_failure(plan: &Plan, report: &Report, mutation: &str, is_to_shrink: bool) {
    println!("\nFOUND by seed {}:", plan.seed);
    println!("  {:.900}", report.findings[0]);
    println!("  {}", command(plan, mutation));
    if is_to_shrink {
        let first = &report.findings[0];
        let known = sim::mutations::named(mutation).filter(|m| m.is_shown_by(first));
        let kind = kind_of(first);
        let is_same = |found: &str| match known {
            Some(known) => known.is_shown_by(found),
            None => kind_of(found) == kind,
        };
        let (small, report) = sim::shrink::shrink(plan.clone(), report.clone(), &is_same);
        println!(
            "smaller, {:.1} virtual seconds, {} steps:",
            report.virtual_us as f64 / 1e6,
            report.steps
        );
        println!("  {:.900}", report.findings[0]);
        println!("  {}", command(&small, mutation));
    }
}

fn find_mutations(arguments: &Arguments) -> bool {
    let began = now();
    let (count, missed) = sim::hunt::hunt(&Hunt {
        from: arguments.from,
        changes: &arguments.set,
        only: &arguments.mutation,
        threads: threads(arguments),
    });
    println!(
        "{count} deliberate bugs, {missed} not found, or also without the bug; {:.0} s",
        began.elapsed().as_secs_f64()
    );
    missed == 0
}
