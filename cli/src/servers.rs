//! The peers a command may talk to, tried in turn.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use peernet_node::wire::CODE;
use peernet_proto::v1::PeerInfo;
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::exit::Exit;
use crate::kubectl::forward::{Forward, pod};
use crate::output;

/// Where a peer of `peernet up` listens by default.
pub(crate) const LOCAL: &str = "http://127.0.0.1:7000";
/// How long one server may take to accept a connection. Guess: far above any round trip, short enough that a list of
/// servers with dead ones in it is still usable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why no peer did what it was asked.
#[derive(Debug, Error)]
pub enum CallError {
    /// None of the servers could be connected to.
    #[error("no peer answers at {tried} ({reason}); {fix}")]
    Unreachable {
        /// The servers, comma-separated.
        tried: String,
        /// What went wrong with the last of them.
        reason: String,
        /// What to do about it.
        fix: &'static str,
    },
    /// The address cannot be understood.
    #[error("'{server}' is not the address of a peer: {reason}; write --server http://HOST:PORT")]
    Address {
        /// As it was given.
        server: String,
        /// What the parser said.
        reason: String,
    },
    /// A peer refused.
    #[error("{}", refusal(.server, .status))]
    Refused {
        /// Who.
        server: String,
        /// With what words.
        status: Box<Status>,
    },
    /// A peer refused what an earlier attempt may have done.
    #[error("{}; an earlier attempt, which was not answered, may have done it: look before you try again", output::visible(.status.message()))]
    PerhapsDone {
        /// With what words.
        status: Box<Status>,
    },
}

impl CallError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            CallError::Unreachable { .. } => Exit::Retryable,
            CallError::Address { .. } => Exit::Usage,
            CallError::Refused { status, .. } => Exit::of_status(status.code()),
            CallError::PerhapsDone { .. } => Exit::Permanent,
        }
    }

    /// Whether nobody knows what the peer did.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self, CallError::Refused { status, .. } if is_unanswered(status))
    }
}

fn refusal(server: &str, status: &Status) -> String {
    let words = output::visible(status.message());
    match status.code() {
        // These carry the transport's words, not a peer's.
        Code::Unknown | Code::Cancelled => {
            format!("the connection to {server} broke: {words}; try again")
        }
        Code::Unimplemented => {
            format!("{server} does not offer this: {words}; is it a peer of this version?")
        }
        _ => words,
    }
}

/// An open connection to one peer.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where it leads.
    pub server: String,
    /// For the generated clients.
    pub channel: Channel,
}

impl Connection {
    /// Names the peer in an error.
    pub fn refused(&self, status: Status) -> CallError {
        CallError::Refused {
            server: self.server.clone(),
            status: Box::new(status),
        }
    }

    /// The same after an attempt that was not answered: what is not, or not any more, as it has to be may be so because of that.
    pub(crate) fn refused_again(&self, status: Status) -> CallError {
        match status.code() {
            Code::NotFound | Code::FailedPrecondition => CallError::PerhapsDone {
                status: Box::new(status),
            },
            _ => self.refused(status),
        }
    }
}

/// Whether this is the transport's word, and not a peer's, who says a word for programs with each refusal.
fn is_unanswered(status: &Status) -> bool {
    !status.metadata().contains_key(CODE)
}

/// One or more servers, at least one, and how they are reached.
#[derive(Clone, Debug)]
pub struct Servers {
    list: Vec<String>,
    way: Way,
}

/// How a connection is made.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// By a socket.
    Direct,
    /// Through the API server of a cluster.
    Cluster(Forward),
}

impl FromStr for Servers {
    type Err = Infallible;

    /// Comma-separated addresses; `http://` may be left out. Whether they can be used shows at the first connection.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let named = text.split(',').map(str::trim).filter(|s| !s.is_empty());
        let mut servers: Vec<String> = named
            .map(|s| {
                if s.contains("://") {
                    s.to_owned()
                } else {
                    format!("http://{s}")
                }
            })
            .collect();
        if servers.is_empty() {
            servers.push(text.to_owned());
        }
        Ok(Servers {
            list: servers,
            way: Way::Direct,
        })
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list.join(", "))
    }
}

impl Servers {
    /// Pods of a cluster.
    pub(crate) fn through(forward: Forward, list: Vec<String>) -> Self {
        let way = Way::Cluster(forward);
        Servers { list, way }
    }

