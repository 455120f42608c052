//! How this core's groups are, for the operator and for the other nodes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use raftproto::peer::{CoreStatus, GroupStatus, ReplicaStatus};

use super::Core;
use super::message::CoreReport;
use super::room::Room;
use crate::group::{Group, Replica, node_of};
use crate::ops::metrics::{ColdPrices, Gauges, PeerGauges};
use crate::peer::{Link, PeerSettings};

/// Which cores did not answer; `None`: all did.
pub fn silent_cores(reports: &[Option<CoreReport>]) -> Option<String> {
    let silent = reports.iter().enumerate().filter(|(_, r)| r.is_none());
    let silent: Vec<String> = silent.map(|(core, _)| core.to_string()).collect();
    (!silent.is_empty()).then(|| format!("cores without an answer: {}\n", silent.join(", ")))
}

/// Each core for an operator at whichever node; `own` is the raft id of this node's replicas.
pub fn core_statuses(reports: &[Option<CoreReport>], own: u64) -> Vec<CoreStatus> {
    let statuses = reports.iter().enumerate().map(|(core, report)| {
        let core = core as u32;
        let Some(report) = report else {
            return CoreStatus {
                core,
                ..CoreStatus::default()
            };
        };
        let groups = &report.groups;
        CoreStatus {
            core,
            is_up: true,
            has_failed: report.failed,
            is_disk_full: report.disk_full,
            groups_led: groups.iter().filter(|g| g.leader == own).count() as u32,
            streams: groups.iter().map(|g| g.streams).sum(),
            hot_bytes: groups.iter().map(|g| g.hot_bytes).sum(),
            live_readers: report.live_readers,
            requests: report.snapshot.requests_total(),
            reactor_stalls: report.reactor_stalls,
        }
    });
    statuses.collect()
}

/// Why requests cannot be served; nothing if they can.
pub fn not_ready(reports: &[Option<CoreReport>]) -> Vec<String> {
    let mut reasons = Vec::new();
    if reports.iter().flatten().any(|r| r.is_stopping) {
        reasons.push("stopping".to_owned());
    }
    let mut standings = reports.iter().flatten().map(|r| &r.standing);
    reasons.extend(standings.find_map(Clone::clone));
    if reports.iter().flatten().any(|r| !r.has_slots) {
        reasons.push("the streams are not assigned to groups yet".to_owned());
    }
    for (core, report) in reports.iter().enumerate() {
        let groups = report.iter().flat_map(|r| &r.groups);
        for group in groups.filter(|g| !g.trouble.is_empty()) {
            let (group, trouble) = (group.group, &group.trouble);
            reasons.push(format!(
                "core {core}: group {group} takes no part: {trouble}"
            ));
        }
        match report {
            None => reasons.push(format!("core {core} does not answer")),
            Some(report) if report.failed => reasons.push(format!("core {core}: its WAL failed")),
            Some(report) if report.disk_full => {
                reasons.push(format!("core {core}: its disk is full"));
            }
            Some(report) if report.groups_waiting > 0 => {
                reasons.push(format!(
                    "core {core}: {} groups have no leader",
                    report.groups_waiting
                ));
            }
            Some(_) => {}
        }
    }
    reasons
}

impl Core {
    /// One group's state. Its hash takes time in proportion to the streams: only where someone asks for it.
    pub(super) fn group_status(&self, group: &Group, with_hash: bool) -> GroupStatus {
        GroupStatus {
            group: group.id(),
            leader: group.leader(),
            term: group.term(),
            applied: group.applied().index,
            commit: group.commit(),
            last_index: group.last_index(),
            membership: Some(group.membership()),
            state_hash: if with_hash { group.state_hash() } else { 0 },
            hot_bytes: group.hot_bytes(),
            streams: group.stream_count() as u64,
            replicas: group
                .replicas()
                .into_iter()
                .map(|r| ReplicaStatus {
                    raft_id: r.raft_id,
                    matched: r.matched,
                    is_active: r.is_active,
                    is_installing: r.is_installing,
                })
                .collect(),
            trouble: group.trouble().map(|t| t.to_string()).unwrap_or_default(),
        }
    }

