//! Several nodes on one machine: real processes, each with its own ports, disk and log, to be killed, stopped, cut off
//! and started again.

mod admin;
mod net;
mod ports;
mod wires;

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub use net::Network;
use ports::Port;
pub use wires::{Trouble, Wires};

use crate::disk::Disk;
use crate::{Client, Server, scratch_dir};

/// Longest wait for a cluster to be ready, or a node to end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Longest wait for one answer of a node that may be stopped.
const ANSWER: Duration = Duration::from_secs(2);

/// One of the nodes.
struct Node {
    listen: String,
    cluster_listen: String,
    /// Settings of this node alone.
    settings: Vec<String>,
    /// Put before the server's command.
    wrapper: Vec<String>,
    /// It gets its replicas' names from the cluster.
    joins: bool,
    child: Option<Child>,
    _ports: Vec<Port>,
}

impl Node {
    fn new(id: u32, network: Option<&Network>) -> Node {
        let (addresses, ports) = match network {
            Some(network) => {
                let host = network.address(id);
                ([format!("{host}:4437"), format!("{host}:4447")], Vec::new())
            }
            None => {
                let ports = [(); 2].map(|()| Port::reserve().expect("a free port"));
                let named = [&ports[0], &ports[1]].map(|p| format!("127.0.0.1:{}", p.number));
                (named, ports.into())
            }
        };
        let [listen, cluster_listen] = addresses;
        Node {
            listen,
            cluster_listen,
            settings: Vec::new(),
            wrapper: Vec::new(),
            joins: false,
            child: None,
            _ports: ports,
        }
    }
}

/// Nodes 1 to n; killed when dropped, and their logs printed if the test fails.
pub struct Cluster {
    nodes: Vec<Node>,
    settings: Vec<String>,
    /// How many nodes founded it; the others join.
    founders: usize,
    network: Option<Network>,
    wires: Option<Wires>,
    /// Those that can fail, by node; unmounted before the directory goes.
    disks: Vec<(u32, Disk)>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts `count` nodes and waits until they are ready. A single one knows of no peers.
    pub fn start(count: u32, settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(count, settings, None);
        for node in cluster.ids() {
            cluster.start_node(node);
        }
        cluster.wait_ready();
        cluster
    }

