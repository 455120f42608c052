//! Whose word counts: which node is listened to, and which data directory its replicas have. Pure; the shell keeps what is
//! [`Bound`] on disk before anything that the node says counts.

use std::collections::BTreeMap;

use raftproto::peer::Hello;

use crate::mutation;

/// What a node knows of one that introduces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The raft id of its replicas, by the newest members known here; `None`: it is no member.
    pub raft_id: Option<u64>,
    /// The replica that it speaks for is a member of a group that lives here.
    pub is_in_a_group: bool,
    /// The member list here may be old: [`may_be_behind`].
    pub may_be_behind: bool,
    /// Commands up to this version may be in the logs.
    pub level: u32,
}

/// Whether the member list of a node may be old: it knows no leader of the meta group, or the list does not name its own replicas.
/// The latter is a node that joins and has not applied the meta group's log: having heard a leader once is not having learnt from
/// it who the others are, and the leader itself must be heard again when it has started anew.
pub fn may_be_behind(meta_leader: u64, own_raft_id: u64, listed: Option<u64>) -> bool {
    meta_leader == 0 || listed != Some(own_raft_id)
}

/// Says whether a node may speak for its replicas.
///
/// # Errors
/// Why not, and what an operator can do.
pub fn admit(hello: &Hello, known: Known) -> Result<(), String> {
    if hello.raft_id == 0 {
        // It only asks what its replicas are to be called.
        return Err(format!(
            "node {} is about to join: it has no replicas yet",
            hello.node_id
        ));
    }
    if hello.commands_version < known.level {
        return Err(format!(
            "node {} applies commands up to version {}, and this cluster writes version {}: start a newer ursula there",
            hello.node_id, hello.commands_version, known.level
        ));
    }
    match known.raft_id {
        None if known.is_in_a_group || known.may_be_behind => Ok(()),
        None => Err(format!(
            "node {} is not a member: `ursula cluster add` it first",
            hello.node_id
        )),
        // As long as a group counts on its vote, it is heard: an order that replaces a sound node while others are away
        // would else leave groups without a majority for ever.
        Some(raft_id) if hello.raft_id < raft_id && !known.is_in_a_group => Err(format!(
            "node {} was replaced, or removed and added again: what is on its disk is not a member any more. Stop it, move \
             its --wal-dir away and start it with an empty one, so that it joins as a new replica",
            hello.node_id
        )),
        Some(_) => Ok(()),
    }
}

/// Which data directory each replica has, of all that ever introduced themselves: the lines of a file, `RAFT_ID STORE_ID`.
/// Without a store id: others have met it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Bound(BTreeMap<u64, String>);

impl Bound {
    /// From the file's text.
    pub fn parse(text: &str) -> Bound {
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let known = lines.filter_map(|(id, store)| Some((id.parse().ok()?, store.to_owned())));
        Bound(known.collect())
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let lines = self.0.iter().map(|(id, store)| format!("{id} {store}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The raft ids.
    pub fn raft_ids(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }

    /// Notes that these replicas have data directories, as others say; answers whether some are new here.
    pub fn note(&mut self, raft_ids: impl IntoIterator<Item = u64>) -> bool {
        let before = self.0.len();
        for raft_id in raft_ids {
            self.0.entry(raft_id).or_default();
        }
        self.0.len() > before
    }

    /// Notes which data directory a replica has; answers whether that is new, and must reach the disk first.
    ///
    /// # Errors
    /// The replica has another directory than before: it lost its log, and with it the votes and entries that others count
    /// on (Raft, section 5.2).
    pub fn bind(&mut self, hello: &Hello) -> Result<bool, String> {
        let store: String = hello.store_id.iter().map(|b| format!("{b:02x}")).collect();
        match self.0.get(&hello.raft_id) {
            Some(known) if *known == store || mutation::is_on("wiped-disk-votes") => Ok(false),
            Some(known) if !known.is_empty() => Err(format!(
                "node {} has another data directory than before, so it may have lost what it acknowledged: \
                 bring its disk back, or give it up with `ursula cluster replace {}`",
                hello.node_id, hello.node_id
            )),
            _ => {
                self.0.insert(hello.raft_id, store);
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_read_as_it_was_written() {
        let mut bound = Bound::default();
        for (raft_id, store) in [(2, 1), ((1 << 16) + 2, 9), (1, 3)] {
            let hello = Hello {
                raft_id,
                store_id: vec![store; 16].into(),
                ..Hello::default()
            };
            assert_eq!(bound.bind(&hello), Ok(true));
            assert_eq!(bound.bind(&hello), Ok(false));
        }
        assert!(bound.note([1, 4]) && !bound.note([1, 4]));
        assert_eq!(Bound::parse(&bound.text()), bound);
        let known = [1, 2, 4, (1 << 16) + 2];
        assert_eq!(bound.raft_ids().collect::<Vec<_>>(), known);
    }

    #[test]
    fn of_whom_others_have_told_has_one_directory_once_it_speaks() {
        let mut bound = Bound::default();
        bound.note([2]);
        let hello = |store| Hello {
            raft_id: 2,
            store_id: vec![store; 16].into(),
            ..Hello::default()
        };
        assert_eq!(bound.bind(&hello(1)), Ok(true));
        assert_eq!(bound.bind(&hello(1)), Ok(false));
        assert!(bound.bind(&hello(2)).is_err());
    }

    #[test]
    fn a_list_without_oneself_is_old_whoever_leads() {
        for (leader, listed, is_behind) in [
            (0, Some(7), true),
            (4, None, true),
            (4, Some(2), true),
            (4, Some(7), false),
        ] {
            assert_eq!(may_be_behind(leader, 7, listed), is_behind, "{listed:?}");
        }
    }

    #[test]
    fn who_cannot_apply_what_the_logs_may_hold_does_not_speak() {
        for (commands_version, may_speak) in [(3, false), (4, true), (5, true)] {
            let hello = Hello {
                node_id: 2,
                raft_id: 2,
                commands_version,
                ..Hello::default()
            };
            let known = Known {
                raft_id: Some(2),
                is_in_a_group: true,
                may_be_behind: false,
                level: 4,
            };
            let admitted = admit(&hello, known);
            assert_eq!(admitted.is_ok(), may_speak, "{admitted:?}");
        }
    }

    #[test]
    fn who_may_speak_depends_on_what_is_known_of_him() {
        let table = [
            // raft id, known, in a group, behind, may speak
            (0, Some(2), true, true, false),
            (2, Some(2), false, false, true),
            (2, Some((1 << 16) + 2), false, true, false),
            (2, Some((1 << 16) + 2), true, false, true),
            ((1 << 16) + 2, Some(2), false, false, true),
            (2, None, false, false, false),
            (2, None, true, false, true),
            (2, None, false, true, true),
        ];
        for (raft_id, known, is_in_a_group, may_be_behind, may_speak) in table {
            let hello = Hello {
                node_id: 2,
                raft_id,
                ..Hello::default()
            };
            let known = Known {
                raft_id: known,
                is_in_a_group,
                may_be_behind,
                level: 0,
            };
            assert_eq!(
                admit(&hello, known).is_ok(),
                may_speak,
                "{raft_id} {known:?}"
            );
        }
    }
}
