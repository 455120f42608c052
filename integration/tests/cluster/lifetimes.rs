//! Streams whose lifetime ends while they are forked and written to and their leader dies (FAULTS.md, case 40): for each there is
//! one decision, in the log. What was acknowledged before it stays, nothing is taken after it, and a fork has all or nothing.

use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration::cluster::Cluster;
use integration::load::{Links, Sent};

use crate::formation::wait_for;
use crate::{beside_others, nodes};

const TEXT: &str = "text/plain";
const SOURCES: usize = 6;

fn source(at: usize) -> String {
    format!("/v1/stream/ends/s{at}")
}

fn piece(number: usize) -> String {
    format!("{number:07};")
}

/// The beginning of a source with so many appends.
fn content(appends: usize) -> String {
    (0..appends).map(piece).collect()
}

/// RFC 3339.
fn written_time(unix_s: u64) -> String {
    let output = Command::new("date")
        .args(["-u", "-d", &format!("@{unix_s}"), "+%FT%TZ"])
        .output()
        .expect("date is everywhere");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What became of an append or a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// The source is no more.
    Ended,
    Refused,
    Unknown,
}

struct Attempt {
    invoked: Instant,
    answered: Instant,
    fate: Fate,
}

/// What was tried with one source.
#[derive(Default)]
struct Story {
    /// Each by its number in the source; the same one until it is done.
    appends: Vec<(usize, Attempt)>,
    forks: Vec<(String, Attempt)>,
}

fn fate(sent: Sent) -> Fate {
    match sent {
        Sent::Answered(reply) => match reply.status {
            200 | 201 | 204 => Fate::Done,
            404 | 409 | 410 => Fate::Ended,
            status => panic!("{status} {}", reply.text()),
        },
        Sent::Refused => Fate::Refused,
        Sent::Unknown => Fate::Unknown,
    }
}

fn timed(ask: impl FnOnce() -> Sent) -> Attempt {
    let invoked = Instant::now();
    let fate = fate(ask());
    Attempt {
        invoked,
        answered: Instant::now(),
        fate,
    }
}

