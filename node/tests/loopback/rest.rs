//! Files by HTTP. The client is a few lines of our own, so that it can misbehave.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::network::{Network, bytes, until};

mod lasting;
mod one;
pub(crate) mod parts;
mod patient;
mod pins;

struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The body is a problem document that agrees with the status.
    fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(
            self.status,
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(
            (&problem["status"], &problem["code"]),
            (&status.into(), &code.into())
        );
        assert!(
            problem["type"].is_string()
                && problem["title"].is_string()
                && problem["detail"].is_string()
        );
    }
}

async fn send(to: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server may answer and close before it has read all.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a whole head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_lowercase(), value.to_owned())
    };
    Answer {
        status,
        headers: lines.map(header).collect(),
        body: answer.split_off(end + 4),
    }
}

async fn put(to: SocketAddr, path: &str, body: &[u8]) -> Answer {
    let head = format!(
        "PUT {path} HTTP/1.1\r\nContent-Type: text/x-test\r\nContent-Length: {}",
        body.len()
    );
    send(to, &head, body).await
}

async fn get(to: SocketAddr, path: &str, more: &str) -> Answer {
    send(to, &format!("GET {path} HTTP/1.1{more}"), b"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_resources() {
    let network = Network::start(3).await;
    let [a, b, c] = [0, 1, 2].map(|n| network.peers[n].http);
    for (n, size) in [0, 1, 40_000, 1_048_576, 3_000_001].into_iter().enumerate() {
        let (path, data) = (
            format!("/v1/files/rest/{size}"),
            bytes(size, 100 + n as u64),
        );
        let created = put(a, &path, &data).await;
        assert_eq!(created.status, 201);
        assert_eq!(created.json()["size"], size);
        let replaced = put(b, &path, &data).await;
        assert_eq!(replaced.status, 200);
        assert_eq!(replaced.headers["etag"], created.headers["etag"]);
        let read = get(c, &path, "").await;
        assert_eq!(
            (read.status, &read.headers["content-type"][..]),
            (200, "text/x-test")
        );
        assert_eq!(read.headers["content-length"], size.to_string());
        assert!(read.body == data);
        let head = send(b, &format!("HEAD {path} HTTP/1.1"), b"").await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.headers["content-length"], size.to_string());
        assert_eq!(head.headers["etag"], read.headers["etag"]);
    }
    parts_and_conditions(a).await;
    changes_are_conditional([a, b, c]).await;
    names_are_percent_encoded(b).await;
    listings_and_views(c).await;
    describes_itself(a).await;
    other_sites_change_nothing(b).await;
    what_makes_no_sense_is_refused(a).await;
    truncated_uploads_store_nothing(a, b).await;
    let gone = send(a, "DELETE /v1/files/rest/1 HTTP/1.1", b"").await;
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    get(b, "/v1/files/rest/1", "")
        .await
        .is_problem(404, "not_found");
    send(c, "DELETE /v1/files/rest/1 HTTP/1.1", b"")
        .await
        .is_problem(404, "not_found");
    chunks_are_compressed_where_that_is_asked_for([a, b]).await;
    digests_are_checked_and_told([a, b]).await;
    files_are_renamed([a, b, c]).await;
    patient::huge_heads_are_refused(b).await;
    patient::events_are_told(network).await;
}

async fn chunks_are_compressed_where_that_is_asked_for([a, b]: [SocketAddr; 2]) {
    let data = "the same line again\n".repeat(100_000);
    let put = async |path: &str, told: &str| {
        let length = data.len();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nPeernet-Compression: {told}\r\nContent-Length: {length}"
        );
        send(a, &head, data.as_bytes()).await
    };
    let stored = put("/v1/files/rest/packed", "auto").await;
    assert_eq!(stored.status, 201);
    assert!(stored.json()["stored"].as_u64().unwrap() < data.len() as u64 / 10);
    let read = get(b, "/v1/files/rest/packed", "").await;
    assert!(read.body == data.as_bytes() && !read.headers.contains_key("content-encoding"));
    let part = get(
        b,
        "/v1/files/rest/packed",
        "\r\nRange: bytes=1048570-1048589",
    )
    .await;
    assert!(part.body == data.as_bytes()[1_048_570..1_048_590]);
    for wrong in ["zstd", "AUTO", "", "never, auto"] {
        let refused = put("/v1/files/rest/wrong", wrong).await;
        refused.is_problem(400, "invalid");
    }
}

