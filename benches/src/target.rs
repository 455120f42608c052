//! A server under load: where its streams are, and requests for them.

use std::net::{SocketAddr, ToSocketAddrs};

/// Where streams are made: `[name=]http://host:port[,host:port...]/base`.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: String,
    /// The nodes of one server; connections take turns.
    pub addresses: Vec<SocketAddr>,
    pub host: String,
    /// Streams are at this path, a slash and their name.
    pub base: String,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (name, url) = match text.split_once("=http") {
            Some((name, rest)) => (name.to_owned(), format!("http{rest}")),
            None => (text.to_owned(), text.to_owned()),
        };
        if name.is_empty() || name.contains(['<', '>', '&', '"']) {
            return Err("a server's name is not empty and has none of <>&\"".to_owned());
        }
        let rest = url
            .strip_prefix("http://")
            .ok_or("a server is given as NAME=http://host:port/base, without TLS")?;
        let (host, base) = rest.split_once('/').unwrap_or((rest, ""));
        if base.contains(['?', '#', ' ']) {
            return Err(format!("the base /{base} is not a path"));
        }
        let mut addresses = Vec::new();
        for node in host.split(',') {
            let mut found = node.to_socket_addrs().map_err(|e| format!("{node}: {e}"))?;
            addresses.push(
                found
                    .next()
                    .ok_or_else(|| format!("{node} has no address"))?,
            );
        }
        let host = host.split(',').next().unwrap_or(host);
        Ok(Target {
            name,
            addresses,
            host: host.to_owned(),
            base: format!("/{}", base.trim_end_matches('/')),
        })
    }
}

impl Target {
    /// The path of a stream.
    pub fn path(&self, stream: &str) -> String {
        format!("{}/{stream}", self.base.trim_end_matches('/'))
    }

    /// Puts a request without a body.
    pub fn put(&self, out: &mut Vec<u8>, method: &str, target: &str, headers: &str) {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: {}\r\n{headers}\r\n",
            self.host
        );
        out.extend_from_slice(request.as_bytes());
    }
}