    /// Sets the series about other nodes.
    pub(super) fn report_cluster(&self, groups: &BTreeMap<u32, Group>) {
        let plain = &self.metrics.plain;
        let count = |is_meant: &dyn Fn(&Group) -> bool| {
            groups.values().filter(|group| is_meant(group)).count() as u64
        };
        plain.groups.set(groups.len() as u64);
        plain.groups_leaderless.set(count(&|g| !g.has_leader()));
        plain.groups_led.set(count(&|g| g.is_ready()));
        plain.core_failed.set(u64::from(self.is_failed.get()));
        let now_us = self.clock.monotonic_us();
        let is_slow = self.pace.is_slow(now_us);
        plain.core_disk_slow.set(u64::from(is_slow));
        plain.core_disk_full.set(u64::from(self.room.is_full()));
        let led = || groups.values().filter(|g| g.is_ready() && !g.is_alone());
        let health: Vec<VoterHealth> = led().map(|g| self.voter_health(g)).collect();
        let under = health.iter().filter(|h| h.is_under_replicated).count();
        let at_risk = health.iter().filter(|h| h.is_at_risk).count();
        plain.groups_under_replicated.set(under as u64);
        plain.groups_at_risk.set(at_risk as u64);
        plain.groups_asleep.set(count(&|g| g.is_asleep()));
        plain
            .groups_in_trouble
            .set(count(&|g| g.trouble().is_some()));
        let links = self.links.borrow();
        let connected = links.values().filter(|l| l.is_up()).count();
        plain.peers_connected.set(connected as u64);
        let sum = |of: &dyn Fn(&Link) -> u64| links.values().map(|l| of(l)).sum::<u64>();
        plain.peer_queue_bytes.set(sum(&|l| l.queued_bytes()));
        plain
            .peer_sent_bytes_total
            .set(sum(&|l| l.stats().bytes_sent.get()));
        plain
            .peer_batches_total
            .set(sum(&|l| l.stats().batches_sent.get()));
    }

    /// How the voters of a group are that this core leads.
    fn voter_health(&self, group: &Group) -> VoterHealth {
        let replicas = group.replicas();
        let voters: Vec<_> = replicas.iter().filter(|r| r.is_voter).collect();
        // Who sleeps is not heard of; the link says for all groups at once that a node lives.
        let is_active = |r: &Replica| match group.is_asleep() {
            false => r.is_active,
            true => {
                let links = self.links.borrow();
                r.raft_id == group.raft_id()
                    || links.get(&node_of(r.raft_id)).is_some_and(|l| l.is_up())
            }
        };
        let active = voters.iter().filter(|r| is_active(r)).count();
        let is_behind = |r: &Replica| {
            let lag_us = self
                .lag
                .seconds_us(group.id(), r.raft_id, self.clock.monotonic_us());
            r.is_installing || lag_us > BEHIND_US
        };
        VoterHealth {
            is_under_replicated: active < voters.len() || voters.iter().any(|r| is_behind(r)),
            is_at_risk: voters.len() > 2 && active <= voters.len() / 2 + 1 && active < voters.len(),
        }
    }

    /// Sees how far the other replicas of led groups are. Called with each tick.
    pub(super) fn watch_lag(&self) {
        let now_us = self.clock.monotonic_us();
        let groups = self.groups.borrow();
        let awake = self.awake.borrow();
        let awake = awake.iter().filter_map(|id| groups.get(id));
        let led = awake.filter(|g| g.is_ready() && !g.is_alone());
        let replicas = led.flat_map(|group| {
            let (id, last, own) = (group.id(), group.last_index(), group.raft_id());
            let others = group.replicas().into_iter();
            let others = others.filter(move |r| r.raft_id != own);
            others.map(move |r| (id, r.raft_id, r.matched, last))
        });
        self.lag.look(now_us, replicas);
        self.lag.each(now_us, |raft_id, lag_us| {
            self.pace.note_lag(node_of(raft_id), lag_us, now_us);
        });
    }

    /// Sees how long the sync under way has taken. Called with each tick.
    pub(super) fn watch_disk(&self) {
        if self.room.get() == Room::None {
            // It waits for room, not for the disk.
            return;
        }
        if let Some(took_us) = self.pace.look(self.clock.monotonic_us()) {
            log::warn!(
                "event=disk_slow core={} a sync has taken {} ms and goes on: other nodes lead the groups of this core, where \
                 they can, until a minute after the last such sync",
                self.id,
                took_us / 1000
            );
        }
    }

    /// What is looked at only when it is asked for.
    pub(super) fn gauges(&self, groups: &BTreeMap<u32, Group>) -> Gauges {
        Gauges {
            saturation: self.saturation(groups),
            prices: ColdPrices {
                write_cents_per_million: self.config.s3_write_cents_per_million,
                read_cents_per_million: self.config.s3_read_cents_per_million,
            },
            peers: self.peer_gauges(groups),
        }
    }

