//! Many connections on one thread: epoll through mio, requests prepared by hand, so that the load costs little of
//! the machine that it shares with the server.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};
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
}

struct Connection {
    socket: TcpStream,
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
}

/// Longest wait without looking whether the scenario is done.
const GLANCE: Duration = Duration::from_millis(20);

impl Engine {
    /// Opens `count` connections, to the addresses in turn.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(addresses: &[SocketAddr], count: usize) -> std::io::Result<Engine> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(count);
        for number in 0..count {
            let address = addresses[number % addresses.len()];
            connections.push(open(&poll, address, number)?);
        }
        Ok(Engine {
            poll,
            addresses: addresses.to_vec(),
            connections,
            timers: BinaryHeap::new(),
            scratch: vec![0; 256 << 10],
        })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Drives a scenario until it is done.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&mut self, driver: &mut dyn Driver) -> std::io::Result<()> {
        let mut events = Events::with_capacity(1024);
        self.timers.clear();
        for number in 0..self.connections.len() {
            self.advance(number, driver)?;
        }
        while !driver.is_done(Instant::now()) {
            let now = Instant::now();
            let wait = self.timers.peek().map_or(GLANCE, |Reverse((at, _))| {
                at.saturating_duration_since(now).min(GLANCE)
            });
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error),
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
        Ok(())
    }

    fn advance(&mut self, number: usize, driver: &mut dyn Driver) -> std::io::Result<()> {
        let connection = &mut self.connections[number];
        if connection.is_busy {
            return Ok(());
        }
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

    fn write(&mut self, number: usize, driver: &mut dyn Driver) -> std::io::Result<()> {
        let connection = &mut self.connections[number];
        while connection.written < connection.out.len() {
            match connection
                .socket
                .write(&connection.out[connection.written..])
            {
                Ok(written) => connection.written += written,
                Err(e) if is_later(&e) => return Ok(()),
                Err(e) => return self.reopen(number, &e.to_string(), driver),
            }
        }
        Ok(())
    }

    fn read(&mut self, number: usize, driver: &mut dyn Driver) -> std::io::Result<()> {
        loop {
            let connection = &mut self.connections[number];
            let len = match connection.socket.read(&mut self.scratch) {
                Ok(0) => return self.reopen(number, "the server closed it", driver),
                Ok(len) => len,
                Err(e) if is_later(&e) => return Ok(()),
                Err(e) => return self.reopen(number, &e.to_string(), driver),
            };
            let now = Instant::now();
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
                return self.reopen(number, &reason, driver);
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

    fn reopen(
        &mut self,
        number: usize,
        reason: &str,
        driver: &mut dyn Driver,
    ) -> std::io::Result<()> {
        driver.lost(number, reason);
        self.connections[number] = open(
            &self.poll,
            self.addresses[number % self.addresses.len()],
            number,
        )?;
        // Not at once: a server that is away would be asked without end.
        let at = Instant::now() + GLANCE;
        self.timers.push(Reverse((at, number)));
        Ok(())
    }
}

fn is_later(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::NotConnected
    )
}

fn open(poll: &Poll, address: SocketAddr, number: usize) -> std::io::Result<Connection> {
    // Blocking, so that no more connections are under way than the server's backlog takes.
    let socket = std::net::TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let mut socket = TcpStream::from_std(socket);
    poll.registry().register(
        &mut socket,
        Token(number),
        Interest::READABLE | Interest::WRITABLE,
    )?;
    Ok(Connection {
        socket,
        reader: Reader::default(),
        out: Vec::new(),
        written: 0,
        is_busy: false,
        is_head: false,
    })
}