    /// How they, and the peers they know, are reached.
    pub(crate) fn way(&self) -> &Way {
        &self.way
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Connects to the first that accepts, beginning with number `first` (modulo their count).
    pub async fn connect(&self, first: usize) -> Result<Connection, CallError> {
        let mut failure = None;
        for i in 0..self.list.len() {
            let server = &self.list[(first + i) % self.list.len()];
            match connect(&self.way, server, CONNECT_TIMEOUT).await {
                Ok(connection) => return Ok(connection),
                Err(error @ CallError::Address { .. }) => return Err(error),
                Err(CallError::Unreachable { reason, .. }) => failure = Some(reason),
                Err(error) => return Err(error),
            }
        }
        Err(CallError::Unreachable {
            tried: self.to_string(),
            reason: failure.unwrap_or_default(),
            fix: self.way.fix(),
        })
    }

    /// Performs a call that may safely be made twice: when a peer cannot serve it now, the next one is asked.
    pub async fn call<T>(
        &self,
        op: impl AsyncFn(Channel) -> Result<T, Status>,
    ) -> Result<T, CallError> {
        self.change(async |channel, _| op(channel).await).await
    }

    /// The same for a call that is answered otherwise when it is made again: it is told whether an earlier attempt was not
    /// answered by its peer, and so may have done it.
    pub async fn change<T>(
        &self,
        op: impl AsyncFn(Channel, bool) -> Result<T, Status>,
    ) -> Result<T, CallError> {
        let (mut tries, mut perhaps_done) = (0, false);
        loop {
            let connection = self.connect(tries).await?;
            tries += 1;
            match op(connection.channel.clone(), perhaps_done).await {
                Ok(answer) => return Ok(answer),
                Err(status)
                    if tries < self.list.len()
                        && Exit::of_status(status.code()) == Exit::Retryable =>
                {
                    perhaps_done |= is_unanswered(&status);
                }
                Err(status) if perhaps_done => return Err(connection.refused_again(status)),
                Err(status) => return Err(connection.refused(status)),
            }
        }
    }
}

impl Way {
    /// Where a member is reached from here.
    pub(crate) fn address(&self, member: &PeerInfo) -> String {
        match self {
            Way::Direct => format!("http://{}", member.address),
            Way::Cluster(_) => pod(&member.name),
        }
    }

    fn fix(&self) -> &'static str {
        match self {
            Way::Direct => {
                "start a network with `peernet up`, or reach one in Kubernetes with `kubectl peernet`, or name a peer \
                 with --server"
            }
            Way::Cluster(_) => "try again, or see how the pods are with `kubectl get pods`",
        }
    }
}

/// Connects to one server.
pub(crate) async fn connect(
    way: &Way,
    server: &str,
    timeout: Duration,
) -> Result<Connection, CallError> {
    let address = |reason: String| CallError::Address {
        server: server.to_owned(),
        reason,
    };
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|e| address(root_cause(&e)))?;
    if endpoint.uri().scheme_str() != Some("http") {
        return Err(address("only http:// is served so far".into()));
    }
    let endpoint = endpoint
        .connect_timeout(timeout)
        .tcp_nodelay(true)
        // Large enough to keep a loopback or data-centre link busy with one stream (measured: 4 to 8 MiB).
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20);
    let connected = match way {
        Way::Direct => endpoint.connect().await,
        Way::Cluster(forward) => forward.connect(&endpoint).await,
    };
    let channel = connected.map_err(|e| CallError::Unreachable {
        tried: server.to_owned(),
        reason: root_cause(&e),
        fix: way.fix(),
    })?;
    Ok(Connection {
        server: server.to_owned(),
        channel,
    })
}

/// The innermost error's words: the outer layers only say "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_a_comma_separated_list_with_an_optional_scheme() {
        let servers: Servers = "http://127.0.0.1:7000, 127.0.0.1:7001,".parse().unwrap();
        assert_eq!(
            servers.to_string(),
            "http://127.0.0.1:7000, http://127.0.0.1:7001"
        );
        assert_eq!(servers.count(), 2);
        assert_eq!(
            "".parse::<Servers>().unwrap().count(),
            1,
            "an empty list fails at the connection, with its words"
        );
    }

    /// What comes of a call that fails so at the first server, and finds nothing at the second.
    async fn at_the_second(first: Status) -> (Vec<bool>, CallError) {
        let listeners = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = listeners
            .each_ref()
            .map(|l| l.local_addr().unwrap().to_string());
        let servers: Servers = addresses.join(",").parse().unwrap();
        let told = std::sync::Mutex::new(Vec::new());
        let answer = servers.change(async |_, perhaps_done| {
            let mut told = told.lock().unwrap();
            told.push(perhaps_done);
            match told.len() {
                1 => Err::<(), _>(first.clone()),
                _ => Err(Status::not_found("it is not there")),
            }
        });
        let error = answer.await.unwrap_err();
        (told.into_inner().unwrap(), error)
    }

    #[tokio::test]
    async fn only_what_was_not_answered_may_be_done_already() {
        let (told, error) = at_the_second(Status::unknown("the connection broke")).await;
        assert_eq!(told, [false, true]);
        assert!(matches!(error, CallError::PerhapsDone { .. }), "{error}");
        let mut starting = Status::unavailable("this peer is starting");
        let code = "unavailable".parse().unwrap();
        starting.metadata_mut().insert(CODE, code);
        let (told, error) = at_the_second(starting).await;
        assert_eq!(told, [false, false]);
        assert_eq!(error.exit(), Exit::NotFound);
    }

    #[tokio::test]
    async fn what_cannot_be_an_address_is_a_usage_error_and_a_closed_port_is_not() {
        for bad in ["", "http://", "https://127.0.0.1:1", "http://a b"] {
            let error = bad
                .parse::<Servers>()
                .unwrap()
                .connect(0)
                .await
                .unwrap_err();
            assert_eq!(error.exit(), Exit::Usage, "{bad}: {error}");
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = closed
            .parse::<Servers>()
            .unwrap()
            .connect(0)
            .await
            .unwrap_err();
        assert_eq!(error.exit(), Exit::Retryable);
        assert!(
            error.to_string().contains("peernet up"),
            "names the fix: {error}"
        );
    }
}
