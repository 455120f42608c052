//! Shows that deliberate bugs are found: each by what it is known by, and not by the plan that it is looked for with.

use crate::aims::AIMS;
use crate::fan::{Order, Sum};
use crate::mutations::{self, Mutation};
use crate::plan::Plan;
use crate::report::{Lines, command};

/// Seeds of an aimed plan that are run once more without the bug: those before the one that shows it, and that one.
const CONTROLS: u64 = 8;

/// How the hunt goes.
pub struct Hunt<'a> {
    /// The first seed.
    pub from: u64,
    /// Changes of all plans besides the bugs' own.
    pub changes: &'a str,
    /// Of this bug alone; empty: of all.
    pub only: &'a str,
    /// Threads.
    pub threads: usize,
}

/// Looks for each bug within its seeds and prints how it went. Answers how many there are, and how many were not found or also
/// without the bug.
pub fn hunt(hunt: &Hunt) -> (usize, usize) {
    let (mut count, mut missed) = (0, 0);
    println!(
        "{:<15} {:<30} {:>6} {:>6}  finding",
        "area", "deliberate bug", "seed", "within"
    );
    for mutation in mutations::all().filter(|m| hunt.only.is_empty() || hunt.only == m.name) {
        count += 1;
        let Mutation { area, name, .. } = mutation;
        let within = mutation.within;
        let sum = hunt.run(mutation, hunt.from..hunt.from + within, true);
        let (seed, shown) = match sum.failed.first() {
            Some((plan, report)) => {
                let shown = report.findings.iter().find(|f| mutation.is_shown_by(f));
                (Some(plan.seed), shown.cloned().unwrap_or_default())
            }
            None => (None, "NOT FOUND".to_owned()),
        };
        let text = seed.map_or("-".to_owned(), |seed| seed.to_string());
        println!("{area:<15} {name:<30} {text:>6} {within:>6}  {shown:.110}");
        if sum.other.count > 0 {
            let (seed, finding) = (sum.other.seed, &sum.other.first);
            println!(
                "{:>62}other findings: {}, as of seed {seed}: {finding:.80}",
                "", sum.other.count
            );
        }
        let control = seed.filter(|_| !mutation.set.is_empty());
        let control = control.and_then(|seed| hunt.control(mutation, seed));
        if let Some(found) = &control {
            println!("{:>62}FOUND WITHOUT IT TOO: {found}", "");
        }
        missed += usize::from(seed.is_none() || control.is_some());
    }
    if hunt.only.is_empty() {
        missed += hunt.look_at_aims();
    }
    (count, missed)
}

impl Hunt<'_> {
    fn run(&self, mutation: &Mutation, seeds: std::ops::Range<u64>, has_bug: bool) -> Sum {
        let changes = format!("{},{}", mutation.set, self.changes);
        let order = Order {
            from: seeds.start,
            count: seeds.end - seeds.start,
            changes: &changes,
            mutation: if has_bug { mutation.name } else { "" },
            counts: &|finding| !has_bug || mutation.is_shown_by(finding),
            except: &[],
            failures_max: 1,
            threads: self.threads,
            has_progress: false,
        };
        crate::fan::run(&order, &|| false)
    }

    /// What plans are aimed at they come through, and find nothing. Answers how many do not.
    fn look_at_aims(&self) -> usize {
        let mut missed = 0;
        for aim in AIMS {
            let seeds = self.from..self.from + aim.within;
            let mut hits = seeds.map(|seed| {
                let plan = Plan::of(seed).with(aim.set).expect("they are a plan's");
                let again = command(&plan, "");
                let report = crate::run_plan(plan, Lines::Dropped);
                match report.findings.first() {
                    Some(found) => Some(Err(format!("{found:.110}\n  {again}"))),
                    None => (report.coverage.count(aim.path) > 0).then_some(Ok(seed)),
                }
            });
            let (text, shown) = match hits.find_map(|hit| hit) {
                Some(Ok(seed)) => (seed.to_string(), "hit".to_owned()),
                Some(Err(found)) => ("-".to_owned(), found),
                None => ("-".to_owned(), "NEVER HIT".to_owned()),
            };
            // That a path is not hit is for `--covered` to judge, over more seeds.
            missed += usize::from(text == "-" && shown != "NEVER HIT");
            let within = aim.within;
            println!(
                "{:<15} {:<30.30} {text:>6} {within:>6}  {shown}",
                "a rare path", aim.path
            );
        }
        missed
    }

    /// An aimed plan finds nothing without its bug: what it does find there.
    fn control(&self, mutation: &Mutation, seed: u64) -> Option<String> {
        let from = self.from.max((seed + 1).saturating_sub(CONTROLS));
        let sum = self.run(mutation, from..seed + 1, false);
        let (plan, report) = sum.failed.first()?;
        let finding = &report.findings[0];
        Some(format!("{finding:.110}\n  {}", command(plan, "")))
    }
}
