//! The load generator before servers that do something wrong: each must be noticed, and a right one must pass.

mod fake;

use std::process::{Command, Output};

use fake::{Fake, Wrong};

fn load(fake: &Fake, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ursula-load"));
    command
        .args(["--server", &format!("fake=http://{}/streams", fake.address)])
        .args(arguments);
    command.output().expect("the load generator starts")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

const APPEND: &[&str] = &[
    "append",
    "--streams",
    "3",
    "--connections",
    "2",
    "--rate",
    "200",
    "--seconds",
    "0.5",
    "--warmup",
    "0",
];
const FANOUT: &[&str] = &[
    "fanout",
    "--subscribers",
    "4",
    "--rate",
    "100",
    "--seconds",
    "0.5",
];
const CATCHUP: &[&str] = &[
    "catchup",
    "--readers",
    "2",
    "--bytes",
    "300000",
    "--seconds",
    "0.2",
];
const DENSITY: &[&str] = &["density", "--streams", "200", "--connections", "4"];
const MIXED: &[&str] = &[
    "mixed",
    "--subscribers",
    "4",
    "--streams",
    "2",
    "--rate",
    "100",
    "--connections",
    "2",
    "--readers",
    "1",
    "--replay-bytes",
    "300000",
    "--seconds",
    "0.5",
];

#[test]
fn a_right_server_passes_every_scenario() {
    let fake = Fake::start(Wrong::Nothing);
    let scenarios: [&[&str]; 12] = [
        APPEND,
        &[APPEND, &["--json-streams"]].concat(),
        &[APPEND, &["--binary-streams"]].concat(),
        &[APPEND, &["--producers"]].concat(),
        FANOUT,
        &[FANOUT, &["--json-streams"]].concat(),
        &[FANOUT, &["--binary-streams"]].concat(),
        &[FANOUT, &["--long-poll"]].concat(),
        CATCHUP,
        DENSITY,
        MIXED,
        &[
            "idle",
            "--subscribers",
            "4",
            "--streams",
            "4",
            "--seconds",
            "0.2",
        ],
    ];
    for scenario in scenarios {
        let output = load(&fake, scenario);
        assert!(output.status.success(), "{scenario:?}: {}", text(&output));
        assert!(
            !text(&output).contains("WRONG"),
            "{scenario:?}: {}",
            text(&output)
        );
    }
}

#[test]
fn what_a_server_does_wrong_is_told_and_ends_with_an_error() {
    let cases: [(Wrong, &[&str], &str); 13] = [
        (Wrong::Loses, APPEND, "is missing"),
        (Wrong::Doubles, APPEND, "came after number"),
        (Wrong::Swaps, APPEND, "is missing"),
        (Wrong::Garbles, APPEND, "differ"),
        (Wrong::Inserts, APPEND, "stands between records"),
        (Wrong::Refuses, APPEND, "status 404"),
        (Wrong::LosesLive, FANOUT, "was next"),
        (Wrong::DoublesLive, FANOUT, "was next"),
        (Wrong::Garbles, FANOUT, "differ"),
        (Wrong::Loses, FANOUT, "was next"),
        (Wrong::Garbles, CATCHUP, "differ"),
        (Wrong::Forgets, DENSITY, "was created, HEAD: status 404"),
        (Wrong::LosesLive, MIXED, "was next"),
    ];
    for (wrong, scenario, expected) in cases {
        let output = load(&Fake::start(wrong), scenario);
        let said = text(&output);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{wrong:?} {scenario:?}: {said}"
        );
        assert!(said.contains(expected), "{wrong:?} {scenario:?}: {said}");
    }
}

#[test]
fn connections_that_break_are_errors_and_no_losses() {
    for producers in [&["--producers"][..], &[]] {
        let output = load(&Fake::start(Wrong::HangsUp), &[APPEND, producers].concat());
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("the server closed the connection"), "{said}");
        assert!(!said.contains("WRONG"), "{said}");
    }
}

#[test]
fn an_open_loop_counts_from_the_intended_start_to_the_last_answer() {
    // Each answer takes 50 ms: one connection manages 20 a second of the 100 that are due.
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = file.path().to_str().expect("its name is text");
    let slow = Fake::start(Wrong::IsSlow);
    let run = [
        "append",
        "--connections",
        "1",
        "--rate",
        "100",
        "--seconds",
        "0.5",
        "--warmup",
        "0",
    ];
    let output = load(&slow, &[&["--json", path][..], &run].concat());
    assert!(output.status.success(), "{}", text(&output));
    let written = std::fs::read_to_string(path).expect("the file was written");
    let runs: serde_json::Value = serde_json::from_str(&written).expect("it is JSON");
    let run = &runs[0];
    let counted: u64 = run["latency_us_histogram"]
        .as_array()
        .expect("pairs")
        .iter()
        .filter_map(|pair| pair[1].as_u64())
        .sum();
    assert_eq!(counted, 50, "all that were due are in the histogram: {run}");
    let longest = run["latency_ms"]["max"].as_f64().expect("a figure");
    assert!(longest > 1500.0, "the last one waited for 49 others: {run}");
    assert!(
        run["per_second"].as_f64().expect("a figure") < 30.0,
        "{run}"
    );
}

#[test]
fn wrong_input_is_refused_with_what_to_do() {
    let cases: [(&[&str], &str); 8] = [
        (&["append", "--seconds", "-1"], "not a number from 0.1"),
        (&["append", "--rate", "0"], "not a number from 0.01"),
        (&["append", "--bytes", "10"], "not a number from 40"),
        (&["append", "--streams", "0"], "not a number from 1"),
        (&["--rounds", "0", "append"], "not a number from 1"),
        (
            &["append", "--json-streams", "--binary-streams"],
            "not both",
        ),
        (&["--json", "/nowhere/file", "append"], "cannot be written"),
        (
            &["--server", "fake=http://127.0.0.1:1/x", "append"],
            "two servers are called fake",
        ),
    ];
    let fake = Fake::start(Wrong::Nothing);
    for (arguments, expected) in cases {
        let output = load(&fake, arguments);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
