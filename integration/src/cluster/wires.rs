//! The ways between the nodes that fail as a bad network makes TCP fail: what a node says to another one passes through a
//! relay of its own, which keeps it, or ends the connection in the middle of a frame.
//!
//! TCP hides from its users what is lost, doubled or out of order: they see pauses, uneven arrival, and connections that
//! break at any byte. That is what is made here. Packets themselves are dropped by [`super::Network`].

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::s3::reset;

/// Between two looks at the fault of a way, and at whether the cluster still is.
const LOOK: Duration = Duration::from_millis(5);

/// What is wrong with a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Each piece comes up to so many milliseconds late.
    Late(u64),
    /// Now and then nothing comes for up to so many milliseconds, and then all at once: as after losses.
    Jerky(u64),
    /// Nothing comes, and nothing ends.
    Silent,
    /// A few bytes at a time.
    Dripping,
    /// One byte a second, of what is not an answer.
    Trickling,
    /// Each connection is reset after at most so many bytes.
    Cut(u64),
    /// Of what is answered, one bit in at most so many bytes is wrong, though TCP's sums are right.
    Flipped(u64),
}

/// The relays of a cluster; they end when it is dropped.
pub struct Wires {
    /// By who speaks and who is spoken to.
    ways: BTreeMap<(u32, u32), Arc<Way>>,
}

struct Way {
    address: String,
    to: String,
    trouble: Mutex<Trouble>,
    random: Mutex<Random>,
    is_gone: AtomicBool,
}

impl Wires {
    /// Relays from each node to each other one, given by number and address.
    ///
    /// # Errors
    /// The system's.
    pub fn make(nodes: &[(u32, String)]) -> std::io::Result<Wires> {
        let mut ways = BTreeMap::new();
        for (from, _) in nodes {
            for (to, address) in nodes.iter().filter(|(to, _)| to != from) {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                listener.set_nonblocking(true)?;
                let way = Arc::new(Way {
                    address: listener.local_addr()?.to_string(),
                    to: address.clone(),
                    trouble: Mutex::new(Trouble::None),
                    random: Mutex::new(Random::new(u64::from(from * 256 + to))),
                    is_gone: AtomicBool::new(false),
                });
                ways.insert((*from, *to), way.clone());
                std::thread::spawn(move || way.accept(&listener));
            }
        }
        Ok(Wires { ways })
    }

    /// Where `from` reaches `to`.
    pub fn address(&self, from: u32, to: u32) -> Option<&str> {
        self.ways.get(&(from, to)).map(|way| &*way.address)
    }

    /// From now on the way from one node to another is like this.
    pub fn set(&self, from: u32, to: u32, trouble: Trouble) {
        if let Some(way) = self.ways.get(&(from, to)) {
            *way.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        }
    }

    /// All ways from and to a node are like this.
    pub fn set_around(&self, node: u32, trouble: Trouble) {
        for (from, to) in self.ways.keys().filter(|(a, b)| *a == node || *b == node) {
            self.set(*from, *to, trouble);
        }
    }

    /// All is well again.
    pub fn heal(&self) {
        for (from, to) in self.ways.keys() {
            self.set(*from, *to, Trouble::None);
        }
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for way in self.ways.values() {
            way.is_gone.store(true, Ordering::Relaxed);
        }
    }
}

