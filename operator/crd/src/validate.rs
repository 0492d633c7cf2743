//! What the schema and its CEL rules refuse, said once more in Rust for those who have no API server (and a little that they
//! cannot say, see [`pod`]).

use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;

use thiserror::Error;

use crate::spec::{Events, PeerNetwork, PeerNetworkSpec, SecretKey, Storage};

mod pod;

/// A rule of the schema: an expression for the API server, and a sentence that says why and what to do.
pub(crate) struct Rule {
    /// True when all is well.
    pub(crate) cel: &'static str,
    /// Said when it is not.
    pub(crate) why: &'static str,
}

/// The rules that JSON schema cannot express.
pub(crate) mod rules {
    use super::Rule;

    /// A StatefulSet's pods carry a label of its name, a dash and a hash, which may have 63 characters.
    pub(crate) const NAME: Rule = Rule {
        cel: "self.metadata.name.size() <= 50 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        why: "the name of a PeerNetwork also names its Service and pods: use at most 50 lower-case letters, digits and \
              dashes, beginning with a letter and ending with a letter or digit",
    };

    /// Only when a network is created: one that is there already may run well, and has to stay changeable.
    pub(crate) const FREE_NAME: Rule = Rule {
        cel: "oldSelf.hasValue() || (self.metadata.name != 'default' && !self.metadata.name.endsWith('-peers'))",
        why: "the name of a PeerNetwork also names its ServiceAccount, and with '-peers' after it a Service: each namespace \
              has a ServiceAccount 'default' already, and a name that ends with '-peers' may be another network's Service; \
              use another name",
    };

    /// Enforced through the scale subresource too. Unlike the others' its sentence is an expression: the reason is what the
    /// operator keeps in the status. (One that turns numbers into text exceeds the API server's cost budget.)
    pub(crate) const PREFLIGHT: Rule = Rule {
        cel: "self.spec.replicas >= oldSelf.spec.replicas || !has(self.status) || !has(self.status.preflight) || \
              self.spec.replicas >= self.status.preflight.minReplicas",
        why: "'scaling down so far is unsafe now: ' + self.status.preflight.reason",
    };

    /// Also enforced through the scale subresource, and so on `kubectl scale`.
    pub(crate) const REPLICAS: Rule = Rule {
        cel: "self.replicas >= self.replication.factor",
        why: "replicas must not be lower than replication.factor: with fewer peers than copies data would be lost; \
              raise replicas, or create a network with a smaller factor",
    };

    pub(crate) const WRITE: Rule = Rule {
        cel: "self.replication.write <= self.replication.factor",
        why: "replication.write must not be greater than replication.factor: a write would wait for copies that nobody \
              holds; lower replication.write",
    };

    /// AMQP 0-9-1 (exchange.declare) keeps these names for the broker, and a peer that is told one does not start.
    pub(crate) const EXCHANGE: Rule = Rule {
        cel: "!self.startsWith('amq.')",
        why: "exchanges whose names begin with 'amq.' belong to the broker: choose another name, or leave it out to get \
              the default",
    };

    /// These three are Kubernetes' own.
    pub(crate) const TOLERATES_KEY: Rule = Rule {
        cel: "has(self.key) || self.operator == 'Exists'",
        why: "a toleration without a key is of every taint: add the key, or operator: Exists",
    };

    pub(crate) const TOLERATES_VALUE: Rule = Rule {
        cel: "!has(self.value) || self.operator == 'Equal'",
        why: "with operator: Exists any value will do: leave the value out",
    };

    pub(crate) const TOLERATES_FOR: Rule = Rule {
        cel: "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        why: "tolerationSeconds goes with effect: NoExecute only, as other taints make no pod leave its node",
    };

    /// What a peer would not start with.
    pub(crate) const FETCH_ALLOW: Rule = Rule {
        cel: "self.all(a, a.contains('/') ? isCIDR(a) : a.matches('^([*]|([*][.])?[-.A-Za-z0-9]+|[[][:.0-9A-Fa-f]+[]])$'))",
        why: "each must be a host, '*.DOMAIN', '*', or a block of addresses such as 10.1.0.0/16",
    };

