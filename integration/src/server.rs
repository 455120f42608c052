//! A real server process on a port of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::Client;

/// Longest wait for a server to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The top of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map_or_else(|| here.to_owned(), Path::to_owned)
}

/// A directory on a real disk, removed when dropped.
pub fn scratch_dir() -> tempfile::TempDir {
    let base = repository().join("target/scratch");
    std::fs::create_dir_all(&base).expect("the target directory is writable");
    tempfile::tempdir_in(base).expect("the target directory is writable")
}

/// Flags of a server.
pub type Settings<'a> = &'a [&'a str];

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// The binary under test: `URSULA_BIN`, or the release build.
    pub fn binary() -> PathBuf {
        std::env::var_os("URSULA_BIN")
            .map_or_else(|| repository().join("target/release/ursula"), PathBuf::from)
    }

    /// Starts a server on a free port and waits until it listens.
    pub fn start(settings: Settings<'_>) -> Server {
        match Server::try_start(settings) {
            Ok(server) => server,
            Err(log) => panic!("the server did not start:\n{log}"),
        }
    }

    /// Starts a server; the log if it ends before it listens.
    ///
    /// # Errors
    /// The log.
    pub fn try_start(settings: Settings<'_>) -> Result<Server, String> {
        Server::try_start_by(Command::new(Server::binary()), settings)
    }

    /// The same by a command that ends with the binary.
    ///
    /// # Errors
    /// The log.
    pub fn try_start_by(mut command: Command, settings: Settings<'_>) -> Result<Server, String> {
        command.arg("server");
        if !settings.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        if !settings.contains(&"--admin-listen") {
            command.args(["--admin-listen", "off"]);
        }
        command.args(settings).args(["--io-memory", "64KiB"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e} (build it with `cargo build --release`)"));
        let stderr = child.stderr.take().expect("piped above");
        let log = Arc::new(Mutex::new(String::new()));
        let (listening, wait) = channel();
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("listening on http://") {
                    // In a log of JSON, more follows.
                    let address = address.split(['"', ' ']).next().unwrap_or(address);
                    let _ = listening.send(address.to_owned());
                }
                let mut kept = kept.lock().expect("no one panics with it");
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        match wait.recv_timeout(PATIENCE) {
            Ok(address) => Ok(Server {
                child,
                address,
                log,
            }),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = log.lock().expect("no one panics with it").clone();
                Err(log)
            }
        }
    }

    /// A new connection to it.
    pub fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.lock().expect("no one panics with it").clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid())
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and how it ended.
    pub fn stop(self) -> ExitStatus {
        // SAFETY: the pid is that of a child that was not waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        self.wait_end()
    }

    /// How it ended.
    pub fn wait_end(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the server did not stop:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|p| p.parse().ok())
        .unwrap_or(0);
    pages * 4096
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
