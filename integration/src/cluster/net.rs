//! A network of its own for each node: a namespace, a pair of veth, one bridge. Needs root and iproute2, no firewall: a
//! one-way drop is a neighbour entry that sends the frames for one node to a hardware address that nobody has. What is
//! dropped so vanishes without an answer, as in a cut cable.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A bridge with a namespace for each node; removed when dropped.
pub struct Network {
    /// Unique on the machine; the start of all names.
    tag: String,
    /// The two middle bytes of the addresses.
    middle: (u8, u8),
    nodes: u32,
}

fn ip(arguments: &str) -> Result<Output, String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {arguments}: {}", error.trim()))
}

impl Network {
    /// Makes one for nodes 1 to `nodes`.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn make(nodes: u32) -> Result<Network, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let tag = format!("u{:x}{:x}", pid & 0xf_ffff, count & 0xff);
        // Another network of this machine that has the address would make the next lines fail.
        let mixed = pid.wrapping_mul(31).wrapping_add(count);
        let network = Network {
            tag,
            middle: (64 + (mixed >> 8) as u8 % 128, mixed as u8),
            nodes,
        };
        let tag = &network.tag;
        ip(&format!("link add {tag}b type bridge"))?;
        ip(&format!("addr add {}/24 dev {tag}b", network.address(254)))?;
        ip(&format!("link set {tag}b up"))?;
        for node in 1..=nodes {
            let space = network.space(node);
            ip(&format!("netns add {space}"))?;
            ip(&format!(
                "link add {tag}v{node} type veth peer name eth0 netns {space}"
            ))?;
            ip(&format!("link set {tag}v{node} master {tag}b up"))?;
            ip(&format!("-n {space} link set lo up"))?;
            ip(&format!(
                "-n {space} link set eth0 address {} up",
                hardware(node)
            ))?;
            ip(&format!(
                "-n {space} addr add {}/24 dev eth0",
                network.address(node)
            ))?;
        }
        network.heal();
        Ok(network)
    }

    /// A node's address.
    pub fn address(&self, node: u32) -> String {
        format!("10.{}.{}.{node}", self.middle.0, self.middle.1)
    }

    /// A command that runs in a node's namespace.
    pub fn command(&self, node: u32, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.space(node)])
            .arg(program);
        command
    }

    /// Nothing that `from` sends reaches `to`; the other way stays open.
    pub fn drop_one_way(&self, from: u32, to: u32) {
        self.point(from, to, "02:00:00:00:fe:fe");
    }

    /// Nothing passes between two nodes.
    pub fn partition(&self, a: u32, b: u32) {
        self.drop_one_way(a, b);
        self.drop_one_way(b, a);
    }

    /// Nothing passes between a node and the others; clients still reach it.
    pub fn isolate(&self, node: u32) {
        for other in (1..=self.nodes).filter(|n| *n != node) {
            self.partition(node, other);
        }
    }

    /// Of what other nodes send, each node loses so many packets of a hundred, drawn one by one; none any more with 0. Clients lose
    /// nothing. Needs nftables, too.
    ///
    /// # Errors
    /// Why that cannot be here.
    pub fn lose(&self, percent: u32) -> Result<(), String> {
        let rules = format!(
            "table ip loss {{\n chain input {{\n type filter hook input priority 0;\n ip saddr != {} numgen random mod 100 < {percent} \
             counter drop;\n}}\n}}\n",
            self.address(254)
        );
        for node in 1..=self.nodes {
            let _ = self.nft(node, "delete table ip loss");
            if percent > 0 {
                self.nft(node, &rules)?;
            }
        }
        Ok(())
    }

    /// Packets that a node has lost since [`Network::lose`].
    ///
    /// # Errors
    /// None are lost.
    pub fn lost(&self, node: u32) -> Result<u64, String> {
        let text = self.nft(node, "list table ip loss")?;
        let count = text.split("counter packets ").nth(1);
        let count = count.and_then(|rest| rest.split(' ').next()?.parse().ok());
        count.ok_or_else(|| format!("nothing is counted in {text}"))
    }

    fn nft(&self, node: u32, rules: &str) -> Result<String, String> {
        let mut command = self.command(node, std::path::Path::new("nft"));
        let output = command.arg(rules).output().map_err(|e| e.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(format!("nft: {}", text(&output.stderr))),
        }
    }

    /// All is open again.
    pub fn heal(&self) {
        for from in 1..=self.nodes {
            for to in (1..=self.nodes).filter(|n| *n != from) {
                self.point(from, to, &hardware(to));
            }
        }
    }

    fn point(&self, from: u32, to: u32, hardware: &str) {
        let done = ip(&format!(
            "-n {} neigh replace {} lladdr {hardware} nud permanent dev eth0",
            self.space(from),
            self.address(to)
        ));
        if let Err(error) = done {
            panic!("{error}");
        }
    }

    fn space(&self, node: u32) -> String {
        format!("{}n{node}", self.tag)
    }
}

fn hardware(node: u32) -> String {
    format!("02:00:00:00:00:{node:02x}")
}

impl Drop for Network {
    fn drop(&mut self) {
        // What a failed `make` did not get to is not there to remove.
        for node in 1..=self.nodes {
            let _ = ip(&format!("link del {}v{node}", self.tag));
            let _ = ip(&format!("netns del {}", self.space(node)));
        }
        let _ = ip(&format!("link del {}b", self.tag));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn reaches(network: &Network, from: u32, to: u32) -> bool {
        // One datagram, which the other side says it got: no reply is needed, so that ways can be told apart.
        let script = "import socket,sys; s=socket.socket(2,2); s.bind(('0.0.0.0',9)); s.settimeout(float(sys.argv[1]));\
            print('ready',flush=True)\ntry: s.recv(1); print('got',flush=True)\nexcept TimeoutError: print('none',flush=True)";
        let mut receiver = network
            .command(to, Path::new("python3"))
            .args(["-c", script, "0.5"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(
            receiver.stdout.take().expect("piped above"),
        ));
        assert_eq!(lines.next().expect("a line").expect("a text"), "ready");
        let send = format!(
            "import socket; socket.socket(2,2).sendto(b'x',('{}',9))",
            network.address(to)
        );
        let sent = network
            .command(from, Path::new("python3"))
            .args(["-c", &send])
            .status();
        assert!(sent.expect("python3 is installed").success());
        let answer = lines.next().expect("a line").expect("a text");
        let _ = receiver.wait();
        answer == "got"
    }

    #[test]
    fn ways_are_cut_one_by_one_and_healed() {
        let network = match Network::make(3) {
            Ok(network) => network,
            Err(reason) => return crate::skip(format!("no network namespaces here: {reason}")),
        };
        assert!(reaches(&network, 1, 2) && reaches(&network, 2, 1));
        network.drop_one_way(1, 2);
        assert!(!reaches(&network, 1, 2) && reaches(&network, 2, 1));
        network.isolate(3);
        assert!(!reaches(&network, 3, 2) && !reaches(&network, 1, 3));
        network.heal();
        assert!(reaches(&network, 1, 2) && reaches(&network, 2, 3));
    }
}
