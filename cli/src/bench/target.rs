//! Whom the load is for: peers over their REST interface, or, to compare them, stores that speak S3.

use std::time::Duration;

use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, Uri};
use rusty_s3::actions::{CreateBucket, DeleteObject, GetObject, PutObject, S3Action};
use rusty_s3::{Bucket, Credentials, UrlStyle};
use thiserror::Error;
use url::{Position, Url};

use super::content::{Content, ContentBody, Object};

/// How long a signed request is valid: longer than any takes to be sent.
const VALID: Duration = Duration::from_secs(3600);

/// A server cannot be addressed.
#[derive(Debug, Error)]
#[error("'{server}' is not the address of a server: {reason}; write http://HOST:PORT")]
pub struct AddressError {
    /// As it was given.
    server: String,
    reason: String,
}

/// Servers that stand for one another.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    servers: Vec<Server>,
    prefix: String,
}

#[derive(Clone, Debug)]
struct Server {
    /// host:port
    address: String,
    host: HeaderValue,
    api: Api,
}

#[derive(Clone, Debug)]
enum Api {
    Rest,
    S3(Box<Bucket>, Box<Credentials>),
}

/// Who may use a bucket, and of which region.
#[derive(Clone, Debug)]
pub(crate) struct S3 {
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) key: String,
    pub(crate) secret: String,
}

/// What to do with an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    Put,
    Get,
    /// By the word of the peer that is asked, if it is one and has it; a bucket's is as it always is.
    GetOne,
    Delete,
}

impl Target {
    /// Peers, by the addresses (host:port) of their REST interface. All names begin with `prefix`.
    pub(crate) fn rest(
        addresses: impl IntoIterator<Item = String>,
        prefix: String,
    ) -> Result<Self, AddressError> {
        let servers = addresses
            .into_iter()
            .map(|address| Server::new(&format!("http://{address}"), Api::Rest));
        Ok(Target {
            servers: servers.collect::<Result<_, _>>()?,
            prefix,
        })
    }

    /// Servers by their URL, a bucket on them, and whoever may use it.
    pub(crate) fn s3(urls: &[String], s3: &S3, prefix: String) -> Result<Self, AddressError> {
        let servers = urls.iter().map(|url| {
            let wrong = |reason: String| AddressError {
                server: url.clone(),
                reason,
            };
            let parsed = url.parse().map_err(|e| wrong(format!("{e}")))?;
            let bucket = Bucket::new(parsed, UrlStyle::Path, s3.bucket.clone(), s3.region.clone())
                .map_err(|e| wrong(e.to_string()))?;
            let who = Credentials::new(s3.key.clone(), s3.secret.clone());
            Server::new(url, Api::S3(Box::new(bucket), Box::new(who)))
        });
        Ok(Target {
            servers: servers.collect::<Result<_, _>>()?,
            prefix,
        })
    }

    /// Addresses (host:port).
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|s| s.address.as_str())
    }

    /// Of the server with this number, modulo their count.
    pub(crate) fn address(&self, number: usize) -> &str {
        &self.server(number).address
    }

    /// What all names begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What has to be asked of the first server, once, before anything can be stored: that there be a bucket.
    pub(crate) fn preparation(&self, content: &Content) -> Option<Request<ContentBody>> {
        let server = self.server(0);
        let Api::S3(bucket, who) = &server.api else {
            return None;
        };
        let url = CreateBucket::new(bucket, who).sign(VALID);
        let nothing = Object {
            cell: 0,
            number: 0,
            size: 0,
        };
        Some(server.request(Method::PUT, resource(&url), content.body(nothing)))
    }

    fn server(&self, number: usize) -> &Server {
        &self.servers[number % self.servers.len()]
    }

    /// A request to that server.
    pub(crate) fn request(
        &self,
        number: usize,
        verb: Verb,
        object: Object,
        content: &Content,
    ) -> Request<ContentBody> {
        let server = self.server(number);
        let name = format!("{}/{}/{}", self.prefix, object.cell, object.number);
        let nothing = Object { size: 0, ..object };
        let (method, body) = match verb {
            Verb::Put => (Method::PUT, content.body(object)),
            Verb::Get | Verb::GetOne => (Method::GET, content.body(nothing)),
            Verb::Delete => (Method::DELETE, content.body(nothing)),
        };
        let mut request = server.request(method, server.api.resource(verb, &name), body);
        if verb == Verb::GetOne {
            let one = HeaderValue::from_static("one");
            request.headers_mut().insert("peernet-consistency", one);
        }
        request
    }
}

