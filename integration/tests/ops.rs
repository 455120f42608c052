//! The server as its operators meet it: exit codes, the listener for operators, metrics, the doctor.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::{Client, Server, scratch_dir, skip};

const PATIENCE: Duration = Duration::from_secs(60);

/// The id of a core's thread: those that it started have its name, too.
pub fn thread_named(pid: u32, name: &str) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let ids = tasks.map(|t| t.unwrap().file_name().into_string().unwrap());
    let named = |id: &String| {
        let path = format!("/proc/{pid}/task/{id}/comm");
        std::fs::read_to_string(path).is_ok_and(|comm| comm.starts_with(name))
    };
    let ids = ids.filter(named).map(|id| id.parse().unwrap());
    ids.min().unwrap()
}

/// A thread of a server that stands still, as under a debugger, until this is dropped, by the thread of the test that made it.
/// Also when a test fails: what a debugger holds does not end, and who waits for the server waits for ever.
pub struct Hung(u32);

impl Hung {
    /// For a server that is done with its start: a thread that is held while it writes a line to the log holds all others too.
    pub fn thread(thread: u32) -> Hung {
        let ask = |request| {
            // SAFETY: no request reads or writes this process's memory.
            let done = unsafe { libc::ptrace(request, thread, 0, 0) };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        };
        ask(libc::PTRACE_SEIZE);
        let hung = Hung(thread);
        ask(libc::PTRACE_INTERRUPT);
        let mut status = 0;
        // SAFETY: the status is ours.
        unsafe { libc::waitpid(thread as libc::pid_t, &raw mut status, libc::__WALL) };
        hung
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // SAFETY: the request reads and writes nothing of this process.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

pub fn admin_of(server: &Server) -> String {
    // Another thread says so, perhaps after the cores listen.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = server.log();
        if let Some((_, rest)) = log.split_once("event=admin_listening address=") {
            return rest.split_whitespace().next().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "{log}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn wait_until_ready(operator: &mut Client) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ready = operator.get("/readyz");
        if ready.status == 200 {
            return;
        }
        assert!(Instant::now() < deadline, "{}", ready.text());
    }
}

pub const ADMIN: [&str; 2] = ["--admin-listen", "127.0.0.1:0"];

#[test]
fn operators_have_a_listener_of_their_own() {
    let server = Server::start(&[&ADMIN[..], &["--core-count", "2"]].concat());
    let mut admin = Client::connect(&admin_of(&server));
    assert_eq!(admin.get("/healthz").status, 200);
    wait_until_ready(&mut admin);
    let metrics = admin.get("/metrics").text();
    assert!(
        metrics.contains("ursula_core_up{core=\"1\"} 1"),
        "{metrics}"
    );
    let settings = admin.get("/_/api/settings").text();
    assert!(settings.contains("\"core_count\"") && settings.contains("flag --core-count"));
    assert_eq!(admin.get("/v1/stream/a").status, 404);
    // The client port has no admin, and health and metrics only as long as they are wanted there.
    let mut client = server.client();
    assert_eq!(client.get("/_/api/settings").status, 404);
    assert_eq!(client.get("/metrics").status, 200);
    let server = Server::start(&["--client-port-ops=false"]);
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(server.client().get(path).status, 404, "{path}");
    }
}

#[test]
fn a_core_that_hangs_does_not_hang_a_scrape() {
    let server = Server::start(&[&ADMIN[..], &["--core-count", "2"]].concat());
    let mut admin = Client::connect(&admin_of(&server));
    wait_until_ready(&mut admin);
    let hung = Hung::thread(thread_named(server.pid(), "core-1"));
    let began = Instant::now();
    let metrics = admin.get("/metrics").text();
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(
        metrics.contains("ursula_core_up{core=\"0\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("ursula_core_up{core=\"1\"} 0"),
        "{metrics}"
    );
    assert_eq!(admin.get("/healthz").status, 503);
    let ready = admin.get("/readyz");
    assert!(
        ready.text().contains("core 1 does not answer"),
        "{}",
        ready.text()
    );
    drop(hung);
    let deadline = Instant::now() + PATIENCE;
    while admin.get("/healthz").status != 200 {
        assert!(Instant::now() < deadline);
    }
}

/// How a server ends that cannot start.
fn ending(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(Server::binary())
        .args(["server", "--listen", "127.0.0.1:0", "--admin-listen", "off"])
        .args(["--io-memory", "64KiB"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn exit_codes_tell_what_a_restart_does_not_mend() {
    assert_eq!(ending(&["--core-count", "none"]).0, Some(2));
    let dir = scratch_dir();
    let data = [
        "--core-count",
        "1",
        "--wal-dir",
        dir.path().to_str().unwrap(),
    ];
    assert!(Server::start(&data).stop().success());
    let (code, said) = ending(&[&data[..], &["--node-id", "7"]].concat());
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("exit_code=78") && said.contains("give --node-id 1"),
        "{said}"
    );
    let identity = dir.path().join("node.ursula");
    let mut bytes = std::fs::read(&identity).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&identity, bytes).unwrap();
    let (code, said) = ending(&data);
    assert_eq!(code, Some(65), "{said}");
    assert!(said.contains("is damaged at byte"), "{said}");
}

fn break_disk(pid: u32) {
    let limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: libc::RLIM_INFINITY,
    };
    let none = std::ptr::null_mut();
    // SAFETY: the pointers are null or to a structure of the right type.
    let result = unsafe {
        libc::prlimit(
            pid as libc::pid_t,
            libc::RLIMIT_FSIZE,
            &raw const limit,
            none,
        )
    };
    assert_eq!(result, 0);
}

#[test]
fn a_member_whose_disk_fails_ends_with_a_code_of_its_own_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, &["--core-count", "2", "--failed-linger-ms", "200ms"]);
    let path = "/v1/stream/s";
    assert_eq!(cluster.client(1).create(path, "text/plain").status, 201);
    break_disk(cluster.pid(2));
    // Any write reaches every disk.
    let append = |cluster: &Cluster| {
        let mut client = Client::try_connect(cluster.address(1), Duration::from_secs(5))?;
        client.try_send("POST", path, &[("content-type", "text/plain")], b"x")
    };
    let status = {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let _ = append(&cluster);
            if let Some(status) = cluster.ended(2) {
                break status;
            }
            assert!(Instant::now() < deadline, "node 2 goes on without a disk");
        }
    };
    assert_eq!(status.code(), Some(74));
    let deadline = Instant::now() + PATIENCE;
    while !append(&cluster).is_ok_and(|reply| reply.status == 204) {
        assert!(Instant::now() < deadline, "the others do not go on");
    }
}

