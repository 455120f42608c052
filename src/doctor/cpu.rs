//! CPUs and memory.

use super::{Findings, Severity, mib, read};
use crate::config::{Config, allowed_cpus};

pub(super) fn check(config: &Config, findings: &mut Findings) {
    let cpus = allowed_cpus().len() as u64;
    findings.expect(
        "cpu.count",
        config.core_count <= cpus,
        Severity::Warn,
        (
            format!("{} cores on {cpus} CPUs", config.core_count),
            "a CPU for each core",
        ),
        "a smaller core_count, or more CPUs in AllowedCPUs=",
    );
    let governors: Vec<String> = allowed_cpus()
        .into_iter()
        .filter_map(|cpu| {
            read(&format!(
                "/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"
            ))
        })
        .collect();
    if let Some(first) = governors.first() {
        findings.expect(
            "cpu.governor",
            governors.iter().all(|g| g == "performance"),
            Severity::Warn,
            (first.clone(), "performance"),
            "cpupower frequency-set -g performance",
        );
    }
    if let Some(quota) = cgroup_quota() {
        findings.expect(
            "cpu.quota",
            quota.starts_with("max"),
            Severity::Warn,
            (quota, "max: no quota"),
            "no CPUQuota=: at the quota all cores stop at once; give CPUs with AllowedCPUs= instead",
        );
    }
    let total = memory_bytes();
    let per_core = total / config.core_count.max(1);
    findings.expect(
        "memory.per_core",
        per_core >= 1 << 30,
        Severity::Warn,
        (mib(per_core), "1 GiB of memory for each core"),
        "fewer cores, or more memory",
    );
    let hot = config.hot_bytes_max.saturating_mul(config.core_count);
    findings.expect(
        "memory.hot_bytes",
        hot <= total / 4 * 3,
        Severity::Warn,
        (format!("hot_bytes_max takes {} of {}", mib(hot), mib(total)), "three quarters of the memory at most"),
        "a smaller hot_bytes_max, which is per core: else the kernel ends the process before that bound",
    );
}

/// Of the group that this process is in, where cgroup 2 is used.
fn cgroup_quota() -> Option<String> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|l| l.strip_prefix("0::"))?;
    read(&format!("/sys/fs/cgroup{path}/cpu.max"))
}

fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("MemTotal:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
