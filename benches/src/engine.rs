//! Many connections on one thread: epoll through mio, requests prepared by hand, so that the load costs little of
//! the machine that it shares with the server.
//! A connection that breaks off is opened again; a server that is away or silent for long ends the run with an error.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::reply::{Event, Reader, Reply};

/// What a connection does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The request that was put.
    Send,
    /// As before, but its answer has no body (HEAD).
    SendHead,
    /// Ask again then.
    At(Instant),
    /// Nothing until another answer arrives on it.
    Idle,
}

/// A scenario as the engine sees it.
pub trait Driver {
    /// A connection is free: put a request or say what it waits for.
    fn next(&mut self, connection: usize, now: Instant, request: &mut Vec<u8>) -> Next;
    /// The first byte of an answer's body came.
    fn begun(&mut self, _connection: usize, _now: Instant) {}
    /// An answer came.
    fn reply(&mut self, connection: usize, reply: Reply<'_>, now: Instant);
    /// A part of an answer without end came; the first one is empty.
    fn part(&mut self, _connection: usize, _part: &[u8], _now: Instant) {}
    /// The connection broke off; what it waited for is lost. It is opened again.
    fn lost(&mut self, connection: usize, reason: &str);
    /// Nothing more is to be done.
    fn is_done(&self, now: Instant) -> bool;
    /// Whether a server may say nothing for as long as it likes.
    fn is_patient(&self) -> bool {
        false
    }
    /// How far it is, for who waits.
    fn progress(&self) -> Option<String> {
        None
    }
}

struct Connection {
    /// `None` while the server does not take it.
    socket: Option<TcpStream>,
    reader: Reader,
    out: Vec<u8>,
    written: usize,
    is_busy: bool,
    is_head: bool,
}

/// The connections to one server.
pub struct Engine {
    poll: Poll,
    addresses: Vec<SocketAddr>,
    connections: Vec<Connection>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    scratch: Vec<u8>,
    /// When something came last.
    heard: Instant,
    /// Since when a connection waits for a server that is away.
    away: Option<Instant>,
}

/// Longest wait without looking whether the scenario is done.
const GLANCE: Duration = Duration::from_millis(20);

/// Between attempts to reach a server that is away.
const RETRY: Duration = Duration::from_millis(100);

/// A server that takes no connection for so long does not come back.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// A server that says nothing for so long, though it was asked, will not.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// An attempt to connect.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Between lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

impl Engine {
    /// Opens `count` connections, to the addresses in turn.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(addresses: &[SocketAddr], count: usize) -> Result<Engine> {
        let mut engine = Engine::lazy(addresses, count)?;
        for number in 0..count {
            engine.connections[number].socket = Some(engine.open(number)?);
        }
        Ok(engine)
    }

    /// As many connections, each opened when it is used first: servers close those that say nothing for long.
    ///
    /// # Errors
    /// The system's.
    pub fn lazy(addresses: &[SocketAddr], count: usize) -> Result<Engine> {
        let connection = || Connection {
            socket: None,
            reader: Reader::default(),
            out: Vec::new(),
            written: 0,
            is_busy: false,
            is_head: false,
        };
        Ok(Engine {
            poll: Poll::new()?,
            addresses: addresses.to_vec(),
            connections: (0..count).map(|_| connection()).collect(),
            timers: BinaryHeap::new(),
            scratch: vec![0; 256 << 10],
            heard: Instant::now(),
            away: None,
        })
    }

