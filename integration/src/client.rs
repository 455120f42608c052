//! A blocking HTTP/1.1 client over a plain socket.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Reply {
    /// A header, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// `Stream-Next-Offset`.
    pub fn next(&self) -> String {
        self.header("stream-next-offset").to_owned()
    }

    /// The body as a text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }
}

/// One connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    pub fn connect(address: &str) -> Client {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a valid time");
        stream.set_nodelay(true).expect("a tcp socket");
        Client {
            stream: BufReader::new(stream),
        }
    }

    /// Connects, and waits no longer than `patience` for that or for any part of an answer.
    ///
    /// # Errors
    /// The system's.
    pub fn try_connect(address: &str, patience: Duration) -> std::io::Result<Client> {
        let address = address
            .parse()
            .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e))?;
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request and reads its answer.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        self.try_send(method, path, headers, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// The same; the error if the connection breaks off.
    ///
    /// # Errors
    /// The system's.
    pub fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Reply> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.stream.get_mut().write_all(&bytes)?;
        self.read_reply(method == "HEAD")
    }

    /// Writes raw bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads a line of the answer; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line in time");
        line
    }

    /// Whether the other side has closed the connection, or said something that nobody asked for.
    pub fn is_stale(&self) -> bool {
        let socket = self.stream.get_ref();
        let is_silent = |e: std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
        socket.set_nonblocking(true).is_err()
            || !socket.peek(&mut [0]).is_err_and(is_silent)
            || socket.set_nonblocking(false).is_err()
    }

    /// Waits no longer than this for any part of an answer from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn set_patience(&self, patience: Duration) -> std::io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(patience))
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// The system's, or that the connection ended.
    pub fn read_reply(&mut self, is_head: bool) -> std::io::Result<Reply> {
        let (status, headers) = self.read_head()?;
        let mut body = Vec::new();
        let has_body = !is_head && status != 204 && status != 304;
        if has_body
            && headers
                .get("transfer-encoding")
                .is_some_and(|t| t == "chunked")
        {
            loop {
                let chunk = self.read_chunk()?;
                if chunk.is_empty() {
                    break;
                }
                body.extend_from_slice(&chunk);
            }
        } else if has_body {
            let length = headers
                .get("content-length")
                .and_then(|l| l.parse().ok())
                .unwrap_or(0);
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
        }
        Ok(Reply {
            status,
            headers,
            body,
        })
    }

    /// Reads the status and the headers of an answer.
    ///
    /// # Errors
    /// The system's, or that the connection ended.
    pub fn read_head(&mut self) -> std::io::Result<(u16, BTreeMap<String, String>)> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ended());
        }
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or_else(ended)?;
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(ended());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        Ok((status, headers))
    }

    /// Reads a chunk of a chunked answer; empty at its end.
    ///
    /// # Errors
    /// The system's, or that the connection ended.
    pub fn read_chunk(&mut self) -> std::io::Result<Vec<u8>> {
        let mut size = String::new();
        self.stream.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(|_| ended())?;
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk)?;
        chunk.truncate(size);
        Ok(chunk)
    }

    /// PUT of a text stream.
    pub fn create(&mut self, path: &str, content_type: &str) -> Reply {
        self.send("PUT", path, &[("content-type", content_type)], b"")
    }

    /// POST.
    pub fn append(&mut self, path: &str, content_type: &str, body: &[u8]) -> Reply {
        self.send("POST", path, &[("content-type", content_type)], body)
    }

    /// GET.
    pub fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    /// Reads a stream from its start to its tail, chunk by chunk.
    pub fn read_all(&mut self, path: &str) -> Vec<u8> {
        let mut all = Vec::new();
        let mut offset = "-1".to_owned();
        loop {
            let reply = self.get(&format!("{path}?offset={offset}"));
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            all.extend_from_slice(&reply.body);
            offset = reply.next();
            if reply.header("stream-up-to-date") == "true" {
                return all;
            }
        }
    }
}

fn ended() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the connection ended")
}

/// The sum of a metric over its labels.
pub fn metric(client: &mut Client, name: &str) -> u64 {
    let text = client.get("/metrics").text();
    let own = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{'))
    });
    own.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}

/// Sends raw bytes on a new connection and reads what comes until it is closed or silent for a moment.
pub fn raw(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream
        .set_read_timeout(Some(Duration::from_millis(1500)))
        .expect("a valid time");
    // The server may close while we write: that is an answer too.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || answer.len() > 1 << 20 {
            break;
        }
        answer.extend_from_slice(&buffer[..n]);
    }
    answer
}
