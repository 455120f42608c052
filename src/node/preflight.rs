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
    let limit = limit_of(libc::RLIMIT_MEMLOCK).map_or(u64::MAX, |l| l.rlim_cur);
    if limit < LOCKED_BYTES_MIN {
        let needed = LOCKED_BYTES_MIN;
        return Err(Denied::LockedMemory { limit, needed });
    }
    // struct io_uring_params is 120 bytes, all zero where nothing special is wanted.
    let mut parameters = [0u64; 15];
    // SAFETY: the pointer is to as many bytes as the kernel fills.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    if ring < 0 {
        return Err(Denied::IoUring(std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(ring as i32) };
    Ok(())
}

fn limit_of(resource: libc::__rlimit_resource_t) -> Option<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a structure of the right type.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    (result == 0).then_some(limit)
}

/// Raises the soft limit of descriptors to the hard one; says if that is not enough.
pub(super) fn raise_descriptor_limit(connections_max: u64) {
    let Some(mut limit) = limit_of(libc::RLIMIT_NOFILE) else {
        return;
    };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a structure of the right type.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if limit.rlim_max < connections_max + 256 {
        log::warn!(
            "event=descriptor_limit limit={} connections_max={connections_max} raise `ulimit -n` (LimitNOFILE= in systemd)",
            limit.rlim_max
        );
    }
}