async fn parts_and_conditions(to: SocketAddr) {
    let (path, size) = ("/v1/files/rest/3000001", 3_000_001);
    let data = bytes(size, 104);
    let part = get(to, path, "\r\nRange: bytes=1048570-2097160").await;
    assert_eq!(part.status, 206);
    assert_eq!(
        part.headers["content-range"],
        format!("bytes 1048570-2097160/{size}")
    );
    assert!(part.body == data[1_048_570..=2_097_160]);
    let end = get(to, path, "\r\nRange: bytes=-5").await;
    assert_eq!((end.status, &end.body[..]), (206, &data[size - 5..]));
    let none = get(to, path, "\r\nRange: bytes=3000001-").await;
    assert_eq!(none.headers["content-range"], format!("bytes */{size}"));
    none.is_problem(416, "out_of_range");
    let etag = part.headers["etag"].clone();
    let known = get(to, path, &format!("\r\nIf-None-Match: \"x\", {etag}")).await;
    assert_eq!(
        (known.status, known.body.len(), &known.headers["etag"]),
        (304, 0, &etag)
    );
    let other = get(to, path, "\r\nRange: bytes=0-1\r\nIf-Range: \"x\"").await;
    assert_eq!((other.status, other.body.len()), (200, size));
    let same = get(
        to,
        path,
        &format!("\r\nRange: bytes=0-1\r\nIf-Range: {etag}"),
    )
    .await;
    assert_eq!((same.status, same.body.len()), (206, 2));
}

async fn names_are_percent_encoded(to: SocketAddr) {
    assert_eq!(
        put(to, "/v1/files/d%C3%BCrer/a%20b%2Fc%3F", b"x")
            .await
            .status,
        201
    );
    let listed = get(to, "/v1/files?prefix=d%C3%BC", "").await.json();
    assert_eq!(listed["files"][0]["name"], "dürer/a b/c?");
    assert_eq!(
        get(to, "/v1/files/d%C3%BCrer/a%20b/c%3F", "").await.body,
        b"x"
    );
    for path in [
        "/v1/files/",
        "/v1/files/a//b",
        "/v1/files/a/../b",
        "/v1/files/%FF",
        "/v1/files/a%0Ab",
    ] {
        put(to, path, b"x").await.is_problem(400, "invalid");
        get(to, path, "").await.is_problem(400, "invalid");
    }
}

async fn listings_and_views(to: SocketAddr) {
    let page = get(to, "/v1/files?prefix=rest/&limit=2", "").await.json();
    assert_eq!(page["files"].as_array().unwrap().len(), 2);
    assert_eq!(page["files"][1]["name"], "rest/1");
    let path = format!(
        "/v1/files?prefix=rest/&after={}",
        page["next"].as_str().unwrap()
    );
    assert_eq!(
        get(to, &path, "").await.json()["files"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    for query in [
        "limit=1001",
        "limit=0",
        "limit=x",
        "prefex=rest/",
        "prefix=a%0A",
        "after=a//b",
    ] {
        get(to, &format!("/v1/files?{query}"), "")
            .await
            .is_problem(400, "invalid");
    }
    // A busy machine may make one suspect of another for a moment.
    until("all peers are active", async || {
        let peers = get(to, "/v1/peers", "").await.json();
        let peers = peers["peers"].as_array().unwrap();
        // It is known since when each is as it is: not before this millennium.
        let since = |p: &serde_json::Value| p["since_unix_ms"].as_u64();
        assert!(peers.iter().all(|p| since(p) > Some(946_684_800_000)));
        peers.len() == 3 && peers.iter().all(|p| p["state"] == "active")
    })
    .await;
    until("the peer is ready", async || {
        let status = get(to, "/v1/status", "").await.json();
        assert_eq!(status["self"]["name"], "p-2");
        status["ready"] == true && get(to, "/readyz", "").await.status == 200
    })
    .await;
    assert_eq!(get(to, "/healthz", "").await.status, 200);
}

/// The description is served as it is committed, and the page that shows it needs nobody else.
async fn describes_itself(to: SocketAddr) {
    let description = get(to, "/openapi.json", "").await;
    assert_eq!(description.headers["content-type"], "application/json");
    assert!(
        description.body == include_bytes!("../../../docs/openapi.json"),
        "docs/openapi.json is stale: run dev/generate"
    );
    let document = description.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/files/{name}"]["put"].is_object());
    let page = get(to, "/docs", "").await;
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(page.headers["content-security-policy"].contains("connect-src 'self'"));
    let page = String::from_utf8(page.body).unwrap();
    assert!(page.contains("/openapi.json") && !page.contains("://"));
}

/// Compare-and-set over HTTP, each step through another peer.
async fn changes_are_conditional([a, b, c]: [SocketAddr; 3]) {
    let change = async |to, method: &str, condition: &str, body: &'static [u8]| {
        let length = body.len();
        let head =
            format!("{method} /v1/files/cas HTTP/1.1\r\n{condition}\r\nContent-Length: {length}");
        send(to, &head, body).await
    };
    let created = change(a, "PUT", "If-None-Match: *", b"one").await;
    assert_eq!(created.status, 201);
    change(b, "PUT", "If-None-Match: *", b"two")
        .await
        .is_problem(412, "precondition_failed");
    let first = format!("If-Match: {}", created.headers["etag"]);
    let replaced = change(c, "PUT", &first, b"two").await;
    assert_eq!(replaced.status, 200);
    for (to, method) in [(a, "PUT"), (b, "DELETE")] {
        change(to, method, &first, b"")
            .await
            .is_problem(412, "precondition_failed");
    }
    assert_eq!(get(b, "/v1/files/cas", "").await.body, b"two");
    let second = format!("If-Match: {}", replaced.headers["etag"]);
    assert_eq!(change(b, "DELETE", &second, b"").await.status, 204);
    change(c, "PUT", "If-Match: *", b"three")
        .await
        .is_problem(412, "precondition_failed");
    change(a, "DELETE", "If-Match: *", b"")
        .await
        .is_problem(404, "not_found");
    // Of many that create it at once, one does.
    let race = (0..12).map(|n| change([a, b, c][n % 3], "PUT", "If-None-Match: *", b"x"));
    let won = futures::future::join_all(race).await;
    let count = |status| won.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(201), count(412)), (1, 11));
}

