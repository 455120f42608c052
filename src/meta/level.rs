//! Which version of commands a cluster writes: its level. It rises by one when every member can apply the next version, and
//! never falls; so a node of the version before never meets a command that it does not know. Pure.

use raftproto::command::RaiseLevel;

use super::Meta;
use crate::mutation;
use crate::protocol::Member;

impl Meta {
    /// The members that were asked are those that there are.
    pub(crate) fn rises_by(&self, raise: &RaiseLevel) -> bool {
        let members = self.members.iter().map(|m| m.raft_id);
        raise.level > self.level && members.eq(raise.members.iter().copied())
    }

    /// Answers whether it rose.
    pub(super) fn raise_level(&mut self, raise: &RaiseLevel) -> bool {
        let rises = self.rises_by(raise);
        if rises {
            self.level = raise.level;
        }
        rises
    }
}

/// The level that a cluster of these members, by raft id, can rise to; `None`: somebody cannot, or is not heard of.
/// `can` is the newest version that a member says it applies.
pub fn next(
    level: u32,
    members: impl IntoIterator<Item = u64>,
    can: impl Fn(u64) -> Option<u32>,
) -> Option<u32> {
    let next = level + 1;
    let all_can = members.into_iter().all(|raft_id| match can(raft_id) {
        Some(version) => version >= next,
        None => mutation::is_on("silent-member-can"),
    });
    all_can.then_some(next)
}

/// The command that raises the level, if these are still the members when it is applied.
pub fn raise(level: u32, members: &[Member]) -> RaiseLevel {
    RaiseLevel {
        level,
        members: members.iter().map(|m| m.raft_id).collect(),
    }
}

#[cfg(test)]
mod tests {
    use raftproto::command::command::Kind;

    use super::*;

    #[test]
    fn the_level_rises_when_every_member_can_and_is_heard_of() {
        let can = |known: [Option<u32>; 3]| move |raft_id: u64| known[raft_id as usize - 1];
        for (known, is_next) in [
            ([Some(4), Some(4), Some(4)], Some(4)),
            ([Some(4), Some(5), Some(4)], Some(4)),
            ([Some(4), Some(3), Some(4)], None),
            ([Some(4), None, Some(4)], None),
        ] {
            assert_eq!(next(3, [1, 2, 3], can(known)), is_next, "{known:?}");
        }
    }

    #[test]
    fn a_level_never_falls_and_counts_only_for_the_members_that_were_asked() {
        let mut meta = Meta::default();
        let mut raise = |level, members: &[u64]| {
            let members = members.to_vec();
            let raise = Kind::RaiseLevel(RaiseLevel { level, members });
            let has_changed = meta.apply(raise, level, 1).1;
            (has_changed, Meta::decode(&meta.encode()).tables().level)
        };
        assert_eq!(raise(4, &[1, 2]), (false, 0), "others are recorded");
        assert_eq!(raise(4, &[]), (true, 4));
        assert_eq!(raise(4, &[]), (false, 4));
        assert_eq!(raise(3, &[]), (false, 4));
    }
}
