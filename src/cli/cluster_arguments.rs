//! The words of `ursula cluster`.

use argh::{ArgsInfo, FromArgs};

/// Shows and changes which nodes are the cluster. An order is kept by the cluster and goes on without this command.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "cluster")]
pub struct ClusterCommand {
    /// cluster address of any node; 127.0.0.1:4447 if not given
    #[argh(option, default = "String::from(\"127.0.0.1:4447\")")]
    pub at: String,
    /// seconds to wait until an order is taken and all groups have followed it; 60 if not given
    #[argh(option, default = "60")]
    pub wait_s: u64,
    #[argh(subcommand)]
    pub command: ClusterSubcommand,
}

/// What to do with the cluster.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
pub enum ClusterSubcommand {
    Status(Status),
    Add(Add),
    Remove(Remove),
    Replace(Replace),
    Drain(Drain),
    TransferLeader(TransferLeader),
}

/// Shows all nodes and groups, and how far an order is.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// print JSON
    #[argh(switch)]
    pub json: bool,
    /// with --json, also hash the state of each group on each node: equal wherever `applied` is equal
    #[argh(switch)]
    pub hashes: bool,
}

/// Makes a node a member; start it with an empty directory and --join. Of a member that has moved, notes the new address, once
/// it answers there.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "add")]
pub struct Add {
    /// the node as N=HOST:PORT, its number and cluster address
    #[argh(positional)]
    pub node: String,
    /// note another address of a member although it does not answer there: no other node reaches it before it does
    #[argh(switch)]
    pub unseen: bool,
}

/// Takes a node out. Stop it when all groups have followed.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "remove")]
pub struct Remove {
    /// the node's number
    #[argh(positional)]
    pub node: u64,
}

/// Gives up a node's lost disk. Start the node with an empty directory and --join.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "replace")]
pub struct Replace {
    /// the node's number
    #[argh(positional)]
    pub node: u64,
    /// also where the node is well: what it has on its disk is given up
    #[argh(switch)]
    pub force: bool,
}

/// Lets a node lead no group, until undone.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "drain")]
pub struct Drain {
    /// the node's number
    #[argh(positional)]
    pub node: u64,
    /// let it lead again
    #[argh(switch)]
    pub undo: bool,
}

/// Hands leadership over, once: balance may bring it back.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "transfer-leader")]
pub struct TransferLeader {
    /// cluster address of the node that leads; if not given, the leader of --group is looked for, and without --group it is --at
    #[argh(option)]
    pub from: Option<String>,
    /// the group; all that the node leads if not given
    #[argh(option)]
    pub group: Option<u32>,
    /// the node to lead; whichever is best if not given
    #[argh(option)]
    pub to: Option<u64>,
}
