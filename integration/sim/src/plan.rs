//! What one seed means: the size of the world, its times, and how often which fault strikes.

use raftproto::version::{COMMANDS, LEVEL_FIRST};
use ursula::group::{RaftSettings, ReadMode};

use crate::rng::Rng;

macro_rules! plan {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// See the module's head. Chances are in parts of a million, times in microseconds unless named otherwise.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Plan {
            /// Of everything.
            pub seed: u64,
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Plan {
            /// All but the seed, by name: what `--set` changes.
            pub fn fields(&mut self) -> Vec<(&'static str, &mut u64)> {
                vec![$((stringify!($name), &mut self.$name),)*]
            }
        }
    };
}

plan! {
    /// Another history of the same plan.
    salt,
    /// Nodes, numbered from 1.
    nodes,
    /// Nodes more that may be added.
    spares,
    /// Groups, numbered from 1; group 0 is beside them.
    groups,
    /// Clients.
    clients,
    /// Streams' keys of each group.
    keys,
    /// 1: clients fork streams.
    forks,
    /// A delivery to another group begins so much later; 0: at once.
    deliver_us,
    /// Time passes for streams at each so many-th tick of Raft, as on a core with too much to do.
    time_ticks,
    /// How long faults strike.
    chaos_us,
    /// Between two operations of a client.
    think_us,
    /// A client rests after an operation, for up to [`Plan::rest_us`].
    rest,
    /// See [`Plan::rest`].
    rest_us,
    /// How long a client waits for an answer before it asks something else.
    patience_us,
    /// 1: linearizable reads are confirmed by rounds, not by a lease.
    read_index,
    /// See [`RaftSettings::log_bytes_max`].
    log_bytes_max,
    /// See [`RaftSettings::uncommitted_bytes_max`].
    uncommitted_bytes_max,
    /// Largest body of an append.
    body_max,
    /// A message of Raft is lost.
    loss,
    /// A message of Raft arrives twice.
    duplicate,
    /// A message is late by up to [`Plan::late_us`].
    late,
    /// See [`Plan::late`].
    late_us,
    /// Typical time of a message on its way.
    delay_us,
    /// Between two links that are late or flap; 0: none do.
    link_trouble_us,
    /// A forwarded request or reply is lost, or its link breaks.
    link_loss,
    /// Typical time of a sync.
    sync_us,
    /// A sync fails.
    sync_error,
    /// A step is cut off by a crash.
    crash_in_step,
    /// Mean time between two faults of the kinds that follow, each with its relative weight.
    fault_us,
    /// A node crashes.
    fault_crash,
    /// A node gets no time.
    fault_pause,
    /// Links are cut.
    fault_partition,
    /// A wall clock jumps.
    fault_jump,
    /// A disk is slow.
    fault_slow_disk,
    /// 1: of slow disks there is one at a time, and nothing is to disturb besides.
    stalls,
    /// A leader is told to hand over.
    fault_hand_over,
    /// A checkpoint is due.
    fault_checkpoint,
    /// Several nodes crash at once.
    fault_crash_many,
    /// 1: checkpoints come by time; 0: only when a group wants one.
    timed_checkpoints,
    /// A disk is damaged.
    fault_damage,
    /// 1: of what is on a disk, only packs are damaged.
    damage_packs,
    /// A disk is lost.
    fault_disk_lost,
    /// A disk is full.
    fault_disk_full,
    /// A leader is besieged.
    fault_siege,
    /// Of a million starts, so many find an empty disk.
    reformat,
    /// Between two looks of the operator; 0: there is none.
    operate_us,
    /// Who leads a group is ordered away just when a node was added or replaced.
    oust,
    /// A node that joined loses its disk soon after, while the leaders that it met do not hear it.
    newborn,
    /// A new stream's time is limited.
    mortal,
    /// A client appends again just when its stream's time is over.
    aim,
    /// 1: streams are seldom deleted or closed, so that they grow long.
    lasting,
    /// A new stream keeps only some of what it is given, where there is an object store.
    keep,
    /// An append names a `Stream-Seq`.
    ordered,
    /// What a siege aims at; 0: drawn each time, else as in [`crate::siege::Aim`].
    siege_aim,
    /// A rolling upgrade: 1: from version 2 of the commands to 3, 2: from 3 to 4; 0: all nodes are of the newest.
    upgrade,
    /// Between two steps of it.
    upgrade_us,
    /// 1: there is an object store, and streams are trimmed.
    cold,
    /// See [`ursula::group::ColdSettings::pack_bytes`].
    cold_pack_bytes,
    /// See [`ursula::group::ColdSettings::flush_age_ms`].
    cold_flush_age_ms,
    /// See [`ursula::group::ColdSettings::live_percent_min`].
    cold_live_percent,
    /// See [`ursula::group::ColdSettings::grace_ms`].
    cold_grace_ms,
    /// See [`ursula::group::ColdSettings::hot_bytes_target`].
    cold_hot_bytes,
    /// A node refuses to grow when the store lacks so many packs more than it has groups; 0: it never does.
    cold_behind,
    /// Typical time of a request on its way to the store, and of its answer.
    store_us,
    /// A request to the store fails.
    store_fails,
    /// The answer of a request that was done is lost.
    store_lost,
    /// A put is given up and arrives late.
    store_late,
    /// Bytes of the store are changed on their way.
    store_flip,
    /// Between two outages of the store; 0: there are none.
    store_out_us,
    /// Between two objects that are damaged where they lie; 0: none are.
    store_rot_us,
    /// 1: leaders ship a backup to the object store, and it is collected.
    backup,
    /// How long times of it are kept.
    backup_keep_ms,
    /// A list lacks an object of late, or has one that was deleted.
    list_odd,
    /// Largest drift of a clock.
    drift,
    /// Wall clocks differ by up to so many milliseconds.
    wall_offset_ms,
}

