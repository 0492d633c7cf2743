//! A real RabbitMQ of a test's own: its folders, its ports, its name. Killed when dropped.
//!
//! Debian's package is expected (`dev/test` installs it). Without it tests of events are skipped, unless
//! `PEERNET_TEST_BROKER=required` says that it has to be there.

use std::env;
use std::fs::File;
use std::io::{Write, stderr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::network::{PATIENCE, free_port, until};

/// The server itself; the one on the PATH changes the user first.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Longest that one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// A broker, running or not.
pub(crate) struct Broker {
    dir: TempDir,
    port: u16,
    dist: u16,
    epmd: u16,
    process: Option<Child>,
}

impl Broker {
    /// Starts one and waits until it answers; `None` when there is none to start.
    pub(crate) async fn start() -> Option<Broker> {
        if !Path::new(SERVER).exists() {
            assert!(
                env::var_os("PEERNET_TEST_BROKER").is_none_or(|v| v != "required"),
                "{SERVER} is not there: install Debian's rabbitmq-server"
            );
            // Past the capture of a test's output: what is not tested has to be seen.
            writeln!(
                stderr(),
                "SKIPPED, as {SERVER} is not there: install Debian's rabbitmq-server"
            )
            .expect("stderr");
            return None;
        }
        let mut broker = Broker {
            dir: TempDir::new().expect("a temporary folder"),
            port: free_port().port(),
            dist: free_port().port(),
            epmd: free_port().port(),
            process: None,
        };
        broker.launch();
        broker.answers().await;
        Some(broker)
    }

    /// Starts the process.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "the broker runs already");
        let dir = self.dir.path();
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .expect("a log");
        let process = Command::new(SERVER)
            .env("HOME", dir)
            .env("RABBITMQ_NODENAME", format!("t{}@localhost", self.port))
            .env("RABBITMQ_MNESIA_BASE", dir.join("db"))
            .env("RABBITMQ_LOG_BASE", dir.join("logs"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist.to_string())
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .process_group(0)
            .spawn();
        self.process = Some(process.expect("the broker"));
    }

    /// Waits until it takes connections.
    pub(crate) async fn answers(&self) {
        until("the broker answers", async || {
            let uri = self.uri();
            let connected = Connection::connect(&uri, ConnectionProperties::default());
            // One that meets the broker halfway up may never end (lapin 4.12, seen once).
            matches!(timeout(ATTEMPT, connected).await, Ok(Ok(_)))
        })
        .await;
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // All of its group may have ended.
            let _ = kill_process_group(Pid::from_child(&process), Signal::KILL);
            process.wait().expect("a child");
        }
    }

    pub(crate) fn uri(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    pub(crate) async fn channel(&self) -> Channel {
        let connection = Connection::connect(&self.uri(), ConnectionProperties::default()).await;
        connection
            .expect("a connection")
            .create_channel()
            .await
            .expect("a channel")
    }

    /// Declares exchange and queue as a subscriber would. The queue gets what matches; it is there also when nobody reads it.
    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let channel = self.channel().await;
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let table = FieldTable::default;
        let lasting = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declared =
            channel.exchange_declare(exchange.into(), ExchangeKind::Topic, lasting, table());
        declared.await.expect("an exchange");
        channel
            .queue_declare(queue.into(), durable, table())
            .await
            .expect("a queue");
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(queue.into(), exchange.into(), key.into(), options, table());
        bound.await.expect("a binding");
    }

    /// Reads a queue.
    pub(crate) async fn read(&self, queue: &str) -> Reader {
        let channel = self.channel().await;
        let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel
            .basic_consume(queue.into(), "".into(), options, table)
            .await;
        Reader(consumer.expect("a consumer"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        // The port mapper that it has started outlives it.
        let _ = Command::new("epmd")
            .arg("-kill")
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .output();
    }
}

/// What comes out of a queue, acknowledged one by one.
pub(crate) struct Reader(Consumer);

impl Reader {
    /// The next message.
    pub(crate) async fn next(&mut self) -> Delivery {
        let next = timeout(PATIENCE, self.0.next())
            .await
            .expect("a message in time");
        let delivery = next.expect("the queue's end").expect("a message");
        delivery
            .ack(BasicAckOptions::default())
            .await
            .expect("an acknowledgement");
        delivery
    }

    /// The next event: its routing key, and itself.
    pub(crate) async fn event(&mut self) -> (String, Value) {
        let delivery = self.next().await;
        let event = serde_json::from_slice(&delivery.data).expect("JSON");
        (delivery.routing_key.to_string(), event)
    }
}
