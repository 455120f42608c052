//! The cold store: old data leaves memory and disk, is read back right, and goes when nothing needs it any more.

use std::path::Path;
use std::time::{Duration, Instant};

use integration::random::noise;
use integration::{Server, scratch_dir, suite};

const BYTES: &str = "application/octet-stream";

/// Longest wait for what a server does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server whose data becomes old at once, in tiny packs, so that nearly every read is of the cold store.
fn settings(dir: &Path) -> Vec<String> {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (wal, cold) = (at("wal"), at("cold"));
    [
        ("--wal-dir", wal.as_str()),
        ("--cold", cold.as_str()),
        ("--core-count", "2"),
        ("--raft-group-count", "3"),
        ("--wal-segment-bytes", "1MiB"),
        ("--checkpoint-bytes", "64KiB"),
        ("--hot-bytes-max", "64MiB"),
        ("--hot-bytes-kept", "0"),
        ("--cold-pack-bytes", "16KiB"),
        ("--cold-flush-age-ms", "20ms"),
        ("--cold-grace-ms", "3s"),
        ("--cold-cache-bytes", "100KiB"),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()])
    .collect()
}

fn start(settings: &[String]) -> Server {
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Server::start(&settings)
}

fn metric(server: &Server, name: &str) -> u64 {
    integration::metric(&mut server.client(), name)
}

fn until(server: &Server, what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not {what}:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn until_flushed(server: &Server) {
    let name = "ursula_cold_behind_bytes";
    until(server, "all flushed", || metric(server, name) == 0);
}

/// Objects below a directory, and their bytes.
fn objects(dir: &Path) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => todo.push(path),
                false => {
                    count += 1;
                    bytes += entry.metadata().map_or(0, |m| m.len());
                }
            }
        }
    }
    (count, bytes)
}

#[test]
fn the_official_suite_passes_where_nearly_every_read_is_cold() {
    let dir = scratch_dir();
    let server = start(&settings(dir.path()));
    suite::run("cold", &server.url());
    assert!(metric(&server, "ursula_cold_packs_written_total") > 0);
    assert_eq!(metric(&server, "ursula_cold_read_failures_total"), 0);
    assert!(server.stop().success());
}

#[test]
fn what_is_old_leaves_the_disk_and_is_read_back_right_through_kills() {
    let dir = scratch_dir();
    let settings = settings(dir.path());
    let mut expected: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..4 {
        let server = start(&settings);
        let mut c = server.client();
        for number in 0..8 {
            let path = format!("/v1/stream/r{round}/{number}");
            c.create(&path, BYTES);
            let body = noise(round * 100 + number, 200_000);
            for part in body.chunks(10_000) {
                assert_eq!(c.append(&path, BYTES, part).status, 204);
            }
            expected.push((path, body));
        }
        for (path, body) in &expected {
            assert!(c.read_all(path) == *body, "{path} in round {round}");
        }
        if round % 2 == 0 {
            server.kill();
            continue;
        }
        until_flushed(&server);
        for (path, body) in &expected {
            assert!(c.read_all(path) == *body, "{path}, flushed");
        }
        assert_eq!(metric(&server, "ursula_cold_read_failures_total"), 0);
        assert!(metric(&server, "ursula_cold_cache_misses_total") > 0);
        assert!(server.stop().success());
    }
    let (count, bytes) = objects(&dir.path().join("cold"));
    let written: u64 = expected.iter().map(|(_, b)| b.len() as u64).sum();
    assert!(bytes >= written, "{bytes} bytes in {count} objects");
}

#[test]
fn what_nothing_needs_any_more_is_deleted_and_a_sparse_pack_is_written_again() {
    let dir = scratch_dir();
    let server = start(&settings(dir.path()));
    let mut c = server.client();
    let paths: Vec<String> = (0..30).map(|i| format!("/v1/stream/s{i}")).collect();
    for (i, path) in paths.iter().enumerate() {
        c.create(path, BYTES);
        assert_eq!(c.append(path, BYTES, &noise(i as u64, 3000)).status, 204);
    }
    until_flushed(&server);
    let cold = dir.path().join("cold");
    let (_, before) = objects(&cold);
    assert!(before >= 90_000, "{before}");
    for (i, path) in paths.iter().enumerate() {
        if i % 5 != 0 {
            assert_eq!(c.send("DELETE", path, &[], b"").status, 204);
        }
    }
    until(&server, "most of it deleted", || {
        objects(&cold).1 < before / 2
    });
    for (i, path) in paths.iter().enumerate().filter(|(i, _)| i % 5 == 0) {
        assert!(c.read_all(path) == noise(i as u64, 3000), "{path}");
        assert_eq!(c.send("DELETE", path, &[], b"").status, 204);
    }
    until(&server, "all of it deleted", || objects(&cold).0 == 0);
    assert_eq!(metric(&server, "ursula_cold_unpublished_packs"), 0);
    assert!(server.stop().success());
}