/// As a producer, so that each piece is there once.
fn append(addresses: &[String], at: usize, until: Instant, story: &Mutex<Story>) {
    let mut links = Links::new(addresses, Duration::from_secs(3));
    let (mut number, mut node) = (0, at % addresses.len());
    while Instant::now() < until {
        let seq = number.to_string();
        let headers = [
            ("content-type", TEXT),
            ("producer-id", "writer"),
            ("producer-epoch", "0"),
            ("producer-seq", seq.as_str()),
        ];
        let body = piece(number);
        let attempt = timed(|| links.send(node, "POST", &source(at), &headers, body.as_bytes()));
        let told = attempt.fate;
        story
            .lock()
            .expect("no one panics with it")
            .appends
            .push((number, attempt));
        match told {
            Fate::Done => number += 1,
            Fate::Ended => {}
            Fate::Refused | Fate::Unknown => node = (node + 1) % addresses.len(),
        }
        // The load's pace.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn fork(addresses: &[String], (at, hand): (usize, usize), until: Instant, story: &Mutex<Story>) {
    let mut links = Links::new(addresses, Duration::from_secs(3));
    let mut node = (at + hand) % addresses.len();
    for number in 0.. {
        if Instant::now() > until {
            return;
        }
        let path = format!("/v1/stream/ends/f{at}-{hand}-{number}");
        let from = source(at);
        // A lifetime of its own: without, it would end with its source.
        let headers = [
            ("content-type", TEXT),
            ("stream-forked-from", from.as_str()),
            ("stream-ttl", "3600"),
        ];
        let attempt = timed(|| links.send(node, "PUT", &path, &headers, b""));
        if matches!(attempt.fate, Fate::Refused | Fate::Unknown) {
            node = (node + 1) % addresses.len();
        }
        story
            .lock()
            .expect("no one panics with it")
            .forks
            .push((path, attempt));
        // The load's pace.
        std::thread::sleep(Duration::from_millis(15));
    }
}

/// One end for all: it is not before its time, and what begins after somebody was told of it does not succeed.
fn judge(story: &Story, ends_at: Instant) {
    let appends = story.appends.iter().map(|(_, a)| a);
    let all: Vec<&Attempt> = appends.chain(story.forks.iter().map(|(_, f)| f)).collect();
    let told = all.iter().filter(|a| a.fate == Fate::Ended);
    let first = told.map(|a| a.answered).min().expect("it ended");
    let early = ends_at.saturating_duration_since(first);
    assert!(early.is_zero(), "it ended {early:?} early");
    let late = all
        .iter()
        .filter(|a| a.fate == Fate::Done && a.invoked > first);
    assert_eq!(late.count(), 0, "something was taken after the end");
}

/// What a fork must hold: what was acknowledged before it was asked for, and no more than was sent before it was answered.
fn expect_fork(cluster: &Cluster, story: &Story, (path, fork): &(String, Attempt)) {
    let told: Vec<_> = cluster
        .ids()
        .into_iter()
        .map(|node| {
            let head = cluster.client(node).send("HEAD", path, &[], b"");
            match head.status {
                200 => Some(cluster.client(node).read_all(path)),
                404 => None,
                status => panic!("{path} at node {node}: {status}"),
            }
        })
        .collect();
    assert!(told.iter().all(|t| *t == told[0]), "{path} differs by node");
    let Some(found) = &told[0] else {
        assert!(
            fork.fate != Fate::Done,
            "{path} was acknowledged and is not there"
        );
        return;
    };
    assert!(
        matches!(fork.fate, Fate::Done | Fate::Unknown),
        "{path} is there and was answered with {:?}",
        fork.fate
    );
    let appends = || story.appends.iter();
    let sure = appends().filter(|(_, a)| a.fate == Fate::Done && a.answered < fork.invoked);
    let sent = appends().filter(|(_, a)| a.invoked < fork.answered || fork.fate == Fate::Unknown);
    let (sure, sent) = (
        sure.count(),
        sent.map(|(number, _)| number + 1).max().unwrap_or(0),
    );
    let count = found.len() / piece(0).len();
    assert!(
        (sure..=sent).contains(&count),
        "{path}: {count} of {sure} to {sent}"
    );
    assert_eq!(*found, content(count).into_bytes(), "{path}");
}

#[test]
fn a_lifetime_that_ends_beside_forks_and_writes_and_a_leaders_death_ends_once() {
    let _beside = beside_others();
    let mut cluster = Cluster::start(nodes(), &["--checkpoint-bytes", "256KiB"]);
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let end_s = since_epoch.as_secs() + 4;
    let ends_at = Instant::now() + (Duration::from_secs(end_s) - since_epoch);
    let time = written_time(end_s);
    for at in 0..SOURCES {
        let headers = [("content-type", TEXT), ("stream-expires-at", time.as_str())];
        let created = cluster.client(1).send("PUT", &source(at), &headers, b"");
        assert_eq!(created.status, 201, "{}", created.text());
    }
    let stories: Vec<Mutex<Story>> = (0..SOURCES).map(|_| Mutex::default()).collect();
    let addresses = cluster.addresses();
    let until = ends_at + Duration::from_millis(1500);
    std::thread::scope(|scope| {
        for (at, story) in stories.iter().enumerate() {
            let addresses = &addresses;
            scope.spawn(move || append(addresses, at, until, story));
            for hand in 0..2 {
                scope.spawn(move || {
                    // So long before the end that many are under way then.
                    let from = ends_at - Duration::from_millis(1200);
                    std::thread::sleep(from.saturating_duration_since(Instant::now()));
                    fork(addresses, (at, hand), until, story);
                });
            }
        }
        let at = ends_at - Duration::from_millis(700);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let leader = cluster.leader(&source(0)).expect("it has just answered");
        // The next leader is elected while the time ends.
        let at = ends_at - Duration::from_millis(250);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        cluster.kill(leader);
        let at = ends_at + Duration::from_millis(500);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        cluster.start_node(leader);
    });
    cluster.wait_ready();
    cluster.expect_equal_states(&cluster.ids());
    for (at, story) in stories.into_iter().enumerate() {
        let story = story.into_inner().expect("no one panics with it");
        let count = |fate| story.forks.iter().filter(|(_, f)| f.fate == fate).count();
        let appended = story
            .appends
            .iter()
            .filter(|(_, a)| a.fate == Fate::Done)
            .count();
        println!(
            "source {at}: {appended} appends; forks: {} done, {} refused for the end, {} unknown",
            count(Fate::Done),
            count(Fate::Ended),
            count(Fate::Unknown)
        );
        assert!(appended > 0 && count(Fate::Ended) > 0, "too little load");
        judge(&story, ends_at);
        for fork in &story.forks {
            expect_fork(&cluster, &story, fork);
        }
        wait_for("all nodes say that it is over", || {
            let mut ids = cluster.ids().into_iter();
            ids.all(|n| {
                matches!(
                    cluster.client(n).send("HEAD", &source(at), &[], b"").status,
                    404 | 410
                )
            })
        });
    }
    cluster.expect_equal_states(&cluster.ids());
}