    /// On the spec, not on the field: removing the field and adding it again would pass a rule on the field.
    pub(crate) const FACTOR_FIXED: Rule = Rule {
        cel: "self.replication.factor == oldSelf.replication.factor",
        why: "replication.factor cannot be changed: create a network with the wanted factor and copy the files over",
    };

    /// On the spec, for the same reason. What was acknowledged under one number is no proof under another: raised to 2, a
    /// chunk that one replica had acknowledged alone would count as held by any two of the others.
    pub(crate) const WRITE_FIXED: Rule = Rule {
        cel: "self.replication.write == oldSelf.replication.write",
        why: "replication.write cannot be changed: what was stored before is only known to be on as many peers as it \
              said then; create a network with the wanted number and copy the files over",
    };

    /// On the spec, for the same reason.
    pub(crate) const STORAGE_FIXED: Rule = Rule {
        cel: "self.storage.size == oldSelf.storage.size && \
              has(self.storage.className) == has(oldSelf.storage.className) && \
              (!has(self.storage.className) || self.storage.className == oldSelf.storage.className)",
        why: "storage.size and storage.className cannot be changed: volumes that exist keep their size and class; \
              create a network with the wanted storage and copy the files over",
    };
}

const NAME_MAX: usize = 50;
/// Kubernetes' for a Secret's name, as for those of most objects, and for a key in it.
const SECRET_MAX: usize = 253;
/// A peer's.
const EXCHANGE_MAX: usize = 127;
/// Hosts and blocks of addresses that files may be fetched from.
const FETCH_ALLOW_MAX: usize = 64;
/// Of a host's name (RFC 1035).
const HOST_MAX: usize = 253;
const REPLICAS: RangeInclusive<i32> = 1..=1000;
const COPIES: RangeInclusive<i32> = 1..=7;
const CHUNK_SIZE: RangeInclusive<i32> = 65_536..=4_194_304;
const GRACE_SECONDS: RangeInclusive<i32> = 1..=86_400;
const SIZE_SUFFIXES: [&str; 11] = ["", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"];

/// Why a `PeerNetwork` is refused; each is a sentence for the user.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum Violation {
    /// The name cannot be used for the objects named after it.
    #[error("metadata.name: {}", rules::NAME.why)]
    Name,
    /// Something else has the name that one of its objects would get.
    #[error("metadata.name: {}", rules::FREE_NAME.why)]
    NameTaken,
    /// A number lies outside what the schema allows.
    #[error("{field} is {value}, but must lie between {least} and {most}")]
    OutOfRange {
        /// Path of the field.
        field: &'static str,
        /// What was given.
        value: i32,
        /// The least allowed.
        least: i32,
        /// The most allowed.
        most: i32,
    },
    /// Fewer peers than copies.
    #[error("spec: {}", rules::REPLICAS.why)]
    FewerPeersThanCopies,
    /// A write would wait for more copies than are kept.
    #[error("spec: {}", rules::WRITE.why)]
    WriteAboveFactor,
    /// Not a size.
    #[error("spec.storage.size is {0:?}, but must be a size such as 500Mi or 10Gi")]
    Size(String),
    /// A text that must not be empty is.
    #[error("{0} must not be empty; leave it out to get the default")]
    Empty(&'static str),
    /// Not a key of a Secret.
    #[error(
        "{0} must name a Secret (lower-case letters, digits, '-' and '.', between letters or digits) and a key in it (letters, digits, '-', '_' and '.'), each of 1 to 253 characters"
    )]
    SecretKey(&'static str),
    /// Not an exchange.
    #[error(
        "spec.events.exchange is {0:?}, but must be 1 to 127 letters, digits, '-', '_', '.' and ':'"
    )]
    Exchange(String),
    /// An exchange of the broker's own.
    #[error("spec.events.exchange: {}", rules::EXCHANGE.why)]
    BrokersExchange,
    /// Not what files can be fetched from.
    #[error(
        "spec.events.commands.fetchAllow has {0:?}, but has at most {FETCH_ALLOW_MAX} entries, and {why}",
        why = rules::FETCH_ALLOW.why
    )]
    FetchAllow(String),
    /// Not what Kubernetes takes for a pod.
    #[error("spec.pod.{field} has {text:?}, but {why}")]
    PodOption {
        /// The field.
        field: &'static str,
        /// What is wrong in it.
        text: String,
        /// The rule.
        why: &'static str,
    },
    /// More than anybody needs.
    #[error("spec.pod.{field} has more than {most} entries")]
    TooMany {
        /// The field.
        field: &'static str,
        /// The most allowed.
        most: usize,
    },
    /// More than Kubernetes takes.
    #[error("spec.pod.annotations has {0} bytes, but Kubernetes takes at most {most}", most = pod::ANNOTATION_BYTES_MAX)]
    AnnotationBytes(usize),
    /// The factor was changed.
    #[error("spec: {}", rules::FACTOR_FIXED.why)]
    FactorChanged,
    /// The number of copies that a write waits for was changed.
    #[error("spec: {}", rules::WRITE_FIXED.why)]
    WriteChanged,
    /// The volumes' size or class was changed.
    #[error("spec: {}", rules::STORAGE_FIXED.why)]
    StorageChanged,
}

