//! One HTTP/1.1 connection of a client command: hyper on glommio, as in the server.

use std::net::ToSocketAddrs;

use bytes::Bytes;
use glommio::net::TcpStream;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};

use super::CliError;
use crate::core::hyper_rt::GlommioIo;

/// A server's address and the path of a stream on it.
pub struct Target {
    authority: String,
    path: String,
}

impl Target {
    /// Reads `http://host:port/path`, `host:port/path`, or a bare path on the default address.
    ///
    /// # Errors
    /// [`CliError::Usage`].
    pub fn parse(url: &str) -> Result<Target, CliError> {
        if url.starts_with("https://") {
            let text =
                "https is not spoken yet; give an http URL, for example of a local TLS proxy";
            return Err(CliError::Usage(text.to_owned()));
        }
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (authority, path) = match rest.find('/') {
            Some(0) => ("127.0.0.1:4437", rest),
            Some(at) => (&rest[..at], &rest[at..]),
            None => {
                return Err(CliError::Usage(format!(
                    "{url:?} has no path; streams are at /v1/stream/..."
                )));
            }
        };
        let has_port = authority
            .rsplit(':')
            .next()
            .is_some_and(|p| p.parse::<u16>().is_ok());
        let authority = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:4437")
        };
        Ok(Target {
            authority,
            path: path.to_owned(),
        })
    }
}

/// An open connection.
pub struct Client {
    target: Target,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`CliError::Unavailable`].
    pub async fn connect(target: Target) -> Result<Client, CliError> {
        let failed = |e: String| CliError::Unavailable(format!("{}: {e}", target.authority));
        let address = target
            .authority
            .to_socket_addrs()
            .map_err(|e| failed(e.to_string()))?
            .next();
        let address = address.ok_or_else(|| failed("the name has no address".to_owned()))?;
        let stream = TcpStream::connect(address)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let (sender, connection) = handshake(GlommioIo(stream))
            .await
            .map_err(|e| failed(e.to_string()))?;
        glommio::spawn_local(connection).detach();
        Ok(Client { target, sender })
    }

    /// Sends a request; an answer that is no success becomes an error with the server's text.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn send(
        &mut self,
        method: Method,
        query: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>, CliError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{query}", self.target.path))
            .header("host", &self.target.authority);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|e| CliError::Usage(e.to_string()))?;
        let unavailable = |e: hyper::Error| CliError::Unavailable(e.to_string());
        self.sender.ready().await.map_err(unavailable)?;
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(unavailable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let text = response
            .into_body()
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let parsed: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let message = parsed["error"]["message"]
            .as_str()
            .unwrap_or("no reason given")
            .to_owned();
        Err(CliError::Refused { status, message })
    }
}
