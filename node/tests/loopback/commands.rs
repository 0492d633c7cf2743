//! Commands through a real broker.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::broker::{Broker, Reader};
use crate::network::{Network, bytes, until};

const QUEUE: &str = "peernet.commands";
const ANSWERS: &str = "answers";
/// Bytes of a file that takes chunks.
const LARGE: usize = 1_500_000;

/// A web server on all addresses of this machine; what it was asked for, `host path`.
struct Origin {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    async fn start() -> Origin {
        let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let asked = Arc::default();
        let service = Router::new().fallback(serve).with_state(Arc::clone(&asked));
        tokio::spawn(async move { axum::serve(listener, service).await });
        Origin { address, asked }
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.address.port())
    }

    fn asked(&self, wanted: &str) -> usize {
        let asked = self.asked.lock().expect("no panic");
        asked.iter().filter(|asked| asked.contains(wanted)).count()
    }
}

async fn serve(State(asked): State<Arc<Mutex<Vec<String>>>>, request: Request) -> Response {
    let host = request.headers()[header::HOST].to_str().expect("a host");
    let path = request.uri().path();
    asked
        .lock()
        .expect("no panic")
        .push(format!("{host} {path}"));
    match path.split_once("/large/") {
        Some((_, seed)) => bytes(LARGE, seed.parse().expect("a seed")).into_response(),
        None if path == "/text" => "hello".into_response(),
        None if path == "/away" => {
            let port = host.rsplit_once(':').expect("a port").1;
            let location = format!("http://127.0.0.3:{port}/text");
            (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Who sends commands and reads the answers.
pub(crate) struct Sender {
    channel: Channel,
    answers: Reader,
    /// Answers to others than the one that was waited for, in the order they came.
    early: Vec<(String, Value)>,
}

impl Sender {
    pub(crate) async fn start(broker: &Broker) -> Sender {
        // The queue of commands is there once a peer is.
        until("commands are taken", async || {
            let channel = broker.channel().await;
            let passive = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let declared = channel.queue_declare(QUEUE.into(), passive, FieldTable::default());
            declared.await.is_ok()
        })
        .await;
        broker.bind(ANSWERS, "peernet", "nothing.at.all").await;
        Sender {
            channel: broker.channel().await,
            answers: broker.read(ANSWERS).await,
            early: Vec::new(),
        }
    }

    async fn send(&self, id: &str, body: &str) {
        let properties = BasicProperties::default()
            .with_message_id(id.into())
            .with_reply_to(ANSWERS.into())
            .with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish(
            "".into(),
            QUEUE.into(),
            options,
            body.as_bytes(),
            properties,
        );
        sent.await.expect("a channel").await.expect("a broker");
    }

    /// The next answer, and the message that it answers.
    async fn answer(&mut self) -> (String, Value) {
        let delivery = self.answers.next().await;
        let id = delivery.properties.correlation_id().as_ref();
        let answer = serde_json::from_slice(&delivery.data).expect("JSON");
        (id.expect("a correlation").to_string(), answer)
    }

    /// The answer to this message, whenever it comes.
    async fn answer_to(&mut self, id: &str) -> Value {
        loop {
            if let Some(at) = self.early.iter().position(|(answered, _)| answered == id) {
                return self.early.remove(at).1;
            }
            let answer = self.answer().await;
            self.early.push(answer);
        }
    }

    pub(crate) async fn ask(&mut self, id: &str, command: &Value) -> Value {
        self.send(id, &command.to_string()).await;
        self.answer_to(id).await
    }
}

const ALLOW: [&str; 3] = [
    "--events-commands",
    "--events-fetch-allow",
    "127.0.0.1,127.0.0.1/32,127.0.0.3",
];

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_carried_out_once_and_answered() {
    let Some(broker) = Broker::start().await else {
        return;
    };
    let origin = Origin::start().await;
    let uri = broker.uri();
    let network = Network::start_with(3, &[&["--events", &uri], &ALLOW[..]].concat()).await;
    let peer = &network.peers[0];
    let mut sender = Sender::start(&broker).await;

    let url = origin.url("127.0.0.1", "/large/7");
    let put = json!({"command": "put", "url": url, "name": "a/ü", "contentType": "text/x"});
    let stored = sender.ask("put", &put).await;
    assert_eq!(stored["ok"], true, "{stored}");
    assert_eq!(stored["file"]["size"], LARGE);
    assert_eq!(peer.get("a/ü", 0, None).await.unwrap(), bytes(LARGE, 7));
    // The same message again gets the same answer, and nothing else happens.
    assert_eq!(sender.ask("put", &put).await, stored);
    assert_eq!(origin.asked("/large/7"), 1);
    let other = sender
        .ask("put", &json!({"command": "delete", "name": "a/ü"}))
        .await;
    assert_eq!(other["code"], "invalid", "{other}");

    let etag = &stored["file"]["etag"];
    let delete = json!({"command": "delete", "name": "a/ü", "ifMatch": etag});
    let deleted = sender.ask("delete", &delete).await;
    assert_eq!(deleted, json!({"ok": true}));
    let again = peer.put("a/ü", &bytes(LARGE, 7)).await.unwrap();
    assert_eq!(again.etag, *etag);
    assert_eq!(sender.ask("delete", &delete).await, deleted);
    assert_eq!(peer.get("a/ü", 0, None).await.unwrap().len(), LARGE);

    // Many peers at the same command at once.
    broker.bind("raced", "peernet", "file.*").await;
    let put = json!({"command": "put", "url": url, "name": "raced"}).to_string();
    for _ in 0..9 {
        sender.send("raced", &put).await;
    }
    for _ in 0..9 {
        let (_, answer) = sender.answer().await;
        let done = answer["ok"] == true || answer["code"] == "changed_meanwhile";
        assert!(done, "{answer}");
    }
    let over = json!({"command": "delete", "name": "raced"});
    assert_eq!(sender.ask("over", &over).await["ok"], true);
    let mut events = broker.read("raced").await;
    let mut changes = BTreeSet::new();
    loop {
        let (kind, event) = events.event().await;
        match (kind.as_str(), event["subject"] == "raced") {
            ("file.stored", true) => drop(changes.insert(event["id"].to_string())),
            ("file.deleted", true) => break,
            _ => {}
        }
    }
    assert_eq!(changes.len(), 1, "stored {changes:?}");

    for (id, command, code) in [
        (
            "1",
            json!({"command": "put", "url": url, "name": "a/ü", "ifAbsent": true}),
            "precondition_failed",
        ),
        (
            "2",
            json!({"command": "delete", "name": "a/ü", "ifMatch": "0"}),
            "precondition_failed",
        ),
        (
            "3",
            json!({"command": "delete", "name": "none"}),
            "not_found",
        ),
        (
            "4",
            json!({"command": "prefetch", "name": "none"}),
            "not_found",
        ),
        (
            "5",
            json!({"command": "pin", "name": "a/ü", "ifMatch": "0"}),
            "precondition_failed",
        ),
        ("6", json!({"command": "delete", "name": "../x"}), "invalid"),
    ] {
        let answer = sender.ask(id, &command).await;
        assert_eq!(answer["code"], code, "{command}: {answer}");
    }
    let prefetched = sender
        .ask("7", &json!({"command": "prefetch", "name": "a/ü"}))
        .await;
    assert_eq!(prefetched["file"]["etag"], *etag);

    let pin = json!({"command": "pin", "name": "a/ü"});
    let pinned = sender.ask("8", &pin).await;
    assert_eq!(pinned["file"]["etag"], *etag, "{pinned}");
    let delete = json!({"command": "delete", "name": "a/ü"});
    assert_eq!(sender.ask("9", &delete).await["code"], "pinned");
    let unpin = json!({"command": "unpin", "name": "a/ü"});
    assert_eq!(sender.ask("10", &unpin).await["ok"], true);
    // The same message once more: the file stays as somebody else has left it since.
    assert_eq!(sender.ask("8", &pin).await, pinned);
    assert_eq!(sender.ask("11", &delete).await["ok"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_not_fetched_and_what_makes_no_sense_is_a_dead_letter() {
    let Some(broker) = Broker::start().await else {
        return;
    };
    let origin = Origin::start().await;
    let uri = broker.uri();
    let alone = ["--replication-factor", "1", "--replication-write", "1"];
    let network = Network::start_with(1, &[&["--events", &uri], &ALLOW[..], &alone].concat()).await;
    let mut sender = Sender::start(&broker).await;
    let put = |url: &str| json!({"command": "put", "url": url, "name": "x"});

    // Nobody listens there: it is tried again and again, and meanwhile other commands are carried out.
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = closed.local_addr().expect("its address").to_string();
    drop(closed);
    let nobody = put(&format!("http://{nobody}/")).to_string();
    sender.send("nobody", &nobody).await;

    let named = origin
        .url("127.0.0.1", "/text")
        .replace("//", "//me:secret@");
    for (n, (url, reason)) in [
        (origin.url("127.0.0.2", "/text"), "is not allowed"),
        (origin.url("localhost", "/text"), "is not allowed"),
        (origin.url("[::1]", "/text"), "is not allowed"),
        (origin.url("127.0.0.3", "/text"), "no address in the public"),
        (origin.url("0x7f.3", "/text"), "no address in the public"),
        (origin.url("127.0.0.1", "/away"), "no address in the public"),
        (named, "is not a URL of the form"),
        ("file:///etc/passwd".into(), "is not a URL of the form"),
        (origin.url("127.0.0.1", "/none"), "404"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = sender.ask(&format!("bad-{n}"), &put(&url)).await;
        assert_eq!(answer["code"], "invalid", "{url}: {answer}");
        let detail = answer["detail"].as_str().expect("a sentence");
        assert!(detail.contains(reason), "{url}: {detail}");
    }
    assert_eq!(origin.asked("/text"), 0, "{:?}", origin.asked);
    let good = put(&origin.url("127.0.0.1", "/text"));
    assert_eq!(sender.ask("good", &good).await["ok"], true);
    assert_eq!(network.peers[0].get("x", 0, None).await.unwrap(), b"hello");

    let mut dead = BTreeSet::new();
    for bad in ["", "{", r#"{"command": "format"}"#, &" ".repeat(20_000)] {
        sender.send("senseless", bad).await;
        let answer = sender.answer_to("senseless").await;
        assert_eq!(answer["code"], "invalid", "{answer}");
        dead.insert(("senseless".to_owned(), bad.to_owned()));
    }
    sender.send("", &good.to_string()).await;
    let answer = sender.answer_to("").await;
    assert!(answer["detail"].to_string().contains("needs a message id"));
    dead.insert((String::new(), good.to_string()));

    let answer = sender.answer_to("nobody").await;
    assert_eq!(answer["code"], "unavailable", "{answer}");
    dead.insert(("nobody".to_owned(), nobody));
    let mut letters = broker.read(&format!("{QUEUE}.dead")).await;
    while !dead.is_empty() {
        let letter = letters.next().await;
        let id = letter.properties.message_id().as_ref();
        let id = id.map(ToString::to_string).unwrap_or_default();
        let body = String::from_utf8(letter.data).expect("what was sent");
        assert!(dead.remove(&(id.clone(), body)), "{id:?} is dead, too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_is_lost_or_carried_out_twice_when_peers_crash() {
    const FILES: usize = 30;
    let Some(broker) = Broker::start().await else {
        return;
    };
    let origin = Origin::start().await;
    broker.bind("changes", "peernet", "file.*").await;
    let uri = broker.uri();
    let mut network = Network::start_with(3, &[&["--events", &uri], &ALLOW[..]].concat()).await;
    let mut sender = Sender::start(&broker).await;
    for n in 0..FILES {
        let url = origin.url("127.0.0.1", &format!("/large/{n}"));
        let put = json!({"command": "put", "url": url, "name": format!("many/{n}")});
        sender.send(&format!("put-{n}"), &put.to_string()).await;
    }
    // Each of the peers in turn, in the middle of what it does.
    let mut answers = BTreeMap::new();
    for (victim, enough) in [(1, 4), (2, 10), (0, 16)] {
        while answers.len() < enough {
            let (id, answer) = sender.answer().await;
            answers.insert(id, answer);
        }
        network.peers[victim].kill();
        network.launch(victim);
        network.ready(victim).await;
    }
    while answers.len() < FILES {
        let (id, answer) = sender.answer().await;
        answers.insert(id, answer);
    }
    let mut etags = BTreeMap::new();
    for n in 0..FILES {
        let name = format!("many/{n}");
        let data = network.peers[0].get(&name, 0, None).await.unwrap();
        assert!(data == bytes(LARGE, n as u64), "{name} is another file");
        let answer = &answers[&format!("put-{n}")];
        let done = answer["ok"] == true || answer["code"] == "changed_meanwhile";
        assert!(done, "{name}: {answer}");
        // The last event of each file.
        network.peers[0].delete(&name).await.unwrap();
        etags.insert(name, BTreeSet::new());
    }
    let mut events = broker.read("changes").await;
    let mut over = BTreeSet::new();
    while over.len() < FILES {
        let (kind, event) = events.event().await;
        let (name, id) = (event["subject"].as_str(), event["id"].to_string());
        let name = name.expect("a name").to_owned();
        if kind == "file.deleted" {
            over.insert(name);
        } else {
            etags.get_mut(&name).expect("one of these").insert(id);
        }
    }
    for (name, changes) in etags {
        assert_eq!(changes.len(), 1, "{name} was stored {changes:?}");
    }
}
