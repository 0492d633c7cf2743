//! The connection to the broker, and publishing with confirms.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::FieldTable;
use lapin::{
    Channel, Confirmation, Connection, ConnectionProperties, DefaultConnectionBuilder, ExchangeKind,
};
use thiserror::Error;
use tokio::time::timeout;

use super::cloud::Event;
use super::settings::{Events, NoUri};

/// How long connecting may take, with TLS and a login (guess).
const CONNECT: Duration = Duration::from_secs(15);
/// How long the broker may take to confirm a batch. A broker that is out of memory or disk stops reading; then the
/// connection is given up, and what was not confirmed is published again (guess).
pub(super) const CONFIRM: Duration = Duration::from_secs(60);
/// First pause before another attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause: a broker that is back is used soon (guess).
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why there is no connection, or not any more.
#[derive(Debug, Error)]
pub(super) enum BrokerError {
    #[error(transparent)]
    Uri(#[from] NoUri),
    #[error("{0}")]
    Amqp(#[from] lapin::Error),
    #[error("it did not answer within {} seconds", CONNECT.as_secs())]
    Silent,
    #[error("it did not confirm what was published within {} seconds; it may be short of memory or disk", CONFIRM.as_secs())]
    Unconfirmed,
    #[error("it refused to store an event")]
    Refused,
    #[error("the connection has ended")]
    Closed,
    #[error("this peer is not ready")]
    NotReady,
}

/// Connects.
pub(super) async fn connect(events: &Events, name: &str) -> Result<Connection, BrokerError> {
    let tls = OwnedTLSConfig {
        identity: None,
        cert_chain: events.certificates()?,
    };
    let builder = DefaultConnectionBuilder::new()?
        .with_uri(events.uri()?)
        .with_tls_config(tls)
        .with_properties(ConnectionProperties::default().with_connection_name(name.into()));
    let connected = timeout(CONNECT, builder.connect()).await;
    Ok(connected.map_err(|_| BrokerError::Silent)??)
}

/// Publishes events of one sort, in order.
pub(super) struct Publisher {
    channel: Channel,
    exchange: String,
    network: String,
}

impl Publisher {
    /// Opens a channel with confirms and declares the exchange.
    pub(super) async fn open(
        connection: &Connection,
        events: &Events,
        network: &str,
    ) -> Result<Self, BrokerError> {
        let channel = connection.create_channel().await?;
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let exchange = events.exchange.clone();
        channel
            .exchange_declare(
                exchange.as_str().into(),
                ExchangeKind::Topic,
                durable,
                FieldTable::default(),
            )
            .await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Publisher {
            channel,
            exchange,
            network: network.to_owned(),
        })
    }

    /// Publishes these and returns when the broker has confirmed all of them. A failure leaves open which it has: all of
    /// them are to be published again, on another channel.
    pub(super) async fn publish(&self, events: &[Event]) -> Result<(), BrokerError> {
        timeout(CONFIRM, self.all(events))
            .await
            .map_err(|_| BrokerError::Unconfirmed)?
    }

    async fn all(&self, events: &[Event]) -> Result<(), BrokerError> {
        let mut confirms = Vec::with_capacity(events.len());
        for event in events {
            let (body, properties) = event.message(&self.network);
            let (exchange, key) = (
                self.exchange.as_str().into(),
                event.kind.routing_key().into(),
            );
            let options = BasicPublishOptions::default();
            let sent = self
                .channel
                .basic_publish(exchange, key, options, &body, properties);
            confirms.push(sent.await?);
        }
        for confirm in confirms {
            match confirm.await? {
                Confirmation::Ack(_) => {}
                Confirmation::Nack(_) | Confirmation::NotRequested => {
                    return Err(BrokerError::Refused);
                }
            }
        }
        Ok(())
    }
}

/// Pauses between attempts: doubled each time up to a limit, and drawn at random below that, so that peers that lost
/// the same broker do not return to it in step (Brooker, "Exponential Backoff And Jitter", 2015: full jitter).
pub(super) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Pauses(FIRST_PAUSE)
    }
}

impl Pauses {
    pub(super) fn next(&mut self) -> Duration {
        let most = self.0;
        self.0 = (most * 2).min(LONGEST_PAUSE);
        most.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let mut pauses = Pauses::default();
        assert!(pauses.next() < FIRST_PAUSE);
        for _ in 0..100 {
            assert!(pauses.next() < LONGEST_PAUSE);
        }
        assert_eq!(pauses.0, LONGEST_PAUSE);
    }
}