impl PeerNetwork {
    /// Checks everything that the API server checks at any time.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), Violation> {
        name_is_valid(self.metadata.name.as_deref().unwrap_or_default())?;
        self.spec.validate()
    }

    /// Checks, besides [`PeerNetwork::validate`], what the API server checks when the resource is created.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate_new(&self) -> Result<(), Violation> {
        self.validate()?;
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name == "default" || name.ends_with("-peers") {
            return Err(Violation::NameTaken);
        }
        Ok(())
    }

    /// Checks, besides [`PeerNetwork::validate`], what the API server checks when `old` is replaced.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate_update(&self, old: &PeerNetwork) -> Result<(), Violation> {
        self.validate()?;
        if self.spec.replication.factor != old.spec.replication.factor {
            return Err(Violation::FactorChanged);
        }
        if self.spec.replication.write != old.spec.replication.write {
            return Err(Violation::WriteChanged);
        }
        let fixed = |s: &Storage| (s.size.clone(), s.class_name.clone());
        if fixed(&self.spec.storage) != fixed(&old.spec.storage) {
            return Err(Violation::StorageChanged);
        }
        Ok(())
    }
}

impl PeerNetworkSpec {
    fn validate(&self) -> Result<(), Violation> {
        let PeerNetworkSpec {
            replicas,
            replication,
            durability: _,
            compression: _,
            chunk_size,
            storage,
            zones,
            repair,
            events,
            image,
            image_pull_policy: _,
            resources: _,
            pod,
        } = self;
        in_range("spec.replicas", *replicas, REPLICAS)?;
        in_range("spec.replication.factor", replication.factor, COPIES)?;
        in_range("spec.replication.write", replication.write, COPIES)?;
        in_range("spec.chunkSize", *chunk_size, CHUNK_SIZE)?;
        in_range(
            "spec.repair.graceSeconds",
            repair.grace_seconds,
            GRACE_SECONDS,
        )?;
        not_empty("spec.zones.topologyKey", Some(&zones.topology_key))?;
        not_empty("spec.image", image.as_ref())?;
        if let Some(events) = events {
            check_events(events)?;
        }
        pod.as_ref().map_or(Ok(()), pod::check)?;
        not_empty("spec.storage.className", storage.class_name.as_ref())?;
        if !is_size(&storage.size) {
            return Err(Violation::Size(storage.size.clone()));
        }
        if *replicas < replication.factor {
            return Err(Violation::FewerPeersThanCopies);
        }
        if replication.write > replication.factor {
            return Err(Violation::WriteAboveFactor);
        }
        Ok(())
    }
}

