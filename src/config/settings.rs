//! The one table of settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::cold::{ColdPlace, Secret, cold, is_endpoint};
use super::machine::{cores, hot_bytes, hot_bytes_kept};
use super::show::Value;
use super::value::{boolean, bytes, millis, within};
use super::{ConfigError, Origin};
use crate::group::{RaftSettings, ReadMode};
use crate::http::backend::HttpSettings;
use crate::ops::metrics::node::NodeGauges;

/// What is known of a setting beside its value.
#[derive(Debug)]
pub struct Setting {
    /// Key in the file; the flag has `-` for `_`, the environment `URSULA_` and capitals.
    pub key: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// The default, as a text.
    pub default: &'static str,
    /// What is allowed.
    pub allowed: &'static str,
    /// It is a switch: the flag takes no value.
    pub is_switch: bool,
}

/// Where operators connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminListen {
    /// At [`ADMIN_LISTEN`], or nowhere where that is taken.
    Auto,
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

/// Where operators connect if nothing else is said.
pub const ADMIN_LISTEN: &str = "127.0.0.1:4457";

fn admin_listen(text: &str) -> Option<AdminListen> {
    match text {
        "auto" => Some(AdminListen::Auto),
        "off" => Some(AdminListen::Off),
        address => address.parse().ok().map(AdminListen::At),
    }
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub id: u64,
    /// `host:port` where its peers connect.
    pub address: String,
}

/// What flags gave: settings by key, and the file of `--config`.
pub type Given = (BTreeMap<String, String>, Option<PathBuf>);

/// A command whose flags are the settings. All are texts here: [`super::load`] reads the values of all sources.
macro_rules! arguments {
    ($name:ident, $command:tt, $about:tt, [$($own:ident: [$($type:tt)*], $kind:tt, $own_help:tt;)*],
        $($key:ident, $default:tt, $allowed:tt, $help:tt;)*) => {
        #[doc = $about]
        #[derive(Debug, argh::FromArgs, argh::ArgsInfo)]
        #[argh(subcommand, name = $command)]
        pub struct $name {
            $(
                #[doc = $own_help]
                #[argh $kind]
                pub $own: $($type)*,
            )*
            /// a TOML file with settings; also URSULA_CONFIG in the environment
            #[argh(option)]
            config: Option<PathBuf>,
            /// the same as --wal-dir
            #[argh(option)]
            raft_log_dir: Option<String>,
            $(
                #[doc = $help]
                #[doc = " Allowed: "]
                #[doc = $allowed]
                #[doc = "; default: "]
                #[doc = $default]
                #[argh(option)]
                $key: Option<String>,
            )*
        }

        impl $name {
            /// The settings that were given.
            pub fn given(self) -> Given {
                let all = [
                    ("raft_log_dir", self.raft_log_dir),
                    $((stringify!($key), self.$key),)*
                ];
                let given = all.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?)));
                (given.collect(), self.config)
            }
        }
    };
}

