//! Getting a file from a URL, without being talked into asking the wrong host: see [`super::address`].

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::{BodyDataStream, Empty};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName,
    LOCATION, TRANSFER_ENCODING, USER_AGENT,
};
use hyper::{Request, Response, StatusCode};
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::address::{address_allowed, host_allowed};
use crate::events::settings::Origins;
use crate::files::BrokenOff;
use crate::http::client::shake_hands;

/// Largest file that is fetched, in bytes (guess).
const SIZE_MAX: u64 = 4 << 30;
/// Why an upload broke off that was larger.
pub(super) const TOO_LARGE: &str = "the file is larger than the 4 GiB that a command may fetch";
/// How long a connection, with TLS, may take; and after it, the head of the answer (guess).
const CONNECT: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// Longest silence in the middle of a body (guess).
const SILENCE: Duration = Duration::from_secs(30);
/// Redirects that are followed; browsers stop at 20, honest mirrors need two.
const REDIRECTS: usize = 5;
/// Authorities that are taken from a file (guess: more than the public ones together).
const AUTHORITIES: usize = 1024;
/// Addresses of a host that are tried.
const ADDRESSES: usize = 4;

/// Why nothing was fetched.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub(super) enum FetchError {
    #[error("'{0}' is not a URL of the form http[s]://HOST[:PORT]/PATH, without user and password")]
    Url(String),
    #[error(
        "fetching from '{0}' is not allowed; whoever runs the peers may add it to --events-fetch-allow"
    )]
    Host(String),
    #[error(
        "'{0}' has no address in the public internet; whoever runs the peers may add its block to --events-fetch-allow"
    )]
    Address(String),
    #[error("'{host}' cannot be reached: {reason}")]
    Unreachable { host: String, reason: String },
    #[error(
        "the certificate of '{host}' is not trusted ({reason}); whoever runs the peers may add its authority to \
         --events-fetch-ca-file"
    )]
    Untrusted { host: String, reason: String },
    #[error("the file {} with certificates is of no use: {reason}", file.display())]
    Certificates { file: PathBuf, reason: String },
    #[error("'{host}' did not answer with a file but with {status}")]
    Status { host: String, status: StatusCode },
    #[error("'{host}' sends the file only as {coding}, and files are stored as they are")]
    Encoded { host: String, coding: String },
    #[error(
        "'{host}' does not say where the file ends (by Content-Length, or by chunks and nothing else), so half of it could be taken for the whole"
    )]
    Endless { host: String },
    #[error("more than {REDIRECTS} redirects")]
    Redirects,
    #[error("{TOO_LARGE}")]
    Size,
}

impl FetchError {
    /// It may be otherwise the next time.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            FetchError::Unreachable { .. } | FetchError::Certificates { .. } => true,
            FetchError::Status { status, .. } => status.is_server_error(),
            _ => false,
        }
    }
}

/// A file that begins to come in.
pub(super) struct Fetched {
    pub(super) content_type: String,
    pub(super) length: Option<u64>,
    response: Response<Incoming>,
    connection: AbortOnDropHandle<()>,
}

impl Fetched {
    /// Its bytes. More than allowed, or none for too long, break it off.
    pub(super) fn body(self) -> impl Stream<Item = Result<Bytes, BrokenOff>> + Send {
        let body = BodyDataStream::new(self.response.into_body());
        let begun = (body, 0, self.connection);
        futures::stream::unfold(Some(begun), |state| async {
            let (mut body, before, connection) = state?;
            let part = match timeout(SILENCE, body.next()).await {
                Ok(None) => return None,
                Ok(Some(Ok(part))) if before + part.len() as u64 <= SIZE_MAX => part,
                Ok(Some(Ok(_))) => {
                    return Some((Err(BrokenOff::Connection(TOO_LARGE.into())), None));
                }
                Ok(Some(Err(error))) => {
                    return Some((Err(BrokenOff::Connection(error.to_string())), None));
                }
                Err(_) => return Some((Err(BrokenOff::Connection("it stood still".into())), None)),
            };
            let received = before + part.len() as u64;
            Some((Ok(part), Some((body, received, connection))))
        })
    }
}

