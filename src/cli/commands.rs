//! What each client command does. Standard output is data, standard error is talk.

use std::io::Read as _;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response};

use super::arguments::{Append, Command, Create, Head, Read, Tail};
use super::client::{Client, Target};
use super::output::{Output, Printer, say};
use crate::core::executor;
use crate::ops::exit;
use crate::ops::logging::journal::note;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line.
    #[error("{0}\nSee `ursula --help`.")]
    Usage(String),
    /// The server said no.
    #[error("{message} (status {status})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's text.
        message: String,
    },
    /// The cluster said no, and nothing was changed.
    #[error("{0}")]
    Conflict(String),
    /// An order was taken and is not carried out yet.
    #[error(
        "not all groups have followed within the {0} s of --wait-s; the order stands and goes on: see `ursula cluster status`"
    )]
    Late(u64),
    /// No answer.
    #[error("no answer from {0}; is the server running there?")]
    Unavailable(String),
    /// What a server of the protocol does not answer.
    #[error("the answer is not of the protocol: {0}")]
    Malformed(String),
    /// The machine is not fit for a node.
    #[error("this machine is not fit for a node with these settings")]
    Unfit,
    /// Standard input or output.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl CliError {
    /// The exit code: 1 failed, 2 usage, 3 not found, 4 conflict, 5 unavailable.
    pub fn code(&self) -> u8 {
        match self {
            CliError::Usage(_) => exit::USAGE,
            CliError::Unfit => exit::MISFIT,
            CliError::Refused {
                status: 404 | 410, ..
            } => exit::NOT_FOUND,
            CliError::Refused { status: 409, .. } | CliError::Conflict(_) => exit::CONFLICT,
            CliError::Refused { status: 503, .. }
            | CliError::Unavailable(_)
            | CliError::Late(_) => exit::UNAVAILABLE,
            CliError::Refused { .. } | CliError::Malformed(_) | CliError::Io(_) => exit::FAILED,
        }
    }
}

/// Runs a command on an executor of its own.
pub(super) fn run(command: Command) -> Result<(), CliError> {
    let failed = |e| CliError::Io(std::io::Error::other(e));
    let running = executor::spawn_beside("command", move || dispatch(command));
    running.map_err(failed)?.join_awake().map_err(failed)?
}

async fn dispatch(command: Command) -> Result<(), CliError> {
    match command {
        Command::Create(given) => create(&given).await,
        Command::Append(given) => append(&given).await,
        Command::Read(given) => read(&given).await,
        Command::Tail(given) => tail(&given).await,
        Command::Head(given) => head(&given).await,
        Command::Close(given) => {
            let headers = [("stream-closed", "true")];
            said(send(&given.url, Method::POST, &headers).await?)
        }
        Command::Delete(given) => said(send(&given.url, Method::DELETE, &[]).await?),
        Command::Cluster(given) => super::cluster::run(given).await,
        Command::Doctor(given) => {
            let report = super::doctor::run(&given).await?;
            super::doctor::print(&given, &report)
        }
        Command::Server(_)
        | Command::Config(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Scrub(_)
        | Command::Man(_)
        | Command::Completions(_)
        | Command::Version(_) => Err(CliError::Usage("not a client command".to_owned())),
    }
}

async fn connect(url: &str) -> Result<Client, CliError> {
    Client::connect(Target::parse(url)?).await
}

/// One request without a body on a connection of its own.
async fn send(
    url: &str,
    method: Method,
    headers: &[(&str, &str)],
) -> Result<Response<Incoming>, CliError> {
    let mut client = connect(url).await?;
    client.send(method, "", headers, Bytes::new()).await
}

/// The headers whose flags were given.
fn given<'a>(pairs: &[(&'a str, Option<&'a str>)]) -> Vec<(&'a str, &'a str)> {
    let given = pairs
        .iter()
        .filter_map(|(name, value)| Some((*name, (*value)?)));
    given.collect()
}

/// Says where the stream is now.
fn said(response: Response<Incoming>) -> Result<(), CliError> {
    note(format_args!(
        "done: {} {}",
        response.status().as_u16(),
        header(&response, "stream-next-offset")
    ));
    Ok(())
}

fn header<T>(response: &Response<T>, name: &str) -> String {
    let value = response.headers().get(name).and_then(|v| v.to_str().ok());
    value.unwrap_or_default().to_owned()
}

