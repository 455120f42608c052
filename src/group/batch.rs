//! Commands become entries: what arrived since the last turn goes into one entry.
//! Owns the commands that wait for the next proposal and the proposals that wait for their commit.
//! Invariants: each reply is answered once.

use std::collections::BTreeMap;

use raftproto::command::{self, Command, CommandBatch, command::Kind};

use super::asker::{Asker, refuse};
use super::entry::{Made, Making, STEP_BYTES};
use super::log::LogPosition;
use super::stream::ALONE_BYTES_MIN;
use super::{Effect, Group};
use crate::mutation;
use crate::protocol::{
    Append, Create, Expiry, GroupTarget, Hold, Member, MemberChange, Op, Refusal, Request,
    Retention, StreamKey,
};

/// Commands that the next entry will carry.
#[derive(Default)]
pub(super) struct Pending {
    commands: Vec<Command>,
    askers: Vec<Option<Asker>>,
    bytes: u64,
    /// The entry before, which takes several steps.
    making: Option<Making>,
}

/// An entry that was proposed and not yet applied.
pub(super) struct Proposed {
    pub(super) askers: Vec<Option<Asker>>,
    /// Bytes of its payload.
    pub(super) bytes: u64,
    /// How long its answer is waited for if another replica leads by then, or the log stands still.
    pub(super) until_us: u64,
}

/// Largest entry, but for a single command that is larger; keeps a turn's work bounded. A large body has an entry of
/// its own, whose bytes the stream can keep without keeping others.
const ENTRY_BYTES_MAX: u64 = 1 << 20;

/// What a command is about, besides its body.
const COMMAND_BYTES: u64 = 64;

impl Pending {
    /// Adds a command; `None` where nobody waits for its outcome.
    pub(super) fn push(&mut self, kind: Kind, asker: Option<Asker>) {
        self.bytes += body_len(&kind);
        self.commands.push(Command { kind: Some(kind) });
        self.askers.push(asker);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.making.is_none()
    }

    /// What the next entries will about be.
    pub(super) fn bytes(&self) -> u64 {
        let making = self.making.as_ref().map_or(0, Making::bytes);
        making + self.bytes + COMMAND_BYTES * self.commands.len() as u64
    }

    /// How many wait for an outcome.
    pub(super) fn waiters(&self) -> usize {
        let making = self.making.iter().flat_map(Making::askers);
        making.chain(&self.askers).flatten().count()
    }

    /// Takes entries until a step's worth of bytes was put together: one turn is not to hold up the other groups of the core.
    /// Where something is left, there is another step soon.
    pub(super) fn take_entries(&mut self, stamp_ms: u64, level: u32) -> Vec<Made> {
        let (mut all, mut left) = (Vec::new(), STEP_BYTES);
        while left > 0
            && let Some(made) = self.take_entry(stamp_ms, level, &mut left)
        {
            all.push(made);
        }
        all
    }

    /// Takes the first entry's worth of commands, encoded, with those who wait for them; `None`: there is none, or it needs
    /// another step.
    fn take_entry(&mut self, stamp_ms: u64, level: u32, left: &mut usize) -> Option<Made> {
        let mut making = match self.making.take() {
            Some(making) => making,
            None if self.commands.is_empty() => return None,
            None => self.begin_entry(stamp_ms, level),
        };
        if making.step(left) {
            return Some(making.finish());
        }
        self.making = Some(making);
        None
    }

    fn begin_entry(&mut self, stamp_ms: u64, level: u32) -> Making {
        let mut count = self.commands.len();
        if self.bytes > ALONE_BYTES_MIN as u64 {
            let mut sum = 0;
            let fits = self.commands.iter().take_while(|c| {
                let len = c.kind.as_ref().map_or(0, body_len);
                sum += len;
                sum <= ENTRY_BYTES_MAX && len < ALONE_BYTES_MIN as u64
            });
            count = fits.count().max(1);
        }
        let rest = self.commands.split_off(count);
        let rest_askers = self.askers.split_off(count);
        let commands = std::mem::replace(&mut self.commands, rest);
        let askers = std::mem::replace(&mut self.askers, rest_askers);
        let remaining = self.commands.iter().filter_map(|c| c.kind.as_ref());
        self.bytes = remaining.map(body_len).sum();
        let batch = CommandBatch {
            version: version_of(commands.iter().filter_map(|c| c.kind.as_ref()), level),
            stamp_ms,
            commands,
        };
        Making::new(&batch, askers)
    }

    /// Gives up what somebody waits for; what the group does by itself stays.
    pub(super) fn take_asked(&mut self) -> Vec<Option<Asker>> {
        let mut askers = std::mem::take(&mut self.askers);
        let mut is_asked = askers.iter().map(Option::is_some);
        self.commands.retain(|_| is_asked.next() == Some(false));
        self.askers = vec![None; self.commands.len()];
        let kept = self.commands.iter().filter_map(|c| c.kind.as_ref());
        self.bytes = kept.map(body_len).sum();
        let is_asked = |making: &mut Making| making.askers().iter().any(Option::is_some);
        let making = self.making.take_if(is_asked);
        askers.extend(making.into_iter().flat_map(Making::into_askers));
        askers
    }

