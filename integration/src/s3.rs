//! A real S3 server (`s3s-fs`, which checks signatures), and a proxy of ours before it that does what networks and
//! stores do on bad days.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::repository;

mod message;
mod pieces;

use self::message::{Message, read_answer, read_request};

/// The bucket that the server has.
pub const BUCKET: &str = "ursula-test";
/// The only key that the server knows.
pub const KEY_ID: &str = "test-key";
/// Its secret.
pub const SECRET: &str = "test-secret";

/// Longest wait for the server.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running S3 server; killed when dropped.
pub struct S3Server {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    dir: tempfile::TempDir,
}

impl S3Server {
    /// The server's binary: `URSULA_TEST_S3`, or what `integration/get-s3` installs, once.
    pub fn binary() -> PathBuf {
        static ONCE: Once = Once::new();
        if let Some(given) = std::env::var_os("URSULA_TEST_S3") {
            return PathBuf::from(given);
        }
        ONCE.call_once(|| {
            let script = repository().join("integration/get-s3");
            let installed = Command::new(&script).status();
            assert!(
                installed.is_ok_and(|status| status.success()),
                "{} could not install the S3 server of the tests",
                script.display()
            );
        });
        repository().join("target/tools/bin/s3s-fs")
    }

    /// Starts it on a free port, with an empty bucket.
    pub fn start() -> S3Server {
        let dir = crate::scratch_dir();
        std::fs::create_dir(dir.path().join(BUCKET)).expect("the directory is new");
        // Free now; if somebody takes it before the server does, the next one is tried.
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
            let port = free.expect("there are free ports").port().to_string();
            let mut command = Command::new(S3Server::binary());
            command.args(["--host", "127.0.0.1", "--port", &port]);
            command.args(["--access-key", KEY_ID, "--secret-key", SECRET]);
            command.arg(dir.path()).stdin(Stdio::null());
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
            let address = format!("127.0.0.1:{port}");
            if answers(&mut child, &address) {
                return S3Server {
                    child,
                    address,
                    dir,
                };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("{} does not start", S3Server::binary().display());
    }

    /// Parts of uploads that nobody has ended.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(self.dir.path(), &mut found);
        found.retain(|path| path.contains(".part-"));
        found
    }

    /// Files of all objects, and what the server keeps beside them.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.dir.path().join(BUCKET), &mut found);
        found
    }

    /// The file of an object.
    pub fn file(&self, key: &str) -> PathBuf {
        self.dir.path().join(BUCKET).join(key)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answers(child: &mut Child, address: &str) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

fn walk(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path.display().to_string());
        }
    }
}

/// What may happen to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The answer comes late.
    Delay(Duration),
    /// The request is taken and never answered.
    Silence,
    /// The connection is reset before the request gets through.
    Reset,
    /// The store answers this status, with this code.
    Status(u16, &'static str),
    /// Half of the answer's body comes, then the connection ends.
    Truncate,
    /// One bit of the answer's body is another.
    FlipAnswer,
    /// One bit of the request's body is another.
    FlipRequest,
    /// The request is done, and its answer is lost.
    LoseAnswer,
    /// The answer's body comes in so many pieces, each once the one before was taken.
    Pieces(usize),
}

/// A proxy before an S3 server; it ends when dropped.
pub struct FaultProxy {
    /// `127.0.0.1:PORT`.
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    fault: Mutex<Option<(Fault, u64)>>,
    requests: AtomicU64,
    faults: AtomicU64,
    acknowledgements: Mutex<Option<u64>>,
    is_over: AtomicBool,
}

impl FaultProxy {
    /// A proxy without faults, plain or with TLS.
    pub fn start(upstream: &str, tls: Option<Arc<ServerConfig>>) -> FaultProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let address = listener.local_addr().expect("it listens").to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            fault: Mutex::new(None),
            requests: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            acknowledgements: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let taken = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if taken.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (shared, tls) = (taken.clone(), tls.clone());
                std::thread::spawn(move || shared.serve(client, tls));
            }
        });
        FaultProxy { address, shared }
    }

    /// From now on, each `every`th request has this fault.
    pub fn set(&self, fault: Option<Fault>, every: u64) {
        *self.shared.fault.lock().expect("no one panics with it") = fault.map(|f| (f, every));
    }

    /// Requests that had a fault.
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }

    /// Segments that came while an answer went out in pieces, once all of it was taken.
    pub fn acknowledgements(&self) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let taken = self.shared.acknowledgements.lock();
            if let Some(came) = *taken.expect("no one panics with it") {
                return came;
            }
            assert!(Instant::now() < deadline, "no answer was taken in pieces");
            std::thread::yield_now();
        }
    }

    /// Requests.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn serve(&self, client: TcpStream, tls: Option<Arc<ServerConfig>>) {
        let _ = client.set_nodelay(true);
        let Ok(socket) = client.try_clone() else {
            return;
        };
        match tls {
            None => self.exchange(client, &socket),
            Some(config) => {
                let Ok(connection) = ServerConnection::new(config) else {
                    return;
                };
                self.exchange(StreamOwned::new(connection, client), &socket);
            }
        }
    }

    /// Serves a connection until it ends.
    fn exchange(&self, mut client: impl std::io::Read + std::io::Write, socket: &TcpStream) {
        while let Ok(Some(mut request)) = read_request(&mut client) {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let fault = *self.fault.lock().expect("no one panics with it");
            let fault = fault
                .filter(|(_, every)| number.is_multiple_of(*every))
                .map(|(fault, _)| fault);
            self.faults
                .fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
            match fault {
                Some(Fault::Delay(time)) => std::thread::sleep(time),
                Some(Fault::Silence) => {
                    // Until the client gives up.
                    let _ = client.read(&mut [0]);
                    return;
                }
                Some(Fault::Reset) => return reset(socket),
                Some(Fault::Status(status, code)) => {
                    let answer = Message::error(status, code, request.is_head());
                    if answer.write(&mut client).is_err() {
                        return;
                    }
                    continue;
                }
                Some(Fault::FlipRequest) => request.flip(number),
                _ => {}
            }
            let Ok(mut answer) = self.forward(&request) else {
                return reset(socket);
            };
            match fault {
                Some(Fault::LoseAnswer) => return reset(socket),
                Some(Fault::Truncate) => {
                    let _ = answer.write_half(&mut client);
                    return;
                }
                Some(Fault::FlipAnswer) => answer.flip(number),
                Some(Fault::Pieces(count)) => {
                    let Ok(came) = pieces::write(&answer, count, &mut client, socket) else {
                        return;
                    };
                    let mut taken = self.acknowledgements.lock().expect("no one panics with it");
                    *taken = Some(came);
                    continue;
                }
                _ => {}
            }
            if answer.write(&mut client).is_err() {
                return;
            }
        }
    }

    fn forward(&self, request: &Message) -> std::io::Result<Message> {
        let mut server = TcpStream::connect(&self.upstream)?;
        request.write(&mut server)?;
        read_answer(&mut server, request.is_head())
    }
}

/// The end of the connection is a reset, not a farewell; it comes when the last descriptor is closed.
pub(crate) fn reset(socket: &TcpStream) {
    use std::os::fd::AsRawFd;
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the descriptor is open, and the option's value is the structure that it takes.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}
