//! Uploads in parts, in the shape of draft-ietf-httpbis-resumable-upload.

use std::net::SocketAddr;

use sfv::{DictSerializer, KeyRef};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Answer, get, put, send};
use crate::network::{Network, bytes, until};

const SIZE: usize = 3_500_000;
const FIRST: usize = 1_572_864;

pub(super) async fn begin(to: SocketAddr, name: &str, fields: &str, body: &[u8]) -> Answer {
    let length = body.len();
    let head = format!(
        "POST /v1/uploads?name={name} HTTP/1.1\r\nContent-Type: text/x-test\r\n{fields}Content-Length: {length}"
    );
    send(to, &head, body).await
}

fn patch(place: &str, offset: usize, last: bool, length: usize) -> String {
    let last = u8::from(last);
    format!(
        "PATCH {place} HTTP/1.1\r\nContent-Type: application/partial-upload\r\nUpload-Offset: {offset}\r\n\
         Upload-Complete: ?{last}\r\nContent-Length: {length}"
    )
}

pub(super) async fn offset(to: SocketAddr, place: &str) -> usize {
    let told = send(to, &format!("HEAD {place} HTTP/1.1"), b"").await;
    assert_eq!(
        (told.status, &told.headers["upload-complete"][..]),
        (204, "?0")
    );
    assert_eq!(told.headers["upload-length"], SIZE.to_string());
    assert_eq!(told.headers["cache-control"], "no-store");
    told.headers["upload-offset"].parse().unwrap()
}

/// Begins an upload that is not to end, and returns where it is.
pub(crate) async fn begun(to: SocketAddr) -> String {
    let fields = "Upload-Complete: ?0\r\n";
    let mut begun = begin(to, "parts/begun", fields, b"first").await;
    begun.headers.remove("location").unwrap()
}

/// The peer that began the upload is gone, says the peer that was asked, once it has heard.
pub(crate) async fn is_gone(to: SocketAddr, place: &str) {
    until("the peer has heard who is gone", async || {
        let told = send(to, &format!("HEAD {place} HTTP/1.1"), b"").await;
        told.status == 410
    })
    .await;
    let told = send(to, &patch(place, 5, false, 1), b"x").await;
    assert!(
        told.json()["detail"]
            .as_str()
            .unwrap()
            .contains("begin the upload again"),
    );
    told.is_problem(410, "gone");
    let told = send(to, &format!("HEAD {place} HTTP/1.1"), b"").await;
    assert_eq!((told.status, told.body.len()), (410, 0));
}

/// Through any peer while the one that began it is there; while it is not, that is said.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_goes_on_through_other_peers() {
    let mut network = Network::start(3).await;
    let [a, b, c] = [0, 1, 2].map(|n| network.peers[n].http);
    let data = bytes(SIZE, 402);
    let fields = format!("Upload-Complete: ?0\r\nUpload-Length: {SIZE}\r\n");
    let begun = begin(a, "parts/f", &fields, &data[..FIRST]).await;
    let place = &begun.headers["location"];
    for to in [b, c, a] {
        assert_eq!(offset(to, place).await, FIRST);
    }
    let came = FIRST + 1_000_000;
    let part = append(b, place, "", FIRST, &data[FIRST..came]).await;
    assert_eq!(
        (part.status, &part.headers["upload-offset"]),
        (204, &came.to_string())
    );

    // What comes of a part by a connection that breaks off is kept, as if it had come without the detour.
    let mut broken = TcpStream::connect(c).await.unwrap();
    let head = patch(place, came, true, SIZE - came);
    let head = format!("{head}\r\nHost: localhost\r\n\r\n");
    broken.write_all(head.as_bytes()).await.unwrap();
    broken.write_all(&data[came..came + 300_000]).await.unwrap();
    drop(broken);
    let came = offset(b, place).await.max(came);

    network.peers[0].kill();
    let waiting = append(b, place, "", came, &data[came..]).await;
    let detail = waiting.json()["detail"].to_string();
    assert!(
        detail.contains("'p-0'") && detail.contains("begin the upload again"),
        "{detail}"
    );
    assert_eq!(waiting.headers["retry-after"], "1");
    waiting.is_problem(503, "unavailable");
    network.launch(0);
    network.all_ready().await;
    assert!((came..=came + 300_000).contains(&offset(c, place).await));
    let came = offset(c, place).await;
    let right = sha_256("Repr-Digest", &data);
    let done = append(c, place, &right, came, &data[came..]).await;
    assert_eq!(
        (done.status, &done.headers["location"][..]),
        (201, "/v1/files/parts/f")
    );
    assert!(get(b, "/v1/files/parts/f", "").await.body == data);
    let begun = begin(b, "parts/g", &fields, b"").await;
    let cancel = format!("DELETE {} HTTP/1.1", begun.headers["location"]);
    for (to, status) in [(c, 204), (a, 404), (b, 404)] {
        assert_eq!(send(to, &cancel, b"").await.status, status);
    }
}