#[test]
fn a_node_that_is_alone_ends_once_no_log_works() {
    let dir = scratch_dir();
    let data = dir.path().to_str().unwrap();
    let settings = [
        "--core-count",
        "1",
        "--wal-dir",
        data,
        "--failed-linger-ms",
        "0ms",
    ];
    let server = Server::start(&settings);
    break_disk(server.pid());
    let reply = server.client().create("/v1/stream/s", "text/plain");
    assert_eq!(reply.status, 503);
    assert_eq!(server.wait_end().code(), Some(74));
}

#[test]
fn a_setting_of_the_cold_store_that_only_this_machine_can_mend_is_named() {
    let dir = scratch_dir();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (data, garbage) = (at("data"), at("garbage.pem"));
    std::fs::write(&garbage, "garbage").unwrap();
    let s3 = ["--wal-dir", &data, "--cold", "s3://bucket/there"];
    let http = ["--s3-endpoint", "http://127.0.0.1:1"];
    for file in [&at("none.pem"), &garbage] {
        let settings = [&s3[..], &http, &["--s3-ca-file", file]].concat();
        let (code, said) = ending(&settings);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("s3_ca_file") && said.contains(file), "{said}");
        let check = |words: &[&str]| {
            let mut command = Command::new(Server::binary());
            let output = command.args(words).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains("s3_ca_file") && said.contains(file), "{said}");
        };
        check(&[&["config", "check"][..], &settings].concat());
        let config = at("u.toml");
        std::fs::write(&config, format!("s3_ca_file = {file:?}\n")).unwrap();
        check(&["doctor", "--config", &config]);
    }
    let (code, said) = ending(&["--wal-dir", &data, "--cold", "/dev/null/x"]);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("`cold` is /dev/null/x"), "{said}");
}