fn check_events(events: &Events) -> Result<(), Violation> {
    let Events {
        uri,
        ca,
        exchange,
        commands,
    } = events;
    let secrets = [
        ("spec.events.uri", Some(uri)),
        ("spec.events.ca", ca.as_ref()),
        (
            "spec.events.commands.fetchCa",
            commands.as_ref().and_then(|c| c.fetch_ca.as_ref()),
        ),
    ];
    for (field, secret) in secrets {
        if !secret.is_none_or(is_secret_key) {
            return Err(Violation::SecretKey(field));
        }
    }
    match exchange {
        Some(name) if !consists_of(name, EXCHANGE_MAX, "-_.:") => {
            return Err(Violation::Exchange(name.clone()));
        }
        Some(name) if name.starts_with("amq.") => return Err(Violation::BrokersExchange),
        _ => {}
    }
    let allow = commands.iter().flat_map(|c| &c.fetch_allow);
    match allow
        .enumerate()
        .find(|(n, text)| *n >= FETCH_ALLOW_MAX || !is_origin(text))
    {
        Some((_, bad)) => Err(Violation::FetchAllow(bad.clone())),
        None => Ok(()),
    }
}

/// What a peer takes as a host or block of addresses.
fn is_origin(text: &str) -> bool {
    if let Some((address, bits)) = text.split_once('/') {
        let most = address
            .parse::<IpAddr>()
            .map(|a| if a.is_ipv4() { 32 } else { 128 });
        let bits = bits.parse::<u8>();
        return most.is_ok_and(|most| bits.is_ok_and(|bits| bits <= most));
    }
    let host = text.strip_prefix("*.").unwrap_or(text);
    let literal = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    text == "*"
        || consists_of(host, HOST_MAX, "-.")
        || literal.is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok())
}

/// The patterns in the schema: Kubernetes' own of names and keys of Secrets. With another name the kubelet would be
/// refused rather than find nothing, and so not start the pod.
fn is_secret_key(secret: &SecretKey) -> bool {
    let SecretKey { name, key } = secret;
    is_subdomain(name) && consists_of(key, SECRET_MAX, "-_.")
}

/// Kubernetes' rule for most names (RFC 1123).
fn is_subdomain(name: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        label.as_bytes().first().is_some_and(edge)
            && label.as_bytes().last().is_some_and(edge)
            && label.bytes().all(|b| edge(&b) || b == b'-')
    };
    name.len() <= SECRET_MAX && name.split('.').all(label)
}

/// Whether the text has 1 to `most` characters, all of them ASCII letters, digits or these.
fn consists_of(text: &str, most: usize, marks: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    (1..=most).contains(&text.len()) && text.chars().all(plain)
}

fn name_is_valid(name: &str) -> Result<(), Violation> {
    let bytes = name.as_bytes();
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let valid = bytes.len() <= NAME_MAX
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || *b == b'-');
    valid.then_some(()).ok_or(Violation::Name)
}

fn in_range(field: &'static str, value: i32, range: RangeInclusive<i32>) -> Result<(), Violation> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Violation::OutOfRange {
        field,
        value,
        least: *range.start(),
        most: *range.end(),
    })
}

fn not_empty(field: &'static str, text: Option<&String>) -> Result<(), Violation> {
    match text {
        Some(text) if text.is_empty() => Err(Violation::Empty(field)),
        _ => Ok(()),
    }
}

/// The pattern in the schema: a number that begins with a digit other than zero, and a suffix.
fn is_size(text: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let split = text
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    text.len() <= 32
        && digits(whole)
        && !whole.starts_with('0')
        && digits(fraction)
        && SIZE_SUFFIXES.contains(&suffix)
}

#[cfg(test)]
mod tests;