    /// The same, each node in a network namespace of its own.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn start_apart(count: u32, settings: &[&str]) -> Result<Cluster, String> {
        let network = Network::make(count)?;
        let mut cluster = Cluster::prepare(count, settings, Some(network));
        for node in cluster.ids() {
            cluster.start_node(node);
        }
        cluster.wait_ready();
        Ok(cluster)
    }

    /// The same, on ways that can fail.
    ///
    /// # Errors
    /// The system's.
    pub fn start_wired(count: u32, settings: &[&str]) -> std::io::Result<Cluster> {
        let mut cluster = Cluster::prepare(count, settings, None);
        let nodes = cluster.nodes.iter().map(|n| n.cluster_listen.clone());
        cluster.wires = Some(Wires::make(&(1..).zip(nodes).collect::<Vec<_>>())?);
        for node in cluster.ids() {
            cluster.start_node(node);
        }
        cluster.wait_ready();
        Ok(cluster)
    }

    /// A cluster none of whose nodes runs yet.
    pub fn prepare(count: u32, settings: &[&str], network: Option<Network>) -> Cluster {
        Cluster {
            nodes: (1..=count)
                .map(|id| Node::new(id, network.as_ref()))
                .collect(),
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            founders: count as usize,
            network,
            wires: None,
            disks: Vec::new(),
            dir: scratch_dir(),
        }
    }

    /// One more node, which is to join; it does not run yet. Its number.
    pub fn prepare_another(&mut self) -> u32 {
        let id = self.nodes.len() as u32 + 1;
        let mut node = Node::new(id, self.network.as_ref());
        node.joins = true;
        self.nodes.push(node);
        id
    }

    /// From its next start on, a node with an empty disk asks the cluster what it is.
    pub fn let_join(&mut self, node: u32) {
        self.nodes[node as usize - 1].joins = true;
    }

    /// From its next start on, a node that was to join takes itself for one of those that found the cluster.
    pub fn found(&mut self, node: u32) {
        self.nodes[node as usize - 1].joins = false;
    }

    /// Puts the data of a node that was never started on a disk that can fail.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn put_on_disk(&mut self, node: u32) -> Result<(), String> {
        let disk = Disk::mount(&self.data(node), node.into())?;
        self.disks.push((node, disk));
        Ok(())
    }

    /// The disk that a node was put on.
    pub fn disk(&self, node: u32) -> &Disk {
        let found = self.disks.iter().find(|(n, _)| *n == node);
        &found.expect("the node was put on one").1
    }

    /// From its next start on, these words stand before a node's command; they end by running it in their place.
    pub fn wrap(&mut self, node: u32, words: &[&str]) {
        self.nodes[node as usize - 1].wrapper = words.iter().map(|s| (*s).to_owned()).collect();
    }

    /// The nodes' numbers.
    pub fn ids(&self) -> Vec<u32> {
        (1..=self.nodes.len() as u32).collect()
    }

    /// Those of the running ones.
    pub fn running(&self) -> Vec<u32> {
        let runs = |id: &u32| self.nodes[*id as usize - 1].child.is_some();
        self.ids().into_iter().filter(runs).collect()
    }

    /// The network, if each node has its own.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// The ways between the nodes, if they can fail.
    pub fn wires(&self) -> Option<&Wires> {
        self.wires.as_ref()
    }

    /// A node's address for clients, `host:port`.
    pub fn address(&self, node: u32) -> &str {
        &self.nodes[node as usize - 1].listen
    }

    /// A node's address for the other nodes and for orders, `host:port`.
    pub fn cluster_address(&self, node: u32) -> &str {
        &self.nodes[node as usize - 1].cluster_listen
    }

    /// Those of all nodes.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|n| n.listen.clone()).collect()
    }

    /// `http://host:port` of a node.
    pub fn url(&self, node: u32) -> String {
        format!("http://{}", self.address(node))
    }

    /// A new connection to a node, which runs.
    pub fn client(&self, node: u32) -> Client {
        Client::connect(self.address(node))
    }

    /// Gives one node settings of its own, from its next start on.
    pub fn set(&mut self, node: u32, settings: &[&str]) {
        self.nodes[node as usize - 1].settings = settings.iter().map(|s| (*s).to_owned()).collect();
    }

    /// Where a node keeps its data.
    pub fn data(&self, node: u32) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    /// Starts a node that does not run; does not wait for anything.
    pub fn start_node(&mut self, node: u32) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(node))
            .expect("the scratch directory is writable");
        let this = &self.nodes[node as usize - 1];
        let mut command = match (&self.network, &this.wrapper[..]) {
            (Some(network), _) => network.command(node, &Server::binary()),
            (None, []) => Command::new(Server::binary()),
            (None, [first, rest @ ..]) => {
                let mut command = Command::new(first);
                command.args(rest).arg(Server::binary());
                command
            }
        };
        command
            .args(["server", "--io-memory", "64KiB", "--no-pin"])
            .args(["--listen", self.address(node)])
            .arg("--wal-dir")
            .arg(self.data(node))
            .args(&self.settings);
        let number = node.to_string();
        let mut defaults = vec![
            ("--node-id", number.as_str()),
            ("--core-count", "1"),
            ("--raft-group-count", "4"),
            ("--admin-listen", "off"),
        ];
        let peers: Vec<String> = (1..)
            .zip(&self.nodes)
            .filter(|(id, _)| this.joins || *id <= self.founders)
            .map(|(id, n)| {
                let way = self.wires.as_ref().and_then(|w| w.address(node, id as u32));
                format!("{id}={}", way.unwrap_or(&n.cluster_listen))
            })
            .collect();
        let peers = peers.join(",");
        if this.joins {
            command.arg("--join");
        }
        if self.founders > 1 {
            defaults.push(("--peers", &peers));
            defaults.push(("--cluster-listen", &this.cluster_listen));
            defaults.push(("--cluster-id", "test"));
        }
        for (name, value) in defaults {
            let is_set = |s: &String| s == name;
            if !self.settings.iter().any(is_set) && !this.settings.iter().any(is_set) {
                command.args([name, value]);
            }
        }
        command
            .args(&this.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e} (build it with `cargo build --release`)"));
        let this = &mut self.nodes[node as usize - 1];
        assert!(this.child.is_none(), "node {node} runs already");
        this.child = Some(child);
    }

    /// Polls `GET /readyz` of all running nodes until each says yes.
    pub fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for node in self.running() {
            while !self.is_ready(node) {
                self.expect_alive(node);
                assert!(
                    Instant::now() < deadline,
                    "node {node} was not ready in {PATIENCE:?}"
                );
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Whether a node says that it is ready.
    pub fn is_ready(&self, node: u32) -> bool {
        self.answers(node, "/readyz")
    }

    /// Whether a node answers a GET with 200.
    pub fn answers(&self, node: u32, path: &str) -> bool {
        Client::try_connect(self.address(node), ANSWER)
            .and_then(|mut client| client.try_send("GET", path, &[], b""))
            .is_ok_and(|reply| reply.status == 200)
    }

    /// The node that leads a stream, as the first one that knows says.
    pub fn leader(&self, path: &str) -> Option<u32> {
        let mut running = self.running().into_iter();
        running.find_map(|node| self.leader_by(node, path))
    }

    /// The node that leads a stream, as this one says, if it knows.
    pub fn leader_by(&self, node: u32, path: &str) -> Option<u32> {
        let asked = Client::try_connect(self.address(node), ANSWER)
            .and_then(|mut client| client.try_send("HEAD", path, &[], b""));
        let reply = asked.ok().filter(|reply| reply.status == 200)?;
        // Who leads says nothing of itself.
        match reply.header("stream-leader-hint") {
            "" => Some(node),
            hint => self.ids().into_iter().find(|n| self.address(*n) == hint),
        }
    }

    /// Panics with its last words if a node that should run has ended.
    fn expect_alive(&mut self, node: u32) {
        if let Some(child) = &mut self.nodes[node as usize - 1].child
            && let Ok(Some(status)) = child.try_wait()
        {
            panic!("node {node} ended by itself with {status}");
        }
    }

    /// Panics if one of the nodes that should run has ended.
    pub fn expect_all_alive(&mut self) {
        for node in self.running() {
            self.expect_alive(node);
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self, node: u32) {
        self.expect_alive(node);
        if let Some(mut child) = self.nodes[node as usize - 1].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP.
    pub fn pause(&self, node: u32) {
        self.signal(node, libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self, node: u32) {
        self.signal(node, libc::SIGCONT);
    }

    /// SIGTERM; does not wait.
    pub fn terminate(&self, node: u32) {
        self.signal(node, libc::SIGTERM);
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self, node: u32) -> ExitStatus {
        self.terminate(node);
        self.wait_end(node)
    }

    /// Waits until a node ends.
    pub fn wait_end(&mut self, node: u32) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let child = &mut self.nodes[node as usize - 1].child;
        loop {
            let running = child.as_mut().expect("the node was started");
            if let Some(status) = running.try_wait().expect("it is our child") {
                *child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "node {node} did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How a node ended by itself, if it has.
    pub fn ended(&mut self, node: u32) -> Option<ExitStatus> {
        let child = &mut self.nodes[node as usize - 1].child;
        let status = child.as_mut()?.try_wait().expect("it is our child")?;
        *child = None;
        Some(status)
    }

    /// Process id of a node that runs.
    pub fn pid(&self, node: u32) -> u32 {
        let child = &self.nodes[node as usize - 1].child;
        child.as_ref().expect("the node was started").id()
    }

    /// Resident memory of a node that runs, in bytes.
    pub fn resident_bytes(&self, node: u32) -> u64 {
        crate::server::resident_bytes(self.pid(node))
    }

    fn signal(&self, node: u32, signal: libc::c_int) {
        if let Some(child) = &self.nodes[node as usize - 1].child {
            // SAFETY: the pid is that of a child that was not waited for.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }

    /// Removes all that a node which does not run has on its disk.
    pub fn wipe(&mut self, node: u32) {
        assert!(self.nodes[node as usize - 1].child.is_none());
        std::fs::remove_dir_all(self.data(node)).expect("the data is there, and ours");
    }

    fn log_path(&self, node: u32) -> PathBuf {
        self.dir.path().join(format!("node-{node}.log"))
    }

    /// All that a node has logged.
    pub fn log(&self, node: u32) -> String {
        let bytes = std::fs::read(self.log_path(node)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|n| n.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for node in self.ids() {
                let log = self.log(node);
                let from = log.lines().count().saturating_sub(60);
                let last: Vec<&str> = log.lines().skip(from).collect();
                eprintln!("--- the log of node {node} ends with\n{}", last.join("\n"));
            }
        }
    }
}
