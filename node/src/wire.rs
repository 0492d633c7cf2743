//! Between core types and their messages, in one place.
//!
//! Towards the wire nothing can fail. From the wire everything is checked once, here, and turned into types that cannot
//! be wrong: what `peernet-core` sees was a valid name, an existing slot, a replica set without duplicates. Lists without
//! a bound of their own are bounded by the transport's largest frame.
//!
//! [`records`] holds what is both sent and stored, [`message`] the peers' messages, [`stored`] what only a volume sees,
//! [`public`] what operators and clients see, and `bulk` how a chunk travels in its message.

use bytes::Bytes;
use peernet_core::collect::Upload;
use peernet_core::key::{InvalidName, Key, Name, Position, SLOTS, Slot};
use peernet_core::member::{InvalidPeerId, Liveness, PeerId};
use peernet_core::share::InvalidShare;
use peernet_core::swarm::pieces::InvalidPieces;
use peernet_proto::v1;
use thiserror::Error;

pub(crate) mod bulk;
mod flood;
mod message;
mod public;
mod records;
mod stored;
pub(crate) mod swarm;
#[cfg(test)]
mod tests;

pub use message::{Delivery, PROTOCOL, deliver_request};
pub use public::{
    Disk, drain_orders, hints, looked_up, lookup_response, member_from_info, peer_ids, peer_info,
    recover_request, recovery, report, report_response, status_response,
};
pub(crate) use public::{compression_of, consistency_of, encoding_of};

/// What an error says of its kind for programs, in the metadata of a gRPC status.
pub const CODE: &str = "peernet-code";
/// Longest text of a member's record (names, addresses, zones), in bytes. Host names have at most 253; the rest is room.
pub const TEXT_MAX: usize = 1024;
/// Largest replica set. Guess: far above any replication factor that makes sense.
pub const REPLICAS_MAX: usize = 16;
/// Longest successor list. Guess: Chord needs about 2·log2 N, so this is enough for any network.
pub const SUCCESSORS_MAX: usize = 64;
/// Most names asked for in one listing message: the public limit of 1,000 with room for looking ahead.
pub const LIST_MAX: u32 = 4_096;
/// Greatest epoch, round, incarnation or counter. They count up from 1, so a greater one is an attack or damage; this
/// way the core can always add one.
pub const COUNTER_MAX: u64 = i64::MAX as u64;

/// A message that cannot be understood.
#[derive(PartialEq, Eq, Debug, Error)]
#[error("{field}: {fault}")]
pub struct WireError {
    /// Where, such as `Member.id`.
    pub field: &'static str,
    /// What is wrong there.
    pub fault: Fault,
}

/// What can be wrong with a field.
#[derive(PartialEq, Eq, Debug, Error)]
pub enum Fault {
    /// Not there, or of a kind that this version does not know.
    #[error("is missing")]
    Missing,
    /// An identity, key or root of the wrong length.
    #[error("has {found} bytes instead of {expected}")]
    Length {
        /// Bytes it should have.
        expected: usize,
        /// Bytes it has.
        found: usize,
    },
    /// No set of consumers of effects.
    #[error("{0} is not a set of consumers")]
    Consumers(u32),
    /// No slot has this number.
    #[error("slot {0} does not exist")]
    Slot(u32),
    /// Not a name.
    #[error(transparent)]
    Name(InvalidName),
    /// Not an identity's hex digits.
    #[error(transparent)]
    PeerId(InvalidPeerId),
    /// A number outside the enumeration.
    #[error("{0} is not a known value")]
    Unknown(i32),
    /// More bytes than allowed.
    #[error("has {found} bytes; at most {most} are allowed")]
    TooLarge {
        /// Bytes allowed.
        most: usize,
        /// Bytes there.
        found: usize,
    },
    /// More or fewer items than allowed.
    #[error("has {found} items; {least} to {most} are allowed")]
    Count {
        /// Fewest allowed.
        least: usize,
        /// Most allowed.
        most: usize,
        /// Items there.
        found: usize,
    },
    /// An identity that may be there once is there twice.
    #[error("names {0} twice")]
    Duplicate(PeerId),
    /// A counter beyond [`COUNTER_MAX`], or zero where counting starts at one.
    #[error("{0} is not a possible count")]
    Counter(u64),
    /// A list that should be ascending is not.
    #[error("is not in ascending order")]
    Unordered,
    /// A key of another slot than the message is about.
    #[error("{0} is not a key of the message's slot")]
    OtherSlot(Key),
    /// Control characters in a text.
    #[error("contains a control character")]
    Control,
    /// Not a shared file, or not a search for one.
    #[error(transparent)]
    Share(InvalidShare),
    /// No map of a content's pieces.
    #[error(transparent)]
    Pieces(InvalidPieces),
    /// A peer that speaks another version of the protocol.
    #[error("version {0} is not spoken here, only version {PROTOCOL}")]
    Version(u32),
}