/// Where there is an object store, no clock drifts by more, but in a siege.
const DRIFT_MAX: u64 = 5_000;

/// Where there is an object store, no wall clock is wrong by more.
pub const WRONG_MS_MAX: u64 = 5_000;

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
        let (loss, duplicate, late) = (often(300_000), often(500_000), often(100_000));
        let (link_loss, crash_in_step) = (often(100_000), often(60) * often(20));
        let mut weight = || often(100);
        let mut plan = Plan {
            seed,
            loss,
            duplicate,
            late,
            link_loss,
            crash_in_step,
            fault_crash: weight(),
            fault_pause: weight(),
            fault_partition: weight(),
            fault_jump: weight(),
            fault_slow_disk: weight(),
            fault_hand_over: weight(),
            fault_checkpoint: weight(),
            fault_crash_many: weight(),
            fault_disk_full: weight(),
            fault_damage: weight() / 10,
            fault_disk_lost: weight() / 10,
            reformat: often(300_000),
            ..Plan::default()
        };
        plan.nodes = rng.pick(&[3, 3, 3, 5]);
        plan.spares = rng.pick(&[0, 1, 2]);
        plan.groups = rng.range(1, 3);
        plan.clients = rng.range(2, 6);
        plan.forks = rng.pick(&[0, 1, 1]);
        plan.keys = rng.range(1, 3);
        plan.chaos_us = rng.range(590, 620) * 1_000_000;
        plan.think_us = rng.pick(&[5_000, 50_000, 200_000]);
        plan.rest = rng.pick(&[1_000, 5_000, 20_000]);
        plan.rest_us = rng.pick(&[1_000_000, 5_000_000, 20_000_000]);
        plan.patience_us = rng.pick(&[20_000, 500_000, 60_000_000]);
        plan.read_index = rng.pick(&[0, 0, 1]);
        plan.log_bytes_max = rng.pick(&[300, 3_000, 30_000, 4 << 20]);
        plan.body_max = rng.pick(&[20, 200, 2_000]);
        plan.late_us = rng.pick(&[20_000, 500_000, 3_000_000]);
        plan.delay_us = rng.pick(&[100, 1_000, 10_000, 30_000]);
        plan.sync_us = rng.pick(&[100, 1_000, 10_000]);
        plan.sync_error = rng.pick(&[0, 0, 100, 1_000]);
        plan.fault_us = rng.pick(&[300_000, 1_000_000, 4_000_000, 15_000_000]);
        plan.operate_us = rng.pick(&[0, 1_000_000, 5_000_000, 20_000_000]);
        plan.drift = rng.range(0, 50_000);
        plan.wall_offset_ms = rng.pick(&[0, 5, 500, 60_000]);
        plan.timed_checkpoints = 1;
        plan.add_store();
        plan.add_backup();
        plan.add_ends();
        plan.add_lasting();
        plan.add_sieges();
        if plan.drift > DRIFT_MAX {
            plan.backup = 0;
        }
        plan.add_delays();
        plan.add_upgrade();
        plan.add_newborn();
        plan.uncommitted_bytes_max = match plan.log_bytes_max {
            300 => 2_000,
            _ => 4 << 20,
        };
        plan.add_alone();
        plan.add_links();
        plan.add_behind();
        plan.aimed()
    }

    /// In some seeds streams end all the time, and clients meet their ends; in some, disks are damaged again and again.
    fn add_ends(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x656e_6473);
        (self.mortal, self.aim) = match rng.below(4) {
            0 => (900_000, 600_000),
            _ => (200_000, 0),
        };
        if self.aim > 0 {
            self.clients = self.clients.min(3);
        }
        if rng.below(4) == 0 {
            self.fault_damage = 50;
            self.fault_crash = self.fault_crash.max(50);
        }
    }

    /// In some seeds streams stand for long and grow; in some, appends are to come in an order.
    fn add_lasting(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x6c61_7374);
        self.keep = 200_000;
        self.oust = rng.pick(&[0, 0, 300_000]);
        self.ordered = rng.pick(&[0, 100_000, 700_000]);
        self.lasting = u64::from(rng.below(4) == 0);
        if self.lasting > 0 {
            (self.mortal, self.aim) = (20_000, 0);
            self.keep = rng.pick(&[100_000, 900_000]);
            self.keys = rng.range(1, 2);
            self.body_max = self.body_max.min(200);
        }
    }

    /// What a core does beside its clients' work comes late in some seeds.
    fn add_delays(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x6c61_7465);
        self.deliver_us = rng.pick(&[0, 0, 300_000, 5_000_000]);
        self.time_ticks = rng.pick(&[5, 5, 5, 100, 600]);
    }

    /// In some seeds nodes are of two versions for a while.
    fn add_upgrade(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x7570_6772);
        self.upgrade = rng.pick(&[0, 0, 1, 2]);
        self.upgrade_us = rng.pick(&[5_000_000, 30_000_000]);
    }

    /// In some seeds, who has just joined is gone again.
    fn add_newborn(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x6e65_7762);
        self.newborn = rng.pick(&[0, 0, 0, 300_000]);
    }

    /// Version of commands that nodes apply at the beginning.
    pub fn version_first(&self) -> u32 {
        match self.upgrade {
            1 => 2,
            2 => COMMANDS - 1,
            _ => COMMANDS,
        }
    }

    /// And at the end.
    pub fn version_last(&self) -> u32 {
        match self.upgrade {
            1 => 3,
            _ => COMMANDS,
        }
    }

    /// What may be written before the log says more.
    pub fn level_first(&self) -> u32 {
        self.version_first().min(LEVEL_FIRST)
    }

    /// In some seeds leaders are besieged, and clients rest in between.
    fn add_sieges(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x7369_6567);
        if rng.below(8) != 0 {
            return;
        }
        self.fault_siege = 400;
        self.fault_us = rng.pick(&[4_000_000, 8_000_000]);
        self.groups = 1;
        self.clients = rng.range(4, 6);
        self.think_us = 200_000;
        self.body_max = 20;
        self.aim = 0;
        self.drift = rng.pick(&[0, 5_000, 50_000]);
        self.reformat = 0;
        if rng.below(2) == 0 {
            self.leave_only_sieges();
        }
    }

    /// Moments between two leaders are a matter of milliseconds: in half of the besieged seeds nothing else disturbs them.
    fn leave_only_sieges(&mut self) {
        (self.nodes, self.spares) = (3, 0);
        (self.delay_us, self.sync_us) = (100, 100);
        for chance in [
            &mut self.loss,
            &mut self.late,
            &mut self.link_loss,
            &mut self.crash_in_step,
            &mut self.sync_error,
            &mut self.read_index,
            &mut self.drift,
            &mut self.operate_us,
            &mut self.cold,
            &mut self.forks,
        ] {
            *chance = 0;
        }
        for weight in [
            &mut self.fault_crash,
            &mut self.fault_pause,
            &mut self.fault_partition,
            &mut self.fault_slow_disk,
            &mut self.fault_hand_over,
            &mut self.fault_crash_many,
            &mut self.fault_damage,
            &mut self.fault_disk_lost,
            &mut self.fault_disk_full,
        ] {
            *weight = 0;
        }
    }

    /// Half of the seeds have an object store. What they draw for it is drawn apart.
    fn add_store(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x636f_6c64);
        self.cold = rng.below(2);
        self.cold_pack_bytes = rng.pick(&[300, 3_000, 30_000]);
        self.cold_flush_age_ms = rng.pick(&[500, 3_000, 20_000]);
        self.cold_live_percent = rng.pick(&[0, 50, 90]);
        // Longer than anything is on its way to the store.
        self.cold_grace_ms = rng.pick(&[60_000, 90_000, 120_000]);
        self.cold_hot_bytes = rng.pick(&[0, 0, 1_000]);
        self.store_us = rng.pick(&[1_000, 30_000, 500_000]);
        let mut often = |most: u64| match rng.chance(300_000) {
            true => 0,
            false => rng.below(most),
        };
        self.store_fails = often(200_000);
        self.store_lost = often(200_000);
        self.store_late = often(200_000);
        self.store_flip = often(100_000);
        self.store_out_us = rng.pick(&[0, 60_000_000, 200_000_000]);
        self.store_rot_us = rng.pick(&[0, 0, 15_000_000, 60_000_000]);
        if self.cold > 0 {
            // A grace is long beside what clocks may be wrong by, and here it is short.
            self.drift = self.drift.min(DRIFT_MAX);
            self.wall_offset_ms = self.wall_offset_ms.min(WRONG_MS_MAX);
        }
    }

    /// In some of the seeds with an object store it holds a backup too. Twice the time that is kept is long beside what clocks are
    /// wrong by.
    fn add_backup(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x6261_636b);
        self.backup = u64::from(self.cold > 0 && rng.below(4) == 0);
        self.backup_keep_ms = rng.pick(&[40_000, 60_000]);
        self.list_odd = rng.pick(&[0, 100_000, 500_000]);
    }

    /// This plan with changes as `name=value,name=value`.
    ///
    /// # Errors
    /// What is not understood.
    pub fn with(mut self, changes: &str) -> Result<Plan, String> {
        for change in changes.split(',').filter(|c| !c.is_empty()) {
            let parsed = change.split_once('=');
            let parsed = parsed.and_then(|(name, value)| Some((name, value.parse().ok()?)));
            let (name, value) = parsed.ok_or(format!("{change:?} is not NAME=NUMBER"))?;
            let mut fields = self.fields();
            let field = fields.iter_mut().find(|(known, _)| *known == name);
            *field.ok_or(format!("a plan has no {name:?}"))?.1 = value;
        }
        Ok(self)
    }

    /// What [`Plan::with`] makes this plan of what the seed alone means.
    pub fn changes(&self) -> String {
        let (mut own, mut plain) = (self.clone(), Plan::of(self.seed));
        let pairs = own.fields().into_iter().zip(plain.fields());
        let changed = pairs.filter(|(own, plain)| own.1 != plain.1);
        let changed: Vec<_> = changed.map(|(o, _)| format!("{}={}", o.0, o.1)).collect();
        changed.join(",")
    }

    /// The weights of [`crate::faults`], in the order of their kinds.
    pub fn weights(&self) -> [u64; 12] {
        [
            self.fault_crash,
            self.fault_pause,
            self.fault_partition,
            self.fault_jump,
            self.fault_slow_disk,
            self.fault_hand_over,
            self.fault_checkpoint,
            self.fault_crash_many,
            self.fault_damage,
            self.fault_disk_lost,
            self.fault_disk_full,
            self.fault_siege,
        ]
    }

    /// The Raft settings of a process; every start draws other election time-outs.
    pub fn settings(&self, node: u64, life: u64) -> RaftSettings {
        RaftSettings {
            read_mode: match self.read_index {
                0 => ReadMode::Lease,
                _ => ReadMode::ReadIndex,
            },
            log_bytes_max: self.log_bytes_max,
            uncommitted_bytes_max: self.uncommitted_bytes_max,
            seed: self.seed ^ (node << 32) ^ (life << 40),
            level_first: self.level_first(),
            ..RaftSettings::default()
        }
    }
}
