//! Which raft id the replicas of a new data directory take, by what the other nodes know. Pure.

use raftproto::checkpoint::Membership;
use raftproto::peer::StatusReply;

use crate::mutation;

/// Nobody knows of replicas that take the place of the damaged ones, and the node was not removed meanwhile.
pub fn lacks_order(node_id: u64, damaged: u64, replies: &[StatusReply]) -> bool {
    let lists = replies.iter().map(|r| &r.members);
    let lists: Vec<_> = lists.filter(|members| !members.is_empty()).collect();
    let ids = lists.iter().flat_map(|m| m.iter()).map(|m| m.raft_id);
    let newest = ids.filter(|id| id & 0xffff == node_id).max();
    let is_member = newest.is_some() || lists.is_empty();
    !replies.is_empty() && is_member && newest.unwrap_or(0) <= damaged
}

/// The raft id that this node's new replicas may take: of the newest members that anyone knows, if no data directory has
/// it. A majority must say so: those who know the directory that had it may be away, and what it acknowledged to them would
/// be forgotten with it.
///
/// # Errors
/// Why not yet, and what an operator can do.
pub fn judge(node_id: u64, replies: &[StatusReply]) -> Result<u64, String> {
    let own = |reply: &StatusReply| {
        let ids = reply.members.iter().map(|m| m.raft_id);
        ids.filter(|id| id & 0xffff == node_id).max()
    };
    let newest = replies
        .iter()
        .filter(|r| own(r).is_some())
        .max_by_key(|r| own(r));
    let Some((raft_id, newest)) = newest.and_then(|r| Some((own(r)?, r))) else {
        return Err(format!(
            "no order has made node {node_id} a member: `ursula cluster add {node_id}=HOST:PORT` or, after its disk was \
             lost, `ursula cluster replace {node_id}`"
        ));
    };
    let is_bound = |reply: &StatusReply| reply.bound_raft_ids.contains(&raft_id);
    if replies.iter().any(is_bound) && !mutation::is_on("wiped-disk-votes") {
        return Err(format!(
            "node {node_id} is a member with another data directory: `ursula cluster replace {node_id}` gives that one up"
        ));
    }
    let others = newest.members.iter().map(|m| m.raft_id & 0xffff);
    let others: Vec<u64> = others.filter(|node| *node != node_id).collect();
    let needed = others.len().min(newest.members.len() / 2 + 1);
    let answered = replies.iter().filter_map(|r| r.node.as_ref());
    let answered = answered.filter(|hello| others.contains(&hello.node_id));
    let answered = answered.count();
    if answered < needed {
        return Err(format!(
            "{answered} of the other members answer, {needed} must: one that is away may know of another data directory"
        ));
    }
    Ok(raft_id)
}

/// Whether the replicas of a new data directory may speak: as many others have noted it as any later question of a directory
/// without a log meets ([`judge`]); else what they acknowledge now could be forgotten under the same raft id. `false`: the
/// raft id was given up meanwhile.
///
/// # Errors
/// Why not yet, and what an operator can do.
pub fn judge_claim(raft_id: u64, replies: &[StatusReply]) -> Result<bool, String> {
    let node_id = raft_id & 0xffff;
    let own = |reply: &StatusReply| {
        let ids = reply.members.iter().map(|m| m.raft_id);
        ids.filter(|id| id & 0xffff == node_id).max()
    };
    let newest = replies.iter().filter(|r| own(r).is_some());
    let Some(newest) = newest.max_by_key(|r| own(r)) else {
        return Err(format!("nobody who answers knows node {node_id}"));
    };
    if own(newest).is_some_and(|id| id > raft_id) {
        return Ok(false);
    }
    if let Some(refused) = replies.iter().find(|r| !r.claim_refused.is_empty()) {
        return Err(refused.claim_refused.clone());
    }
    let others = newest.members.iter().map(|m| m.raft_id & 0xffff);
    let others: Vec<u64> = others.filter(|node| *node != node_id).collect();
    // One that knows of no claims is of the version before, and is believed, as all were.
    let answered = replies.iter().filter_map(|r| r.node.as_ref());
    let noted = answered
        .filter(|hello| others.contains(&hello.node_id))
        .count();
    let needed = newest.members.len() / 2;
    match noted >= needed || mutation::is_on("unclaimed-replica-speaks") {
        true => Ok(true),
        false => Err(format!(
            "{noted} of the other members have noted the new data directory, {needed} must"
        )),
    }
}

