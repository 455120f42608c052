//! Changes of plans that several deliberate bugs are looked for with.

/// Nothing strikes but what is said besides.
macro_rules! calm {
    () => {
        "loss=0,late=0,link_loss=0,crash_in_step=0,sync_error=0,drift=0,fault_crash=0,fault_pause=0,fault_partition=0,\
         fault_slow_disk=0,fault_hand_over=0,fault_crash_many=0,fault_damage=0,fault_disk_lost=0,fault_disk_full=0,\
         reformat=0,upgrade=0,aim=0,link_trouble_us=0"
    };
}

/// Leaders of one group are besieged all the time, and nothing else disturbs.
macro_rules! sieges {
    () => {
        concat!(
            calm!(),
            ",fault_siege=400,fault_us=4000000,groups=1,clients=5,think_us=200000,body_max=20,nodes=3,spares=0,\
             delay_us=100,sync_us=100,read_index=0,operate_us=0,cold=0,forks=0,mortal=0"
        )
    };
}

/// Objects of long streams are damaged all the time, and nothing else disturbs.
macro_rules! rot {
    () => {
        concat!(
            calm!(),
            ",cold=1,store_rot_us=3000000,store_out_us=0,store_fails=0,store_lost=0,store_late=0,store_flip=0,store_us=1000,\
             cold_flush_age_ms=500,cold_grace_ms=60000,operate_us=0,spares=0,fault_siege=0,mortal=0,lasting=1,\
             chaos_us=60000000,think_us=50000,groups=1,nodes=3,read_index=0"
        )
    };
}
