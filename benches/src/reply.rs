//! Reads HTTP/1.1 answers from bytes as they come, without allocating per answer.

/// A whole answer.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    pub status: u16,
    head: &'a [u8],
    pub body: &'a [u8],
}

/// What the bytes so far hold.
#[derive(Debug)]
pub enum Event<'a> {
    /// The first byte of an answer's body came; not where it has no end.
    Begun,
    /// A whole answer.
    Reply(Reply<'a>),
    /// The next part of an answer that has no end (SSE).
    Part(&'a [u8]),
}

impl Reply<'_> {
    /// A header's value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.head, name)
    }
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.len() > name.len()
            && line[name.len()] == b':'
            && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
        {
            return std::str::from_utf8(&line[name.len() + 1..])
                .ok()
                .map(str::trim);
        }
    }
    None
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    Fixed(usize),
    ChunkSize,
    ChunkData(usize),
    ChunkEnd,
    Trailer,
}

/// The reader of one connection.
#[derive(Debug)]
pub struct Reader {
    buffer: Vec<u8>,
    /// Bytes of the buffer that were used up.
    done: usize,
    phase: Phase,
    status: u16,
    head: Vec<u8>,
    body: Vec<u8>,
    is_endless: bool,
    has_begun: bool,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            buffer: Vec::new(),
            done: 0,
            phase: Phase::Head,
            status: 0,
            head: Vec::new(),
            body: Vec::new(),
            is_endless: false,
            has_begun: false,
        }
    }
}

impl Reader {
    /// Takes bytes and hands on what is complete. A HEAD request must say so, since its answer has no body.
    ///
    /// # Errors
    /// What is not HTTP.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        is_head: bool,
        take: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), String> {
        self.buffer.extend_from_slice(bytes);
        while self.advance(is_head, take)? {}
        self.buffer.drain(..self.done);
        self.done = 0;
        Ok(())
    }

    fn advance(&mut self, is_head: bool, take: &mut dyn FnMut(Event<'_>)) -> Result<bool, String> {
        let rest = &self.buffer[self.done..];
        match self.phase {
            Phase::Head => return self.read_head(is_head, take),
            Phase::Fixed(left) => {
                if left > 0 && !rest.is_empty() && !std::mem::replace(&mut self.has_begun, true) {
                    take(Event::Begun);
                }
                if rest.len() < left {
                    return Ok(false);
                }
                take(Event::Reply(Reply {
                    status: self.status,
                    head: &self.head,
                    body: &rest[..left],
                }));
                self.done += left;
                self.phase = Phase::Head;
            }
            Phase::ChunkSize => {
                let Some(end) = memchr::memchr(b'\n', rest) else {
                    return Ok(false);
                };
                let line = std::str::from_utf8(&rest[..end]).map_err(|e| e.to_string())?;
                let digits = line.split(';').next().unwrap_or("").trim();
                let size = usize::from_str_radix(digits, 16).map_err(|e| e.to_string())?;
                self.done += end + 1;
                self.phase = if size == 0 {
                    Phase::Trailer
                } else {
                    Phase::ChunkData(size)
                };
            }
            Phase::ChunkData(left) => {
                let len = left.min(rest.len());
                if len == 0 {
                    return Ok(false);
                }
                if self.is_endless {
                    take(Event::Part(&rest[..len]));
                } else {
                    if !std::mem::replace(&mut self.has_begun, true) {
                        take(Event::Begun);
                    }
                    self.body.extend_from_slice(&rest[..len]);
                }
                self.done += len;
                self.phase = if len == left {
                    Phase::ChunkEnd
                } else {
                    Phase::ChunkData(left - len)
                };
            }
            Phase::ChunkEnd => {
                if rest.len() < 2 {
                    return Ok(false);
                }
                self.done += 2;
                self.phase = Phase::ChunkSize;
            }
            Phase::Trailer => {
                let Some(end) = memchr::memchr(b'\n', rest) else {
                    return Ok(false);
                };
                let is_last = end <= 1;
                self.done += end + 1;
                if is_last {
                    take(Event::Reply(Reply {
                        status: self.status,
                        head: &self.head,
                        body: &self.body,
                    }));
                    self.phase = Phase::Head;
                }
            }
        }
        Ok(true)
    }

    fn read_head(
        &mut self,
        is_head: bool,
        take: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, String> {
        let rest = &self.buffer[self.done..];
        if rest.is_empty() {
            return Ok(false);
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        let len = match parsed.parse(rest).map_err(|e| e.to_string())? {
            httparse::Status::Partial => return Ok(false),
            httparse::Status::Complete(len) => len,
        };
        self.status = parsed.code.unwrap_or(0);
        self.head.clear();
        self.head.extend_from_slice(&rest[..len]);
        self.body.clear();
        self.has_begun = false;
        self.done += len;
        let value = |name| header(&self.head, name);
        self.is_endless = value("content-type").is_some_and(|v| v.starts_with("text/event-stream"));
        self.phase = if is_head || matches!(self.status, 100..=199 | 204 | 304) {
            Phase::Fixed(0)
        } else if value("transfer-encoding").is_some() {
            Phase::ChunkSize
        } else {
            let length = value("content-length").ok_or("an answer without a length")?;
            Phase::Fixed(length.parse().map_err(|_| "a wrong content-length")?)
        };
        if self.is_endless && self.phase == Phase::ChunkSize {
            take(Event::Part(&[]));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_however_they_are_cut() {
        let wire: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nStream-Next-Offset: 7\r\n\r\nhello\
            HTTP/1.1 204 No Content\r\n\r\n\
            HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        for size in 1..wire.len() {
            let mut reader = Reader::default();
            let (mut found, mut begun) = (Vec::new(), 0);
            for part in wire.chunks(size) {
                let mut take = |event: Event<'_>| match event {
                    Event::Begun => begun += 1,
                    Event::Reply(reply) => {
                        let next = reply.header("stream-next-offset").map(str::to_owned);
                        found.push((reply.status, next, reply.body.to_vec()));
                    }
                    Event::Part(_) => panic!("nothing is endless here"),
                };
                reader.feed(part, false, &mut take).expect("it is HTTP");
            }
            let expected = [
                (200, Some("7".to_owned()), b"hello".to_vec()),
                (204, None, Vec::new()),
                (200, None, b"abcde".to_vec()),
            ];
            assert_eq!((found, begun), (expected.into(), 2), "in parts of {size}");
        }
    }

    #[test]
    fn an_event_stream_comes_in_parts() {
        let wire = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\nda";
        let mut reader = Reader::default();
        let mut parts = Vec::new();
        let mut take = |event: Event<'_>| match event {
            Event::Part(part) => parts.push(part.to_vec()),
            Event::Begun | Event::Reply(_) => panic!("it has no end"),
        };
        reader.feed(wire, false, &mut take).expect("it is HTTP");
        reader.feed(b"ta:", false, &mut take).expect("it is HTTP");
        assert_eq!(parts.concat(), b"data:");
        assert!(parts[0].is_empty(), "the first part says that it began");
    }
}
