//! Some seeds are aimed: at a node alone, and at what is rare among all others, so that the seeds of the gate come through it.

use crate::plan::Plan;
use crate::rng::Rng;

/// Of so many seeds, one is aimed at each of [`AIMS`].
const AIMED_OF: u64 = 50;

/// What is rare, and a plan that comes through it.
pub struct Aim {
    /// The path, as `coverage.rs` calls it.
    pub path: &'static str,
    /// So many seeds are looked at for it.
    pub within: u64,
    /// Changes of their plans, as `--set` has them.
    pub set: &'static str,
}

/// One disk at a time is slow, and nothing else disturbs.
pub const STALLS: &str = "stalls=1,link_trouble_us=0,fault_slow_disk=100,fault_us=5000000,loss=0,late=0,link_loss=0,crash_in_step=0,sync_error=0,drift=0,fault_crash=0,\
     fault_pause=0,fault_partition=0,fault_jump=0,fault_hand_over=0,fault_crash_many=0,fault_damage=0,fault_disk_lost=0,\
     fault_disk_full=0,fault_siege=0,reformat=0,upgrade=0,aim=0,operate_us=0,oust=0,newborn=0,cold=0,backup=0,nodes=3,spares=0,\
     groups=3,clients=6,delay_us=1000,sync_us=1000,think_us=200000,log_bytes_max=4194304,uncommitted_bytes_max=4194304";

/// All of them.
pub const AIMS: &[Aim] = &[
    // It is damaged while its node is cut off.
    Aim {
        path: "a pack that nobody can mend",
        within: 20,
        set: "damage_packs=1,fault_damage=300,fault_partition=300,fault_us=1000000,fault_crash=0,fault_crash_many=0,fault_disk_lost=0,reformat=0,\
     crash_in_step=0,fault_siege=0,fault_pause=0,operate_us=0,lasting=1,mortal=0,aim=0,cold=0,nodes=5",
    },
    // Streams are trimmed, and their bytes stay in packs of the nodes. Clocks are no more wrong than elsewhere with an object store.
    Aim {
        path: "a chunk cut at its stream's floor",
        within: 20,
        set: "fault_damage=300,fault_checkpoint=300,fault_us=300000,fault_crash=0,fault_crash_many=0,fault_partition=0,fault_disk_lost=0,\
     reformat=0,crash_in_step=0,fault_siege=0,operate_us=0,lasting=1,keep=1000000,mortal=0,aim=0,keys=1,cold=1,damage_packs=1,groups=1,\
     cold_pack_bytes=30000,cold_flush_age_ms=60000,cold_hot_bytes=0,store_us=1000,drift=5000,wall_offset_ms=5000",
    },
    Aim {
        path: "an append beside a disk that stands still",
        within: 5,
        set: STALLS,
    },
];

impl Plan {
    /// Some seeds have one node, which nobody helps.
    pub fn add_alone(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x616c_6f6e);
        if rng.below(20) == 0 && self.fault_siege == 0 {
            self.leave_alone();
        }
    }

    /// One node, to which none comes.
    pub fn leave_alone(&mut self) {
        (self.nodes, self.spares, self.operate_us) = (1, 0, 0);
        (self.oust, self.newborn, self.fault_siege) = (0, 0, 0);
    }

    /// The plan, or what it is aimed at.
    pub fn aimed(self) -> Plan {
        let drawn = Rng::new(self.seed ^ 0x6169_6d73).below(AIMED_OF);
        match AIMS.get(drawn as usize) {
            Some(aim) => self.with(aim.set).expect("they are a plan's"),
            None => self,
        }
    }
}
