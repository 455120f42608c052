//! What a process costs, from /proc.

use std::net::SocketAddr;

/// A process at one moment; the first four count up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// User and system time, in microseconds.
    pub cpu_us: u64,
    pub context_switches: u64,
    /// Bytes that were handed to the disk.
    pub written_bytes: u64,
    pub resident_bytes: u64,
}

/// What happened between two samples.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub cpu_us: u64,
    pub context_switches: u64,
    pub written_bytes: u64,
    pub resident_bytes: u64,
    /// Grown by so much; less if it shrank.
    pub resident_growth: i64,
}

impl Sample {
    /// From the sample before to this one.
    pub fn since(&self, before: &Sample) -> Cost {
        Cost {
            cpu_us: self.cpu_us.saturating_sub(before.cpu_us),
            context_switches: self
                .context_switches
                .saturating_sub(before.context_switches),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
            resident_bytes: self.resident_bytes,
            resident_growth: self.resident_bytes as i64 - before.resident_bytes as i64,
        }
    }
}

fn text(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|l| l.starts_with(name)).unwrap_or("");
    let value = line.split_whitespace().nth(1).unwrap_or("");
    value.parse().unwrap_or(0)
}

impl Sample {
    /// Of two processes together.
    pub fn plus(self, other: Sample) -> Sample {
        Sample {
            cpu_us: self.cpu_us + other.cpu_us,
            context_switches: self.context_switches + other.context_switches,
            written_bytes: self.written_bytes + other.written_bytes,
            resident_bytes: self.resident_bytes + other.resident_bytes,
        }
    }
}

/// Looks at a process; `None` if it is gone.
pub fn sample(pid: u32) -> Option<Sample> {
    let stat = text(pid, "stat");
    // The name may hold spaces and parentheses; the numbers follow the last one.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let number = |at: usize| -> u64 {
        let field = rest.split_whitespace().nth(at).unwrap_or("");
        field.parse().unwrap_or(0)
    };
    let mut switches = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        switches += field(&status, "voluntary_ctxt_switches")
            + field(&status, "nonvoluntary_ctxt_switches");
    }
    // SAFETY: a call without pointers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    // A process that has ended and is not waited for yet has no threads.
    let resident_bytes = field(&text(pid, "status"), "VmRSS:") * 1024;
    (resident_bytes > 0).then_some(Sample {
        cpu_us: (number(11) + number(12)) * 1_000_000 / per_second,
        context_switches: switches,
        written_bytes: field(&text(pid, "io"), "write_bytes:"),
        resident_bytes,
    })
}

/// The process that listens on a port of this machine.
pub fn listener(address: SocketAddr) -> Option<u32> {
    let port = format!(":{:04X}", address.port());
    let mut sockets = Vec::new();
    for table in ["tcp", "tcp6"] {
        let table = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..]
                && local.ends_with(&port)
            {
                sockets.push(format!("socket:[{inode}]"));
            }
        }
    }
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        for fd in std::fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let link = std::fs::read_link(fd.path()).unwrap_or_default();
            if sockets.iter().any(|s| link.as_os_str() == s.as_str()) {
                return Some(pid);
            }
        }
    }
    None
}

/// What the scenarios need at most: a descriptor for each connection.
const DESCRIPTORS: u64 = 100_000;

/// Raises the limit of descriptors to what a run may need, or as far as the hard limit lets it.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointers are to structures of the right type.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let wanted = libc::rlimit {
            rlim_cur: DESCRIPTORS.max(limit.rlim_cur),
            rlim_max: DESCRIPTORS.max(limit.rlim_max),
        };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) != 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
