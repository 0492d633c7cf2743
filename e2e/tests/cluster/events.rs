//! `spec.events` at work: brokers on this machine, which the pods reach where they reach the API server.

use std::net::{IpAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Config, ResourceExt};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use peernet_crd::{Commands, Events, PeerNetwork, PeerNetworkSpec, SecretKey};
use peernet_e2e::client::Protocol;
use peernet_e2e::cluster::{Scenario, scenario};
use peernet_e2e::content::Content;
use peernet_e2e::files::put_at;
use peernet_e2e::network::Network;
use peernet_e2e::patience::eventually;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

/// The server itself; the one on the PATH changes the user first.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// Longest that a broker may take to start, or the kubelet to bring a Secret.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two reminders of the kubelet.
const REMIND: Duration = Duration::from_secs(3);
const SECRET: &str = "broker";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_commands_go_through_the_broker_that_the_secret_names() {
    scenario("events", async |scenario| {
        what_no_peer_starts_with(scenario).await?;
        let host = host().await?;
        let (first, second, network) = tokio::try_join!(
            Broker::start(host),
            Broker::start(host),
            Network::create(scenario, "demo", spec(None, &[])),
        )?;
        let exchange = format!("{}.demo", scenario.namespace);
        connected(&network, false, "Secret 'broker'").await?;

        let secrets: Api<Secret> = Api::namespaced(scenario.client.clone(), &scenario.namespace);
        let mut secret = Secret::default();
        secret.metadata.name = Some(SECRET.into());
        secret.string_data = Some([("uri".into(), first.uri())].into());
        secrets.create(&PostParams::default(), &secret).await?;
        let mut events = first.bind(&exchange, "file.*").await?;
        let content = Content { seed: 1, len: 10 };
        let peers = network.peers();
        put_at(&peers[0], Protocol::Rest, "before", content).await?;
        told(&network, &mut events, "file.stored", "before").await?;
        connected(&network, true, "all 3 peers").await?;
        scenario.note("the Secret has come, and events with it");

        let delete = json!({"command": "delete", "name": "before"});
        let answer = first.command(&exchange, &delete).await?;
        ensure!(answer == json!({"ok": true}), "the answer is {answer}");
        told(&network, &mut events, "file.deleted", "before").await?;

        // What happens meanwhile waits for the other broker.
        let mut events = second.bind(&exchange, "file.*").await?;
        drop(first);
        put_at(&peers[1], Protocol::Rest, "meanwhile", content).await?;
        let other = Patch::Merge(json!({"stringData": {"uri": second.uri()}}));
        secrets
            .patch(SECRET, &PatchParams::default(), &other)
            .await?;
        told(&network, &mut events, "file.stored", "meanwhile").await?;
        connected(&network, true, "all 3 peers").await
    })
    .await;
}

/// With a Secret that is named, whether or not it is there.
fn spec(exchange: Option<&str>, allow: &[&str]) -> PeerNetworkSpec {
    let fetch_allow = allow.iter().map(|a| (*a).to_owned()).collect();
    PeerNetworkSpec {
        events: Some(Events {
            uri: SecretKey {
                name: SECRET.into(),
                key: "uri".into(),
            },
            ca: None,
            exchange: exchange.map(Into::into),
            commands: Some(Commands {
                fetch_allow,
                fetch_ca: None,
            }),
        }),
        ..crate::spec(3)
    }
}

/// The API server refuses what peers would refuse.
async fn what_no_peer_starts_with(scenario: &Scenario) -> Result<()> {
    let networks: Api<PeerNetwork> = Api::namespaced(scenario.client.clone(), &scenario.namespace);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let create = async |spec| networks.create(&dry, &PeerNetwork::new("demo", spec)).await;
    for (spec, sentence) in [
        (spec(Some("amq.x"), &[]), "belong to the broker"),
        (spec(None, &["10.0.0.0/33"]), "a block of addresses"),
        (spec(None, &["a,b"]), "a block of addresses"),
    ] {
        match create(spec).await {
            Err(kube::Error::Api(status)) if status.code == 422 => {
                let told = status.message.contains(sentence);
                ensure!(told, "{:?} does not say {sentence:?}", status.message);
            }
            other => anyhow::bail!("{sentence}: {other:?}"),
        }
    }
    let allow = ["*", "*.example.org", "10.1.0.0/16", "fd00::/8", "[::1]"];
    create(spec(Some("mine"), &allow)).await?;
    Ok(())
}

/// Waits until the condition is so.
async fn connected(network: &Network, wanted: bool, says: &str) -> Result<()> {
    let status = if wanted { "True" } else { "False" };
    let what = format!("BrokerConnected={status}, with {says:?}");
    let holds = |resource: &PeerNetwork| {
        let conditions = resource.status.iter().flat_map(|s| &s.conditions);
        conditions
            .filter(|c| c.type_ == "BrokerConnected" && c.status == status)
            .any(|c| c.message.contains(says))
    };
    eventually(&what, PATIENCE, async || {
        remind(network).await?;
        network.becomes(&what, REMIND, holds).await
    })
    .await
}

