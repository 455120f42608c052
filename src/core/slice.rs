//! How an executor shares its CPU with other threads.
//!
//! Linux lets whoever runs go on until its slice is over, some milliseconds, unless the one that wakes asked for a shorter one
//! (since 6.12; older kernels take no notice of what is asked). A woken executor has a request or the end of a sync to see to, and
//! what stands in its way is a blocking thread in the middle of a chunk. A short slice also makes little of what it gives away when
//! it lets others go first (`net/poller.rs`). It changes nobody's share of the CPU.

use std::mem::size_of;

/// In nanoseconds, the shortest that the kernel takes.
const SLICE_NS: u64 = 100_000;

/// Gives the calling thread a short slice, and so the kernel's workers that sync for it, which inherit it. Where it is not allowed,
/// the executor runs all the same.
pub(super) fn shorten() {
    // SAFETY: all fields of it are numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes, which the struct has. 0 is the calling thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    // For a policy that an operator chose, it would mean something else.
    if got != 0 || attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return;
    }
    attributes.sched_runtime = SLICE_NS;
    // SAFETY: the kernel only reads the struct, as long as it says that it is.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set != 0 {
        let error = std::io::Error::last_os_error();
        log::debug!(
            "event=slice_not_set error={error:?}",
            error = error.to_string()
        );
    }
}
