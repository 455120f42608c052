//! What one seed means: the size of the world, its times, and how often which fault strikes.

use ursula::group::{ColdSettings, RaftSettings, ReadMode};

use crate::rng::Rng;

/// See the module's head. Chances are in parts of a million.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Of everything.
    pub seed: u64,
    /// Nodes, numbered from 1.
    pub nodes: u64,
    /// Groups, numbered from 1.
    pub groups: u32,
    /// Clients.
    pub clients: usize,
    /// Streams' keys of each group.
    pub keys: u64,
    /// How long faults strike, in microseconds.
    pub chaos_us: u64,
    /// Between two operations of a client.
    pub think_us: u64,
    /// How long a client waits for an answer before it asks something else.
    pub patience_us: u64,
    /// How linearizable reads are confirmed.
    pub read_mode: ReadMode,
    /// See [`RaftSettings::log_bytes_max`].
    pub log_bytes_max: u64,
    /// Largest body of an append.
    pub body_max: u64,
    /// A message of Raft is lost.
    pub loss: u64,
    /// A message of Raft arrives twice.
    pub duplicate: u64,
    /// A message is late by up to [`Plan::late_us`].
    pub late: u64,
    /// See [`Plan::late`].
    pub late_us: u64,
    /// Typical time of a message on its way.
    pub delay_us: u64,
    /// A forwarded request or reply is lost, or its link breaks.
    pub link_loss: u64,
    /// Typical time of a sync.
    pub sync_us: u64,
    /// A step is cut off by a crash.
    pub crash_in_step: u64,
    /// Mean time between two faults of all other kinds.
    pub fault_us: u64,
    /// Relative weights of the faults, as in [`crate::faults`].
    pub weights: [u64; 8],
    /// Largest drift of a clock.
    pub drift: u64,
    /// Wall clocks differ by up to so much.
    pub wall_offset_ms: u64,
    /// When groups flush to the object store, if there is one.
    pub cold: Option<ColdSettings>,
}

impl Plan {
    /// What this seed means.
    pub fn of(seed: u64) -> Plan {
        let rng = &mut Rng::new(seed ^ 0x706c_616e);
        let calm = rng.chance(100_000);
        let mut often = |most: u64| {
            if calm || rng.chance(300_000) {
                0
            } else {
                rng.range(0, most)
            }
        };
        let (loss, duplicate, late) = (often(200_000), often(200_000), often(100_000));
        let (link_loss, crash_in_step) = (often(100_000), often(60) * often(20));
        let weights = std::array::from_fn(|_| often(100));
        Plan {
            seed,
            nodes: rng.pick(&[3, 3, 3, 5]),
            groups: rng.range(1, 3) as u32,
            clients: rng.range(2, 6) as usize,
            keys: rng.range(1, 3),
            chaos_us: rng.range(15, 45) * 1_000_000,
            think_us: rng.pick(&[2_000, 20_000, 100_000]),
            patience_us: rng.pick(&[20_000, 500_000, 60_000_000]),
            read_mode: rng.pick(&[ReadMode::Lease, ReadMode::Lease, ReadMode::ReadIndex]),
            log_bytes_max: rng.pick(&[300, 3_000, 30_000, 4 << 20]),
            body_max: rng.pick(&[20, 200, 2_000]),
            loss,
            duplicate,
            late,
            late_us: rng.pick(&[20_000, 500_000, 3_000_000]),
            delay_us: rng.pick(&[100, 1_000, 10_000, 30_000]),
            link_loss,
            sync_us: rng.pick(&[100, 1_000, 10_000]),
            crash_in_step,
            fault_us: rng.pick(&[300_000, 1_000_000, 4_000_000]),
            weights,
            drift: rng.range(0, 50_000),
            wall_offset_ms: rng.pick(&[0, 5, 500, 60_000]),
            cold: cold(seed),
        }
    }

    /// The Raft settings of a process; every start draws other election time-outs.
    pub fn settings(&self, node: u64, life: u64) -> RaftSettings {
        RaftSettings {
            read_mode: self.read_mode,
            log_bytes_max: self.log_bytes_max,
            seed: self.seed ^ (node << 32) ^ (life << 40),
            ..RaftSettings::default()
        }
    }
}

/// Drawn apart, so that all else is what it was before there was a store.
fn cold(seed: u64) -> Option<ColdSettings> {
    let rng = &mut Rng::new(seed ^ 0x636f_6c64);
    rng.chance(600_000).then(|| ColdSettings {
        pack_bytes: rng.pick(&[100, 1_000, 30_000]),
        flush_age_ms: rng.pick(&[50, 500, 5_000]),
        live_percent_min: rng.pick(&[0, 50, 100]),
        grace_ms: rng.pick(&[500, 5_000, 20_000]),
        hot_bytes_target: rng.pick(&[0, 100, 1 << 30]),
    })
}