#[test]
fn a_floor_hides_what_is_before_it_and_frees_it_and_a_fork_keeps_its_own() {
    let dir = scratch_dir();
    let server = start(&settings(dir.path()));
    let mut c = server.client();
    let path = "/v1/stream/a";
    c.create(path, "application/json");
    let mut offsets = Vec::new();
    for i in 0..20 {
        let body = format!("{{\"n\":{i}}}");
        offsets.push(c.append(path, "application/json", body.as_bytes()).next());
    }
    until_flushed(&server);
    let fork = [
        ("stream-forked-from", path),
        ("content-type", "application/json"),
    ];
    assert_eq!(c.send("PUT", "/v1/stream/fork", &fork, b"").status, 201);
    let floor = |offset: &str| format!("{path}/retention/{offset}");
    let (before, digits) = offsets[3].split_at(17);
    let inside = format!("{before}{:016}", digits.parse::<u64>().unwrap() - 1);
    assert_eq!(c.send("PUT", &floor(&inside), &[], b"").status, 400);
    let done = c.send("PUT", &floor(&offsets[9]), &[], b"");
    assert_eq!(
        (done.status, done.header("stream-earliest-offset")),
        (204, &*offsets[9])
    );
    let early = c.send("GET", &format!("{path}?offset={}", offsets[3]), &[], b"");
    assert_eq!(
        (early.status, early.header("stream-earliest-offset")),
        (410, &*offsets[9])
    );
    let all = c.send("GET", &format!("{path}?offset=-1"), &[], b"").json();
    assert_eq!(all.as_array().map(Vec::len), Some(10), "{all}");
    assert_eq!(all[0]["n"], 10);
    let all = c.send("GET", "/v1/stream/fork?offset=-1", &[], b"").json();
    assert_eq!(all.as_array().map(Vec::len), Some(20), "{all}");
    // A later fork has what the source's readers have.
    assert_eq!(c.send("PUT", "/v1/stream/late", &fork, b"").status, 201);
    let all = c.send("GET", "/v1/stream/late?offset=-1", &[], b"").json();
    assert_eq!(all.as_array().map(Vec::len), Some(10), "{all}");
    assert_eq!(c.send("GET", &floor(&offsets[9]), &[], b"").status, 405);
    for path in ["/v1/stream/fork", "/v1/stream/late", path] {
        assert_eq!(c.send("DELETE", path, &[], b"").status, 204);
    }
    until(&server, "all of it deleted", || {
        objects(&dir.path().join("cold")).0 == 0
    });
    assert!(server.stop().success());
}

#[test]
fn a_damaged_object_is_named_and_never_served() {
    let dir = scratch_dir();
    let mut settings = settings(dir.path());
    settings.extend(["--cold-live-percent-min".to_owned(), "0".to_owned()]);
    let server = start(&settings);
    let mut c = server.client();
    c.create("/v1/stream/a", BYTES);
    let body = noise(1, 5000);
    assert_eq!(c.append("/v1/stream/a", BYTES, &body).status, 204);
    until_flushed(&server);
    // What is flushed leaves memory with a restart at the latest, once a checkpoint has it.
    for i in 0..100 {
        let other = format!("/v1/stream/b{i}");
        c.create(&other, BYTES);
        c.append(&other, BYTES, &noise(i, 3000));
    }
    until_flushed(&server);
    server.kill();
    let mut todo = vec![dir.path().join("cold")];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(100).position(|w| w == &body[..100]);
            if let Some(position) = found {
                bytes[position + 50] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }
    let server = start(&settings);
    let mut c = server.client();
    // While a copy is looked for, the client is asked to come again.
    let deadline = Instant::now() + PATIENCE;
    let reply = loop {
        let reply = c.send("GET", "/v1/stream/a?offset=-1", &[], b"");
        if reply.status != 503 {
            break reply;
        }
        assert!(reply.text().contains("data_sought"), "{}", reply.text());
        assert!(Instant::now() < deadline, "{}", reply.text());
        std::thread::sleep(Duration::from_millis(20));
    };
    // The log may have it still: then it is right.
    assert!(
        reply.status == 500 || reply.body == body,
        "{}",
        reply.status
    );
    if reply.status == 500 {
        assert!(server.log().contains("is damaged"), "{}", server.log());
    }
    assert!(server.stop().success());
}

