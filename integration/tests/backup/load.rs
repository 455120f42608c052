//! Streams of all kinds, and what must be there of them after a restore.

use std::time::Instant;

use integration::Client;
use integration::random::noise;

use super::PATIENCE;

const BYTES: &str = "application/octet-stream";
const JSON: &str = "application/json";

/// What was written.
#[derive(Default, Clone)]
pub struct Written {
    /// Streams and their bytes.
    streams: Vec<(String, Vec<u8>)>,
    /// JSON streams and their messages.
    json: Vec<(String, serde_json::Value)>,
    closed: Vec<String>,
    gone: Vec<String>,
    /// Streams with a producer, and its last sequence.
    producers: Vec<(String, u64)>,
    ttl: Vec<String>,
    round: u64,
}

fn producer(seq: &str) -> [(&str, &str); 4] {
    [
        ("content-type", BYTES),
        ("producer-id", "writer"),
        ("producer-epoch", "3"),
        ("producer-seq", seq),
    ]
}

/// Sends until it is taken: a bucket that is slow is felt as a 503, which takes nothing.
fn sure(client: &mut Client, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = client.send(method, path, headers, body);
        match reply.status {
            200..=299 => return,
            503 => assert!(Instant::now() < deadline, "{path} takes nothing"),
            other => panic!("{method} {path}: {other} {}", reply.text()),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

impl Written {
    /// Streams of all groups.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.streams.iter().map(|(path, _)| path.as_str())
    }

    /// Those that hold plain bytes, and what they must hold.
    pub fn streams(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let streams = self.streams.iter();
        streams.map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
    }

    /// Writes more of everything.
    pub fn more(&mut self, client: &mut Client) {
        let round = self.round;
        self.round += 1;
        let path = |kind: &str, n: u64| format!("/v1/stream/{kind}/r{round}-{n}");
        sure(client, "PUT", "/demo", &[], b"");
        for n in 0..12 {
            let path = match n % 4 {
                0 => format!("/demo/r{round}-{n}"),
                _ => path("plain", n),
            };
            sure(client, "PUT", &path, &[("content-type", BYTES)], b"");
            let body = noise(round * 100 + n, 3_000 * (n as usize + 1));
            for part in body.chunks(5_000) {
                sure(client, "POST", &path, &[("content-type", BYTES)], part);
            }
            self.streams.push((path, body));
        }
        // Those of the rounds before go on.
        if round > 0 {
            for (path, body) in self.streams.iter_mut().filter(|(p, _)| p.contains("r0-")) {
                if self.closed.contains(path) || path.contains("fork") {
                    continue;
                }
                let part = noise(round * 1000, 700);
                sure(client, "POST", path, &[("content-type", BYTES)], &part);
                body.extend(part);
            }
        }
        let json = path("json", 0);
        sure(client, "PUT", &json, &[("content-type", JSON)], b"");
        let messages: Vec<serde_json::Value> = (0..20)
            .map(|n| serde_json::json!({ "n": n, "round": round }))
            .collect();
        for message in &messages {
            let body = message.to_string();
            sure(
                client,
                "POST",
                &json,
                &[("content-type", JSON)],
                body.as_bytes(),
            );
        }
        self.json.push((json, messages.into()));

        let closed = path("closed", 0);
        sure(client, "PUT", &closed, &[("content-type", BYTES)], b"");
        let headers = [("content-type", BYTES), ("stream-closed", "true")];
        sure(client, "POST", &closed, &headers, b"the end");
        self.streams.push((closed.clone(), b"the end".to_vec()));
        self.closed.push(closed);

        let produced = path("produced", 0);
        sure(client, "PUT", &produced, &[("content-type", BYTES)], b"");
        let mut body = Vec::new();
        for seq in 0..5 {
            let text = format!("{seq};");
            sure(
                client,
                "POST",
                &produced,
                &producer(&seq.to_string()),
                text.as_bytes(),
            );
            body.extend(text.into_bytes());
        }
        self.streams.push((produced.clone(), body));
        self.producers.push((produced, 4));

        let ttl = path("ttl", 0);
        let headers = [("content-type", BYTES), ("stream-ttl", "3600")];
        sure(client, "PUT", &ttl, &headers, b"");
        sure(
            client,
            "POST",
            &ttl,
            &[("content-type", BYTES)],
            b"for a while",
        );
        self.streams.push((ttl.clone(), b"for a while".to_vec()));
        self.ttl.push(ttl);

        self.forks(client, round);

        let gone = path("gone", 0);
        sure(client, "PUT", &gone, &[("content-type", BYTES)], b"");
        sure(
            client,
            "POST",
            &gone,
            &[("content-type", BYTES)],
            &noise(7, 10_000),
        );
        sure(client, "DELETE", &gone, &[], b"");
        self.gone.push(gone);
    }

    /// Forks of streams that go on, and of one that is deleted.
    fn forks(&mut self, client: &mut Client, round: u64) {
        for n in 0..4 {
            let source = format!("/v1/stream/source/r{round}-{n}");
            let fork = format!("/v1/stream/fork/r{round}-{n}");
            sure(client, "PUT", &source, &[("content-type", BYTES)], b"");
            let inherited = noise(round * 10 + n, 9_000);
            sure(
                client,
                "POST",
                &source,
                &[("content-type", BYTES)],
                &inherited,
            );
            let from = [
                ("content-type", BYTES),
                ("stream-forked-from", source.as_str()),
            ];
            sure(client, "PUT", &fork, &from, b"");
            let own = noise(round * 10 + n + 500, 4_000);
            sure(client, "POST", &fork, &[("content-type", BYTES)], &own);
            if n == 3 {
                sure(client, "DELETE", &source, &[], b"");
                self.gone.push(source);
            } else {
                sure(
                    client,
                    "POST",
                    &source,
                    &[("content-type", BYTES)],
                    b"later",
                );
                let body = [&inherited[..], b"later"].concat();
                self.streams.push((source, body));
            }
            self.streams.push((fork, [inherited, own].concat()));
        }
    }

    /// All is as it was written.
    pub fn expect(&self, client: &mut Client) {
        for (path, body) in &self.streams {
            let read = client.read_all(path);
            assert!(
                read == *body,
                "{path}: {} bytes of {}",
                read.len(),
                body.len()
            );
        }
        for (path, messages) in &self.json {
            assert_eq!(
                client.get(&format!("{path}?offset=-1")).json(),
                *messages,
                "{path}"
            );
        }
        for path in &self.closed {
            let reply = client.append(path, BYTES, b"more");
            assert_eq!(reply.status, 409, "{path} is closed");
            assert_eq!(
                client.send("HEAD", path, &[], b"").header("stream-closed"),
                "true"
            );
        }
        for path in &self.gone {
            let status = client.send("HEAD", path, &[], b"").status;
            assert!(matches!(status, 404 | 410), "{path} is gone, not {status}");
        }
        for (path, seq) in &self.producers {
            for seq in 0..=*seq {
                let seq = seq.to_string();
                let retry = client.send("POST", path, &producer(&seq), b"again");
                assert_eq!(retry.status, 204, "{path}: {}", retry.text());
            }
            let gap = client.send("POST", path, &producer(&(seq + 2).to_string()), b"gap");
            assert_eq!(gap.status, 409, "{path}: {}", gap.text());
        }
        for path in &self.ttl {
            let head = client.send("HEAD", path, &[], b"");
            assert_eq!(head.header("stream-ttl"), "3600", "{path}");
        }
    }

    /// Every stream that is open takes more, producers included, and forks of forks can be made.
    pub fn go_on(&mut self, client: &mut Client) {
        for (path, body) in &mut self.streams {
            if self.closed.contains(path) {
                continue;
            }
            match self.producers.iter_mut().find(|(p, _)| p == path) {
                Some((_, seq)) => {
                    *seq += 1;
                    sure(client, "POST", path, &producer(&seq.to_string()), b"on");
                }
                None => sure(client, "POST", path, &[("content-type", BYTES)], b"on"),
            }
            body.extend(b"on");
        }
        let named = |p: &str| self.streams.iter().find(|(path, _)| path == p).cloned();
        if let Some((source, body)) = named("/v1/stream/fork/r0-0") {
            let fork = "/v1/stream/fork/again".to_owned();
            let from = [
                ("content-type", BYTES),
                ("stream-forked-from", source.as_str()),
            ];
            sure(client, "PUT", &fork, &from, b"");
            self.streams.push((fork, body));
        }
    }
}
