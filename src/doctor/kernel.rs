//! The kernel, what it lets this process have, and its clock.

use super::{Findings, Severity, mib, number, read};
use crate::config::Config;
use crate::node::{has_io_uring, limit_of};

pub(super) fn check(config: &Config, findings: &mut Findings) {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = version(&release);
    findings.expect(
        "kernel.version",
        version >= (5, 8, 0),
        Severity::Fatal,
        (release.clone(), "5.8 or newer; 6.1 or newer is better"),
        "install a newer kernel",
    );
    findings.expect(
        "kernel.io_uring_bugs",
        !loses_rings(version),
        Severity::Warn,
        (
            release,
            "6.6.86, 6.12.21, 6.13.9, 6.14 or newer in these series",
        ),
        "update the kernel: this one can run out of memory for io_uring after some restarts",
    );
    let disabled = number("/proc/sys/kernel/io_uring_disabled").unwrap_or(0);
    let ring = has_io_uring();
    let current = match &ring {
        Ok(()) => format!("works; kernel.io_uring_disabled = {disabled}"),
        Err(error) => format!("denied ({error}); kernel.io_uring_disabled = {disabled}"),
    };
    findings.expect(
        "kernel.io_uring",
        ring.is_ok(),
        Severity::Fatal,
        (current, "io_uring_setup(2) is allowed"),
        "sysctl kernel.io_uring_disabled=0, and allow io_uring_* in the seccomp profile of the container",
    );
    limits(config, findings);
    clock(findings);
    let swap = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let has_swap = swap.lines().count() > 1;
    let swappiness = number("/proc/sys/vm/swappiness").unwrap_or(60);
    findings.expect(
        "memory.swap",
        !has_swap || swappiness <= 10,
        Severity::Warn,
        (
            format!(
                "swap {}, vm.swappiness = {swappiness}",
                if has_swap { "on" } else { "off" }
            ),
            "no swap, or vm.swappiness at most 10",
        ),
        "swapoff -a, or sysctl vm.swappiness=1: a core that waits for its own memory serves nobody",
    );
    // A kernel without it has no such file.
    let autogroup = number("/proc/sys/kernel/sched_autogroup_enabled").unwrap_or(0);
    findings.expect(
        "kernel.autogroup",
        autogroup == 0,
        Severity::Warn,
        (
            format!("kernel.sched_autogroup_enabled = {autogroup}"),
            "0",
        ),
        "sysctl kernel.sched_autogroup_enabled=0: where all CPUs are busy, the kernel's own work for the disk waits for milliseconds",
    );
    let huge = read("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    findings.expect(
        "memory.thp",
        !huge.contains("[always]"),
        Severity::Warn,
        (huge, "madvise or never"),
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    );
}

fn limits(config: &Config, findings: &mut Findings) {
    let (soft, _) = limit_of(libc::RLIMIT_MEMLOCK);
    // Three rings per core; see `io_memory`.
    let needed = 3 * config.io_memory * config.core_count * 2;
    // SAFETY: a call without arguments.
    let is_root = unsafe { libc::geteuid() } == 0;
    findings.expect(
        "limits.memlock",
        soft >= 512 << 10,
        Severity::Fatal,
        (mib(soft), "at least 512 KiB"),
        "LimitMEMLOCK=infinity in the unit, or ulimit -l",
    );
    findings.expect(
        "limits.memlock_rings",
        is_root || soft >= needed,
        Severity::Warn,
        (mib(soft), format!("{} for {} cores, or unlimited", mib(needed), config.core_count)),
        "LimitMEMLOCK=infinity in the unit, or a smaller io_memory: without, buffers are not registered",
    );
    let (_, hard) = limit_of(libc::RLIMIT_NOFILE);
    let wanted = config.connections_max + 256;
    findings.expect(
        "limits.nofile",
        hard >= wanted,
        Severity::Warn,
        (
            hard.to_string(),
            format!(
                "at least {wanted}, for connections_max = {}",
                config.connections_max
            ),
        ),
        "LimitNOFILE=1048576 in the unit, or ulimit -n, or a smaller connections_max",
    );
}

fn clock(findings: &mut Findings) {
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    if let Some(source) = source {
        let is_fast = [
            "tsc",
            "kvm-clock",
            "arch_sys_counter",
            "hyperv_clocksource_tsc_page",
        ];
        findings.expect(
            "clock.source",
            is_fast.contains(&source.as_str()),
            Severity::Warn,
            (source, "tsc, or the hypervisor's own"),
            "see why the kernel distrusts the TSC (dmesg); each look at this clock is a system call",
        );
    }
    // SAFETY: an all-zero structure asks and sets nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a structure of the right type.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    if result < 0 {
        // Within a unit with ProtectClock= the kernel does not say.
        return;
    }
    let is_synced = state.status & libc::STA_UNSYNC == 0;
    let current = match is_synced {
        true => format!("synchronised, estimated error {} us", state.esterror),
        false => "not synchronised".to_owned(),
    };
    findings.expect(
        "clock.sync",
        is_synced,
        Severity::Warn,
        (current, "synchronised"),
        "run chrony or systemd-timesyncd: expiry follows the leader's clock",
    );
}

fn version(release: &str) -> (u32, u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

fn loses_rings((major, minor, patch): (u32, u32, u32)) -> bool {
    matches!(
        (major, minor, patch),
        (6, 6, 0..86) | (6, 7..=11, _) | (6, 12, 0..21) | (6, 13, 0..9)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_in_every_spelling() {
        for (text, wanted) in [
            ("6.1.0-18-amd64", (6, 1, 0)),
            ("5.14.0-427.el9.x86_64", (5, 14, 0)),
            ("6.12.20", (6, 12, 20)),
            ("6.18", (6, 18, 0)),
        ] {
            assert_eq!(version(text), wanted);
        }
        assert!(loses_rings((6, 12, 20)) && !loses_rings((6, 12, 21)) && !loses_rings((6, 18, 0)));
    }
}