impl Server {
    fn new(url: &str, api: Api) -> Result<Self, AddressError> {
        let wrong = |reason: String| AddressError {
            server: url.to_owned(),
            reason,
        };
        let uri: Uri = url.parse().map_err(|e| wrong(format!("{e}")))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only http:// is served so far".into()));
        }
        let host = uri.host().ok_or_else(|| wrong("no host in it".into()))?;
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Server {
            host: HeaderValue::from_str(&address).map_err(|e| wrong(e.to_string()))?,
            address,
            api,
        })
    }

    fn request(&self, method: Method, resource: Uri, body: ContentBody) -> Request<ContentBody> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = resource;
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }
}

impl Api {
    /// Path and query. Names consist of what needs no escape.
    fn resource(&self, verb: Verb, name: &str) -> Uri {
        match self {
            Api::Rest => uri(&format!("/v1/files/{name}")),
            Api::S3(bucket, who) => {
                let who = Some(&**who);
                resource(&match verb {
                    Verb::Put => PutObject::new(bucket, who, name).sign(VALID),
                    Verb::Get | Verb::GetOne => GetObject::new(bucket, who, name).sign(VALID),
                    Verb::Delete => DeleteObject::new(bucket, who, name).sign(VALID),
                })
            }
        }
    }
}

/// Path and query of a signed URL.
fn resource(url: &Url) -> Uri {
    uri(&url[Position::BeforePath..Position::AfterQuery])
}

fn uri(text: &str) -> Uri {
    text.parse().expect("escaped, and far below 64 KiB")
}

#[cfg(test)]
mod tests {
    use hyper::body::Body;

    use super::*;

    const OBJECT: Object = Object {
        cell: 3,
        number: 14,
        size: 1024,
    };

    #[test]
    fn files_of_peers_are_below_the_prefix() {
        let target = Target::rest(["127.0.0.1:8080".into(), "[::1]:81".into()], "b".into());
        let (target, content) = (target.unwrap(), Content::new(1));
        let put = target.request(1, Verb::Put, OBJECT, &content);
        assert_eq!(put.uri(), "/v1/files/b/3/14");
        assert_eq!(put.headers()[HOST], "[::1]:81");
        assert_eq!(put.body().size_hint().exact(), Some(1024));
        let get = target.request(2, Verb::Get, OBJECT, &content);
        assert_eq!(get.headers()[HOST], "127.0.0.1:8080");
        assert!(get.body().is_end_stream());
        assert!(get.headers().get("peernet-consistency").is_none());
        let one = target.request(2, Verb::GetOne, OBJECT, &content);
        assert_eq!(one.headers()["peernet-consistency"], "one");
    }

    #[test]
    fn objects_of_a_bucket_are_addressed_by_path_and_signed() {
        let s3 = S3 {
            bucket: "load".into(),
            region: "garage".into(),
            key: "k".into(),
            secret: "s".into(),
        };
        let target = Target::s3(&["http://127.0.0.1:3900".into()], &s3, "b".into()).unwrap();
        let put = target.request(0, Verb::Put, OBJECT, &Content::new(1));
        assert_eq!(put.uri().path(), "/load/b/3/14");
        let query = put.uri().query().unwrap();
        assert!(query.contains("X-Amz-Signature=") && query.contains("garage"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["", "a b", "/x"] {
            let error = Target::rest([bad.into()], "b".into()).unwrap_err();
            assert!(error.to_string().contains("http://HOST:PORT"), "{error}");
        }
        let error = Server::new("https://a:1", Api::Rest).unwrap_err();
        assert!(error.to_string().contains("only http://"), "{error}");
    }
}