/// All series of a scrape, without their values.
fn series(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    let mut names: Vec<String> = lines
        .map(|l| l.rsplit_once(' ').unwrap().0.to_owned())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn many_streams_make_no_more_series() {
    let server = Server::start(&[&ADMIN[..], &["--core-count", "2"]].concat());
    let mut c = server.client();
    let scrape = || Client::connect(&admin_of(&server)).get("/metrics").text();
    // One of each, so that each operation and status has been seen.
    let exercise = |c: &mut Client, path: &str| {
        c.create(path, "text/plain");
        c.append(path, "text/plain", b"x");
        c.get(path);
    };
    for number in 0..64 {
        exercise(&mut c, &format!("/v1/stream/first/{number}"));
    }
    let before = series(&scrape());
    for number in 0..2000 {
        exercise(&mut c, &format!("/v1/stream/more/{number}"));
    }
    for number in 0..100_000 {
        c.create(&format!("/v1/stream/many/{number}"), "text/plain");
    }
    let text = scrape();
    assert_eq!(before, series(&text));
    let streams = text
        .lines()
        .filter_map(|l| l.strip_prefix("ursula_streams{"));
    let count: u64 = streams
        .map(|l| l.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(count, 102_064);
    assert!(before.len() < 1000, "{} series", before.len());
}

#[test]
fn a_scrape_passes_promtool() {
    let cluster = {
        let mut cluster = Cluster::prepare(3, &["--core-count", "2"], None);
        for node in cluster.ids() {
            cluster.start_node(node);
        }
        cluster.wait_ready();
        cluster
    };
    let mut c = cluster.client(1);
    c.create("/v1/stream/s", "text/plain");
    for _ in 0..50 {
        assert_eq!(c.append("/v1/stream/s", "text/plain", b"x").status, 204);
    }
    // All nodes have one clock: no offset may be told that is larger than what is in doubt, also not at first.
    let offsets = |text: &str| -> Vec<f64> {
        let lines = text.lines();
        let told = lines.filter_map(|l| l.strip_prefix("ursula_clock_offset_seconds{"));
        told.map(|l| l.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect()
    };
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = c.get("/metrics").text();
        let found = offsets(&text);
        assert!(found.iter().all(|s| s.abs() < 0.05), "{found:?}");
        if found.len() == 2 {
            break text;
        }
        assert!(Instant::now() < deadline, "no offsets: {text}");
        std::thread::sleep(Duration::from_millis(50));
    };
    for bound in [
        "abandoned_forks_max",
        "body_bytes_in_flight_max",
        "cache_write_buffer",
        "cold_behind_bytes_max",
        "connections_max",
        "core_queue",
        "dr_log_bytes_max",
        "hot_bytes_max",
        "live_readers_max",
        "peer_connections",
        "peer_queue",
        "requests_in_flight_max",
        "requests_without_leader",
        "s3_requests_max",
        "streams",
        "uncommitted_bytes_max",
        "unconfirmed_holds_max",
    ] {
        let name = format!("ursula_saturation_ratio{{core=\"0\",bound=\"{bound}\"}}");
        assert!(text.contains(&name), "{name} is not in\n{text}");
    }
    for name in [
        "ursula_replication_lag_entries{core=\"0\",peer=\"2\"}",
        "ursula_replication_lag_bytes{core=\"0\",peer=\"2\"}",
        "ursula_leader_changes_total{core=\"0\"}",
        "ursula_groups_led{core=\"0\"}",
        "ursula_groups_asleep{core=\"0\"}",
        "ursula_reactor_stalls_total{core=\"0\"}",
        "ursula_reactor_delay_seconds_count{core=\"0\"}",
        "ursula_longest_task_seconds{core=\"0\"}",
        "ursula_delivery_seconds_count{core=\"0\"}",
        ",operation=\"append\",status=\"204\"} 50",
        ",operation=\"append\"} 50",
        "ursula_wal_commit_seconds_count{core=\"0\"}",
        "ursula_cold_cost_dollars_total{core=\"0\",verb=\"put\"}",
        "ursula_cold_cache_hits_total{core=\"0\"}",
        "ursula_cache_hits_total{core=\"0\"}",
        "ursula_scrub_damaged_total{core=\"0\"}",
        "ursula_disk_full_in_seconds",
        "ursula_build_info{version=",
        "ursula_replication_lag_seconds{core=\"0\",peer=\"2\"}",
        "ursula_peer_up{core=\"1\",peer=\"3\"} 1",
        "ursula_append_seconds_count{core=\"0\",stage=\"replicate\"}",
        "ursula_saturation_ratio{core=\"0\",bound=\"peer_queue\"}",
        "ursula_disk_free_bytes",
        "ursula_groups_at_risk{core=\"0\"} 0",
        "ursula_node_info{node_id=\"1\",cluster_id=\"test\"} 1",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        return skip("promtool is not installed (Debian: prometheus)");
    };
    std::io::Write::write_all(promtool.stdin.as_mut().unwrap(), text.as_bytes()).unwrap();
    drop(promtool.stdin.take());
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn a_log_of_json_has_a_field_for_each_key() {
    let server = Server::start(&["--core-count", "1", "--log-format", "json"]);
    server
        .client()
        .create("/v1/stream/secret-name", "text/plain");
    server
        .client()
        .append("/v1/stream/secret-name", "text/plain", b"secret-payload");
    let log = server.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let listening = lines.iter().find(|l| l["event"] == "listening").unwrap();
    assert!(
        listening["message"]
            .as_str()
            .unwrap()
            .contains("listening on http://")
    );
    for line in &lines {
        for key in ["time", "level", "target", "event"] {
            assert!(line[key].is_string(), "{line}");
        }
    }
    assert!(!log.contains("secret-payload"));
}