    /// Gives up all that waits.
    pub(super) fn take_all(&mut self) -> Vec<Option<Asker>> {
        let Pending {
            making, mut askers, ..
        } = std::mem::take(self);
        askers.extend(making.into_iter().flat_map(Making::into_askers));
        askers
    }
}

impl Proposed {
    /// Those who wait for it; it stays proposed.
    pub(super) fn take_askers(&mut self) -> Vec<Option<Asker>> {
        self.askers.iter_mut().map(Option::take).collect()
    }

    /// The askers of the entry that was applied at `position`; answers those of entries that another leader
    /// replaced as lost.
    pub(super) fn take(
        proposed: &mut BTreeMap<LogPosition, Proposed>,
        position: LogPosition,
        uncommitted_bytes: &mut u64,
        lost: &mut Vec<Asker>,
    ) -> Vec<Option<Asker>> {
        while let Some(first) = proposed.first_entry() {
            if first.key().index > position.index {
                break;
            }
            let (place, first) = first.remove_entry();
            *uncommitted_bytes -= first.bytes;
            if place == position {
                return first.askers;
            }
            lost.extend(first.askers.into_iter().flatten());
        }
        Vec::new()
    }
}

impl Group {
    /// What was proposed up to `index` is in a checkpoint, or something else is: nobody here knows.
    pub(super) fn forget_proposed(&mut self, index: u64, effects: &mut Vec<Effect>) {
        while let Some(first) = self.proposed.first_entry()
            && first.key().index <= index
        {
            let first = first.remove();
            self.uncommitted_bytes -= first.bytes;
            let refusal = if mutation::is_on("unknown-called-undone") {
                Refusal::Unavailable
            } else {
                Refusal::OutcomeUnknown
            };
            refuse(first.askers, &refusal, effects);
        }
    }
}

/// The lowest version that has all these commands: what needs no newer one can be applied by an older binary. Where a newer
/// one gives a command another meaning, it has that from this level on.
pub(super) fn version_of<'a>(kinds: impl Iterator<Item = &'a Kind>, level: u32) -> u32 {
    let version = |kind: &Kind| match kind {
        Kind::RaiseLevel(raise) => raise.level,
        Kind::Append(append) if append.incarnation_below != 0 => 5,
        Kind::ChangeMembers(_) if level >= 4 => 4,
        Kind::Create(create) if create.retention.is_some() => 3,
        Kind::CreateBucket(create) if create.retention.is_some() => 3,
        Kind::BeginPack(_)
        | Kind::PublishPack(_)
        | Kind::CancelPack(_)
        | Kind::ForgetPacks(_)
        | Kind::Trim(_) => 2,
        _ => 1,
    };
    kinds.map(version).max().unwrap_or(1)
}

/// About what a chunk takes in the command that publishes it.
const CHUNK_COMMAND_BYTES: usize = 64;

fn body_len(kind: &Kind) -> u64 {
    let body = match kind {
        Kind::Append(append) => append.body.len(),
        Kind::Create(create) => create.body.len(),
        // A large command travels alone, as a large body does.
        Kind::PublishPack(publish) => publish.chunks.len() * CHUNK_COMMAND_BYTES,
        _ => 0,
    };
    body as u64 + 64
}

/// The operation goes through the log.
pub(super) fn is_command(op: &Op) -> bool {
    !matches!(
        op,
        Op::Head
            | Op::Read(_)
            | Op::Watch { .. }
            | Op::Unwatch { .. }
            | Op::ReadInherited { .. }
            | Op::MatchFork { .. }
            | Op::List { .. }
            | Op::Confirm { .. }
            | Op::GetBucket(_)
    )
}

