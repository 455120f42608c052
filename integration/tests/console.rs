//! The operators' page in a real browser without a window. Needs chromium; without one the tests say so and pass.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration::cluster::Cluster;
use integration::{Client, Server, repository, scratch_dir, skip};

const TOKEN: &str = "a token of the test's own";
const DRIVER: &str = "puppeteer-core@24";

fn browser() -> Option<PathBuf> {
    let given = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let usual = names.map(|name| Path::new("/usr/bin").join(name));
    given.into_iter().chain(usual).find(|path| path.exists())
}

/// The directory with the browser's driver and our script.
fn workshop() -> PathBuf {
    static ONCE: Once = Once::new();
    let dir = repository().join("target/console");
    ONCE.call_once(|| {
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(
            dir.join("package.json"),
            "{\"private\":true,\"type\":\"module\"}",
        )
        .unwrap();
        if !dir.join("node_modules/puppeteer-core").is_dir() {
            let installed = Command::new("npm")
                .args([
                    "install",
                    "--no-audit",
                    "--no-fund",
                    "--no-package-lock",
                    DRIVER,
                ])
                .current_dir(&dir)
                .status();
            assert!(
                installed.expect("npm is installed").success(),
                "npm could not install {DRIVER}"
            );
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js/console.mjs");
        std::fs::copy(source, dir.join("console.mjs")).unwrap();
    });
    dir
}

fn admin_of(log: &str) -> String {
    let (_, rest) = log.split_once("event=admin_listening address=").unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

/// Goes through the page at `admin` as the script says; `last` is a process that it kills.
fn drive(workshop: &Path, browser: &Path, admin: &str, last: Option<u32>) {
    let output = Command::new("node")
        .arg("console.mjs")
        .args([&format!("http://{admin}"), &TOKEN.replace(' ', "-")])
        .arg(repository().join("target/console"))
        .args(last.map(|pid| pid.to_string()))
        .env("CHROMIUM", browser)
        .current_dir(workshop)
        .output()
        .expect("node runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("all good"),
        "{said}"
    );
}

/// Says that it is over at the end of its scope, whatever ends it.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_operator_sees_the_cores_of_all_nodes_at_one_of_them() {
    let Some(browser) = browser() else {
        return skip("chromium is not installed (Debian: chromium)");
    };
    let workshop = workshop();
    let mut cluster = Cluster::prepare(3, &[], None);
    cluster.set(1, &["--core-count", "2", "--admin-listen", "127.0.0.1:0"]);
    cluster.set(3, &["--core-count", "2"]);
    for node in cluster.ids() {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    let mut c = cluster.client(1);
    for number in 0..40 {
        c.create(&format!("/v1/stream/spread/{number}"), "text/plain");
    }
    let last = cluster.pid(3);
    drive(&workshop, &browser, &admin_of(&cluster.log(1)), Some(last));
    cluster.wait_end(3);
}

#[test]
fn an_operator_sees_the_node_and_works_on_streams_by_keyboard() {
    let Some(browser) = browser() else {
        return skip("chromium is not installed (Debian: chromium)");
    };
    let workshop = workshop();
    let dir = scratch_dir();
    let token = dir.path().join("token");
    std::fs::write(&token, TOKEN.replace(' ', "-")).unwrap();
    let server = Server::start(&[
        "--core-count",
        "2",
        "--admin-listen",
        "127.0.0.1:0",
        "--admin-token-file",
        token.to_str().unwrap(),
        "--wal-dir",
        dir.path().join("data").to_str().unwrap(),
    ]);
    let mut c = server.client();
    c.create("/v1/stream/chat/alice", "application/json");
    c.append(
        "/v1/stream/chat/alice",
        "application/json",
        b"{\"say\":\"before\"}",
    );
    for number in 0..300 {
        c.create(&format!("/v1/stream/many/{number}"), "text/plain");
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut c = server.client();
            for number in (0..300).cycle() {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                c.append(&format!("/v1/stream/many/{number}"), "text/plain", b"x");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // Also where the page is not as it should be.
        let _ends = OnDrop(&is_over);
        drive(&workshop, &browser, &admin_of(&server.log()), None);
    });
    let body = c.get("/v1/stream/chat/alice").text();
    assert!(body.contains("from the console"), "{body}");
}

#[test]
fn what_changes_something_needs_the_token() {
    let dir = scratch_dir();
    let file = dir.path().join("token");
    let token = TOKEN.replace(' ', "-");
    std::fs::write(&file, &token).unwrap();
    let admin = ["--admin-listen", "127.0.0.1:0"];
    let with = ["--admin-token-file", file.to_str().unwrap()];
    let server = Server::start(&[&admin[..], &with].concat());
    let mut c = Client::connect(&admin_of(&server.log()));
    let path = "/_/streams/v1/stream/s";
    let plain = ("content-type", "text/plain");
    let bearer = format!("Bearer {token}");
    let good = ("authorization", bearer.as_str());
    let longer = format!("{bearer}x");
    for wrong in [
        "",
        "Bearer ",
        "Bearer nonsense-of-some-length",
        &longer,
        &token,
    ] {
        let reply = c.send("PUT", path, &[plain, ("authorization", wrong)], b"");
        assert_eq!(reply.status, 401, "{wrong:?}");
    }
    assert_eq!(c.send("PUT", path, &[plain, good], b"").status, 201);
    assert_eq!(c.send("POST", path, &[plain], b"x").status, 401);
    assert_eq!(c.send("POST", path, &[plain, good], b"x").status, 204);
    assert_eq!(c.get(path).text(), "x");
    assert_eq!(c.send("DELETE", path, &[], b"").status, 401);
    assert_eq!(c.send("PUT", "/_/api/log-level", &[], b"debug").status, 401);
    assert_eq!(
        c.send("PUT", "/_/api/log-level", &[good], b"loud").status,
        400
    );
    assert_eq!(
        c.send("PUT", "/_/api/log-level", &[good], b"debug").status,
        200
    );
    assert!(!server.log().contains(&token), "the token is in no log");
    // Nobody else's page reads it.
    assert_eq!(c.get(path).header("access-control-allow-origin"), "");

    let server = Server::start(&admin);
    let mut c = Client::connect(&admin_of(&server.log()));
    let reply = c.send("PUT", path, &[plain, good], b"");
    assert_eq!(reply.status, 403);
    assert!(reply.text().contains("admin_token_file"));
    std::fs::write(&file, "short").unwrap();
    let log = Server::try_start(&[&admin[..], &with].concat())
        .err()
        .unwrap();
    assert!(log.contains("16 or more"), "{log}");
}