/// Asks for a URL and follows redirects, checking each host and address anew.
pub(super) async fn fetch(url: &str, origins: &Origins) -> Result<Fetched, FetchError> {
    let mut url = parse(url)?;
    for _ in 0..=REDIRECTS {
        let (response, connection) = ask(&url, origins).await?;
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        if status.is_redirection()
            && let Some(target) = header(LOCATION)
        {
            let target = url
                .join(target)
                .map_err(|_| FetchError::Url(target.to_owned()))?;
            url = parse(target.as_str())?;
            continue;
        }
        if status != StatusCode::OK {
            let host = url.authority().to_owned();
            return Err(FetchError::Status { host, status });
        }
        let host = || url.authority().to_owned();
        let coding = codings(response.headers(), CONTENT_ENCODING);
        if !(coding.is_empty() || is_its_form(&coding, url.path())) {
            let coding = coding.join(", ").chars().take(40).collect();
            return Err(FetchError::Encoded {
                host: host(),
                coding,
            });
        }
        let length = header(CONTENT_LENGTH).and_then(|v| v.parse().ok());
        let transfer = codings(response.headers(), TRANSFER_ENCODING);
        // Without either it would end with its connection (RFC 9112, section 6.3), like one that broke.
        if transfer != ["chunked"] && !(transfer.is_empty() && length.is_some()) {
            return Err(FetchError::Endless { host: host() });
        }
        if length.is_some_and(|length: u64| length > SIZE_MAX) {
            return Err(FetchError::Size);
        }
        return Ok(Fetched {
            content_type: header(CONTENT_TYPE).unwrap_or_default().to_owned(),
            length,
            response,
            connection,
        });
    }
    Err(FetchError::Redirects)
}

/// What a header says was done to the bytes, in order; "identity" is nothing.
fn codings(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let mut codings = Vec::new();
    for line in headers.get_all(name) {
        let line = String::from_utf8_lossy(line.as_bytes()).to_lowercase();
        codings.extend(line.split(',').map(|coding| coding.trim().to_owned()));
    }
    codings.retain(|coding| !coding.is_empty() && coding != "identity");
    codings
}

/// Some servers take what a file is for what was done to it.
fn is_its_form(coding: &[String], path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let [coding] = coding else {
        return false;
    };
    matches!(&**coding, "gzip" | "x-gzip") && [".gz", ".tgz"].iter().any(|e| path.ends_with(e))
}

fn parse(text: &str) -> Result<Url, FetchError> {
    let wrong = || FetchError::Url(text.chars().take(200).collect());
    let url = Url::parse(text).map_err(|_| wrong())?;
    let plain = matches!(url.scheme(), "http" | "https") && url.has_host();
    if plain && url.username().is_empty() && url.password().is_none() {
        Ok(url)
    } else {
        Err(wrong())
    }
}