/// A request as the command that is proposed for it; `None` for what changes nothing.
#[expect(
    clippy::result_large_err,
    reason = "not an error: the operation that changes nothing"
)]
pub(super) fn command_of(request: Request) -> Result<Kind, Op> {
    let key = match request.target {
        GroupTarget::Key(key) => key.as_str().to_owned(),
        GroupTarget::Meta | GroupTarget::Group(_) => String::new(),
    };
    Ok(match request.op {
        Op::Create(create) => Kind::Create(create_command(key, create)),
        Op::Append(append) => Kind::Append(append_command(key, append)),
        Op::Delete => Kind::Delete(command::Delete { key }),
        Op::Hold(hold) => Kind::Hold(hold_command(key, &hold)),
        Op::ConfirmHold {
            incarnation,
            hold_id,
        } => Kind::ConfirmHold(command::ConfirmHold {
            key,
            incarnation: incarnation.0,
            hold_id,
        }),
        Op::ReleaseHold {
            incarnation,
            hold_id,
        } => Kind::ReleaseHold(command::ReleaseHold {
            key,
            incarnation: incarnation.0,
            hold_id,
        }),
        Op::AbandonFork { hold_id } => Kind::AbandonFork(command::AbandonFork {
            fork_key: key,
            hold_id,
        }),
        Op::Settle { outbox_id } => Kind::Settle(command::Settle { outbox_id }),
        Op::Trim {
            offset,
            incarnation,
        } => Kind::Trim(command::Trim {
            key,
            incarnation: incarnation.0,
            offset: offset.0,
        }),
        Op::FenceBucket { bucket, generation } => Kind::FenceBucket(command::FenceBucket {
            bucket: bucket.as_str().to_owned(),
            generation,
        }),
        Op::AssignSlots {
            group_count,
            history,
        } => Kind::AssignSlots(command::AssignSlots {
            group_count,
            history,
        }),
        Op::ChangeMembers { base, change } => {
            Kind::ChangeMembers(change_members_command(&base, change))
        }
        Op::CreateBucket { bucket, retention } => Kind::CreateBucket(command::CreateBucket {
            bucket: bucket.as_str().to_owned(),
            retention: retention.map(Retention::to_message),
        }),
        Op::BeginDeleteBucket(bucket) => Kind::BeginDeleteBucket(command::BeginDeleteBucket {
            bucket: bucket.as_str().to_owned(),
        }),
        Op::FinishDeleteBucket {
            bucket,
            generation,
            empty,
        } => Kind::FinishDeleteBucket(command::FinishDeleteBucket {
            bucket: bucket.as_str().to_owned(),
            generation,
            empty,
        }),
        op @ (Op::Head
        | Op::Read(_)
        | Op::Watch { .. }
        | Op::Unwatch { .. }
        | Op::ReadInherited { .. }
        | Op::MatchFork { .. }
        | Op::List { .. }
        | Op::Confirm { .. }
        | Op::GetBucket(_)) => return Err(op),
    })
}

fn create_command(key: String, create: Create) -> command::Create {
    let (ttl_seconds, at_ms) = match create.expiry {
        Expiry::Never => (None, None),
        Expiry::Ttl(seconds) => (Some(seconds), None),
        Expiry::At(at_ms) => (None, Some(at_ms)),
    };
    command::Create {
        key,
        content_type: create.content_type.as_str().to_owned(),
        expiry: (create.expiry != Expiry::Never).then_some(command::Expiry { ttl_seconds, at_ms }),
        closed: create.closed,
        body: create.body,
        bucket_generation: create.bucket_generation,
        retention: (!create.retention.is_unlimited()).then(|| create.retention.to_message()),
        is_bucket_retention: create.is_bucket_retention,
        fork: create.fork.map(|f| command::ForkOrigin {
            source_key: f.source.as_str().to_owned(),
            source_incarnation: f.incarnation.0,
            offset: f.offset.0,
            hold_id: f.hold_id,
            requested_offset: f.requested_offset.map(|o| o.0),
            requested_sub_offset: f.requested_sub_offset,
            floor: f.floor.0,
        }),
    }
}

fn append_command(key: String, append: Append) -> command::Append {
    command::Append {
        key,
        content_type: append
            .content_type
            .map(|t| t.as_str().to_owned())
            .unwrap_or_default(),
        body: append.body,
        close: append.close,
        stream_seq: append.stream_seq,
        producer: append.producer.map(|p| command::Producer {
            id: p.id,
            epoch: p.epoch,
            seq: p.seq,
        }),
        incarnation_below: append.incarnation_below.map_or(0, |i| i.0),
    }
}

fn change_members_command(base: &[Member], change: MemberChange) -> command::ChangeMembers {
    use command::change_members::Change;
    let member = |m: &Member| command::Member {
        raft_id: m.raft_id,
        cluster_address: m.address.clone(),
        drained: m.drained,
    };
    command::ChangeMembers {
        base: base.iter().map(member).collect(),
        change: Some(match change {
            MemberChange::Add(added) => Change::Add(member(&added)),
            MemberChange::Remove(node) => Change::Remove(node),
            MemberChange::Replace(node) => Change::Replace(node),
            MemberChange::Drain(node, true) => Change::Drain(node),
            MemberChange::Drain(node, false) => Change::Undrain(node),
        }),
    }
}

fn hold_command(key: String, hold: &Hold) -> command::Hold {
    command::Hold {
        key,
        fork_key: hold.fork_key.as_str().to_owned(),
        hold_id: hold.hold_id,
        offset: hold.offset.map(|o| o.0),
        incarnation: hold.incarnation.0,
    }
}

/// The request that delivers an outbox command to another group.
pub fn request_of(command: &Command) -> Option<Request> {
    match command.kind.as_ref()? {
        Kind::ReleaseHold(release) => Some(Request::on_key(
            StreamKey::from_stored(&release.key),
            Op::ReleaseHold {
                incarnation: crate::protocol::Incarnation(release.incarnation),
                hold_id: release.hold_id,
            },
        )),
        _ => None,
    }
}
