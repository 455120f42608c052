//! One HTTP/1.1 message with its whole body, as a proxy that changes it needs it.

use std::io::{Error, ErrorKind, Read, Result, Write};

/// A request or an answer.
#[derive(Clone)]
pub struct Message {
    /// First line.
    line: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// Reads a request; `None` where the connection ends before one.
pub fn read_request(from: &mut impl Read) -> Result<Option<Message>> {
    let Some(mut message) = read_head(from)? else {
        return Ok(None);
    };
    if message.header("expect").is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "expect"));
    }
    read_body(from, &mut message)?;
    Ok(Some(message))
}

/// Reads an answer; one to HEAD has no body.
pub fn read_answer(from: &mut impl Read, is_head: bool) -> Result<Message> {
    let mut message = read_head(from)?.ok_or(ErrorKind::UnexpectedEof)?;
    if !is_head {
        read_body(from, &mut message)?;
    }
    Ok(message)
}

fn read_head(from: &mut impl Read) -> Result<Option<Message>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if from.read(&mut byte)? == 0 {
            return match head.is_empty() {
                true => Ok(None),
                false => Err(ErrorKind::UnexpectedEof.into()),
            };
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let body = Vec::new();
    Ok(Some(Message {
        line,
        headers,
        body,
    }))
}

/// A chunked body is from then on one of a known length.
fn read_body(from: &mut impl Read, message: &mut Message) -> Result<()> {
    if message.header("transfer-encoding") != Some("chunked") {
        let length = message
            .header("content-length")
            .and_then(|l| l.parse().ok());
        message.body.resize(length.unwrap_or(0), 0);
        return from.read_exact(&mut message.body);
    }
    loop {
        let mut size = Vec::new();
        let mut byte = [0];
        while !size.ends_with(b"\r\n") {
            from.read_exact(&mut byte)?;
            size.push(byte[0]);
        }
        let size = String::from_utf8_lossy(&size);
        let size = usize::from_str_radix(size.trim(), 16).map_err(|_| ErrorKind::InvalidData)?;
        let mut chunk = vec![0; size + 2];
        from.read_exact(&mut chunk)?;
        message.body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            break;
        }
    }
    message
        .headers
        .retain(|(name, _)| name != "transfer-encoding");
    let length = message.body.len().to_string();
    message.headers.push(("content-length".to_owned(), length));
    Ok(())
}

impl Message {
    /// A store's refusal.
    pub fn error(status: u16, code: &str, is_head: bool) -> Message {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
        let body = if is_head { String::new() } else { body };
        Message {
            line: format!("HTTP/1.1 {status} X"),
            headers: vec![("content-length".to_owned(), body.len().to_string())],
            body: body.into_bytes(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// It asks for no body.
    pub fn is_head(&self) -> bool {
        self.line.starts_with("HEAD ")
    }

    /// Flips one bit of the body, if there is one.
    pub fn flip(&mut self, number: u64) {
        let bits = self.body.len() as u64 * 8;
        if let Some(bit) = number.wrapping_mul(7919).checked_rem(bits) {
            self.body[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }

    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Writes it whole.
    pub fn write(&self, to: &mut impl Write) -> Result<()> {
        to.write_all(&self.head())?;
        to.write_all(&self.body)?;
        to.flush()
    }

    /// Writes half of the body, or of the head if there is none.
    pub fn write_half(&self, to: &mut impl Write) -> Result<()> {
        let head = self.head();
        if self.body.is_empty() {
            to.write_all(&head[..head.len() / 2])?;
        } else {
            to.write_all(&head)?;
            to.write_all(&self.body[..self.body.len() / 2])?;
        }
        to.flush()
    }
}