/// Goes on by so many bytes of `data`, again where a busy machine makes the network refuse for a moment. Returns what is said of
/// them, and where they end.
async fn go_on(to: SocketAddr, place: &str, data: &[u8], by: usize) -> (Answer, usize) {
    let mut told = None;
    until("the part is taken", async || {
        let from = offset(to, place).await;
        let head = patch(place, from, false, by);
        let part = send(to, &head, &data[from..from + by]).await;
        let refused = part.status == 503;
        told = Some((part, from + by));
        !refused
    })
    .await;
    told.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_in_parts_survives_broken_connections_and_a_restart() {
    let mut network = Network::start(3).await;
    let [a, b] = [0, 1].map(|n| network.peers[n].http);
    let data = bytes(SIZE, 400);
    let fields = format!("Upload-Complete: ?0\r\nUpload-Length: {SIZE}\r\n");
    let begun = begin(a, "parts/a", &fields, &data[..FIRST]).await;
    assert_eq!(begun.status, 201);
    assert_eq!(begun.headers["upload-offset"], FIRST.to_string());
    assert!(begun.headers["upload-limit"].contains("max-age=3600"));
    let place = &begun.headers["location"];
    assert_eq!(offset(a, place).await, FIRST);

    what_makes_no_sense_is_refused(a, b, place).await;
    digests_are_checked(b, &data).await;

    // A connection that stands still is cut off by a client that comes back, and what came by it counts.
    let mut standing = TcpStream::connect(a).await.unwrap();
    let head = patch(place, FIRST, true, SIZE - FIRST);
    let head = format!("{head}\r\nHost: localhost\r\n\r\n");
    standing.write_all(head.as_bytes()).await.unwrap();
    standing
        .write_all(&data[FIRST..FIRST + 700_000])
        .await
        .unwrap();
    let came = offset(a, place).await;
    assert!((FIRST..=FIRST + 700_000).contains(&came), "{came}");
    // The other request may have been read only after that one; then more has come by now.
    let (part, came) = go_on(a, place, &data, 100_000).await;
    let said = String::from_utf8_lossy(&part.body);
    assert_eq!(part.status, 204, "{said}");
    assert_eq!(part.headers["upload-offset"], came.to_string());
    drop(standing);

    network.peers[0].kill();
    network.launch(0);
    network.ready(0).await;
    assert_eq!(offset(a, place).await, came);
    get(b, "/v1/files/parts/a", "")
        .await
        .is_problem(404, "not_found");
    let done = send(a, &patch(place, came, true, SIZE - came), &data[came..]).await;
    assert_eq!(
        (done.status, &done.headers["upload-complete"][..]),
        (201, "?1")
    );
    assert_eq!(done.headers["location"], "/v1/files/parts/a");
    assert_eq!(done.json()["size"], SIZE);
    let read = get(b, "/v1/files/parts/a", "").await;
    assert!(read.body == data && read.headers["content-type"] == "text/x-test");
    let whole = put(b, "/v1/files/parts/whole", &data).await;
    assert_eq!(whole.headers["etag"], done.headers["etag"]);
    let gone = send(a, &format!("HEAD {place} HTTP/1.1"), b"").await;
    assert_eq!(gone.status, 404);
    let taken = format!("{fields}If-None-Match: *\r\n");
    begin(a, "parts/a", &taken, b"")
        .await
        .is_problem(412, "precondition_failed");
}

fn sha_256(field: &str, data: &[u8]) -> String {
    let mut value = DictSerializer::new();
    value.bare_item(KeyRef::constant("sha-256"), &Sha256::digest(data)[..]);
    format!("{field}: {}\r\n", value.finish().unwrap())
}

pub(super) async fn append(
    to: SocketAddr,
    place: &str,
    fields: &str,
    offset: usize,
    part: &[u8],
) -> Answer {
    let last = offset + part.len() == SIZE;
    let head = patch(place, offset, last, part.len());
    let head = format!("{head}\r\n{}", fields.trim_end());
    send(to, head.trim_end(), part).await
}

/// Of parts, and of the whole.
async fn digests_are_checked(to: SocketAddr, data: &[u8]) {
    let open = format!("Upload-Complete: ?0\r\nUpload-Length: {SIZE}\r\n");
    let (right, wrong) = (sha_256("Repr-Digest", data), sha_256("Repr-Digest", b"x"));
    let content = |data| sha_256("Content-Digest", data);
    let refused = begin(to, "d", &format!("{open}{}", content(b"x")), &data[..FIRST]).await;
    refused.is_problem(422, "digest_mismatch");
    let told = format!("{open}{right}{}", content(&data[..FIRST]));
    let begun = begin(to, "parts/d", &told, &data[..FIRST]).await;
    assert_eq!(begun.headers["upload-offset"], FIRST.to_string());
    let place = &begun.headers["location"];
    // Whole chunks of a part with a wrong digest do not count either.
    for (field, status, code) in [
        (content(b"x"), 422, "digest_mismatch"),
        (right.clone(), 400, "invalid"),
    ] {
        let part = &data[FIRST..SIZE - 1];
        let refused = append(to, place, &field, FIRST, part).await;
        refused.is_problem(status, code);
        assert_eq!(offset(to, place).await, FIRST);
    }
    let rest = &data[FIRST..];
    let done = append(to, place, &content(rest), FIRST, rest).await;
    assert_eq!(done.status, 201);
    assert!(get(to, "/v1/files/parts/d", "").await.body == data);

    for (first, last) in [(&wrong[..], ""), ("", &wrong[..]), (&right[..], &wrong[..])] {
        let begun = begin(to, "parts/e", &format!("{open}{first}"), b"").await;
        let place = &begun.headers["location"];
        let refused = append(to, place, last, 0, data).await;
        refused.is_problem(422, "digest_mismatch");
        let none = get(to, "/v1/files/parts/e", "").await;
        none.is_problem(404, "not_found");
        let gone = send(to, &format!("HEAD {place} HTTP/1.1"), b"").await;
        assert_eq!(gone.status, 404);
    }
}

async fn what_makes_no_sense_is_refused(a: SocketAddr, b: SocketAddr, place: &str) {
    let wrong = send(a, &patch(place, 5, false, 1), b"x").await;
    assert_eq!(wrong.json()["expected-offset"], FIRST);
    wrong.is_problem(409, "mismatching_upload_offset");
    // As the peer says that has it, whichever is asked.
    let elsewhere = send(b, &patch(place, 5, false, 1), b"x").await;
    assert_eq!(elsewhere.json()["expected-offset"], FIRST);
    elsewhere.is_problem(409, "mismatching_upload_offset");
    let (peer, number) = place.rsplit_once('/').unwrap().1.split_once('-').unwrap();
    let number = number.replace(|_| true, "0");
    let unknown = format!("/v1/uploads/{peer}-{number}");
    let nobodys = format!("/v1/uploads/{number}-{number}");
    for place in [
        "/v1/uploads/x",
        &format!("/v1/uploads/{number}"),
        &unknown,
        &nobodys,
    ] {
        for to in [a, b] {
            send(to, &format!("DELETE {place} HTTP/1.1"), b"")
                .await
                .is_problem(404, "not_found");
        }
    }
    // What has been passed on once is not passed on again, whoever is said to have it.
    let passed = format!("DELETE {place} HTTP/1.1\r\nVia: 1.1 cache, 1.1 peernet-{number}");
    send(b, &passed, b"").await.is_problem(404, "not_found");
    let untyped = format!(
        "PATCH {place} HTTP/1.1\r\nUpload-Offset: {FIRST}\r\nUpload-Complete: ?0\r\nContent-Length: 1"
    );
    send(a, &untyped, b"x")
        .await
        .is_problem(415, "unsupported_media_type");
    // More or less than was announced; what was sent for it is of no use then.
    let fields = "Upload-Complete: ?0\r\nUpload-Length: 100\r\n";
    let begun = begin(a, "parts/c", fields, b"").await;
    let other = &begun.headers["location"];
    let short = send(a, &patch(other, 0, true, 1), b"x").await;
    short.is_problem(400, "invalid");
    let long = send(a, &patch(other, 1, false, SIZE), &bytes(SIZE, 401)).await;
    long.is_problem(400, "invalid");
    let more = send(a, &patch(other, 1, false, 200), &[7; 200]).await;
    more.is_problem(400, "invalid");
    let right = send(a, &patch(other, 1, true, 99), &[7; 99]).await;
    assert_eq!(right.status, 201, "the upload ends where it ended before");
    for fields in [
        "",
        "Upload-Complete: ?1\r\n",
        "Upload-Complete: ?0\r\nUpload-Length: x\r\n",
    ] {
        begin(a, "parts/b", fields, b"")
            .await
            .is_problem(400, "invalid");
    }
    let begun = begin(a, "parts/b", "Upload-Complete: ?0\r\n", b"").await;
    let other = &begun.headers["location"];
    let cancelled = send(a, &format!("DELETE {other} HTTP/1.1"), b"").await;
    assert_eq!(cancelled.status, 204);
    send(a, &format!("DELETE {other} HTTP/1.1"), b"")
        .await
        .is_problem(404, "not_found");
    let half = "PUT /v1/files/parts/b HTTP/1.1\r\nUpload-Complete: ?0\r\nContent-Length: 1";
    send(a, half, b"x").await.is_problem(400, "invalid");
}
