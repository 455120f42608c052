//! Which faults and rare paths a run came through. A path that the seeds of the gate never hit fails the gate.

/// All that a run may hit, in alphabetical order.
pub const PATHS: &[&str] = &[
    "a backup collected",
    "a backup shipped",
    "a bit flipped",
    "a bit of an object flipped at rest",
    "a checkpoint damaged",
    "a chunk cut at its stream's floor",
    "a collection of the backup cut short",
    "a copy of a damaged chunk",
    "a crash while a checkpoint is written",
    "a damaged chunk left out of a pack",
    "a damaged node joined anew",
    "a damaged node orders its replacement",
    "a damaged object written again",
    "a damaged object written again in part",
    "a damaged pack found",
    "a former leader hears nothing",
    "a leader besieged",
    "a leader cut off when it has asked",
    "a leader ends with an outage",
    "a leader ordered away while another node joins",
    "a link that flaps",
    "a list that has a deleted object",
    "a list that lacks an object",
    "a lost disk's replicas replaced",
    "a message by a link that is late",
    "a new directory lost",
    "a new directory not noted yet",
    "a new node joined",
    "a node added",
    "a node alone",
    "a node drained or not",
    "a node left broken",
    "a node left cut off",
    "a node refused at the door",
    "a node removed",
    "a node replaced",
    "a node taken back to the version before",
    "a node upgraded",
    "a node without its disk joined",
    "a pack damaged",
    "a pack mended",
    "a pack that nobody can mend",
    "a part of a checkpoint came with a flipped bit",
    "a rebuild waits for the others",
    "a removed node wiped",
    "a replaced node wiped",
    "a restart without a disk",
    "a sector of a checkpoint misread",
    "a sector of a checkpoint unreadable",
    "a sector of a pack misread",
    "a sector of a pack unreadable",
    "a sector of a segment misread",
    "a sector unreadable",
    "a segment cut",
    "a segment missing",
    "a segment of another store",
    "a stream followed",
    "a stream that has begun since",
    "a transfer breaks off",
    "a transfer goes on where it was",
    "a voter starts again at once",
    "a write misdirected",
    "a write of a checkpoint failed",
    "an append beside a disk that stands still",
    "an append beside a slow disk",
    "an object came cut",
    "an object came with a flipped bit",
    "an object cut at rest",
    "an object found sound again",
    "an object restored by hand",
    "an order refused",
    "an unreadable object counts with nothing in it",
    "another number of cores",
    "another refusal",
    "answer for a process that is gone",
    "answers to a leader are late",
    "append aimed at the end of a stream's time",
    "append out of its order",
    "bridge partition",
    "checkpoint fetched",
    "checkpoint installed",
    "checkpoint wanted",
    "checkpoint written",
    "client gave up",
    "clock drifts",
    "closed",
    "cold read",
    "cold read during an outage",
    "cold read of a deleted object",
    "cold read of several chunks at once",
    "conflicting entries replaced",
    "crash",
    "crash between effects",
    "damage found at the start",
    "damaged bytes are looked for",
    "damaged bytes are lost",
    "disk full",
    "disk lost",
    "fetch failed",
    "first leader by turn",
    "fork made",
    "fork stalls after its hold",
    "gone",
    "growth refused during an outage",
    "growth taken again after an outage",
    "hold looked into",
    "hold released at once",
    "inherited bytes",
    "intent without its object",
    "joint membership",
    "late order to take over",
    "leader changed",
    "leader deposed",
    "leader deposed while its pack is put",
    "leader ready",
    "leadership handed over",
    "learner",
    "let sleep",
    "link lost",
    "live read",
    "live readers told of an append",
    "lost answer of a deletion",
    "lost answer of a put",
    "lost answer of the store",
    "members learnt from another node",
    "membership settled",
    "message doubled",
    "message lost",
    "message overtook another",
    "no copy of a damaged chunk",
    "no room for a checkpoint",
    "no room for a segment",
    "no slots yet",
    "not found",
    "not the leader any more",
    "object deleted after its grace",
    "one-way partition",
    "operation lost with its node",
    "orphan reconciled",
    "outcome unknown",
    "overloaded",
    "pack found instead of put again",
    "pack published",
    "pack put",
    "pack rewritten",
    "partial read",
    "partition",
    "pause",
    "producer duplicate",
    "producer gap",
    "put that arrives late",
    "read after a round or a confirmation",
    "read at once",
    "read below the floor",
    "read of a pack",
    "refused after the end of faults",
    "release delivered",
    "request during an outage of the store",
    "request forwarded",
    "request not sent",
    "several crash at once",
    "slow disk",
    "slow disk of a leader",
    "source held",
    "stale epoch",
    "sync failed",
    "the bucket is gone",
    "the store asks to slow down",
    "the store denies",
    "the store fails",
    "the store is out",
    "the store is out for longer than a grace",
    "those who promised start again",
    "torn frame",
    "trimmed",
    "two segments exchanged",
    "unavailable",
    "unsynced records lost",
    "unsynced records stay",
    "wall clock jumped",
    "who joins reaches only leaders",
];

/// How often each path was hit.
#[derive(Debug, Clone)]
pub struct Coverage {
    counts: [u64; PATHS.len()],
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage {
            counts: [0; PATHS.len()],
        }
    }
}

impl Coverage {
    /// One more.
    pub fn hit(&mut self, path: &'static str) {
        let found = PATHS.binary_search(&path);
        let place = found.unwrap_or_else(|_| panic!("{path:?} is not in the list of paths"));
        self.counts[place] += 1;
    }

    /// How often a path was hit.
    pub fn count(&self, path: &str) -> u64 {
        let place = PATHS.binary_search(&path);
        place.map_or(0, |place| self.counts[place])
    }

    /// All that another run hit.
    pub fn add(&mut self, other: &Coverage) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// Each path and how often it was hit.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        PATHS.iter().copied().zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_sorted() {
        assert!(PATHS.is_sorted(), "they are looked up by halves");
    }
}
