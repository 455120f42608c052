//! The client commands, and the README's tour.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration::{Server, repository, scratch_dir};

fn ursula(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(Server::binary())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// As in `ursula --help | head -1`.
#[test]
fn who_reads_no_further_ends_a_command_quietly() {
    let server = Server::start(&["--core-count", "1"]);
    let url = format!("{}/v1/stream/unread", server.url());
    assert_eq!(ursula(&["create", &url], "").0, Some(0));
    assert_eq!(ursula(&["append", &url, "--data", "x"], "").0, Some(0));
    let lines: [&[&str]; 6] = [
        &["--help"],
        &["--version"],
        &["man"],
        &["config", "check"],
        &["read", &url],
        &["head", &url],
    ];
    for arguments in lines {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(Server::binary())
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), &*said),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

#[test]
fn the_commands_create_append_read_tail_close_and_delete() {
    let server = Server::start(&["--core-count", "1"]);
    let url = format!("{}/v1/stream/cli", server.url());
    assert_eq!(ursula(&["read", &url], "").0, Some(3), "not found");
    assert_eq!(
        ursula(&["create", &url, "--content-type", "application/json"], "").0,
        Some(0)
    );
    assert_eq!(ursula(&["append", &url], "{\"a\":1}").0, Some(0));
    assert_eq!(ursula(&["append", &url, "--data", "[2,3]"], "").0, Some(0));
    assert_eq!(
        ursula(&["read", &url], ""),
        (Some(0), "{\"a\":1}\n2\n3\n".to_owned(), String::new())
    );
    assert!(
        ursula(&["head", &url, "--json"], "")
            .1
            .contains("\"content_type\":\"application/json\"")
    );
    let tail = std::thread::spawn({
        let url = url.clone();
        move || ursula(&["tail", &url, "--offset", "-1"], "")
    });
    assert_eq!(
        ursula(&["append", &url, "--data", "4", "--close"], "").0,
        Some(0)
    );
    assert_eq!(
        tail.join().unwrap().1,
        "{\"a\":1}\n2\n3\n4\n",
        "the tail ends with the stream"
    );
    assert_eq!(
        ursula(&["append", &url, "--data", "5"], "").0,
        Some(4),
        "closed"
    );
    assert_eq!(ursula(&["delete", &url], "").0, Some(0));
    assert_eq!(ursula(&["head", &url], "").0, Some(3));
    assert_eq!(ursula(&["read"], "").0, Some(2));
    assert_eq!(
        ursula(&["read", "http://127.0.0.1:1/v1/stream/x"], "").0,
        Some(5)
    );
}

#[test]
fn a_tail_from_now_misses_nothing_while_the_server_is_away() {
    let dir = scratch_dir();
    let data = dir.path().to_str().unwrap().to_owned();
    let server = Server::start(&["--core-count", "1", "--wal-dir", &data]);
    let address = server.address.clone();
    let url = format!("{}/v1/stream/tailed", server.url());
    assert_eq!(
        ursula(&["create", &url, "--content-type", "text/plain"], "").0,
        Some(0)
    );
    assert_eq!(ursula(&["append", &url, "--data", "before"], "").0, Some(0));
    let tail = std::thread::spawn({
        let url = url.clone();
        move || ursula(&["tail", &url], "")
    });
    let mut c = server.client();
    while !c
        .get("/metrics")
        .text()
        .contains("ursula_live_readers{core=\"0\"} 1")
    {}
    server.kill();
    // The system frees the port a moment after the process is gone: io_uring lets go of its sockets later.
    let again = [
        "--wal-dir",
        &*data,
        "--listen",
        &*address,
        "--core-count",
        "1",
    ];
    let deadline = Instant::now() + Duration::from_secs(20);
    let server = loop {
        match Server::try_start(&again) {
            Ok(server) => break server,
            Err(log) => assert!(Instant::now() < deadline, "{log}"),
        }
    };
    let closed = ursula(&["append", &url, "--data", "meanwhile", "--close"], "");
    assert_eq!(closed.0, Some(0), "{}", closed.2);
    let (code, printed, said) = tail.join().unwrap();
    assert_eq!((code, printed.as_str()), (Some(0), "meanwhile"), "{said}");
    drop(server);
}

#[test]
fn envelopes_hold_whole_characters_and_say_what_is_base64() {
    let server = Server::start(&["--core-count", "1", "--read-chunk-bytes", "1KiB"]);
    let mut c = server.client();
    let text = format!("a{}", "€".repeat(1000));
    c.send(
        "PUT",
        "/v1/stream/euro",
        &[("content-type", "text/plain")],
        text.as_bytes(),
    );
    c.send("PUT", "/v1/stream/binary", &[], &[0, 0xff]);
    let lines = |command: &str, name: &str| -> Vec<serde_json::Value> {
        let url = format!("{}/v1/stream/{name}", server.url());
        let (code, printed, said) = ursula(&[command, &url, "--offset", "-1", "--json"], "");
        assert_eq!(code, Some(0), "{said}");
        let lines = printed.lines();
        lines.map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    c.send("POST", "/v1/stream/euro", &[("stream-closed", "true")], b"");
    for command in ["read", "tail"] {
        let read = lines(command, "euro");
        let data: String = read.iter().map(|l| l["data"].as_str().unwrap()).collect();
        assert!(read.len() > 2 && data == text, "{command}: {data:.100}");
        // Whoever goes on from a line's offset gets the rest.
        let first = &read[0];
        let rest = c.get(&format!(
            "/v1/stream/euro?offset={}",
            first["next_offset"].as_str().unwrap()
        ));
        assert!(rest.text().starts_with('€'), "{command}");
    }
    let read = lines("read", "binary");
    assert_eq!(
        (&read[0]["data"], &read[0]["encoding"]),
        (&"AP8=".into(), &"base64".into())
    );
}

#[test]
fn urls_and_settings_that_cannot_be_obeyed_are_refused_with_a_reason() {
    for (arguments, part) in [
        (
            &["read", "ftp://127.0.0.1/v1/stream/x"][..],
            "ftp is not spoken",
        ),
        (&["read", "http://me:pw@127.0.0.1/v1/stream/x"], "user name"),
        (
            &["config", "check", "--wal-dir", "/a", "--raft-log-dir", "/b"],
            "one setting",
        ),
        (&["config", "check", "--wal-dir", ""], "a directory"),
        (
            &["config", "check", "--body-bytes-in-flight-max", "1MiB"],
            "body_bytes_in_flight_max",
        ),
        (&["config", "check", "--no-pin=perhaps"], "true or false"),
    ] {
        let (code, _, said) = ursula(arguments, "");
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    let check = |flag: &str| ursula(&["config", "check", flag], "").1;
    assert!(check("--no-pin").contains("no_pin = true"));
    assert!(check("--no-pin=false").contains("no_pin = false"));
    let help = ursula(&["server", "--help"], "").1;
    assert!(help.contains("  --no-pin\n") && help.contains("  --wal-dir <value>\n"));
}

#[test]
fn the_tour_of_the_readme_runs() {
    let server = Server::start(&["--core-count", "2"]);
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let tour = readme
        .split("```sh\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    assert_eq!(tour.lines().count(), 5);
    // The last command follows for ever: a second of it is enough.
    let tour = tour
        .replace("127.0.0.1:4437", &server.address)
        .replace("curl -N ", "curl -N -m 1 ");
    let script = format!(
        "set -e\n{}",
        tour.replace("live=sse'", "live=sse' || [ $? = 28 ]")
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .output()
        .expect("bash and curl");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("[{\"say\":\"hello\"}]")
            && text.contains("event: data\ndata:[\ndata:{\"say\":\"hello\"}\ndata:]"),
        "{text}"
    );
}