macro_rules! settings {
    ($($key:ident: $type:ty, $default:tt, $allowed:tt, $parse:expr, $help:tt;)*) => {
        /// The effective settings.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Config {
            $(#[doc = $help] pub $key: $type,)*
        }

        /// All settings in the order of the help.
        pub const SETTINGS: &[Setting] = &[
            $(Setting {
                key: stringify!($key),
                help: $help,
                default: $default,
                allowed: $allowed,
                is_switch: matches!(stringify!($type).as_bytes(), b"bool"),
            },)*
        ];

        arguments!(ServerArguments, "server", "Runs a node.", [], $($key, $default, $allowed, $help;)*);
        arguments!(
            CheckArguments,
            "check",
            "Shows the effective settings, and where each comes from.",
            [],
            $($key, $default, $allowed, $help;)*
        );
        arguments!(
            RestoreArguments,
            "restore",
            "Makes the data directory of a node of a new cluster from a backup. All other flags are those of the node that is \
             to run there; its cluster_id must be another than that of the backup. Done for each node, then all are started.",
            [
                from: [String], (option), "where the backup is: s3://bucket/prefix, or a directory";
                from_cluster: [Option<String>], (option), "cluster_id of the backup; may be left out where there is only one";
                history: [Option<String>], (option), "which of several clusters of that name, as `backup list` names them; may be left out where there is only one";
                at: [Option<String>], (option), "state at this time, such as 2027-01-01T00:00:00Z; without it, the newest there is";
                skip_damaged: [bool], (switch), "restore all the rest where packs are damaged or missing; what is lost is named, and reads of it are refused as damaged";
            ],
            $($key, $default, $allowed, $help;)*
        );
        arguments!(
            BackupListArguments,
            "list",
            "Shows the points in time that a backup can be restored to.",
            [
                from: [Option<String>], (option), "where the backup is: s3://bucket/prefix, or a directory; without it, what cold is set to";
                from_cluster: [Option<String>], (option), "cluster_id of the backup; may be left out where there is only one";
                history: [Option<String>], (option), "which of several clusters of that name, as `backup list` names them; may be left out where there is only one";
                json: [bool], (switch), "print JSON";
            ],
            $($key, $default, $allowed, $help;)*
        );
        arguments!(
            BackupVerifyArguments,
            "verify",
            "Reads and checks every object of a backup: all that was shipped, and all packs that its streams need. Names what is \
             missing or damaged; exit code 1 if something is. That the newest objects are gone cannot be seen by what is left: \
             compare the times that it prints, or give --max-lag.",
            [
                from: [Option<String>], (option), "where the backup is: s3://bucket/prefix, or a directory; without it, what cold is set to";
                from_cluster: [Option<String>], (option), "cluster_id of the backup; may be left out where there is only one";
                history: [Option<String>], (option), "which of several clusters of that name, as `backup list` names them; may be left out where there is only one";
                max_lag: [Option<String>], (option), "a time such as 60s: a group of which nothing was shipped for so long counts as damaged; for a cluster that is written to all the time";
            ],
            $($key, $default, $allowed, $help;)*
        );

        impl Config {
            pub(super) fn from_origins(origins: &BTreeMap<&'static str, Origin>) -> Result<Config, ConfigError> {
                Ok(Config {
                    $($key: {
                        let origin = origins.get(stringify!($key));
                        let text = origin.map_or($default, |o| o.text.as_str());
                        let parse: fn(&str) -> Option<$type> = $parse;
                        parse(text).ok_or_else(|| ConfigError::Bad {
                            key: stringify!($key).to_owned(),
                            value: text.to_owned(),
                            source_name: origin.map_or("default", |o| o.source.as_str()).to_owned(),
                            allowed: $allowed.to_owned(),
                        })?
                    },)*
                })
            }

            /// The values as TOML, in the order of [`SETTINGS`]; `None` where there is none.
            pub fn values(&self) -> Vec<Option<String>> {
                vec![$(self.$key.show(),)*]
            }
        }
    };
}

fn peers(text: &str) -> Option<Vec<Peer>> {
    let mut peers: Vec<Peer> = Vec::new();
    for one in text.split(',').filter(|one| !one.trim().is_empty()) {
        let (id, address) = one.trim().split_once('=')?;
        let id = within(id.parse().ok(), 1, 65_535)?;
        let (host, port) = address.rsplit_once(':')?;
        let is_known = peers.iter().any(|p| p.id == id || p.address == address);
        if host.is_empty() || port.parse::<u16>().ok()? == 0 || is_known {
            return None;
        }
        let address = address.to_owned();
        peers.push(Peer { id, address });
    }
    peers.sort_unstable_by_key(|p| p.id);
    Some(peers)
}

fn name(text: &str) -> Option<String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    ((1..=64).contains(&text.len()) && text.bytes().all(is_plain)).then(|| text.to_owned())
}

