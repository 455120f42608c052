//! The members of the cluster, and orders to change them.

use raftproto::command::{self, change_members::Change};

use super::WireError;
use super::fields::{check, present};
use crate::protocol::{Member, MemberChange, Op};

/// Bytes of an address: a name of the longest kind and a port.
const ADDRESS_BYTES_MAX: usize = 260;

pub(super) fn message(member: &Member) -> command::Member {
    command::Member {
        raft_id: member.raft_id,
        cluster_address: member.address.clone(),
        drained: member.drained,
    }
}

pub(super) fn member(message: command::Member) -> Result<Member, WireError> {
    check(message.raft_id & 0xffff != 0, "Member.raft_id")?;
    let length = message.cluster_address.len();
    check(length <= ADDRESS_BYTES_MAX, "Member.cluster_address")?;
    Ok(Member {
        raft_id: message.raft_id,
        address: message.cluster_address,
        drained: message.drained,
    })
}

pub(super) fn all(messages: Vec<command::Member>) -> Result<Vec<Member>, WireError> {
    messages.into_iter().map(member).collect()
}

pub(super) fn change_message(base: &[Member], change: &MemberChange) -> command::ChangeMembers {
    command::ChangeMembers {
        base: base.iter().map(message).collect(),
        change: Some(match change {
            MemberChange::Add(added) => Change::Add(message(added)),
            MemberChange::Remove(node) => Change::Remove(*node),
            MemberChange::Replace(node) => Change::Replace(*node),
            MemberChange::Drain(node, true) => Change::Drain(*node),
            MemberChange::Drain(node, false) => Change::Undrain(*node),
        }),
    }
}

/// An order as the operation that carries it out.
pub fn change(message: command::ChangeMembers) -> Result<Op, WireError> {
    Ok(Op::ChangeMembers {
        base: all(message.base)?,
        change: match present(message.change, "ChangeMembers.change")? {
            Change::Add(added) => MemberChange::Add(member(added)?),
            Change::Remove(node) => MemberChange::Remove(node),
            Change::Replace(node) => MemberChange::Replace(node),
            Change::Drain(node) => MemberChange::Drain(node, true),
            Change::Undrain(node) => MemberChange::Drain(node, false),
        },
    })
}