impl Fault {
    /// This fault, in that field.
    pub(crate) fn at(self, field: &'static str) -> WireError {
        WireError { field, fault: self }
    }
}

/// A core type that has a form on the wire.
pub trait Wire: Sized {
    /// The generated type.
    type Form;

    /// As it goes onto the wire.
    fn to_wire(&self) -> Self::Form;

    /// Checks what came from the wire. `field` names the place for errors.
    fn from_wire(form: Self::Form, field: &'static str) -> Result<Self, WireError>;
}

/// A core type as the field of a message, where the generated type may wrap its form.
pub(crate) trait Field<F>: Sized {
    fn put(&self) -> F;
    fn take(form: F, field: &'static str) -> Result<Self, WireError>;
}

impl<T: Wire> Field<Option<T::Form>> for Option<T> {
    fn put(&self) -> Option<T::Form> {
        self.as_ref().map(T::to_wire)
    }

    fn take(form: Option<T::Form>, field: &'static str) -> Result<Self, WireError> {
        form.map(|f| T::from_wire(f, field)).transpose()
    }
}

impl<T: Wire> Field<Vec<T::Form>> for Vec<T> {
    fn put(&self) -> Vec<T::Form> {
        self.iter().map(T::to_wire).collect()
    }

    fn take(form: Vec<T::Form>, field: &'static str) -> Result<Self, WireError> {
        form.into_iter().map(|f| T::from_wire(f, field)).collect()
    }
}

/// A core type whose form is a scalar: it can be a field as it is.
macro_rules! scalar {
    ($core:ty, $form:ty, |$value:ident| $to:expr, |$wire:ident| $from:expr) => {
        impl Wire for $core {
            type Form = $form;

            fn to_wire(&self) -> $form {
                let $value = self;
                $to
            }

            fn from_wire($wire: $form, field: &'static str) -> Result<Self, WireError> {
                let checked: Result<$core, Fault> = $from;
                checked.map_err(|fault| fault.at(field))
            }
        }

        impl Field<$form> for $core {
            fn put(&self) -> $form {
                self.to_wire()
            }

            fn take(form: $form, field: &'static str) -> Result<Self, WireError> {
                Self::from_wire(form, field)
            }
        }
    };
}

/// A core type whose form is a message: as a field it may be absent, which is an error.
macro_rules! required {
    ($core:ty) => {
        impl $crate::wire::Field<Option<<$core as $crate::wire::Wire>::Form>> for $core {
            fn put(&self) -> Option<<$core as $crate::wire::Wire>::Form> {
                Some($crate::wire::Wire::to_wire(self))
            }

            fn take(
                form: Option<<$core as $crate::wire::Wire>::Form>,
                field: &'static str,
            ) -> Result<Self, $crate::wire::WireError> {
                let form = form.ok_or($crate::wire::Fault::Missing.at(field))?;
                $crate::wire::Wire::from_wire(form, field)
            }
        }
    };
}

/// A core struct and a message with the same fields; `check` looks at the whole.
macro_rules! record {
    ($core:ident => $module:ident::$form:ident { $($name:ident),* $(,)? } $(, check $check:expr)?) => {
        impl $crate::wire::Wire for $core {
            type Form = $module::$form;

            fn to_wire(&self) -> Self::Form {
                let $core { $($name),* } = self;
                $module::$form { $($name: $crate::wire::Field::put($name)),* }
            }

            fn from_wire(form: Self::Form, _: &'static str) -> Result<Self, $crate::wire::WireError> {
                let $module::$form { $($name),* } = form;
                let record = $core {
                    $($name: $crate::wire::Field::take(
                        $name,
                        concat!(stringify!($form), ".", stringify!($name)),
                    )?),*
                };
                $({
                    let check: fn(&$core) -> Result<(), $crate::wire::WireError> = $check;
                    check(&record)?;
                })?
                Ok(record)
            }
        }

        required!($core);
    };
}

pub(crate) use {record, required};

scalar!(u64, u64, |value| *value, |wire| Ok(wire));
scalar!(u32, u32, |value| *value, |wire| Ok(wire));
scalar!(bool, bool, |value| *value, |wire| Ok(wire));
scalar!(Position, u64, |value| value.0, |wire| Ok(Position(wire)));
scalar!(Slot, u32, |value| u32::from(value.number()), |wire| {
    u16::try_from(wire)
        .ok()
        .and_then(Slot::new)
        .ok_or(Fault::Slot(wire))
});
scalar!(
    PeerId,
    Bytes,
    |value| Bytes::copy_from_slice(&value.0.to_be_bytes()),
    |wire| { array(&wire).map(|id| PeerId(u128::from_be_bytes(id))) }
);
scalar!(
    Key,
    Bytes,
    |value| Bytes::copy_from_slice(&value.0),
    |wire| array(&wire).map(Key)
);
scalar!(
    [u8; 32],
    Bytes,
    |value| Bytes::copy_from_slice(value),
    |wire| array(&wire)
);
scalar!(
    Upload,
    Bytes,
    |value| Bytes::copy_from_slice(&value.0.to_be_bytes()),
    |wire| { array(&wire).map(|number| Upload(u128::from_be_bytes(number))) }
);
scalar!(Name, String, |value| value.as_str().to_owned(), |wire| {
    Name::stored(wire).map_err(Fault::Name)
});
scalar!(String, String, |value| value.clone(), |wire| text(wire));
scalar!(
    Liveness,
    i32,
    |value| match value {
        Liveness::Joining => v1::Liveness::Joining,
        Liveness::Active => v1::Liveness::Active,
        Liveness::Suspect => v1::Liveness::Suspect,
        Liveness::Down => v1::Liveness::Down,
        Liveness::Retired => v1::Liveness::Retired,
        Liveness::Left => v1::Liveness::Left,
    }
    .into(),
    |wire| match v1::Liveness::try_from(wire) {
        Ok(v1::Liveness::Joining) => Ok(Liveness::Joining),
        Ok(v1::Liveness::Active) => Ok(Liveness::Active),
        Ok(v1::Liveness::Suspect) => Ok(Liveness::Suspect),
        Ok(v1::Liveness::Down) => Ok(Liveness::Down),
        Ok(v1::Liveness::Retired) => Ok(Liveness::Retired),
        Ok(v1::Liveness::Left) => Ok(Liveness::Left),
        Ok(v1::Liveness::Unspecified) | Err(_) => Err(Fault::Unknown(wire)),
    }
);

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| Fault::Length {
        expected: N,
        found: bytes.len(),
    })
}