async fn create(create: &Create) -> Result<(), CliError> {
    let headers = given(&[
        ("content-type", create.content_type.as_deref()),
        ("stream-ttl", create.ttl.as_deref()),
        ("stream-expires-at", create.expires_at.as_deref()),
        ("stream-max-age", create.max_age.as_deref()),
        ("stream-max-bytes", create.max_bytes.as_deref()),
        ("stream-closed", create.closed.then_some("true")),
        ("stream-forked-from", create.fork_from.as_deref()),
        ("stream-fork-offset", create.fork_offset.as_deref()),
    ]);
    said(send(&create.url, Method::PUT, &headers).await?)
}

async fn append(append: &Append) -> Result<(), CliError> {
    let body = match &append.data {
        Some(data) => data.clone().into_bytes(),
        None => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body)?;
            body
        }
    };
    let content_type = match &append.content_type {
        Some(given) => given.clone(),
        None => header(&send(&append.url, Method::HEAD, &[]).await?, "content-type"),
    };
    let headers = given(&[
        ("content-type", Some(&content_type)),
        ("stream-closed", append.close.then_some("true")),
        ("stream-seq", append.seq.as_deref()),
        ("producer-id", append.producer_id.as_deref()),
        ("producer-epoch", append.producer_epoch.as_deref()),
        ("producer-seq", append.producer_seq.as_deref()),
    ]);
    let mut client = connect(&append.url).await?;
    said(client.send(Method::POST, "", &headers, body.into()).await?)
}

/// A value of a query: clients encode offsets, which are any text to them (section 8).
fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// GET with its whole body.
async fn get(client: &mut Client, query: &str) -> Result<Response<Bytes>, CliError> {
    let response = client.send(Method::GET, query, &[], Bytes::new()).await?;
    let (head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|e| CliError::Unavailable(e.to_string()))?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

async fn read(read: &Read) -> Result<(), CliError> {
    let mut client = connect(&read.url).await?;
    let mut offset = read.offset.clone();
    let mut printer = Printer::new(Output::lock(), read.json, &offset);
    loop {
        let response = get(&mut client, &format!("?offset={}", encoded(&offset))).await?;
        offset = header(&response, "stream-next-offset");
        let content_type = header(&response, "content-type");
        printer.print(response.body(), &content_type, &offset)?;
        if header(&response, "stream-up-to-date") == "true" {
            return printer.finish(&offset);
        }
    }
}

/// Follows with long-polls, which resume by themselves wherever a connection breaks off.
async fn tail(tail: &Tail) -> Result<(), CliError> {
    let mut client = connect(&tail.url).await?;
    let mut offset = tail.offset.clone();
    if offset == "now" {
        // Asked once: after a reconnect, `now` would be beyond what was appended meanwhile.
        offset = header(
            &get(&mut client, "?offset=now").await?,
            "stream-next-offset",
        );
    }
    let mut printer = Printer::new(Output::lock(), tail.json, &offset);
    let mut cursor = String::new();
    loop {
        let query = format!("?offset={}&live=long-poll{cursor}", encoded(&offset));
        let response = match get(&mut client, &query).await {
            Ok(response) => response,
            Err(error @ (CliError::Unavailable(_) | CliError::Refused { status: 503, .. })) => {
                note(format_args!("reconnecting: {error}"));
                glommio::timer::sleep(std::time::Duration::from_millis(500)).await;
                if let Ok(fresh) = connect(&tail.url).await {
                    client = fresh;
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        offset = header(&response, "stream-next-offset");
        cursor = format!("&cursor={}", encoded(&header(&response, "stream-cursor")));
        if response.status() != hyper::StatusCode::NO_CONTENT {
            let content_type = header(&response, "content-type");
            printer.print(response.body(), &content_type, &offset)?;
        }
        if header(&response, "stream-closed") == "true" {
            return printer.finish(&offset);
        }
    }
}

async fn head(head: &Head) -> Result<(), CliError> {
    let response = send(&head.url, Method::HEAD, &[]).await?;
    let names = [
        "content-type",
        "stream-next-offset",
        "stream-closed",
        "stream-ttl",
        "stream-expires-at",
    ];
    let shown = names
        .into_iter()
        .map(|name| (name, header(&response, name)))
        .filter(|(_, v)| !v.is_empty());
    if head.json {
        let object: serde_json::Map<String, serde_json::Value> = shown
            .map(|(name, value)| (name.replace('-', "_"), value.into()))
            .collect();
        say!("{}", serde_json::Value::Object(object));
    } else {
        shown.for_each(|(name, value)| say!("{name}: {value}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_of_any_server_is_one_value_of_a_query() {
        for (offset, text) in [("-1", "-1"), ("0_7", "0_7"), ("a&b+c %", "a%26b%2Bc%20%25")] {
            assert_eq!(encoded(offset), text);
        }
    }
}
