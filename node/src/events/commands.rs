//! Commands from the world outside: a queue of JSON messages, each carried out once and answered.
//!
//! Every peer takes messages from the same queue, a few at a time, and acknowledges each when it is done; so a peer that
//! ends leaves its messages to the others. How a message that comes again is told from a new one is in [`memory`]. A message
//! that makes no sense, or that failed too often, goes to the dead letters. `docs/events.md` says what senders can rely
//! on.

use std::convert::Infallible;
use std::time::Duration;

use futures::TryStreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
    BasicRejectOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ExchangeKind};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::broker::{BrokerError, CONFIRM, Pauses};
use super::cloud::PERSISTENT;
use super::settings::Commands;
use crate::daemon::Running;

mod address;
mod answer;
mod carry;
mod fetch;
mod memory;

pub(super) use address::Allowed;
pub use address::NotAllowable;

use answer::{Answer, Outcome};
use carry::{Command, Order};

/// Messages that a peer works on at once, and that the broker gives it ahead (guess: downloads are slow, peers many).
const AT_ONCE: u16 = 4;
/// Deliveries after which a message is a dead letter; with the pauses between them a quarter of a minute (guess).
const DELIVERIES: i64 = 5;
/// Messages that wait in the queue; further ones are refused to those who send them (guess: days of patience of a human).
const WAITING: i64 = 10_000;
/// Dead letters kept, the newest (guess).
const DEAD: i64 = 10_000;
/// Longest message, in bytes: the longest name and URL with room to spare.
const MESSAGE_MAX: usize = 16 * 1024;
/// Pause before a message goes back to the queue for the first time; doubled each further time (guess).
const PAUSE: Duration = Duration::from_secs(1);
/// Longest time for one command; below the half hour that RabbitMQ waits for an acknowledgement by default.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Takes commands for as long as the connection stands.
pub(super) async fn keep(
    connection: &Connection,
    running: &Running,
    commands: &Commands,
) -> Infallible {
    let mut pauses = Pauses::default();
    loop {
        let Err(error) = serve(connection, running, commands, &mut pauses).await;
        let pause = pauses.next();
        match error {
            BrokerError::NotReady => {}
            error => warn!(
                retry_millis = pause.as_millis(),
                "no commands are taken: {error}"
            ),
        }
        sleep(pause).await;
    }
}

async fn serve(
    connection: &Connection,
    running: &Running,
    commands: &Commands,
    pauses: &mut Pauses,
) -> Result<Infallible, BrokerError> {
    ready(running).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let queue = declare(&channel, &commands.queue).await?;
    channel
        .basic_qos(AT_ONCE, BasicQosOptions::default())
        .await?;
    let options = BasicConsumeOptions::default();
    let consumed = channel.basic_consume(queue, "".into(), options, FieldTable::default());
    let consumer = consumed.await?;
    info!(queue = commands.queue, "takes commands");
    *pauses = Pauses::default();
    consumer
        .map_err(BrokerError::from)
        .try_for_each_concurrent(usize::from(AT_ONCE), |delivery| {
            handle(&channel, running, commands, delivery)
        })
        .await?;
    Err(BrokerError::Closed)
}

/// A peer that cannot carry anything out takes nothing: each delivery counts.
async fn ready(running: &Running) -> Result<(), BrokerError> {
    match running.peer.status().await {
        Ok(status) if status.ready && !running.has_left() => Ok(()),
        _ => Err(BrokerError::NotReady),
    }
}

/// The queue of commands, and the one of dead letters behind it, both replicated by the broker where it is more than one.
async fn declare(channel: &Channel, queue: &str) -> Result<ShortString, BrokerError> {
    let dead: ShortString = format!("{queue}.dead").into();
    let lasting = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let table = FieldTable::default;
    let declared = channel.exchange_declare(dead.clone(), ExchangeKind::Fanout, lasting, table());
    declared.await?;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let number = AMQPValue::LongLongInt;
    let arguments = |all: &[(&str, AMQPValue)]| {
        let mut table = FieldTable::default();
        for (key, value) in all {
            table.insert((*key).into(), value.clone());
        }
        table
    };
    let letters = arguments(&[
        ("x-queue-type", text("quorum")),
        ("x-max-length", number(DEAD)),
    ]);
    channel
        .queue_declare(dead.clone(), durable, letters)
        .await?;
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(dead.clone(), dead.clone(), "".into(), options, table());
    bound.await?;
    // Dead letters are confirmed too, which the broker does only for queues that refuse what is too much.
    let waiting = arguments(&[
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", number(DELIVERIES)),
        ("x-dead-letter-exchange", text(dead.as_str())),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-max-length", number(WAITING)),
    ]);
    channel
        .queue_declare(queue.into(), durable, waiting)
        .await?;
    Ok(queue.into())
}

