//! Commands that fetch by https: whose certificates count.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

use crate::broker::Broker;
use crate::commands::Sender;
use crate::network::Network;

/// Signs certificates of servers.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        Authority {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A server that shows a certificate for that name; its URL on this machine.
    async fn serve(&self, name: &str) -> String {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let secret = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], secret);
        let listener = Secured {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
            acceptor: TlsAcceptor::from(Arc::new(config.expect("a certificate and its key"))),
        };
        let port = listener.listener.local_addr().expect("its address").port();
        let service = Router::new().fallback(async || "by https");
        tokio::spawn(async move { axum::serve(listener, service).await });
        format!("https://127.0.0.1:{port}/")
    }
}

struct Secured {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, from) = self.listener.accept().await.expect("a connection");
            // A client that does not trust it goes away.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_from_servers_of_authorities_that_are_trusted() {
    let Some(broker) = Broker::start().await else {
        return;
    };
    let (ours, other) = (Authority::new(), Authority::new());
    let good = ours.serve("127.0.0.1").await;
    let misnamed = ours.serve("127.0.0.2").await;
    let strange = other.serve("127.0.0.1").await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("authorities.pem");
    let flags = [
        "--replication-factor=1",
        "--replication-write=1",
        "--events-commands",
        "--events-fetch-allow=127.0.0.1,127.0.0.1/32",
        &format!("--events={}", broker.uri()),
        &format!("--events-fetch-ca-file={}", file.display()),
    ];
    fs::write(&file, &other.pem).expect("written");
    let network = Network::start_with(1, &flags).await;
    let mut sender = Sender::start(&broker).await;
    let put = |url: &str| json!({"command": "put", "url": url, "name": "x"});

    let refused = sender.ask("early", &put(&good)).await;
    assert_eq!(refused["code"], "invalid", "{refused}");
    fs::write(&file, &ours.pem).expect("written");
    let stored = sender.ask("good", &put(&good)).await;
    assert_eq!(stored["ok"], true, "{stored}");
    let read = network.peers[0].get("x", 0, None).await.unwrap();
    assert_eq!(read, b"by https");
    for (n, url) in [&misnamed, &strange].into_iter().enumerate() {
        let refused = sender.ask(&format!("bad-{n}"), &put(url)).await;
        assert_eq!(refused["code"], "invalid", "{refused}");
        let detail = refused["detail"].as_str().expect("a sentence");
        assert!(detail.contains("--events-fetch-ca-file"), "{detail}");
    }
    // Several in one file.
    fs::write(&file, ours.pem.clone() + &other.pem).expect("written");
    assert_eq!(sender.ask("both", &put(&strange)).await["ok"], true);
}
