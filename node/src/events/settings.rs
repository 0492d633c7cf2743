//! Which broker, and what may be done through it: flags, environment, files.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use lapin::uri::AMQPUri;
use thiserror::Error;

use super::commands::{Allowed, NotAllowable};

/// Longest exchange name: the names of queues are derived from it, and AMQP allows 255 bytes for each.
const EXCHANGE_MAX: usize = 127;
/// Longest URI that is read from a file, in bytes; nobody's is a tenth of it.
const URI_MAX: usize = 4096;

/// Text that is never shown: a URI holds a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Secret(text.to_owned()))
    }
}

/// The flags about events; without a URI there are none.
#[derive(Args, Clone, Debug)]
pub struct EventsConfig {
    /// RabbitMQ broker to publish events to, amqp[s]://USER:PASSWORD@HOST:PORT/VHOST; better in the environment or a file
    #[arg(
        long = "events",
        env = "PEERNET_EVENTS",
        hide_env_values = true,
        value_name = "URI"
    )]
    pub uri: Option<Secret>,
    /// File with that URI; read again at each connection, so that it may be replaced
    #[arg(
        long = "events-uri-file",
        env = "PEERNET_EVENTS_URI_FILE",
        value_name = "FILE",
        conflicts_with = "uri"
    )]
    pub uri_file: Option<PathBuf>,
    /// PEM file with the certificates that the broker's may be signed by, in place of the public ones
    #[arg(
        long = "events-ca-file",
        env = "PEERNET_EVENTS_CA_FILE",
        value_name = "FILE"
    )]
    pub ca_file: Option<PathBuf>,
    /// Topic exchange for events; the same at all peers of a network, and of no other
    #[arg(
        long = "events-exchange",
        env = "PEERNET_EVENTS_EXCHANGE",
        default_value = "peernet",
        value_name = "NAME"
    )]
    pub exchange: String,
    /// Take commands from the queue EXCHANGE.commands: whoever may write to it can store, read and delete files
    #[arg(long = "events-commands", env = "PEERNET_EVENTS_COMMANDS")]
    pub commands: bool,
    /// Where commands may have files fetched from: hosts, *.DOMAIN or *, and blocks of addresses that are not public ones
    #[arg(
        long = "events-fetch-allow",
        env = "PEERNET_EVENTS_FETCH_ALLOW",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    pub fetch_allow: Vec<String>,
    /// PEM file with certificates that those of the servers that files are fetched from may be signed by, besides the public ones; read again for each file
    #[arg(
        long = "events-fetch-ca-file",
        env = "PEERNET_EVENTS_FETCH_CA_FILE",
        value_name = "FILE"
    )]
    pub fetch_ca_file: Option<PathBuf>,
}

/// Why flags about events make no sense.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum EventsError {
    #[error(
        "--events-exchange '{0}' is not 1 to {EXCHANGE_MAX} letters, digits, '-', '_', '.' and ':', or begins with 'amq.'"
    )]
    Exchange(String),
    #[error("--events: {0}")]
    Uri(#[from] NoUri),
    #[error("--events-fetch-allow: {0}")]
    Allow(#[from] NotAllowable),
    #[error("--events-fetch-allow is about commands: give --events-commands too")]
    NoCommands,
}

/// Why there is no URI to connect to. What was read instead is not repeated: it may hold a password.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum NoUri {
    #[error("the broker's URI is not of the form amqp[s]://USER:PASSWORD@HOST:PORT/VHOST")]
    Form,
    #[error("the file {} with the broker's URI cannot be read: {reason}", file.display())]
    File { file: PathBuf, reason: String },
    #[error("the file {} with certificates cannot be read: {reason}", file.display())]
    Certificates { file: PathBuf, reason: String },
}

/// Settings that make sense together.
#[derive(Clone, Debug)]
pub struct Events {
    source: Source,
    ca_file: Option<PathBuf>,
    /// Topic exchange.
    pub(super) exchange: String,
    /// `None`: none are taken.
    pub(super) commands: Option<Commands>,
}

/// Which commands are taken.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    /// Where they wait.
    pub(super) queue: String,
    /// Where files may be fetched from.
    pub(super) origins: Origins,
}