/// Carries out one message, answers, and only then acknowledges it: whatever fails before, it comes again.
async fn handle(
    channel: &Channel,
    running: &Running,
    commands: &Commands,
    delivery: Delivery,
) -> Result<(), BrokerError> {
    let dead = BasicRejectOptions { requeue: false };
    let order = match order(&delivery) {
        Ok(order) => order,
        Err(detail) => {
            warn!("a command is refused: {detail}");
            reply(channel, &delivery, &Answer::refused(detail)).await?;
            delivery.reject(dead).await?;
            return Ok(());
        }
    };
    let carried = carry::once(running, &commands.origins, &order);
    match timeout(PATIENCE, carried).await.unwrap_or_else(|_| late()) {
        Outcome::Final(answer) => {
            info!(id = order.id, ok = answer.ok, "a command is answered");
            reply(channel, &delivery, &answer).await?;
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Outcome::Passing(answer) => {
            let before = deliveries(&delivery.properties);
            warn!(id = order.id, before, "a command failed: {answer:?}");
            if before + 1 >= DELIVERIES {
                reply(channel, &delivery, &answer).await?;
                delivery.reject(dead).await?;
            } else {
                sleep(PAUSE * (1 << before)).await;
                let requeue = true;
                let multiple = false;
                delivery
                    .nack(BasicNackOptions { requeue, multiple })
                    .await?;
                // Others may do better.
                ready(running).await?;
            }
        }
    }
    Ok(())
}

fn late() -> Outcome {
    let seconds = PATIENCE.as_secs();
    Outcome::Passing(Answer::unavailable(format!(
        "the command was not done after {seconds} seconds"
    )))
}

/// How often this message was given to somebody before, by the broker's count.
fn deliveries(properties: &BasicProperties) -> i64 {
    let headers = properties.headers().as_ref();
    let count = headers.and_then(|h| h.inner().get("x-delivery-count"));
    count
        .and_then(AMQPValue::as_long_long_int)
        .unwrap_or(0)
        .clamp(0, DELIVERIES)
}

fn order(delivery: &Delivery) -> Result<Order, String> {
    let id = delivery.properties.message_id();
    let id = id.as_ref().map(ShortString::as_str).unwrap_or_default();
    if id.is_empty() {
        return Err(
            "a command needs a message id, so that it can be told when it comes again".into(),
        );
    }
    if delivery.data.len() > MESSAGE_MAX {
        return Err(format!("a command has at most {MESSAGE_MAX} bytes"));
    }
    let command = serde_json::from_slice::<Command>(&delivery.data);
    Ok(Order {
        command: command.map_err(|error| format!("this is not a command: {error}"))?,
        id: id.to_owned(),
        digest: blake3::hash(&delivery.data),
    })
}

/// Answers whoever wants an answer. One that nobody takes is dropped: it is given again to who sends the message again.
async fn reply(channel: &Channel, delivery: &Delivery, answer: &Answer) -> Result<(), BrokerError> {
    let asked = &delivery.properties;
    let Some(to) = asked.reply_to().clone() else {
        return Ok(());
    };
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT);
    let named = asked
        .correlation_id()
        .clone()
        .or_else(|| asked.message_id().clone());
    if let Some(named) = named {
        properties = properties.with_correlation_id(named);
    }
    let body = answer.to_json();
    let options = BasicPublishOptions::default();
    let sent = async {
        let confirm = channel.basic_publish("".into(), to, options, &body, properties);
        confirm.await?.await
    };
    let confirmed = timeout(CONFIRM, sent).await;
    match confirmed.map_err(|_| BrokerError::Unconfirmed)?? {
        Confirmation::Ack(_) => {}
        Confirmation::Nack(_) | Confirmation::NotRequested => {
            warn!("the queue for answers takes none");
        }
    }
    Ok(())
}