/// Waits for an event; the others are passed over.
async fn told(network: &Network, events: &mut Consumer, key: &str, subject: &str) -> Result<()> {
    for _ in 0..PATIENCE.as_secs() / REMIND.as_secs() {
        remind(network).await?;
        while let Ok(next) = timeout(REMIND, events.next()).await {
            let delivery = next.context("the broker went away")??;
            let event: Value = serde_json::from_slice(&delivery.data)?;
            if delivery.routing_key.as_str() == key && event["subject"] == subject {
                return Ok(());
            }
        }
    }
    anyhow::bail!("{key} of {subject}: not within {} s", PATIENCE.as_secs())
}

/// The kubelet brings a pod's Secrets up to date every minute or so, and whenever the pod changes.
async fn remind(network: &Network) -> Result<()> {
    let now = fastrand::u64(..).to_string();
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"peernet.dev/e2e": now}}}));
    for pod in network.pod_objects() {
        let params = PatchParams::default();
        network.pods.patch(&pod.name_any(), &params, &patch).await?;
    }
    Ok(())
}

/// This machine as pods see it.
async fn host() -> Result<IpAddr> {
    let server = Config::infer().await?.cluster_url;
    let host = server.host().context("the API server has no address")?;
    Ok(host.parse()?)
}

/// A broker with folders and ports of its own; killed when dropped.
struct Broker {
    dir: TempDir,
    host: IpAddr,
    port: u16,
    epmd: u16,
    process: Child,
}

impl Broker {
    async fn start(host: IpAddr) -> Result<Broker> {
        let dir = TempDir::new()?;
        let ports = [host, [127, 0, 0, 1].into(), [127, 0, 0, 1].into()].map(free_port);
        let [port, dist, epmd] = ports.map(|port| port.unwrap_or_default());
        // Whom it knows may come from elsewhere than this machine.
        std::fs::write(dir.path().join("rabbitmq.conf"), "loopback_users = none\n")?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let process = Command::new(SERVER)
            .env("HOME", dir.path())
            .env("RABBITMQ_CONFIG_FILE", dir.path().join("rabbitmq.conf"))
            .env("RABBITMQ_NODENAME", format!("e{port}@localhost"))
            .env("RABBITMQ_MNESIA_BASE", dir.path().join("db"))
            .env("RABBITMQ_LOG_BASE", dir.path().join("logs"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.path().join("plugins"))
            .env("RABBITMQ_NODE_IP_ADDRESS", host.to_string())
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", dist.to_string())
            .env("ERL_EPMD_PORT", epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("install Debian's rabbitmq-server: dev/cluster build")?;
        let broker = Broker {
            dir,
            host,
            port,
            epmd,
            process,
        };
        eventually("the broker answers", PATIENCE, async || {
            broker.channel().await.map(drop)
        })
        .await
        .with_context(|| {
            std::fs::read_to_string(broker.dir.path().join("log")).unwrap_or_default()
        })?;
        Ok(broker)
    }

    fn uri(&self) -> String {
        let Broker { host, port, .. } = self;
        format!("amqp://guest:guest@{host}:{port}/%2f")
    }

    async fn channel(&self) -> Result<Channel> {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&self.uri(), properties).await?;
        Ok(connection.create_channel().await?)
    }

    /// What is published with these routing keys from now on.
    async fn bind(&self, exchange: &str, key: &str) -> Result<Consumer> {
        let channel = self.channel().await?;
        let lasting = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let (topic, table) = (ExchangeKind::Topic, FieldTable::default);
        let declared = channel.exchange_declare(exchange.into(), topic, lasting, table());
        declared.await?;
        let queue = Self::queue(&channel).await?;
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(
            queue.as_str().into(),
            exchange.into(),
            key.into(),
            options,
            table(),
        );
        bound.await?;
        Self::consume(&channel, &queue).await
    }

    /// Sends a command, once there is a peer that takes it; the answer.
    async fn command(&self, exchange: &str, command: &Value) -> Result<Value> {
        let (queue, body) = (format!("{exchange}.commands"), command.to_string());
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        eventually("commands are taken", PATIENCE, async || {
            let channel = self.channel().await?;
            let declared =
                channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
            Ok(declared.await.map(drop)?)
        })
        .await?;
        let channel = self.channel().await?;
        let answers = Self::queue(&channel).await?;
        let mut consumer = Self::consume(&channel, &answers).await?;
        let properties = BasicProperties::default()
            .with_message_id("1".into())
            .with_reply_to(answers.as_str().into());
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(
            "".into(),
            queue.as_str().into(),
            options,
            body.as_bytes(),
            properties,
        );
        sent.await?.await?;
        let answer = timeout(PATIENCE, consumer.next()).await?;
        let answer = answer.context("the broker went away")??;
        Ok(serde_json::from_slice(&answer.data)?)
    }

    /// A queue of this connection's own, which the broker names.
    async fn queue(channel: &Channel) -> Result<String> {
        let own = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel.queue_declare("".into(), own, FieldTable::default());
        Ok(queue.await?.name().to_string())
    }

    async fn consume(channel: &Channel, queue: &str) -> Result<Consumer> {
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consumer =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        Ok(consumer.await?)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // All of its group may have ended.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
        // The port mapper that it has started outlives it.
        let _ = Command::new("epmd")
            .arg("-kill")
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .output();
    }
}

/// A port that was free a moment ago.
fn free_port(host: IpAddr) -> Result<u16> {
    Ok(TcpListener::bind((host, 0))?.local_addr()?.port())
}