/// Another name by POST; each step through another peer.
async fn files_are_renamed([a, b, c]: [SocketAddr; 3]) {
    let post = async |to, fields: &str, body: &'static str| {
        let length = body.len();
        let head =
            format!("POST /v1/files/first/name HTTP/1.1\r\n{fields}\r\nContent-Length: {length}");
        send(to, &head, body.as_bytes()).await
    };
    const JSON: &str = "Content-Type: application/json";
    const BODY: &str = r#"{"rename_to": "second näme"}"#;
    post(a, JSON, BODY).await.is_problem(404, "not_found");
    let stored = put(a, "/v1/files/first/name", b"x").await;
    for body in [
        "",
        "{}",
        r#"{"rename_to": "a//b"}"#,
        r#"{"rename_to": "a", "b": 1}"#,
    ] {
        post(b, JSON, body).await.is_problem(400, "invalid");
    }
    post(b, "X: y", BODY)
        .await
        .is_problem(415, "unsupported_media_type");
    post(b, &format!("{JSON}\r\nIf-Match: \"x\""), BODY)
        .await
        .is_problem(412, "precondition_failed");
    let etag = &stored.headers["etag"];
    let renamed = post(b, &format!("{JSON}\r\nIf-Match: {etag}"), BODY).await;
    assert_eq!((renamed.status, &renamed.headers["etag"]), (201, etag));
    let location = &renamed.headers["location"];
    assert_eq!(location, "/v1/files/second%20n%C3%A4me");
    assert_eq!(renamed.json()["name"], "second näme");
    assert_eq!(get(c, location, "").await.body, b"x");
    put(c, "/v1/files/first/name", b"y").await;
    post(a, JSON, BODY)
        .await
        .is_problem(412, "precondition_failed");
    for path in ["/v1/files/first/name", location] {
        let gone = send(b, &format!("DELETE {path} HTTP/1.1"), b"").await;
        assert_eq!(gone.status, 204);
    }
}