/// What is known of a node that shall be replaced.
#[derive(Debug, Clone, Copy)]
pub struct Replaced {
    /// The raft id that the cluster wants of it.
    pub wanted: u64,
    /// Of the replicas that it runs, as it says itself; `None`: it does not answer.
    pub running: Option<u64>,
    /// A data directory is known under the wanted raft id.
    pub is_bound: bool,
    /// It votes in all groups.
    pub votes: bool,
    /// It says itself that some of its replicas take no part.
    pub has_trouble: bool,
}

/// Whether an order to replace is to be given; not where one is under way that was not carried out yet.
///
/// # Errors
/// The node is well.
pub fn judge_replacement(known: Replaced) -> Result<bool, String> {
    let node = known.wanted & 0xffff;
    let is_running = known.running == Some(known.wanted);
    match (is_running, known.votes) {
        (true, true) if known.has_trouble => Ok(true),
        (true, true) => Err(format!(
            "node {node} is a member that is well: a replacement gives up what it has on its disk. If that is meant, say \
             `replace {node} --force`; to stop it from leading, `drain {node}`; to take it out, `remove {node}`"
        )),
        // It is being taught.
        (true, false) => Ok(false),
        // Nobody has taken the new place yet.
        (false, votes) => Ok(known.is_bound || votes),
    }
}

/// Whether the other nodes can do without this one while its replicas are built anew: more than half of all members, without
/// it, answer, and each of them votes in all its groups, is sound in them, and is not about to do the same, as far as all its
/// cores say.
///
/// # Errors
/// Which are not.
pub fn are_sound(node_id: u64, founders: usize, replies: &[StatusReply]) -> Result<(), String> {
    let members = replies.iter().map(|r| r.members.len()).max().unwrap_or(0);
    let members = if members == 0 { founders } else { members };
    let is_sound = |reply: &&StatusReply| {
        let own = reply.node.as_ref().map_or(0, |hello| hello.raft_id);
        let votes = |m: &Membership| m.voters.contains(&own) && m.voters_outgoing.is_empty();
        let mut groups = reply.groups.iter();
        own & 0xffff != node_id
            && !reply.gives_up_replicas
            // What a core does not tell may be just that.
            && reply.cores.iter().all(|core| core.is_up)
            && !reply.groups.is_empty()
            && groups.all(|g| g.trouble.is_empty() && g.membership.as_ref().is_some_and(votes))
    };
    let (sound, needed) = (replies.iter().filter(is_sound).count(), members / 2 + 1);
    match sound >= needed || mutation::is_on("given-up-at-once") {
        true => Ok(()),
        false => Err(format!(
            "{sound} other nodes answer and are sound in all their groups, {needed} of {members} must be: see `ursula \
             cluster status`; bring back what is away"
        )),
    }
}

#[cfg(test)]
mod tests {
    use raftproto::checkpoint::Member;
    use raftproto::peer::{CoreStatus, GroupStatus, Hello};

    use super::*;

    #[test]
    fn a_damaged_member_orders_its_replacement_until_somebody_knows_of_it() {
        let reply = |members: &[u64]| StatusReply {
            members: members
                .iter()
                .map(|raft_id| Member {
                    raft_id: *raft_id,
                    ..Member::default()
                })
                .collect(),
            ..StatusReply::default()
        };
        let new = (1 << 16) + 2;
        for (replies, is_lacking) in [
            (vec![], false),
            (vec![reply(&[]), reply(&[])], true),
            (vec![reply(&[1, 2, 3]), reply(&[])], true),
            (vec![reply(&[1, 2, 3]), reply(&[1, new, 3])], false),
            (vec![reply(&[1, 3])], false),
        ] {
            assert_eq!(lacks_order(2, 2, &replies), is_lacking, "{replies:?}");
        }
        assert!(lacks_order(2, new, &[reply(&[1, new, 3])]));
    }

    #[test]
    fn a_replacement_is_ordered_once_and_not_of_a_node_that_is_well() {
        let new = (1 << 16) + 2;
        for (wanted, running, is_bound, votes, verdict) in [
            (2, Some(2), true, true, None),
            (2, None, true, true, Some(true)),
            // It never came, so nothing is lost with it; it votes as a founder.
            (2, None, false, true, Some(true)),
            (new, None, false, false, Some(false)),
            (new, Some(new), true, false, Some(false)),
            (new, Some(2), false, false, Some(false)),
            // The new one lost its disk too, while it learned.
            (new, None, true, false, Some(true)),
        ] {
            let known = Replaced {
                wanted,
                running,
                is_bound,
                votes,
                has_trouble: false,
            };
            assert_eq!(judge_replacement(known).ok(), verdict, "{known:?}");
        }
    }

