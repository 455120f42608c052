//! What each client command does. Standard output is data, standard error is talk.

use std::io::{Read, Write};

use bytes::Bytes;
use glommio::{LocalExecutorBuilder, Placement};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response};

use super::Flags;
use super::client::{Client, Target};

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
    /// No answer.
    #[error("no answer from {0}; is the server running there?")]
    Unavailable(String),
    /// Standard input or output.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl CliError {
    /// The exit code: 1 failed, 2 usage, 3 not found, 4 conflict, 5 unavailable.
    pub fn code(&self) -> u8 {
        match self {
            CliError::Usage(_) => 2,
            CliError::Refused {
                status: 404 | 410, ..
            } => 3,
            CliError::Refused { status: 409, .. } => 4,
            CliError::Refused { status: 503, .. } | CliError::Unavailable(_) => 5,
            CliError::Refused { .. } | CliError::Io(_) => 1,
        }
    }
}

/// Runs a command on an executor of its own.
pub(super) fn run(command: &str, url: &str, flags: &Flags) -> Result<(), CliError> {
    let (command, url, flags) = (command.to_owned(), url.to_owned(), flags.clone());
    let handle = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(64 << 10)
        .spawn(move || async move { dispatch(&command, &url, &flags).await });
    let failed = |text: String| CliError::Io(std::io::Error::other(text));
    let result = handle.map_err(|e| failed(e.to_string()))?.join();
    result.map_err(|e| failed(e.to_string()))?
}

async fn dispatch(command: &str, url: &str, flags: &Flags) -> Result<(), CliError> {
    let target = Target::parse(url)?;
    let mut client = Client::connect(target).await?;
    match command {
        "create" => create(&mut client, flags).await,
        "append" => append(&mut client, flags).await,
        "read" => read(&mut client, flags).await,
        "tail" => tail(&mut client, flags, url).await,
        "head" => head(&mut client, flags).await,
        "close" => said(
            client
                .send(Method::POST, "", &[("stream-closed", "true")], Bytes::new())
                .await?,
        ),
        _ => said(client.send(Method::DELETE, "", &[], Bytes::new()).await?),
    }
}

/// The headers that flags stand for.
fn headers<'a>(flags: &'a Flags, names: &[(&str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let given = names
        .iter()
        .filter_map(|(flag, header)| flags.get(*flag).map(|value| (*header, value.as_str())));
    given.collect()
}

/// Says where the stream is now.
fn said(response: Response<Incoming>) -> Result<(), CliError> {
    eprintln!(
        "done: {} {}",
        response.status().as_u16(),
        header(&response, "stream-next-offset")
    );
    Ok(())
}

fn header(response: &Response<Incoming>, name: &str) -> String {
    let value = response.headers().get(name).and_then(|v| v.to_str().ok());
    value.unwrap_or_default().to_owned()
}

async fn create(client: &mut Client, flags: &Flags) -> Result<(), CliError> {
    let headers = headers(
        flags,
        &[
            ("content-type", "content-type"),
            ("ttl", "stream-ttl"),
            ("expires-at", "stream-expires-at"),
            ("closed", "stream-closed"),
            ("fork-from", "stream-forked-from"),
            ("fork-offset", "stream-fork-offset"),
        ],
    );
    said(client.send(Method::PUT, "", &headers, Bytes::new()).await?)
}

async fn append(client: &mut Client, flags: &Flags) -> Result<(), CliError> {
    let body = match flags.get("data") {
        Some(data) => data.clone().into_bytes(),
        None => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body)?;
            body
        }
    };
    let found;
    let content_type = match flags.get("content-type") {
        Some(given) => given.as_str(),
        None => {
            found = header(
                &client.send(Method::HEAD, "", &[], Bytes::new()).await?,
                "content-type",
            );
            found.as_str()
        }
    };
    let mut headers = headers(
        flags,
        &[
            ("close", "stream-closed"),
            ("seq", "stream-seq"),
            ("producer-id", "producer-id"),
            ("producer-epoch", "producer-epoch"),
            ("producer-seq", "producer-seq"),
        ],
    );
    headers.push(("content-type", content_type));
    said(client.send(Method::POST, "", &headers, body.into()).await?)
}

async fn read(client: &mut Client, flags: &Flags) -> Result<(), CliError> {
    let mut offset = flags
        .get("offset")
        .cloned()
        .unwrap_or_else(|| "-1".to_owned());
    loop {
        let response = client
            .send(Method::GET, &format!("?offset={offset}"), &[], Bytes::new())
            .await?;
        offset = header(&response, "stream-next-offset");
        let is_last = header(&response, "stream-up-to-date") == "true";
        let is_json = header(&response, "content-type").starts_with("application/json");
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|e| CliError::Unavailable(e.to_string()))?;
        print(&body.to_bytes(), is_json, flags, &offset)?;
        if is_last {
            return Ok(());
        }
    }
}

/// Follows with long-polls, which resume by themselves wherever a connection breaks off.
async fn tail(client: &mut Client, flags: &Flags, url: &str) -> Result<(), CliError> {
    let mut offset = flags
        .get("offset")
        .cloned()
        .unwrap_or_else(|| "now".to_owned());
    let mut cursor = String::new();
    loop {
        let query = format!("?offset={offset}&live=long-poll{cursor}");
        let response = match client.send(Method::GET, &query, &[], Bytes::new()).await {
            Ok(response) => response,
            Err(CliError::Unavailable(reason)) => {
                eprintln!("reconnecting: {reason}");
                glommio::timer::sleep(std::time::Duration::from_millis(500)).await;
                if let Ok(fresh) = Client::connect(Target::parse(url)?).await {
                    *client = fresh;
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        offset = header(&response, "stream-next-offset");
        cursor = format!("&cursor={}", header(&response, "stream-cursor"));
        let is_closed = header(&response, "stream-closed") == "true";
        let is_json = header(&response, "content-type").starts_with("application/json");
        let is_empty = response.status() == hyper::StatusCode::NO_CONTENT;
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|e| CliError::Unavailable(e.to_string()))?;
        if !is_empty {
            print(&body.to_bytes(), is_json, flags, &offset)?;
        }
        if is_closed {
            return Ok(());
        }
    }
}

/// Bytes as they are; JSON one message a line; with `--json` an envelope with the offset.
fn print(body: &Bytes, is_json: bool, flags: &Flags, next: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    if flags.contains_key("json") {
        let data = match serde_json::from_slice::<serde_json::Value>(body) {
            Ok(value) if is_json => value,
            _ => String::from_utf8_lossy(body).into_owned().into(),
        };
        writeln!(
            out,
            "{}",
            serde_json::json!({ "next_offset": next, "data": data })
        )?;
    } else if is_json {
        let messages: Vec<&serde_json::value::RawValue> =
            serde_json::from_slice(body).unwrap_or_default();
        for message in messages {
            writeln!(out, "{}", message.get())?;
        }
    } else {
        out.write_all(body)?;
    }
    out.flush()?;
    Ok(())
}

async fn head(client: &mut Client, flags: &Flags) -> Result<(), CliError> {
    let response = client.send(Method::HEAD, "", &[], Bytes::new()).await?;
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
    if flags.contains_key("json") {
        let object: serde_json::Map<String, serde_json::Value> = shown
            .map(|(name, value)| (name.replace('-', "_"), value.into()))
            .collect();
        println!("{}", serde_json::Value::Object(object));
    } else {
        shown.for_each(|(name, value)| println!("{name}: {value}"));
    }
    Ok(())
}
