//! Ports that stay ours while a node is down.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A port of 127.0.0.1, bound and not listened on: the system gives it to nobody else, but a server, which sets
/// SO_REUSEADDR as this does, may listen on it.
pub struct Port {
    /// Its number.
    pub number: u16,
    _socket: OwnedFd,
}

impl Port {
    /// Takes a free one.
    ///
    /// # Errors
    /// The system's.
    pub fn reserve() -> io::Result<Port> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let one: libc::c_int = 1;
        // SAFETY: the pointer and the size are those of `one`.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_REUSEADDR,
                (&raw const one).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        // SAFETY: all zeros is a valid address.
        let mut address: libc::sockaddr_in = unsafe { zeroed() };
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let mut size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        // SAFETY: the pointer and the size are those of `address`.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
        // SAFETY: the same; the system writes no more than `size`.
        let named = unsafe {
            libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut size)
        };
        if set != 0 || bound != 0 || named != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Port {
            number: u16::from_be(address.sin_port),
            _socket: socket,
        })
    }
}