    #[test]
    fn replicas_are_given_up_only_while_a_majority_of_others_is_sound() {
        let reply = |raft_id: u64, voters: &[u64], trouble: &str| StatusReply {
            node: Some(Hello {
                node_id: raft_id & 0xffff,
                raft_id,
                ..Hello::default()
            }),
            groups: vec![GroupStatus {
                membership: Some(Membership {
                    voters: voters.to_vec(),
                    ..Membership::default()
                }),
                trouble: trouble.to_owned(),
                ..GroupStatus::default()
            }],
            ..StatusReply::default()
        };
        let all = [1, 2, 3];
        let sound = |raft_id| reply(raft_id, &all, "");
        let giving_up = |raft_id| StatusReply {
            gives_up_replicas: true,
            ..sound(raft_id)
        };
        let half_silent = |raft_id| StatusReply {
            cores: vec![CoreStatus::default()],
            ..sound(raft_id)
        };
        for (founders, replies, is_good) in [
            (3, vec![sound(1), sound(3)], true),
            (3, vec![sound(1)], false),
            // Its own word counts for nothing.
            (3, vec![sound(1), sound(2)], false),
            (3, vec![sound(1), reply(3, &all, "lost")], false),
            // Node 3 is being built anew itself.
            (3, vec![sound(1), reply((1 << 16) + 3, &all, "")], false),
            (2, vec![sound(1)], false),
            (3, vec![sound(1), giving_up(3)], false),
            (3, vec![sound(1), half_silent(3)], false),
            (5, vec![sound(1), sound(3), reply(4, &[], "")], false),
        ] {
            assert_eq!(
                are_sound(2, founders, &replies).is_ok(),
                is_good,
                "{replies:?}"
            );
        }
    }

    fn reply_of(node_id: u64, members: &[u64]) -> StatusReply {
        let member = |raft_id: &u64| Member {
            raft_id: *raft_id,
            ..Member::default()
        };
        StatusReply {
            node: Some(Hello {
                node_id,
                ..Hello::default()
            }),
            members: members.iter().map(member).collect(),
            ..StatusReply::default()
        }
    }

    #[test]
    fn a_new_data_directory_is_noted_by_as_many_as_any_later_question_meets() {
        let reply = |node_id, members: &[u64], refused: &str| StatusReply {
            claim_refused: refused.to_owned(),
            ..reply_of(node_id, members)
        };
        let (three, five) = ([1, 2, 3], [1, 2, 3, 4, 5]);
        for (replies, verdict) in [
            (vec![], None),
            (vec![reply(1, &[], "")], None),
            (vec![reply(1, &three, "")], Some(true)),
            (vec![reply(1, &five, "")], None),
            (vec![reply(1, &five, ""), reply(3, &[], "")], Some(true)),
            // Its own word counts for nothing, nor a stranger's.
            (vec![reply(1, &five, ""), reply(2, &five, "")], None),
            (vec![reply(1, &five, ""), reply(6, &five, "")], None),
            (vec![reply(1, &three, ""), reply(3, &three, "known")], None),
            (vec![reply(1, &[1, (1 << 16) + 2, 3], "known")], Some(false)),
        ] {
            assert_eq!(judge_claim(2, &replies).ok(), verdict, "{replies:?}");
        }
        // Whoever asks for a raft id later hears of it.
        for len in 2..=9 {
            let needed = (len - 1).min(len / 2 + 1);
            assert!(needed + len / 2 > len - 1, "{len}");
        }
    }

    #[test]
    fn a_raft_id_is_taken_once() {
        let reply = |node_id, members: &[u64], bound: &[u64]| StatusReply {
            bound_raft_ids: bound.to_vec(),
            ..reply_of(node_id, members)
        };
        let replaced = (1 << 16) + 2;
        let (old, new) = ([1, 2, 3], [1, replaced, 3]);
        assert!(judge(2, &[]).is_err());
        assert!(judge(2, &[reply(1, &[], &[1, 2])]).is_err());
        assert!(judge(2, &[reply(1, &old, &[1, 2])]).is_err());
        let all = [1, 2, 3].map(|node| reply(node, &[1, 2, 3, 4], &[1, 2]));
        assert_eq!(judge(4, &all), Ok(4));
        assert_eq!(judge(2, &[reply(1, &[1, 2], &[1])]), Ok(2));
        let late = reply(1, &old, &[1, 2]);
        assert_eq!(judge(2, &[late, reply(3, &new, &[1, 2])]), Ok(replaced));
        // Node 1 may have it.
        assert!(judge(2, &[reply(3, &new, &[1, 2])]).is_err());
        assert!(judge(2, &[reply(1, &new, &[1, replaced])]).is_err());
    }
}
