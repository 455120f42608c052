//! TLS to other servers, by rustls over glommio's sockets, and whom it believes: the system's authorities, or those of
//! one file. Read once, by a blocking thread, when the first connection needs them.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use hyper::rt::{Read, ReadBufCursor, Write};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use storage::cold::s3::HttpFailure;

/// See the module's head.
pub struct TlsRoots {
    ca_file: Option<PathBuf>,
    config: RefCell<Option<Arc<ClientConfig>>>,
}

impl TlsRoots {
    /// Believes the authorities in a PEM file, or the system's.
    pub fn new(ca_file: Option<PathBuf>) -> TlsRoots {
        TlsRoots {
            ca_file,
            config: RefCell::default(),
        }
    }

    /// What a connection begins with.
    ///
    /// # Errors
    /// [`HttpFailure::Misconfigured`] if the file has no certificates.
    pub async fn config(&self) -> Result<Arc<ClientConfig>, HttpFailure> {
        if let Some(config) = &*self.config.borrow() {
            return Ok(config.clone());
        }
        let ca_file = self.ca_file.clone();
        let config = storage::blocking::run(move || read_roots(ca_file.as_deref()).and_then(build));
        let config = Arc::new(config.await.map_err(HttpFailure::Misconfigured)?);
        *self.config.borrow_mut() = Some(config.clone());
        Ok(config)
    }
}

/// Whether a file can vouch for servers, as `s3_ca_file` must. Blocks.
///
/// # Errors
/// What is wrong with it.
pub fn check_authorities(path: &Path) -> Result<(), String> {
    read_roots(Some(path)).map(|_| ())
}

fn build(roots: RootCertStore) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn read_roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err("the system has no certificate authorities: install ca-certificates or set `s3_ca_file`".to_owned());
        }
        return Ok(roots);
    };
    let failed = |what: &str| format!("`s3_ca_file` {}: {what}", path.display());
    // By itself, so that the system's words are said of a file that cannot be read.
    let text = std::fs::read(path).map_err(|e| failed(&e.to_string()))?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let wrong = |e: &dyn std::fmt::Display| failed(&format!("it is no PEM file: {e}"));
        let certificate = certificate.map_err(|e| wrong(&e))?;
        roots.add(certificate).map_err(|e| {
            failed(&format!(
                "a certificate in it is none that can vouch for others: {e}"
            ))
        })?;
    }
    if roots.is_empty() {
        return Err(failed(
            "it has no certificate: a PEM file with the authority's is wanted",
        ));
    }
    Ok(roots)
}

/// When the first certificate of a chain ends, in seconds since 1970. `None`: there is none, or one that cannot be read,
/// which was not believed then either.
pub fn expires_s(chain: &[CertificateDer<'_>]) -> Option<u64> {
    let ends = chain.iter().map(|der| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        u64::try_from(certificate.validity().not_after.timestamp()).ok()
    });
    ends.collect::<Option<Vec<u64>>>()?.into_iter().min()
}

/// A stream of glommio, plain or with TLS, as hyper reads and writes it. Objects are few and large: what `net` saves per
/// request does not count here.
pub struct FuturesIo<S>(pub S);

impl<S: AsyncRead + Unpin> Read for FuturesIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        // SAFETY: nothing uninitialized is written into it: all of it is filled below before it is lent on.
        let free = unsafe { buf.as_mut() };
        // What is behind the trait may look at what it is lent.
        free.fill(std::mem::MaybeUninit::new(0));
        let len = free.len();
        // SAFETY: same memory, same length, filled above.
        let free = unsafe { std::slice::from_raw_parts_mut(free.as_mut_ptr().cast::<u8>(), len) };
        let n = ready!(Pin::new(&mut self.0).poll_read(cx, free))?;
        // SAFETY: all bytes are initialized.
        unsafe { buf.advance(n) };
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Write for FuturesIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
