//! Ports, names, and the kernel's network settings.

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
    for peer in &config.peers {
        let found: Vec<IpAddr> = match peer.address.to_socket_addrs() {
            Ok(addresses) => addresses.map(|a| a.ip()).collect(),
            Err(error) => {
                lost.push(format!("{}: {error}", peer.address));
                continue;
            }
        };
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
