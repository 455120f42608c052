//! An answer in pieces, and how many segments the other side sends meanwhile: whether it acknowledges each piece when it has
//! taken it, or hopes for something to send along. Looks at the kernel's tables, not at the time that anything takes.

use std::io::{Error, ErrorKind, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::message::Message;

/// Longest wait for a piece to be taken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Writes it, its body in `count` pieces at most, each once the one before was taken. Answers how many segments came.
pub(super) fn write(
    answer: &Message,
    count: usize,
    to: &mut impl Write,
    socket: &TcpStream,
) -> Result<u64> {
    to.write_all(&answer.head())?;
    to.flush()?;
    until_taken(socket)?;
    let before = segments_in(socket)?;
    for piece in answer.body.chunks(answer.body.len().div_ceil(count).max(1)) {
        to.write_all(piece)?;
        to.flush()?;
        until_taken(socket)?;
    }
    Ok(u64::from(segments_in(socket)?.wrapping_sub(before)))
}

/// Waits until the other side, which is on this machine, has taken all that came to it.
fn until_taken(socket: &TcpStream) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let place = format!(
        "{} {}",
        in_hex(socket.peer_addr()?)?,
        in_hex(socket.local_addr()?)?
    );
    loop {
        // "  sl  local_address rem_address   st tx_queue:rx_queue …"
        let table = std::fs::read_to_string("/proc/net/tcp")?;
        let line = table.lines().find_map(|line| line.split_once(&place));
        let (_, rest) = line.ok_or(ErrorKind::NotConnected)?;
        let waiting = rest.split_whitespace().nth(1);
        let waiting = waiting.and_then(|queues| queues.split_once(':'));
        if waiting.is_some_and(|(_, received)| received.bytes().all(|digit| digit == b'0')) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        std::thread::yield_now();
    }
}

/// As `/proc/net/tcp` writes it.
fn in_hex(address: SocketAddr) -> Result<String> {
    let SocketAddr::V4(address) = address else {
        return Err(ErrorKind::Unsupported.into());
    };
    let ip = u32::from_ne_bytes(address.ip().octets());
    Ok(format!("{ip:08X}:{:04X}", address.port()))
}

fn segments_in(socket: &TcpStream) -> Result<u32> {
    // SAFETY: all fields may be zero.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most as many bytes as the structure has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(info.tcpi_segs_in),
        _ => Err(Error::last_os_error()),
    }
}