    fn saturation(&self, groups: &BTreeMap<u32, Group>) -> Vec<(&'static str, f64)> {
        let config = &self.config;
        let ratio = |used: u64, max: u64| used as f64 / max.max(1) as f64;
        let waiting = self.waiting.borrow().len() + self.asked.borrow().len();
        let connections_max = config.connections_max.div_ceil(u64::from(self.cores));
        let links = self.links.borrow();
        let queued = links.values().map(|l| l.queued_bytes()).max().unwrap_or(0);
        let mesh = self.mesh.borrow();
        let plain = &self.metrics.plain;
        let peers = PeerSettings::default();
        let cache = self.tier.disk.as_ref();
        let fullest = |of: fn(&Group) -> f64| groups.values().map(of).fold(0.0, f64::max);
        vec![
            ("abandoned_forks_max", fullest(Group::abandoned_forks)),
            (
                "body_bytes_in_flight_max",
                ratio(self.body_bytes.get(), config.body_bytes_in_flight_max),
            ),
            (
                "cache_write_buffer",
                cache.map_or(0.0, |c| c.write_buffer()),
            ),
            (
                "connections_max",
                ratio(plain.connections.get(), connections_max),
            ),
            (
                "cold_behind_bytes_max",
                ratio(self.unflushed_bytes.get(), config.cold_behind_bytes_max),
            ),
            ("core_queue", mesh.as_ref().map_or(0.0, |m| m.fullest())),
            (
                "dr_log_bytes_max",
                ratio(self.shipping.pending_bytes(), config.dr_log_bytes_max),
            ),
            (
                "hot_bytes_max",
                ratio(self.hot_bytes.get(), config.hot_bytes_max),
            ),
            (
                "live_readers_max",
                ratio(self.hub.readers(), config.live_readers_max),
            ),
            (
                "peer_connections",
                ratio(plain.peer_connections.get(), peers.connections_max),
            ),
            ("peer_queue", ratio(queued, peers.queue_bytes_max)),
            (
                "requests_in_flight_max",
                ratio(waiting as u64, config.requests_in_flight_max),
            ),
            ("requests_without_leader", fullest(Group::held)),
            (
                "s3_requests_max",
                ratio(plain.cold_requests_in_flight.get(), config.s3_requests_max),
            ),
            ("streams", fullest(Group::streams_filled)),
            ("unconfirmed_holds_max", fullest(Group::unconfirmed_holds)),
            ("uncommitted_bytes_max", fullest(Group::uncommitted)),
        ]
    }

    fn peer_gauges(&self, groups: &BTreeMap<u32, Group>) -> Vec<PeerGauges> {
        let links = self.links.borrow();
        let offsets = self.clock_offsets.borrow();
        let mut peers: BTreeMap<u64, PeerGauges> = links
            .iter()
            .map(|(node, link)| {
                let gauges = PeerGauges {
                    node: *node,
                    is_up: link.is_up(),
                    clock_offset_ms: offsets.get(node).copied(),
                    ..PeerGauges::default()
                };
                (*node, gauges)
            })
            .collect();
        let now_us = self.clock.monotonic_us();
        for group in groups.values().filter(|g| g.is_ready() && !g.is_alone()) {
            let last = group.last_index();
            for replica in group.replicas() {
                if let Some(peer) = peers.get_mut(&node_of(replica.raft_id)) {
                    peer.lag_entries += last.saturating_sub(replica.matched);
                    peer.lag_bytes += group.log_bytes_after(replica.matched);
                    let lag_us = self.lag.seconds_us(group.id(), replica.raft_id, now_us);
                    peer.lag_us = peer.lag_us.max(lag_us);
                }
            }
        }
        peers.into_values().collect()
    }
}

struct VoterHealth {
    is_under_replicated: bool,
    is_at_risk: bool,
}

/// A replica that is so far behind does not count as one.
const BEHIND_US: u64 = 5_000_000;

/// Since when the other replicas of led groups lack something.
#[derive(Default)]
pub(super) struct Lag(RefCell<BTreeMap<(u32, u64), Level>>);

struct Level {
    /// The end of the log at some look.
    target: u64,
    /// When that was.
    since_us: u64,
}

impl Lag {
    fn look(&self, now_us: u64, replicas: impl Iterator<Item = (u32, u64, u64, u64)>) {
        let mut levels = self.0.borrow_mut();
        let mut seen = BTreeMap::new();
        for (group, raft_id, matched, last) in replicas {
            let level = match levels.remove(&(group, raft_id)) {
                Some(level) if matched < level.target => level,
                _ if matched >= last => continue,
                _ => Level {
                    target: last,
                    since_us: now_us,
                },
            };
            seen.insert((group, raft_id), level);
        }
        *levels = seen;
    }

    fn each(&self, now_us: u64, mut told: impl FnMut(u64, u64)) {
        for ((_, raft_id), level) in self.0.borrow().iter() {
            told(*raft_id, now_us.saturating_sub(level.since_us));
        }
    }

    fn seconds_us(&self, group: u32, raft_id: u64, now_us: u64) -> u64 {
        let levels = self.0.borrow();
        let level = levels.get(&(group, raft_id));
        level.map_or(0, |level| now_us.saturating_sub(level.since_us))
    }
}