fn text(text: String) -> Result<String, Fault> {
    if text.len() > TEXT_MAX {
        return Err(Fault::TooLarge {
            most: TEXT_MAX,
            found: text.len(),
        });
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::Control);
    }
    Ok(text)
}

/// A number that counts from `least`.
fn counted(value: u64, least: u64, field: &'static str) -> Result<(), WireError> {
    if (least..=COUNTER_MAX).contains(&value) {
        Ok(())
    } else {
        Err(Fault::Counter(value).at(field))
    }
}

fn count(found: usize, least: usize, most: usize, field: &'static str) -> Result<(), WireError> {
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        Err(Fault::Count { least, most, found }.at(field))
    }
}

fn bytes_at_most(found: usize, most: usize, field: &'static str) -> Result<(), WireError> {
    if found <= most {
        Ok(())
    } else {
        Err(Fault::TooLarge { most, found }.at(field))
    }
}

/// A set of peers: each once, and so many of them.
fn distinct(
    peers: &[PeerId],
    least: usize,
    most: usize,
    field: &'static str,
) -> Result<(), WireError> {
    count(peers.len(), least, most, field)?;
    match peers
        .iter()
        .enumerate()
        .find(|(i, id)| peers[..*i].contains(id))
    {
        Some((_, id)) => Err(Fault::Duplicate(*id).at(field)),
        None => Ok(()),
    }
}

/// How many epochs a table of all slots has.
const ALL_SLOTS: usize = SLOTS as usize;