/// Where files may be fetched from.
#[derive(Clone, Debug)]
pub(super) struct Origins {
    /// Hosts and addresses.
    pub(super) allow: Vec<Allowed>,
    /// Whose signature on a server's certificate counts, besides the public authorities'.
    pub(super) ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Source {
    Given(Secret),
    File(PathBuf),
}

impl EventsConfig {
    /// `None` when there is no broker.
    pub(crate) fn check(self) -> Result<Option<Events>, EventsError> {
        let EventsConfig {
            uri,
            uri_file,
            ca_file,
            exchange,
            commands,
            fetch_allow,
            fetch_ca_file,
        } = self;
        let given = uri.filter(|uri| !uri.0.is_empty()).map(Source::Given);
        let file = uri_file.filter(|f| !f.as_os_str().is_empty());
        let Some(source) = given.or(file.map(Source::File)) else {
            return Ok(None);
        };
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        let length = 1..=EXCHANGE_MAX;
        if !length.contains(&exchange.len())
            || !exchange.bytes().all(fits)
            || exchange.starts_with("amq.")
        {
            return Err(EventsError::Exchange(exchange));
        }
        if let Source::Given(uri) = &source {
            parse(uri)?;
        }
        let allow = fetch_allow.iter().filter(|a| !a.is_empty());
        let allow: Vec<Allowed> = allow.map(|a| a.parse()).collect::<Result<_, _>>()?;
        if !commands && !allow.is_empty() {
            return Err(EventsError::NoCommands);
        }
        let queue = format!("{exchange}.commands");
        let origins = Origins {
            allow,
            ca_file: fetch_ca_file.filter(|f| !f.as_os_str().is_empty()),
        };
        Ok(Some(Events {
            source,
            ca_file: ca_file.filter(|f| !f.as_os_str().is_empty()),
            exchange,
            commands: commands.then_some(Commands { queue, origins }),
        }))
    }
}

impl Events {
    /// The broker's URI as it is now.
    pub(super) fn uri(&self) -> Result<AMQPUri, NoUri> {
        match &self.source {
            Source::Given(uri) => parse(uri),
            Source::File(file) => {
                let failed = |reason: String| NoUri::File {
                    file: file.clone(),
                    reason,
                };
                let text = fs::read_to_string(file).map_err(|e| failed(e.to_string()))?;
                if text.len() > URI_MAX {
                    return Err(failed(format!("it has more than {URI_MAX} bytes")));
                }
                parse(&Secret(text.trim().to_owned()))
            }
        }
    }

    /// Certificates that the broker's may be signed by, in PEM; `None`: the public ones.
    pub(super) fn certificates(&self) -> Result<Option<String>, NoUri> {
        let read = |file: &PathBuf| {
            fs::read_to_string(file).map_err(|error| NoUri::Certificates {
                file: file.clone(),
                reason: error.to_string(),
            })
        };
        self.ca_file.as_ref().map(read).transpose()
    }
}

fn parse(uri: &Secret) -> Result<AMQPUri, NoUri> {
    uri.0.parse().map_err(|_: String| NoUri::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(uri: Option<&str>, exchange: &str) -> EventsConfig {
        EventsConfig {
            uri: uri.map(|u| Secret(u.into())),
            uri_file: None,
            ca_file: None,
            exchange: exchange.into(),
            commands: false,
            fetch_allow: Vec::new(),
            fetch_ca_file: None,
        }
    }

    #[test]
    fn without_a_uri_there_are_no_events() {
        assert!(config(None, "peernet").check().unwrap().is_none());
        assert!(config(Some(""), "peernet").check().unwrap().is_none());
    }

    #[test]
    fn a_uri_is_never_shown() {
        let secret = "amqp://me:hunter2@broker:5672/%2f";
        let config = config(Some(secret), "peernet");
        assert!(!format!("{config:?}").contains("hunter2"));
        let events = config.check().unwrap().unwrap();
        assert!(!format!("{events:?}").contains("hunter2"));
        assert_eq!(events.uri().unwrap().authority.userinfo.password, "hunter2");
        let wrong = self::config(Some("http://me:hunter2@broker"), "peernet").check();
        assert!(!wrong.unwrap_err().to_string().contains("hunter2"));
    }

    #[test]
    fn a_file_is_read_again_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("uri");
        fs::write(&file, "amqps://a:b@one\n").unwrap();
        let told = EventsConfig {
            uri_file: Some(file.clone()),
            ..config(None, "x")
        };
        let events = told.check().unwrap().unwrap();
        assert_eq!(events.uri().unwrap().authority.host, "one");
        fs::write(&file, "amqps://a:b@two").unwrap();
        assert_eq!(events.uri().unwrap().authority.host, "two");
        fs::remove_file(&file).unwrap();
        assert!(matches!(events.uri(), Err(NoUri::File { .. })));
    }

    #[test]
    fn commands_are_taken_only_when_that_is_said() {
        let told = |commands: bool, allow: &[&str]| {
            let config = EventsConfig {
                commands,
                fetch_allow: allow.iter().map(|a| (*a).to_owned()).collect(),
                ..config(Some("amqp://h"), "x")
            };
            Ok::<_, EventsError>(config.check()?.unwrap().commands)
        };
        assert!(told(false, &[""]).unwrap().is_none());
        assert_eq!(told(false, &["a"]).unwrap_err(), EventsError::NoCommands);
        let commands = told(true, &["*.example.org", "10.0.0.0/8"])
            .unwrap()
            .unwrap();
        assert_eq!(
            (&*commands.queue, commands.origins.allow.len()),
            ("x.commands", 2)
        );
        assert!(matches!(
            told(true, &["10.0.0.0/99"]),
            Err(EventsError::Allow(_))
        ));
    }

    #[test]
    fn an_exchange_has_a_plain_name() {
        for bad in ["", "amq.topic", "a b", &"x".repeat(128)] {
            let refused = config(Some("amqp://h"), bad).check().unwrap_err();
            assert_eq!(refused, EventsError::Exchange(bad.into()));
        }
    }
}
