//! The client commands, and the README's tour.

use std::io::Write;
use std::process::{Command, Stdio};

use integration::{Server, repository};

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
