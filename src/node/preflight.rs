//! What the system must allow, looked at before an executor needs it: glommio panics or says less.

/// The system does not allow what the server is built on; the text says which limit, and how to raise it.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// io_uring_setup(2) fails.
    #[error(
        "io_uring is denied here ({0}): set `sysctl kernel.io_uring_disabled=0`, allow io_uring_setup, \
         io_uring_enter and io_uring_register in the seccomp profile of the container, use Linux 5.8 or newer"
    )]
    IoUring(std::io::Error),
    /// RLIMIT_MEMLOCK is below what io_uring registers.
    #[error(
        "{limit} bytes of locked memory are allowed, io_uring needs at least {needed}: raise `ulimit -l` \
         (LimitMEMLOCK= in systemd, --ulimit memlock= in a container)"
    )]
    LockedMemory {
        /// Allowed, in bytes.
        limit: u64,
        /// Needed, in bytes.
        needed: u64,
    },
}

/// Bytes of locked memory without which glommio starts no executor.
const LOCKED_BYTES_MIN: u64 = 512 << 10;

/// Looks at locked memory and io_uring.
///
/// # Errors
/// [`Denied`].
pub(super) fn check() -> Result<(), Denied> {
    let (limit, _) = limit_of(libc::RLIMIT_MEMLOCK);
    if limit < LOCKED_BYTES_MIN {
        let needed = LOCKED_BYTES_MIN;
        return Err(Denied::LockedMemory { limit, needed });
    }
    has_io_uring().map_err(Denied::IoUring)
}

/// Makes a ring and gives it back.
///
/// # Errors
/// The system's.
pub fn has_io_uring() -> std::io::Result<()> {
    // struct io_uring_params is 120 bytes, all zero where nothing special is wanted.
    let mut parameters = [0u64; 15];
    // SAFETY: the pointer is to as many bytes as the kernel fills.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    if ring < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(ring as i32) };
    Ok(())
}

/// The soft and the hard limit; `u64::MAX`: none.
pub fn limit_of(resource: libc::__rlimit_resource_t) -> (u64, u64) {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the pointer is to a structure of the right type.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

/// Raises the soft limit of descriptors to the hard one; says if that is not enough.
pub(super) fn raise_descriptor_limit(connections_max: u64) {
    let (_, hard) = limit_of(libc::RLIMIT_NOFILE);
    let limit = libc::rlimit {
        rlim_cur: hard,
        rlim_max: hard,
    };
    // SAFETY: the pointer is to a structure of the right type.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if hard < connections_max + 256 {
        log::warn!(
            "event=descriptor_limit limit={hard} connections_max={connections_max} raise `ulimit -n` (LimitNOFILE= in systemd)"
        );
    }
}
