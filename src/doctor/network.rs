//! Ports, names, and the kernel's network settings.

use std::ffi::CStr;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};

use super::{Findings, Scope, Severity, number};
use crate::config::{AdminListen, Config};

pub(super) fn check(config: &Config, scope: Scope, findings: &mut Findings) {
    let admin = match config.admin_listen {
        AdminListen::At(address) => Some(address),
        AdminListen::Auto | AdminListen::Off => None,
    };
    let ports = [
        ("net.listen", Some(config.listen)),
        ("net.admin_listen", admin),
        ("net.cluster_listen", config.cluster_listen),
    ];
    for (id, address) in ports.into_iter().filter(|_| !scope.is_the_node) {
        if let Some(address) = address {
            port(id, address, findings);
        }
    }
    names(config, findings);
    let backlog = number("/proc/sys/net/core/somaxconn").unwrap_or(0);
    findings.expect(
        "net.somaxconn",
        backlog >= 4096,
        Severity::Warn,
        (backlog.to_string(), "4096 or more"),
        "sysctl net.core.somaxconn=4096",
    );
    if let Some(slow) = number("/proc/sys/net/ipv4/tcp_slow_start_after_idle") {
        findings.expect(
            "net.slow_start",
            slow == 0,
            Severity::Warn,
            (slow.to_string(), "0"),
            "sysctl net.ipv4.tcp_slow_start_after_idle=0: an idle live reader gets its next event faster",
        );
    }
}

fn port(id: &'static str, address: SocketAddr, findings: &mut Findings) {
    let bound = TcpListener::bind(address);
    let current = match &bound {
        Ok(_) => format!("{address} is free"),
        Err(error) => format!("{address}: {error}"),
    };
    findings.expect(
        id,
        bound.is_ok(),
        Severity::Fatal,
        (current, "an own address with a free port"),
        "stop what listens there (ss -ltnp), or give another address; of a node that runs, ask it itself: ursula doctor --at",
    );
}

fn names(config: &Config, findings: &mut Findings) {
    let mut lost = Vec::new();
    let mut loops = Vec::new();
    let mut one_way = Vec::new();
    for peer in &config.peers {
        let found: Vec<SocketAddr> = match peer.address.to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                lost.push(format!("{}: {error}", peer.address));
                continue;
            }
        };
        one_way.extend(other_names(&peer.address, &found));
        let found: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
        if found.iter().any(IpAddr::is_loopback) {
            loops.push(peer.address.clone());
        }
    }
    if config.peers.is_empty() {
        return;
    }
    let all = config.peers.len();
    let current = match lost.is_empty() {
        true => format!("all {all} resolve"),
        false => lost.join("; "),
    };
    findings.expect(
        "net.names",
        lost.is_empty(),
        Severity::Fatal,
        (current, "each address in peers resolves"),
        "mend DNS or /etc/hosts, or give addresses",
    );
    findings.expect(
        "net.names_reverse",
        one_way.is_empty(),
        Severity::Warn,
        (
            if one_way.is_empty() {
                "agree".to_owned()
            } else {
                one_way.join("; ")
            },
            "the addresses of names in peers have these names",
        ),
        "make DNS or /etc/hosts agree both ways: logs and tools name nodes by their addresses",
    );
    let is_one_machine = loops.is_empty() || loops.len() == all;
    findings.expect(
        "net.names_loopback",
        is_one_machine,
        Severity::Fatal,
        (
            if loops.is_empty() { "none".to_owned() } else { loops.join(", ") },
            "no name in peers is the loopback here, or all are",
        ),
        "remove the line of 127.0.1.1 with this machine's name from /etc/hosts: the others would hear a wrong address",
    );
}

/// Addresses of a `name:port` that have no name, or another one. Of the name's first part only: a domain may be left out.
fn other_names(address: &str, found: &[SocketAddr]) -> Vec<String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    let first = |name: &str| name.split('.').next().map(str::to_ascii_lowercase);
    let wrong = found.iter().filter_map(|at| match name_of(*at) {
        None => Some(format!("{} of {host} has no name", at.ip())),
        Some(name) if first(&name) == first(host) => None,
        Some(name) => Some(format!("{} of {host} is called {name}", at.ip())),
    });
    wrong.collect()
}

/// What the system calls an address.
fn name_of(address: SocketAddr) -> Option<String> {
    let address = socket2::SockAddr::from(address);
    let mut name = [0; libc::NI_MAXHOST as usize];
    // SAFETY: an address with its length, a buffer with its length, and no buffer for the port.
    let result = unsafe {
        libc::getnameinfo(
            address.as_ptr().cast(),
            address.len(),
            name.as_mut_ptr(),
            name.len() as libc::socklen_t,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: filled by the call, with a zero at its end.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Some(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_both_ways() {
        let here: SocketAddr = "127.0.0.1:1".parse().unwrap();
        // Reserved for documents: nobody has a name there.
        let nobody: SocketAddr = "192.0.2.77:1".parse().unwrap();
        assert!(other_names("127.0.0.1:1", &[here]).is_empty());
        assert!(other_names("localhost:1", &[here]).is_empty());
        assert!(other_names("LOCALHOST.example:1", &[here]).is_empty());
        assert_eq!(
            other_names("a.example:1", &[here, nobody]),
            [
                "127.0.0.1 of a.example is called localhost",
                "192.0.2.77 of a.example has no name"
            ]
        );
    }
}
