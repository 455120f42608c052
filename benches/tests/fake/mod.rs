//! A server of the base protocol that keeps streams in memory and does one thing wrong if it is told to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What it does wrong, each time with one append of twenty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    /// Acknowledges and keeps nothing.
    Loses,
    Doubles,
    /// Keeps an append after the one that follows it.
    Swaps,
    /// Changes a byte.
    Garbles,
    /// Keeps bytes that nobody sent.
    Inserts,
    Refuses,
    /// Keeps all, and leaves one out for those that listen.
    LosesLive,
    DoublesLive,
    /// Closes the connection before the answer.
    HangsUp,
    /// Answers an append after 50 ms.
    IsSlow,
    /// Says that a stream was created, and has it not.
    Forgets,
}

#[derive(Default)]
struct Stream {
    kind: String,
    /// What was appended, one by one.
    parts: Vec<Vec<u8>>,
    held: Option<Vec<u8>>,
    /// By producer, what comes next.
    producers: HashMap<String, u64>,
}

struct State {
    wrong: Wrong,
    streams: Mutex<HashMap<String, Stream>>,
    changed: Condvar,
    appends: AtomicU64,
}

/// A server that ends with the process.
pub struct Fake {
    pub address: SocketAddr,
}

struct Request {
    method: String,
    path: String,
    query: HashMap<String, String>,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Fake {
    pub fn start(wrong: Wrong) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            wrong,
            streams: Mutex::default(),
            changed: Condvar::new(),
            appends: AtomicU64::new(0),
        });
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let state = state.clone();
                std::thread::spawn(move || {
                    // A client that goes away is not an error.
                    let _ = serve(&state, socket);
                });
            }
        });
        Fake { address }
    }
}

fn serve(state: &State, mut socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket.try_clone()?);
    while let Some(request) = read(&mut reader)? {
        let is_live = request.query.get("live").map(String::as_str);
        match (request.method.as_str(), is_live) {
            ("PUT", _) => create(state, &request, &mut socket)?,
            ("POST", _) => {
                if !append(state, request, &mut socket)? {
                    return Ok(());
                }
            }
            ("GET", Some("sse")) => return events(state, &request, &mut socket),
            (_, live) => get(state, &request, live.is_some(), &mut socket)?,
        }
    }
    Ok(())
}

fn read(reader: &mut BufReader<TcpStream>) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let path = path.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|l| l.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Some(Request {
        method,
        path,
        query,
        headers,
        body,
    }))
}

fn answer(socket: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n");
    socket.write_all(&[head.as_bytes(), body].concat())
}

fn locked(state: &State) -> MutexGuard<'_, HashMap<String, Stream>> {
    state.streams.lock().expect("nobody panicked with it")
}

fn create(state: &State, request: &Request, socket: &mut TcpStream) -> Result<()> {
    let is_forgotten = state.wrong == Wrong::Forgets && request.path.ends_with("-17");
    if !is_forgotten {
        let kind = request.headers.get("content-type").cloned();
        let stream = Stream {
            kind: kind.unwrap_or_default(),
            ..Stream::default()
        };
        locked(state).insert(request.path.clone(), stream);
    }
    answer(socket, "201 Created", "stream-next-offset: 0\r\n", b"")
}

/// Whether the connection goes on.
fn append(state: &State, request: Request, socket: &mut TcpStream) -> Result<bool> {
    let number = state.appends.fetch_add(1, Ordering::SeqCst);
    // Parts of 256 KiB come from a scenario that is filling a stream: few, so each may be the wrong one.
    let is_turn = number % 20 == 10 || request.body.len() > 100_000;
    let wrong = if is_turn { state.wrong } else { Wrong::Nothing };
    if wrong == Wrong::Refuses {
        answer(socket, "404 Not Found", "", b"no such stream")?;
        return Ok(true);
    }
    let mut streams = locked(state);
    let Some(stream) = streams.get_mut(&request.path) else {
        drop(streams);
        answer(socket, "404 Not Found", "", b"")?;
        return Ok(true);
    };
    let header = |name: &str| request.headers.get(name);
    let mut is_new = true;
    if let (Some(id), Some(seq)) = (header("producer-id"), header("producer-seq")) {
        let next = stream.producers.entry(id.clone()).or_default();
        let seq: u64 = seq.parse().unwrap_or(0);
        is_new = seq == *next;
        if seq > *next {
            drop(streams);
            answer(socket, "409 Conflict", "", b"a gap")?;
            return Ok(true);
        }
        *next = seq + 1;
    }
    if is_new {
        keep(stream, request.body, wrong);
    }
    let next = stream.parts.len();
    drop(streams);
    state.changed.notify_all();
    match (wrong, state.wrong) {
        (Wrong::HangsUp, _) => return Ok(false),
        (_, Wrong::IsSlow) => std::thread::sleep(Duration::from_millis(50)),
        _ => {}
    }
    answer(
        socket,
        "204 No Content",
        &format!("stream-next-offset: {next}\r\n"),
        b"",
    )?;
    Ok(true)
}