settings! {
    listen: SocketAddr, "127.0.0.1:4437", "an address and port such as 0.0.0.0:4437",
        |t| t.parse().ok(), "where clients connect.";
    admin_listen: AdminListen, "auto", "an address and port such as 127.0.0.1:4457, auto (that one, or none where it is taken), or off",
        admin_listen, "where operators connect: health, metrics, console; keep it on a private network.";
    admin_token_file: Option<PathBuf>, "", "a file",
        |t| Some((!t.is_empty()).then(|| PathBuf::from(t))), "file with the token that the console asks for before it changes anything; without it, the console only reads.";
    client_port_ops: bool, "true", "true or false",
        boolean, "serve /healthz, /readyz and /metrics where clients connect, too.";
    wal_dir: Option<PathBuf>, "", "a directory",
        |t| Some((!t.is_empty()).then(|| PathBuf::from(t))), "where data is kept; without it, nothing survives a restart.";
    cold: Option<ColdPlace>, "", "a directory, or s3://bucket/prefix",
        cold, "where old data is kept; without it, in `cold` below wal_dir.";
    s3_endpoint: String, "", "http://host:port or https://host",
        |t| Some(t.trim_end_matches('/').to_owned()).filter(|t| is_endpoint(t)), "where S3 is; empty: Amazon's, of the region.";
    s3_region: String, "", "a region such as eu-central-1",
        |t| Some(t.to_owned()).filter(|t| t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')),
        "region of the bucket; empty: AWS_REGION, then that of the AWS profile, then us-east-1.";
    s3_addressing: String, "auto", "auto, path or virtual",
        |t| Some(t.to_owned()).filter(|t| ["auto", "path", "virtual"].contains(&t.as_str())),
        "whether the bucket is named in the path or in the host; auto: in the path if s3_endpoint is set.";
    s3_access_key_id: String, "", "the name of a key",
        |t| Some(t.to_owned()), "who asks; empty: AWS_ACCESS_KEY_ID, then the AWS profile, then the instance metadata service.";
    s3_secret_access_key: Secret, "", "the key; better given by the environment or a file than by a flag",
        |t| Some(Secret(t.to_owned())), "the key that belongs to s3_access_key_id.";
    s3_session_token: Secret, "", "the token",
        |t| Some(Secret(t.to_owned())), "token of a session that belongs to the key.";
    s3_profile: String, "", "the name of a profile",
        |t| Some(t.to_owned()), "profile in the AWS files; empty: AWS_PROFILE, then default.";
    s3_metadata_host: String, "169.254.169.254", "a host, or host:port, or empty for none",
        |t| Some(t.to_owned()), "the instance metadata service.";
    s3_ca_file: Option<PathBuf>, "", "a PEM file",
        |t| Some((!t.is_empty()).then(|| PathBuf::from(t))), "certificate authorities that S3's certificate must come from; empty: the system's.";
    s3_encryption: String, "none", "none, s3, kms or kms:KEY",
        |t| Some(t.to_owned()).filter(|t| ["none", "s3", "kms"].contains(&t.as_str()) || t.starts_with("kms:")),
        "server-side encryption that is asked for; none: as the bucket has it.";
    s3_requests_max: u64, "16", "a whole number from 1 to 1024",
        |t| within(t.parse().ok(), 1, 1024), "requests to S3 at once, per core.";
    s3_attempts_max: u64, "6", "a whole number from 1 to 100",
        |t| within(t.parse().ok(), 1, 100), "attempts of one request to S3 before it fails.";
    s3_connect_timeout_ms: u64, "5s", "a time from 10ms to 10min",
        |t| within(millis(t), 10, 600_000), "time for a connection to S3, TLS included.";
    s3_request_timeout_ms: u64, "30s", "a time from 10ms to 10min",
        |t| within(millis(t), 10, 600_000), "time for a request to S3, beside a second for each MiB.";
    s3_write_cents_per_million: u64, "500", "a whole number from 0 to 1000000000",
        |t| within(t.parse().ok(), 0, 1_000_000_000), "what a million puts, parts and lists cost at the store, in cents; for ursula_cold_cost_dollars_total.";
    s3_read_cents_per_million: u64, "40", "a whole number from 0 to 1000000000",
        |t| within(t.parse().ok(), 0, 1_000_000_000), "what a million gets and heads cost there, in cents; deletes cost nothing.";
    s3_part_bytes: u64, "128MiB", "bytes from 5MiB to 4GiB",
        |t| within(bytes(t), 5 << 20, 4 << 30), "longer objects are put in parts of this size, each of which is a request.";
    cold_pack_bytes: u64, "32MiB", "bytes from 4KiB to 1GiB",
        |t| within(bytes(t), 4 << 10, 1 << 30), "old data of a group goes to the cold store in objects of so many bytes; a core holds one in memory at a time.";
    cold_flush_age_ms: u64, "60s", "a time from 10ms to 1440min",
        |t| within(millis(t), 10, 86_400_000), "data goes to the cold store when its group got none for so long, and at the latest after ten times as long.";
    cold_live_percent_min: u64, "50", "a whole number from 0 to 100",
        |t| within(t.parse().ok(), 0, 100), "an object of which less is still needed is written again with others; 0: never.";
    cold_grace_ms: u64, "60min", "a time from 0ms to 43200min",
        |t| within(millis(t), 0, 30 * 86_400_000), "an object is deleted so long after nothing needs it any more.";
    cold_read_timeout_ms: u64, "10s", "a time from 10ms to 10min",
        |t| within(millis(t), 10, 600_000), "a reader waits so long for old data before it is told to come back; what is asked of the store goes on.";
    cold_behind_bytes_max: u64, "64GiB", "bytes from 1MiB",
        |t| within(bytes(t), 1 << 20, 1 << 50), "bytes that wait for a cold store which does not take them, per core; above it appends are refused.";
    cold_cache_bytes: u64, "64MiB", "bytes from 0 to 1TiB",
        |t| within(bytes(t), 0, 1 << 40), "memory for what was read from the cold store, per core.";
    dr: bool, "false", "true or false",
        boolean, "ship what is needed to build the cluster anew to the cold store, which all nodes must share.";
    dr_interval_ms: u64, "5s", "a time from 100ms to 60min",
        |t| within(millis(t), 100, 3_600_000), "how often the log is shipped: about what is lost with all nodes at once.";
    dr_keep_ms: u64, "10080min", "a time from 1s to 525600min",
        |t| within(millis(t), 1000, 365 * 86_400_000), "a backup can be restored to any time that is not longer ago; what only older times need is deleted.";
    dr_log_bytes_max: u64, "256MiB", "bytes from 1MiB to 1TiB",
        |t| within(bytes(t), 1 << 20, 1 << 40), "log that is kept in memory until it is shipped, per core; above it, groups begin anew with their whole state.";
    cache_dir: Option<PathBuf>, "", "a directory, on a fast disk of this machine",
        |t| Some((!t.is_empty()).then(|| PathBuf::from(t))), "where what was read from the cold store is kept for the next time; empty: in memory only.";
    cache_bytes: u64, "10GiB", "bytes from 1MiB to 64TiB",
        |t| within(bytes(t), 1 << 20, 64 << 40), "size of the cache in cache_dir, shared equally by the cores.";
    scrub_bytes_per_second: u64, "4MiB", "bytes from 0 to 10GiB",
        |t| within(bytes(t), 0, 10 << 30), "how fast each core reads through what it has at rest, to find damage while there are good copies; 0: never.";
    scrub_interval_ms: u64, "43200min", "a time from 10ms to 525600min",
        |t| within(millis(t), 10, 31_536_000_000), "how often such a round begins; on S3 it costs a request per object.";
    core_count: u64, "auto", "a whole number from 1 to 64, or auto",
        cores, "executors; auto: one for each CPU that the process may use.";
    raft_group_count: u64, "16", "a whole number from 1 to 4096",
        |t| within(t.parse().ok(), 1, 4096), "raft groups; fixed when a data directory is made.";
    no_pin: bool, "false", "true or false",
        boolean, "do not pin executors to CPUs; for shared machines.";
    node_id: u64, "1", "a whole number from 1 to 65535",
        |t| within(t.parse().ok(), 1, 65_535), "this node's number.";
    peers: Vec<Peer>, "", "1=host:port,2=host:port,3=host:port with each node's number and cluster address",
        peers, "the nodes that form the cluster, this one included; without it, the node is alone.";
    cluster_listen: Option<SocketAddr>, "", "an address and port such as 10.0.0.1:4447",
        |t| if t.is_empty() { Some(None) } else { t.parse().ok().map(Some) }, "where the other nodes connect.";
    join: bool, "false", "true or false",
        boolean, "the data directory is new and the cluster is not: wait until an operator's order makes this node a member.";
    no_rebuild: bool, "false", "true or false",
        boolean, "a node whose data directory is damaged refuses to start, instead of setting it aside and building its replicas anew from the others.";
    cluster_id: String, "ursula", "1 to 64 letters, digits, - and _",
        name, "name of the cluster: nodes of another one are refused; fixed when a data directory is made.";
    election_timeout_ms: u64, "300ms", "a time from 100ms to 60s",
        |t| within(millis(t), 100, 60_000), "a group without a leader for so long elects one.";
    read_mode: String, "lease", "lease or read-index",
        |t| Some(t.to_owned()).filter(|t| ["lease", "read-index"].contains(&t.as_str())),
        "how a leader makes sure that it leads: by a lease, which trusts that the nodes' clocks run equally fast, or by a round of messages.";
    log_bytes_max: u64, "64MiB", "bytes from 1MiB to 64GiB",
        |t| within(bytes(t), 1 << 20, 64 << 30), "bytes of applied log kept in memory for nodes that lack them, per core; a node that lacks more gets a checkpoint.";
    transfer_bytes_per_second: u64, "64MiB", "bytes from 1MiB to 10GiB",
        |t| within(bytes(t), 1 << 20, 10 << 30), "how fast each core gives checkpoints to nodes that lack the log, all together, so that appends have room.";
    wal_sync: String, "fdatasync", "fdatasync or dsync",
        |t| Some(t.to_owned()).filter(|t| ["fdatasync", "dsync"].contains(&t.as_str())),
        "how an append reaches the disk: a write and a sync, or one write that is durable by itself; measure which is faster.";
    wal_segment_bytes: u64, "32MiB", "bytes from 1MiB to 4GiB",
        |t| within(bytes(t), 1 << 20, 4 << 30).map(|b| b.next_multiple_of(4096)), "size of a WAL segment.";
    checkpoint_bytes: u64, "64MiB", "bytes from 64KiB to 64GiB",
        |t| within(bytes(t), 64 << 10, 64 << 30), "bytes of WAL of a core after which its groups are checkpointed.";
    hot_bytes_max: u64, "auto", "bytes from 1MiB, or auto (a quarter of the memory over all cores)",
        hot_bytes, "stream bytes in memory, per core; above it appends are refused.";
    hot_bytes_kept: u64, "auto", "bytes, or auto; never above a quarter of hot_bytes_max",
        hot_bytes_kept, "bytes per core that stay in memory although they are in packs or the cold store too.";
    connections_max: u64, "65536", "a whole number from 1 to 10000000",
        |t| within(t.parse().ok(), 1, 10_000_000), "client connections, over all cores.";
    header_timeout_ms: u64, "10s", "a time from 10ms to 10min",
        |t| within(millis(t), 10, 600_000), "time for a request's headers to arrive.";
    idle_timeout_ms: u64, "75s", "a time from 10ms to 60min",
        |t| within(millis(t), 10, 3_600_000), "time that a client's HTTP/1 connection may stay open between two requests; keep it above a load balancer's (60 s is common).";
    header_bytes_max: u64, "32KiB", "bytes from 8KiB to 1MiB",
        |t| within(bytes(t), 8 << 10, 1 << 20), "bytes of a request's headers.";
    body_timeout_ms: u64, "30s", "a time from 10ms to 60min",
        |t| within(millis(t), 10, 3_600_000), "time for a request's body to arrive.";
    body_bytes_max: u64, "32MiB", "bytes from 1KiB to 1GiB",
        |t| within(bytes(t), 1 << 10, 1 << 30), "bytes of a request's body.";
    body_bytes_in_flight_max: u64, "256MiB", "bytes from 64KiB to 64GiB",
        |t| within(bytes(t), 64 << 10, 64 << 30), "bytes of bodies being received, per core.";
    requests_in_flight_max: u64, "65536", "a whole number from 1 to 10000000",
        |t| within(t.parse().ok(), 1, 10_000_000), "requests that wait for a group, per core.";
    live_readers_max: u64, "100000", "a whole number from 1 to 10000000",
        |t| within(t.parse().ok(), 1, 10_000_000), "long-polls and SSE readers, per core.";
    h2_streams_max: u64, "256", "a whole number from 1 to 65535",
        |t| within(t.parse().ok(), 1, 65_535), "requests at once on an HTTP/2 connection.";
    read_chunk_bytes: u64, "1MiB", "bytes from 1KiB to 64MiB",
        |t| within(bytes(t), 1 << 10, 64 << 20), "longest finite answer; a longer single JSON message is sent whole.";
    long_poll_ms: u64, "20s", "a time from 10ms to 10min",
        |t| within(millis(t), 10, 600_000), "how long a long-poll waits.";
    sse_rotate_ms: u64, "60s", "a time from 100ms to 24h in ms, s or min",
        |t| within(millis(t), 100, 86_400_000), "life of an SSE connection; each gets a jitter of a sixth.";
    sse_heartbeat_ms: u64, "15s", "a time from 50ms to 10min",
        |t| within(millis(t), 50, 600_000), "a comment is sent on SSE after so long without an event.";
    shutdown_timeout_ms: u64, "10s", "a time from 0ms to 10min",
        |t| within(millis(t), 0, 600_000), "time that open requests have when the server stops.";
    failed_linger_ms: u64, "20s", "a time from 0ms to 10min",
        |t| within(millis(t), 0, 600_000), "time between a failed write of the log and the end of the node, so that clients and a scrape see why.";
    retry_after_s: u64, "1", "whole seconds from 1 to 3600",
        |t| within(t.parse().ok(), 1, 3600), "seconds of Retry-After in a 503.";
    gzip_bytes_min: u64, "1KiB", "bytes",
        bytes, "smallest finite answer that is compressed when asked.";
    cache_private: bool, "false", "true or false",
        boolean, "say private instead of public in Cache-Control.";
    cors_allow_origin: String, "*", "an origin, * or empty for none",
        |t| Some(t.to_owned()).filter(|t| t.bytes().all(|b| (0x21..0x7f).contains(&b))), "value of Access-Control-Allow-Origin.";
    cross_origin_resource_policy: String, "cross-origin", "cross-origin, same-site or same-origin",
        |t| Some(t.to_owned()).filter(|t| ["cross-origin", "same-site", "same-origin"].contains(&t.as_str())),
        "value of Cross-Origin-Resource-Policy.";
    io_memory: u64, "512KiB", "bytes from 64KiB to 64MiB",
        |t| within(bytes(t), 64 << 10, 64 << 20), "memory that io_uring registers, per core, three times.";
    log_level: String, "info", "error, warn, info, debug or trace",
        |t| Some(t.to_owned()).filter(|t| ["error", "warn", "info", "debug", "trace"].contains(&t.as_str())),
        "how much is logged.";
    log_format: String, "logfmt", "logfmt or json",
        |t| Some(t.to_owned()).filter(|t| ["logfmt", "json"].contains(&t.as_str())), "form of the log.";
}

/// Ticks of an election time-out.
const ELECTION_TICKS: u64 = 6;

impl Config {
    /// Where the cold store is; `None` for a node in memory.
    pub fn cold_place(&self) -> Option<ColdPlace> {
        let beside_the_log = || Some(ColdPlace::Dir(self.wal_dir.as_ref()?.join("cold")));
        self.cold.clone().or_else(beside_the_log)
    }

    /// The groups' part.
    pub fn raft_settings(&self) -> RaftSettings {
        let groups = (self.raft_group_count + 1).div_ceil(self.core_count).max(1);
        RaftSettings {
            tick_ms: (self.election_timeout_ms / ELECTION_TICKS).max(1),
            election_ticks: ELECTION_TICKS as usize,
            heartbeat_ticks: 2,
            read_mode: match self.read_mode.as_str() {
                "read-index" => ReadMode::ReadIndex,
                _ => ReadMode::Lease,
            },
            log_bytes_max: self.log_bytes_max / groups,
            uncommitted_bytes_max: 64 << 20,
            seed: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), self.node_id),
            ..RaftSettings::default()
        }
    }

    /// What is shown of the node in its metrics.
    pub fn node_gauges(&self) -> NodeGauges {
        NodeGauges {
            node_id: self.node_id,
            cluster_id: self.cluster_id.clone(),
            has_disk: self.wal_dir.is_some(),
        }
    }

    /// The HTTP layer's part.
    pub fn http_settings(&self, etag_nonce: u32) -> HttpSettings {
        HttpSettings {
            etag_nonce,
            body_bytes_max: self.body_bytes_max,
            body_timeout_ms: self.body_timeout_ms,
            read_chunk_bytes: self.read_chunk_bytes,
            long_poll_ms: self.long_poll_ms,
            sse_rotate_ms: self.sse_rotate_ms,
            sse_heartbeat_ms: self.sse_heartbeat_ms,
            cache_private: self.cache_private,
            cors_allow_origin: self.cors_allow_origin.clone(),
            cross_origin_resource_policy: self.cross_origin_resource_policy.clone(),
            gzip_bytes_min: self.gzip_bytes_min,
            retry_after_s: self.retry_after_s,
            client_port_ops: self.client_port_ops,
        }
    }
}