/// SHA-256 (RFC 9530), of `hello` and of nothing.
async fn digests_are_checked_and_told([a, b]: [SocketAddr; 2]) {
    const HELLO: &str = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    const NOTHING: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    let upload = async |field: &str, body: &'static [u8]| {
        let length = body.len();
        let head = format!("PUT /v1/files/digest HTTP/1.1\r\n{field}\r\nContent-Length: {length}");
        send(a, &head, body).await
    };
    for name in ["Repr-Digest", "Content-Digest"] {
        upload(&format!("{name}: {NOTHING}"), b"hello")
            .await
            .is_problem(422, "digest_mismatch");
        upload(&format!("{name}: sha-512=:AA==:"), b"hello")
            .await
            .is_problem(400, "invalid");
    }
    upload("Content-Encoding: gzip", b"hello")
        .await
        .is_problem(415, "unsupported_coding");
    get(b, "/v1/files/digest", "")
        .await
        .is_problem(404, "not_found");
    let stored = upload(&format!("Repr-Digest: {HELLO}"), b"hello").await;
    assert_eq!(stored.status, 201);
    let part = "\r\nRange: bytes=1-2\r\nWant-Repr-Digest: sha-256=1";
    let part = get(b, "/v1/files/digest", part).await;
    assert_eq!(
        (&part.body[..], &part.headers["repr-digest"][..]),
        (&b"el"[..], HELLO)
    );
    let head = "HEAD /v1/files/digest HTTP/1.1\r\nWant-Repr-Digest: sha-256=1";
    assert_eq!(send(b, head, b"").await.headers["repr-digest"], HELLO);
    let plain = get(b, "/v1/files/digest", "").await;
    assert!(!plain.headers.contains_key("repr-digest"));
    assert_eq!(plain.headers["content-security-policy"], "sandbox");
    get(b, "/v1/files/digest", "\r\nIf-Match: \"x\"")
        .await
        .is_problem(412, "precondition_failed");
}

async fn what_makes_no_sense_is_refused(to: SocketAddr) {
    get(to, "/nowhere", "")
        .await
        .is_problem(404, "no_such_resource");
    let patched = send(to, "PATCH /v1/files/a HTTP/1.1", b"").await;
    assert_eq!(patched.headers["allow"], "GET,HEAD,PUT,DELETE,POST");
    patched.is_problem(405, "no_such_method");
    let dated = "PUT /v1/files/a HTTP/1.1\r\nIf-Unmodified-Since: now\r\nContent-Length: 1";
    send(to, dated, b"x").await.is_problem(400, "invalid");
    let part = "PUT /v1/files/a HTTP/1.1\r\nContent-Range: bytes 0-0/5\r\nContent-Length: 1";
    send(to, part, b"x").await.is_problem(400, "invalid");
    let kind = format!(
        "PUT /v1/files/a HTTP/1.1\r\nContent-Type: {}\r\nContent-Length: 1",
        "x".repeat(256)
    );
    send(to, &kind, b"x").await.is_problem(400, "invalid");
    get(to, "/v1/files/a", "")
        .await
        .is_problem(404, "not_found");
}

/// What a browser sends for somebody else's page.
async fn other_sites_change_nothing(to: SocketAddr) {
    assert_eq!(put(to, "/v1/files/own", b"mine").await.status, 201);
    for from in ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site"] {
        let head = format!("DELETE /v1/files/own HTTP/1.1\r\n{from}");
        send(to, &head, b"").await.is_problem(403, "forbidden");
        let head = format!("POST /v1/uploads?name=theirs HTTP/1.1\r\n{from}");
        send(to, &head, b"").await.is_problem(403, "forbidden");
    }
    let own = format!("DELETE /v1/files/own HTTP/1.1\r\nOrigin: http://{to}");
    send(to, &own, b"").await.is_problem(403, "forbidden"); // It was asked as localhost.
    let absolute = |host: &str| format!("GET http://{host}/v1/files/own HTTP/1.1");
    assert_eq!(
        send(to, &absolute(&to.to_string()), b"").await.body,
        b"mine"
    );
    let rebound = send(to, &absolute("evil.example"), b"").await;
    rebound.is_problem(403, "forbidden");
}

/// A client that dies in the middle of its upload, with and without having said how long it is.
async fn truncated_uploads_store_nothing(to: SocketAddr, other: SocketAddr) {
    let data = bytes(2_500_000, 200);
    for framing in ["Content-Length: 3000000", "Transfer-Encoding: chunked"] {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let head =
            format!("PUT /v1/files/truncated HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        if framing.starts_with("Transfer") {
            stream
                .write_all(format!("{:x}\r\n", data.len() + 1).as_bytes())
                .await
                .unwrap();
        }
        stream.write_all(&data).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // An answer may come, but no success.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
    // Nothing is under way any more once the peer has taken another upload, and nothing was stored.
    until("uploads are taken", async || {
        put(to, "/v1/files/after", b"x").await.status < 300
    })
    .await;
    get(other, "/v1/files/truncated", "")
        .await
        .is_problem(404, "not_found");
}