fn keep(stream: &mut Stream, mut body: Vec<u8>, wrong: Wrong) {
    // A JSON array is its elements.
    if stream.kind == "application/json" && body.first() == Some(&b'[') {
        body = body[1..body.len() - 1].to_vec();
    }
    let held = stream.held.take();
    match wrong {
        Wrong::Loses => {}
        Wrong::Doubles => stream.parts.extend([body.clone(), body]),
        Wrong::Swaps => stream.held = Some(body),
        Wrong::Garbles => {
            let at = body.len() - 2;
            body[at] ^= 1;
            stream.parts.push(body);
        }
        Wrong::Inserts => stream.parts.extend([body, b"what?\n".to_vec()]),
        _ => stream.parts.push(body),
    }
    stream.parts.extend(held);
}

fn from(stream: &Stream, offset: &str) -> usize {
    let offset = offset.parse().unwrap_or(0);
    stream.parts.len().min(offset)
}

fn shown(stream: &Stream, offset: usize) -> Vec<u8> {
    match stream.kind.as_str() {
        "application/json" => {
            let inside = stream.parts[offset..].join(&b',');
            [&b"["[..], &inside, b"]"].concat()
        }
        _ => stream.parts[offset..].concat(),
    }
}

fn get(state: &State, request: &Request, is_live: bool, socket: &mut TcpStream) -> Result<()> {
    let offset = request.query.get("offset").cloned().unwrap_or_default();
    let is_empty = |streams: &mut HashMap<String, Stream>| {
        let stream = streams.get(&request.path);
        is_live && stream.is_some_and(|s| from(s, &offset) == s.parts.len())
    };
    let patience = Duration::from_secs(2);
    let waited = state
        .changed
        .wait_timeout_while(locked(state), patience, is_empty);
    let (streams, _) = waited.expect("nobody panicked with it");
    let Some(stream) = streams.get(&request.path) else {
        drop(streams);
        return answer(socket, "404 Not Found", "", b"");
    };
    let at = from(stream, &offset);
    let next = stream.parts.len();
    let body = if request.method == "HEAD" {
        Vec::new()
    } else {
        shown(stream, at)
    };
    drop(streams);
    let headers = format!("stream-next-offset: {next}\r\nstream-up-to-date: true\r\n");
    match is_live && at == next {
        true => answer(socket, "204 No Content", &headers, b""),
        false => answer(socket, "200 OK", &headers, &body),
    }
}

fn events(state: &State, request: &Request, socket: &mut TcpStream) -> Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes())?;
    let mut at = 0;
    loop {
        let mut streams = locked(state);
        while streams
            .get(&request.path)
            .is_some_and(|s| s.parts.len() == at)
        {
            streams = state
                .changed
                .wait(streams)
                .expect("nobody panicked with it");
        }
        let Some(stream) = streams.get(&request.path) else {
            return Ok(());
        };
        let (kind, part) = (stream.kind.clone(), stream.parts[at].clone());
        drop(streams);
        at += 1;
        let data = match kind.as_str() {
            "text/plain" => String::from_utf8_lossy(&part).replace('\n', "\ndata: "),
            "application/json" => format!("[{}]", String::from_utf8_lossy(&part)),
            _ => base64(&part),
        };
        let event = format!(
            "event: data\ndata: {data}\n\nevent: control\ndata: {{\"streamNextOffset\":\"{at}\"}}\n\n"
        );
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        match state.wrong {
            Wrong::LosesLive if at == 10 => {}
            Wrong::DoublesLive if at == 10 => socket.write_all(chunk.repeat(2).as_bytes())?,
            _ => socket.write_all(chunk.as_bytes())?,
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut bits = 0u32;
        for at in 0..3 {
            bits = bits << 8 | u32::from(three.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at > three.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}
