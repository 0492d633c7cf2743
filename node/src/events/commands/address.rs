//! Which hosts and addresses files may be fetched from.
//!
//! A peer stands inside of networks that those who send commands do not (server-side request forgery, CWE-918): it must
//! not be talked into asking its neighbours, the node it runs on, or a cloud's metadata service. So a host has to be on
//! the allow list, and the *address* that is connected to has to be one of the public internet or on the list too. The
//! check is made on the very address that is then connected to, for each redirect anew: what a name resolves to
//! afterwards does not matter (DNS rebinding).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// A block of addresses (RFC 4632), IPv4 as the mapped part of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Block {
    first: u128,
    bits: u32,
}

impl Block {
    fn contains(self, address: IpAddr) -> bool {
        let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
        (number(address) ^ self.first) & mask == 0
    }
}

/// As an IPv6 address; IPv4 mapped (RFC 4291, section 2.5.5.2).
fn number(address: IpAddr) -> u128 {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    u128::from(v6)
}

/// Not global according to IANA's special-purpose registry of IPv4 (RFC 6890), or multicast.
const SPECIAL_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// What IPv6 routes in the internet at large.
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Exceptions to that: protocol assignments, documentation, and 6to4, which has IPv4 addresses inside.
const SPECIAL_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn v6(address: Ipv6Addr, bits: u32) -> Block {
    let first = u128::from(address);
    Block { first, bits }
}

fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let special = |(first, bits): &(Ipv4Addr, u32)| {
                v6(first.to_ipv6_mapped(), bits + 96).contains(v4.into())
            };
            !SPECIAL_V4.iter().any(special)
        }
        address => {
            let within = |(first, bits): &(Ipv6Addr, u32)| v6(*first, *bits).contains(address);
            within(&GLOBAL_V6) && !SPECIAL_V6.iter().any(within)
        }
    }
}

/// Something that may be fetched from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::events) enum Allowed {
    /// Any host.
    AnyHost,
    /// This host.
    Host(String),
    /// Hosts whose names end so, with the dot.
    Below(String),
    /// These addresses, though they are not public ones.
    Addresses {
        /// Their first.
        first: u128,
        /// How many bits they share with it, as IPv6 addresses.
        bits: u32,
    },
}

/// Not something to allow.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is neither a host, '*.DOMAIN', '*' nor a block of addresses such as 10.1.0.0/16")]
pub struct NotAllowable(String);

impl FromStr for Allowed {
    type Err = NotAllowable;

    fn from_str(text: &str) -> Result<Self, NotAllowable> {
        let wrong = || NotAllowable(text.to_owned());
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let bits: u32 = bits.parse().map_err(|_| wrong())?;
            let (most, before) = if address.is_ipv4() {
                (32, 96)
            } else {
                (128, 0)
            };
            if bits > most {
                return Err(wrong());
            }
            let (first, bits) = (number(address), bits + before);
            return Ok(Allowed::Addresses { first, bits });
        }
        let text = text.to_ascii_lowercase();
        let is_host = |t: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
            (1..=253).contains(&t.len()) && t.bytes().all(fits)
        };
        match text.strip_prefix('*') {
            Some("") => Ok(Allowed::AnyHost),
            Some(rest) if rest.starts_with('.') && is_host(&rest[1..]) => {
                Ok(Allowed::Below(rest.to_owned()))
            }
            None if is_host(&text) => Ok(Allowed::Host(text)),
            _ => Err(wrong()),
        }
    }
}

/// A host may be asked at all. `host` is as a URL has it, in lower case.
pub(super) fn host_allowed(list: &[Allowed], host: &str) -> bool {
    list.iter().any(|allowed| match allowed {
        Allowed::AnyHost => true,
        Allowed::Host(name) => name == host,
        Allowed::Below(end) => host.ends_with(end.as_str()),
        Allowed::Addresses { .. } => false,
    })
}

/// An address may be connected to.
pub(super) fn address_allowed(list: &[Allowed], address: IpAddr) -> bool {
    is_public(address)
        || list.iter().any(|allowed| match allowed {
            Allowed::Addresses { first, bits } => Block {
                first: *first,
                bits: *bits,
            }
            .contains(address),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_allowed_unless_the_list_says_so() {
        let refused = [
            "127.0.0.1",
            "10.96.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:db8::1",
            "::127.0.0.1",
        ];
        for address in refused {
            assert!(!address_allowed(&[], address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(address_allowed(&[], address.parse().unwrap()), "{address}");
        }
        let list = ["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        assert!(address_allowed(&list, "127.9.9.9".parse().unwrap()));
        assert!(address_allowed(&list, "::ffff:127.0.0.1".parse().unwrap()));
        assert!(address_allowed(&list, "fd12::1".parse().unwrap()));
        assert!(!address_allowed(&list, "10.0.0.1".parse().unwrap()));
        let all: Allowed = "::/0".parse().unwrap();
        assert!(address_allowed(&[all], "10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn hosts_are_named_wholly_or_by_their_domain() {
        let list = [
            "files.example.org".parse().unwrap(),
            "*.example.com".parse().unwrap(),
        ];
        assert!(host_allowed(&list, "files.example.org") && host_allowed(&list, "a.b.example.com"));
        for host in [
            "example.org",
            "xfiles.example.org",
            "example.com",
            "evilexample.com",
        ] {
            assert!(!host_allowed(&list, host), "{host}");
        }
        assert!(host_allowed(&[Allowed::AnyHost], "x"));
        assert!(!host_allowed(&[], "x"));
        for bad in ["", "*x", "a b", "10.0.0.0/33", "10.0.0/8", "http://x", "*."] {
            assert!(bad.parse::<Allowed>().is_err(), "{bad}");
        }
    }
}
