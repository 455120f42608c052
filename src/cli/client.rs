//! One HTTP/1.1 connection of a client command: hyper on glommio, as in the server.

use std::net::ToSocketAddrs;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};

use super::CliError;
use crate::core::net::Socket;

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
        let is_scheme = |text: &str| {
            let good = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
            !text.is_empty() && text.bytes().all(good)
        };
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if is_scheme(scheme) => {
                return Err(CliError::Usage(format!(
                    "{scheme} is not spoken; give an http URL, for example of a local TLS proxy"
                )));
            }
            _ => url,
        };
        if rest.contains(['?', '#']) {
            return Err(CliError::Usage(format!(
                "{url:?}: give the stream's URL without a query or fragment; a ? in a path is %3F"
            )));
        }
        let (authority, path) = match rest.find('/') {
            Some(0) => ("127.0.0.1:4437", rest),
            Some(at) => (&rest[..at], &rest[at..]),
            None => {
                return Err(CliError::Usage(format!(
                    "{url:?} has no path; streams are at /v1/stream/..."
                )));
            }
        };
        if authority.contains('@') {
            let text = "a user name or password in the URL is not sent; give the URL without it";
            return Err(CliError::Usage(text.to_owned()));
        }
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
        let stream = Socket::connect(address)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let (sender, connection) = handshake(stream).await.map_err(|e| failed(e.to_string()))?;
        crate::core::tasks::spawn(connection).detach();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_http_or_a_path() {
        for (url, authority, path) in [
            ("http://a:1/v1/stream/x", "a:1", "/v1/stream/x"),
            ("HTTP://a/b", "a:4437", "/b"),
            ("a:1/b", "a:1", "/b"),
            ("[::1]/b", "[::1]:4437", "/b"),
            ("/demo/x", "127.0.0.1:4437", "/demo/x"),
            ("/demo/a://b", "127.0.0.1:4437", "/demo/a://b"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(
                (&*target.authority, &*target.path),
                (authority, path),
                "{url}"
            );
        }
        for (url, part) in [
            ("https://a/b", "https is not spoken"),
            ("ftp://a/b", "ftp is not spoken"),
            ("http://u:p@a/b", "user name"),
            ("u@a/b", "user name"),
            ("http://a/b?offset=-1", "without a query"),
            ("http://a", "has no path"),
        ] {
            match Target::parse(url) {
                Err(CliError::Usage(text)) => assert!(text.contains(part), "{url}: {text}"),
                _ => panic!("{url} was taken"),
            }
        }
    }
}