#[test]
fn small_appends_to_many_streams_cost_few_requests() {
    let dir = scratch_dir();
    let mut settings = settings(dir.path());
    for (flag, value) in [
        ("--cold-pack-bytes", "1MiB"),
        ("--cold-flush-age-ms", "60s"),
        ("--hot-bytes-kept", "1MiB"),
    ] {
        let at = settings.iter().position(|s| s == flag).unwrap();
        settings[at + 1] = value.to_owned();
    }
    let server = start(&settings);
    // A thirty-second of the default pack: so are the bytes that each request is to be worth.
    let bytes_min = (1u64 << 30) / 40 / 32;
    let streams = 600;
    let mut c = server.client();
    for i in 0..streams {
        c.create(&format!("/v1/stream/{i}"), BYTES);
    }
    let mut written = 0;
    for round in 0..30u64 {
        for i in 0..streams {
            let body = noise(round * 1000 + i, 1000);
            let path = format!("/v1/stream/{i}");
            assert_eq!(c.append(&path, BYTES, &body).status, 204);
            written += body.len() as u64;
        }
    }
    until(&server, "all full packs written", || {
        metric(&server, "ursula_cold_behind_bytes") < 3 << 20
    });
    let flushed = written - metric(&server, "ursula_cold_behind_bytes");
    let requests = metric(&server, "ursula_cold_requests_total");
    assert!(flushed >= 8 << 20, "{flushed} of {written}");
    assert!(
        requests * bytes_min <= flushed,
        "{requests} requests for {flushed} bytes"
    );
    assert!(server.stop().success());
}

#[test]
fn appends_that_a_cold_store_would_lack_are_refused_at_the_bound_and_counted() {
    let dir = scratch_dir();
    let mut settings = settings(dir.path());
    let at = settings.iter().position(|s| s == "--cold").unwrap();
    settings[at + 1] = "s3://bucket/nobody".to_owned();
    for setting in [
        "--s3-endpoint=http://127.0.0.1:1",
        "--s3-access-key-id=nobody",
        "--s3-secret-access-key=nothing",
        "--s3-attempts-max=1",
        "--cold-behind-bytes-max=1MiB",
    ] {
        let (flag, value) = setting.split_once('=').unwrap();
        settings.extend([flag.to_owned(), value.to_owned()]);
    }
    let server = start(&settings);
    let mut c = server.client();
    c.create("/v1/stream/behind", BYTES);
    let of_bound = |c: &mut integration::Client, name: &str| -> f64 {
        let text = c.get("/metrics").text();
        let own =
            |line: &&str| line.starts_with(name) && line.contains("\"cold_behind_bytes_max\"");
        let values = text
            .lines()
            .filter(own)
            .filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    };
    assert_eq!(of_bound(&mut c, "ursula_refusals_total{"), 0.0);
    let deadline = Instant::now() + PATIENCE;
    let reply = loop {
        let reply = c.append("/v1/stream/behind", BYTES, &noise(1, 100_000));
        if reply.status != 204 {
            break reply;
        }
        assert!(Instant::now() < deadline, "nothing is refused");
    };
    assert_eq!(reply.status, 503);
    assert!(
        reply.text().contains("cold_behind_bytes_max"),
        "{}",
        reply.text()
    );
    assert_ne!(reply.header("retry-after"), "");
    assert_eq!(of_bound(&mut c, "ursula_refusals_total{"), 1.0);
    assert!(of_bound(&mut c, "ursula_saturation_ratio{") >= 1.0);
}