    fn open(&self, number: usize) -> Result<TcpStream> {
        let address = self.addresses[number % self.addresses.len()];
        open(&self.poll, address, number).map_err(|e| {
            let advice = match is_limit(&e) {
                true => ", raise the limit with ulimit -n",
                false => "",
            };
            let (at, count) = (number + 1, self.connections.len());
            let text = format!("connection {at} of {count} to {address}: {e}{advice}");
            Error::new(
                if is_limit(&e) {
                    ErrorKind::Other
                } else {
                    e.kind()
                },
                text,
            )
        })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Drives a scenario until it is done.
    ///
    /// # Errors
    /// The system's, and that of a server which is away or silent for too long.
    pub fn run(&mut self, driver: &mut dyn Driver) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let began = Instant::now();
        (self.heard, self.away) = (began, None);
        let mut shown = began;
        self.timers.clear();
        for number in 0..self.connections.len() {
            self.advance(number, driver)?;
        }
        loop {
            let now = Instant::now();
            if driver.is_done(now) {
                return Ok(());
            }
            self.check_patience(driver, now)?;
            if now.duration_since(shown) >= PROGRESS {
                shown = now;
                if let Some(text) = driver.progress() {
                    eprintln!("  {:4.0} s: {text}", (now - began).as_secs_f64());
                }
            }
            let wait = self.timers.peek().map_or(GLANCE, |Reverse((at, _))| {
                at.saturating_duration_since(now).min(GLANCE)
            });
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                let number = event.token().0;
                if event.is_writable() {
                    self.write(number, driver)?;
                }
                if event.is_readable() {
                    self.read(number, driver)?;
                }
            }
            let now = Instant::now();
            while let Some(Reverse((at, number))) = self.timers.peek().copied() {
                if at > now {
                    break;
                }
                self.timers.pop();
                self.advance(number, driver)?;
            }
        }
    }

    fn check_patience(&self, driver: &dyn Driver, now: Instant) -> Result<()> {
        let silence = now.saturating_duration_since(self.heard);
        if silence < SILENCE_MAX || driver.is_patient() {
            return Ok(());
        }
        let waiting = self.connections.iter().filter(|c| c.is_busy).count();
        if waiting == 0 {
            return Ok(());
        }
        let text = format!("{waiting} requests were not answered in {SILENCE_MAX:?}");
        Err(Error::new(ErrorKind::TimedOut, text))
    }

    fn advance(&mut self, number: usize, driver: &mut dyn Driver) -> Result<()> {
        if self.connections[number].is_busy || !self.is_open(number)? {
            return Ok(());
        }
        let connection = &mut self.connections[number];
        connection.out.clear();
        connection.written = 0;
        let next = driver.next(number, Instant::now(), &mut connection.out);
        match next {
            Next::Idle => Ok(()),
            Next::At(at) => {
                self.timers.push(Reverse((at, number)));
                Ok(())
            }
            Next::Send | Next::SendHead => {
                connection.is_busy = true;
                connection.is_head = next == Next::SendHead;
                self.write(number, driver)
            }
        }
    }

    fn write(&mut self, number: usize, driver: &mut dyn Driver) -> Result<()> {
        let connection = &mut self.connections[number];
        let Some(socket) = &mut connection.socket else {
            return Ok(());
        };
        while connection.written < connection.out.len() {
            match socket.write(&connection.out[connection.written..]) {
                Ok(written) => connection.written += written,
                Err(e) if is_later(&e) => return Ok(()),
                Err(e) => return self.close(number, &e.to_string(), driver),
            }
        }
        Ok(())
    }

    fn read(&mut self, number: usize, driver: &mut dyn Driver) -> Result<()> {
        loop {
            let connection = &mut self.connections[number];
            let Some(socket) = &mut connection.socket else {
                return Ok(());
            };
            let len = match socket.read(&mut self.scratch) {
                Ok(0) => return self.close(number, "the server closed the connection", driver),
                Ok(len) => len,
                Err(e) if is_later(&e) => return Ok(()),
                Err(e) => return self.close(number, &e.to_string(), driver),
            };
            let now = Instant::now();
            self.heard = now;
            let mut is_free = false;
            let is_head = connection.is_head;
            let read = connection
                .reader
                .feed(&self.scratch[..len], is_head, &mut |event| match event {
                    Event::Reply(reply) => {
                        is_free = true;
                        driver.reply(number, reply, now);
                    }
                    Event::Begun => driver.begun(number, now),
                    Event::Part(part) => driver.part(number, part, now),
                });
            if let Err(reason) = read {
                return self.close(number, &format!("no HTTP: {reason}"), driver);
            }
            if is_free {
                connection.is_busy = false;
                self.advance(number, driver)?;
            }
            // Less than was asked for: the socket is empty, and epoll tells when it is not.
            if len < self.scratch.len() {
                return Ok(());
            }
        }
    }

    /// The connection is of no use any more; it is opened again in a while.
    fn close(&mut self, number: usize, reason: &str, driver: &mut dyn Driver) -> Result<()> {
        let connection = &mut self.connections[number];
        connection.socket = None;
        connection.reader = Reader::default();
        connection.out.clear();
        connection.written = 0;
        // A server may close a connection that waits for nothing.
        if std::mem::take(&mut connection.is_busy) {
            driver.lost(number, reason);
        }
        // Not at once: a server that is away would be asked without end.
        let at = Instant::now() + GLANCE;
        self.timers.push(Reverse((at, number)));
        Ok(())
    }

    /// Opens a connection that was closed; not yet, if the server is away.
    fn is_open(&mut self, number: usize) -> Result<bool> {
        if self.connections[number].socket.is_some() {
            return Ok(true);
        }
        match self.open(number) {
            Ok(socket) => {
                self.connections[number].socket = Some(socket);
                self.away = None;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Other => Err(error),
            Err(error) => {
                let now = Instant::now();
                let since = *self.away.get_or_insert(now);
                if now - since > AWAY_MAX {
                    let text = format!("it takes no connection for {AWAY_MAX:?}: {error}");
                    return Err(Error::new(error.kind(), text));
                }
                self.timers.push(Reverse((now + RETRY, number)));
                Ok(false)
            }
        }
    }
}

fn is_later(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::NotConnected
    )
}

/// Whether this process has too many descriptors.
fn is_limit(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::EMFILE)
}

fn open(poll: &Poll, address: SocketAddr, number: usize) -> Result<TcpStream> {
    // Blocking, so that no more connections are under way than the server's backlog takes.
    let socket = std::net::TcpStream::connect_timeout(&address, CONNECT_MAX)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let mut socket = TcpStream::from_std(socket);
    poll.registry().register(
        &mut socket,
        Token(number),
        Interest::READABLE | Interest::WRITABLE,
    )?;
    Ok(socket)
}