async fn ask(
    url: &Url,
    origins: &Origins,
) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), FetchError> {
    let host = url.host_str().unwrap_or_default().to_owned();
    if !host_allowed(&origins.allow, &host) {
        return Err(FetchError::Host(host));
    }
    let unreachable = |reason: String| FetchError::Unreachable {
        host: host.clone(),
        reason,
    };
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    let connected = timeout(CONNECT, async {
        let found = lookup_host((bare.as_str(), port))
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let (good, bad): (Vec<SocketAddr>, Vec<SocketAddr>) = found
            .take(64)
            .partition(|a| address_allowed(&origins.allow, a.ip()));
        if good.is_empty() && !bad.is_empty() {
            return Err(FetchError::Address(host.clone()));
        }
        let stream = connect(&good)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        if url.scheme() == "http" {
            return shake_hands(stream)
                .await
                .map_err(|e| unreachable(e.to_string()));
        }
        let name = ServerName::try_from(bare.clone()).map_err(|e| unreachable(e.to_string()))?;
        let tls = tls(origins.ca_file.as_deref())?;
        let secured = tls.connect(name, stream).await;
        shake_hands(secured.map_err(|error| insecure(&host, &error))?)
            .await
            .map_err(|e| unreachable(e.to_string()))
    });
    let late = |_| unreachable("it took too long".into());
    let (mut sender, connection) = connected.await.map_err(late)??;
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let request = Request::get(path)
        .header(
            HOST,
            &url[url::Position::BeforeHost..url::Position::AfterPort],
        )
        .header(USER_AGENT, concat!("peernet/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT_ENCODING, "identity")
        .body(Empty::<Bytes>::new())
        .map_err(|e| unreachable(e.to_string()))?;
    let answered = timeout(HEAD, sender.send_request(request)).await;
    let response = answered
        .map_err(late)?
        .map_err(|e| unreachable(e.to_string()))?;
    Ok((response, connection))
}

/// The first of the addresses that takes a connection; they were checked.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in addresses.iter().take(ADDRESSES) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Why there is no TLS.
fn insecure(host: &str, error: &io::Error) -> FetchError {
    let (host, reason) = (host.to_owned(), error.to_string());
    let cause = error.get_ref().and_then(|e| e.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => FetchError::Untrusted { host, reason },
        _ => FetchError::Unreachable { host, reason },
    }
}

/// Trusts the public authorities, and those in the file.
fn tls(ca_file: Option<&Path>) -> Result<TlsConnector, FetchError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    if let Some(file) = ca_file {
        let useless = |reason: String| FetchError::Certificates {
            file: file.to_owned(),
            reason,
        };
        let certificates =
            CertificateDer::pem_file_iter(file).map_err(|e| useless(e.to_string()))?;
        for certificate in certificates.take(AUTHORITIES) {
            let certificate = certificate.map_err(|e| useless(e.to_string()))?;
            roots.add(certificate).map_err(|e| useless(e.to_string()))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of these versions");
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What is fetched from a server that answers so to everything.
    async fn fetched(head: &'static str) -> Result<Vec<u8>, FetchError> {
        fetched_as("file", head).await
    }

    async fn fetched_as(path: &str, head: &'static str) -> Result<Vec<u8>, FetchError> {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/{path}", server.local_addr().unwrap());
        let serving = async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let origins = Origins {
            allow: ["127.0.0.1", "127.0.0.1/32"]
                .map(|allowed| allowed.parse().unwrap())
                .into(),
            ca_file: None,
        };
        let serving = tokio::spawn(serving);
        let parts: Vec<_> = fetch(&url, &origins).await?.body().collect().await;
        serving.await.unwrap();
        Ok(parts.into_iter().flat_map(Result::unwrap).collect())
    }

    #[tokio::test]
    async fn only_what_is_whole_and_as_it_is_counts_as_the_file() {
        let whole = fetched("Content-Length: 3\r\n\r\nabc").await;
        assert_eq!(whole.unwrap(), b"abc");
        let chunks = fetched("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n").await;
        assert_eq!(chunks.unwrap(), b"abc");
        let identity = fetched("Content-Encoding: Identity\r\nContent-Length: 1\r\n\r\na").await;
        assert_eq!(identity.unwrap(), b"a");
        let packed = fetched("Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\na").await;
        assert!(matches!(packed, Err(FetchError::Encoded { coding, .. }) if coding == "gzip"));
        let nothing = fetched("Content-Encoding: identity,\r\nContent-Length: 1\r\n\r\na").await;
        assert_eq!(nothing.unwrap(), b"a");
        let twice =
            "Content-Encoding: identity\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\na";
        let twice = fetched(twice).await;
        assert!(matches!(twice, Err(FetchError::Encoded { coding, .. }) if coding == "br"));
        let archive = "Content-Encoding: x-gzip\r\nContent-Length: 1\r\n\r\na";
        assert_eq!(fetched_as("a.tar.GZ?b", archive).await.unwrap(), b"a");
        for endless in [
            "Content-Type: text/plain\r\n\r\na",
            "Transfer-Encoding: gzip\r\n\r\na",
            "Transfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        ] {
            let found = fetched(endless).await;
            assert!(
                matches!(found, Err(FetchError::Endless { .. })),
                "{endless}"
            );
        }
    }
}