impl Way {
    fn trouble(&self) -> Trouble {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the way is silent.
    fn loud_trouble(&self) -> Trouble {
        loop {
            match self.trouble() {
                Trouble::Silent if !self.is_gone() => std::thread::sleep(LOOK),
                trouble => return trouble,
            }
        }
    }

    fn below(&self, bound: u64) -> u64 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.below(bound.max(1))
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    fn accept(self: Arc<Way>, listener: &TcpListener) {
        while !self.is_gone() {
            match listener.accept() {
                Ok((speaker, _)) => self.clone().relay(speaker),
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Both directions of a connection, until either ends.
    fn relay(self: Arc<Way>, speaker: TcpStream) {
        let to = self.to.parse().expect("the address of a node");
        let Ok(listener) = TcpStream::connect_timeout(&to, Duration::from_secs(1)) else {
            return reset(&speaker);
        };
        for stream in [&speaker, &listener] {
            let prepared = stream
                .set_nonblocking(false)
                .and_then(|()| stream.set_nodelay(true))
                .and_then(|()| stream.set_read_timeout(Some(LOOK * 10)));
            if prepared.is_err() {
                return;
            }
        }
        let (Ok(back_from), Ok(back_to)) = (listener.try_clone(), speaker.try_clone()) else {
            return;
        };
        let other = self.clone();
        std::thread::spawn(move || self.carry(speaker, listener, false));
        std::thread::spawn(move || other.carry(back_from, back_to, true));
    }

    /// Waits for a second while the way is as slow as that.
    fn trickle(&self) {
        let until = Instant::now() + Duration::from_secs(1);
        while self.trouble() == Trouble::Trickling && Instant::now() < until && !self.is_gone() {
            std::thread::sleep(LOOK);
        }
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
        let mut buffer = [0; 16 << 10];
        let mut carried = 0;
        let mut cut_at = None;
        let mut flip_at = None;
        let mut is_cut = false;
        while !self.is_gone() {
            let room = match self.loud_trouble() {
                Trouble::Dripping => 16,
                Trouble::Trickling if !is_answer => 1,
                _ => buffer.len(),
            };
            let mut count = match from.read(&mut buffer[..room]) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if is_early(&error) => continue,
                Err(_) => break,
            };
            // It may have changed while nothing came.
            let trouble = self.loud_trouble();
            // A place that was chosen in an earlier trouble may be behind by now.
            if !matches!(trouble, Trouble::Cut(_)) {
                cut_at = None;
            }
            if !matches!(trouble, Trouble::Flipped(_)) {
                flip_at = None;
            }
            match trouble {
                Trouble::None | Trouble::Silent => {}
                Trouble::Trickling if is_answer => {}
                Trouble::Trickling => self.trickle(),
                Trouble::Dripping => std::thread::sleep(LOOK),
                Trouble::Late(millis) => {
                    std::thread::sleep(Duration::from_millis(self.below(millis)));
                }
                Trouble::Jerky(millis) => {
                    if self.below(8) == 0 {
                        std::thread::sleep(Duration::from_millis(self.below(millis)));
                    }
                }
                Trouble::Cut(within) => {
                    let cut_at = *cut_at.get_or_insert_with(|| carried + self.below(within));
                    if carried + count as u64 > cut_at {
                        count = (cut_at - carried) as usize;
                        let _ = to.write_all(&buffer[..count]);
                        reset(&from);
                        reset(&to);
                        is_cut = true;
                        break;
                    }
                }
                Trouble::Flipped(_) if !is_answer => {}
                Trouble::Flipped(within) => {
                    let at = *flip_at.get_or_insert_with(|| carried + self.below(within));
                    if carried + count as u64 > at {
                        buffer[(at - carried) as usize] ^= 1 << self.below(8);
                        flip_at = None;
                    }
                }
            }
            carried += count as u64;
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // The other direction has a copy of both descriptors: this ends it too, and the last one that goes resets.
        let how = if is_cut {
            Shutdown::Read
        } else {
            Shutdown::Both
        };
        for stream in [&from, &to] {
            let _ = stream.shutdown(how);
        }
    }
}

fn is_early(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo behind a relay.
    fn echo() -> (Wires, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut other = stream.try_clone().expect("a descriptor");
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut other));
            }
        });
        let wires = Wires::make(&[(1, "127.0.0.1:1".into()), (2, address)]).expect("free ports");
        let way = wires.address(1, 2).expect("made above");
        let stream = TcpStream::connect(way).expect("the relay listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a valid time");
        (wires, stream)
    }

    #[test]
    fn all_bytes_pass_in_order_whatever_the_trouble_that_ends_nothing() {
        for trouble in [
            Trouble::None,
            Trouble::Late(20),
            Trouble::Jerky(50),
            Trouble::Dripping,
        ] {
            let (wires, mut stream) = echo();
            wires.set(1, 2, trouble);
            let sent: Vec<u8> = (0..2000u32).map(|i| i as u8).collect();
            stream.write_all(&sent).expect("it is open");
            let mut got = vec![0; sent.len()];
            stream.read_exact(&mut got).expect("all comes back");
            assert!(got == sent, "{trouble:?}");
        }
    }

    #[test]
    fn what_is_silent_keeps_all_and_what_is_cut_ends() {
        let (wires, mut stream) = echo();
        wires.set(1, 2, Trouble::Silent);
        stream.write_all(b"x").expect("it is open");
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("a valid time");
        let early = stream.read(&mut [0]).expect_err("nothing comes");
        assert!(is_early(&early), "{early}");
        wires.heal();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a valid time");
        stream.read_exact(&mut [0]).expect("it comes");
        wires.set(1, 2, Trouble::Cut(1));
        let _ = stream.write_all(&[1; 1000]);
        let ended = stream.read(&mut [0; 2000]);
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}
