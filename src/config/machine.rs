//! Settings whose defaults come from the machine: its CPUs and its memory.

use super::value::{bytes, within};

pub(super) fn cores(text: &str) -> Option<u64> {
    match text {
        "auto" => Some(allowed_cpus().len().clamp(1, 64) as u64),
        number => within(number.parse().ok(), 1, 64),
    }
}

/// A share of the machine's memory for each core.
pub(super) fn hot_bytes(text: &str) -> Option<u64> {
    match text {
        "auto" => {
            let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
            let line = memory
                .lines()
                .find(|l| l.starts_with("MemTotal:"))
                .unwrap_or("");
            let kib: u64 = line
                .split_whitespace()
                .nth(1)
                .and_then(|n| n.parse().ok())
                .unwrap_or(1 << 20);
            let cores = allowed_cpus().len().max(1) as u64;
            Some((kib * 1024 / 4 / cores).max(64 << 20))
        }
        text => within(bytes(text), 1 << 20, 1 << 42),
    }
}

/// A quarter of what is hot at most.
pub(super) fn hot_bytes_kept(text: &str) -> Option<u64> {
    match text {
        "auto" => hot_bytes(text).map(|max| max / 4),
        text => bytes(text),
    }
}

/// The CPUs that this process may run on.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero set is a valid value of this plain structure.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the size are those of the set above.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return vec![0];
    }
    // SAFETY: every index is below the number of bits of the set.
    (0..libc::CPU_SETSIZE as usize)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect()
}
