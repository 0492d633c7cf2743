//! The ports of the peers: two ranges, one number per peer.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use thiserror::Error;

/// Why the ports cannot be had.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PortError {
    /// Someone listens there.
    #[error(
        "port {port}, for the {what} of peer {ordinal}, is taken; choose other ports with {flag}"
    )]
    Taken {
        /// Which.
        port: u16,
        /// What it was for.
        what: &'static str,
        /// Whose.
        ordinal: u32,
        /// Which flag moves it.
        flag: &'static str,
    },
    /// It cannot be listened on.
    #[error(
        "port {port}, for the {what} of peer {ordinal}, cannot be used ({reason}); choose other ports with {flag}"
    )]
    Refused {
        /// Which.
        port: u16,
        /// What it was for.
        what: &'static str,
        /// Whose.
        ordinal: u32,
        /// Which flag moves it.
        flag: &'static str,
        /// What the system said.
        reason: String,
    },
    /// Above 65535.
    #[error("{peers} peers need ports above 65535; choose lower ones with {flag}")]
    TooHigh {
        /// How many.
        peers: u32,
        /// Which flag moves them.
        flag: &'static str,
    },
    /// The ranges meet.
    #[error(
        "with {peers} peers the ports of gRPC and REST overlap; choose others with --http-port or --grpc-port"
    )]
    Overlap {
        /// How many.
        peers: u32,
    },
}

/// The two ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// Peer 0's for gRPC.
    pub grpc: u16,
    /// Peer 0's for REST.
    pub http: u16,
}

impl Ports {
    /// Where the peer of that number serves gRPC. [`Ports::check`] has made sure that there is such a port.
    pub fn grpc(self, ordinal: u32) -> SocketAddr {
        address(self.grpc, ordinal)
    }

    /// Where the peer of that number serves REST.
    pub fn http(self, ordinal: u32) -> SocketAddr {
        address(self.http, ordinal)
    }

    /// Makes sure that all `peers` have ports, and that those of the peers in `fresh` are free.
    pub fn check(self, peers: u32, fresh: impl IntoIterator<Item = u32>) -> Result<(), PortError> {
        let ranges = [
            ("gRPC", "--grpc-port", self.grpc),
            ("REST", "--http-port", self.http),
        ];
        for (_, flag, first) in ranges {
            if u32::from(first) + peers > 1 << 16 {
                return Err(PortError::TooHigh { peers, flag });
            }
        }
        if u32::from(self.grpc.abs_diff(self.http)) < peers {
            return Err(PortError::Overlap { peers });
        }
        for ordinal in fresh {
            for (what, flag, first) in ranges {
                let address = address(first, ordinal);
                let port = address.port();
                // A port that was just closed may be bound again: the standard library sets SO_REUSEADDR.
                TcpListener::bind(address).map_err(|e| match e.kind() {
                    std::io::ErrorKind::AddrInUse => PortError::Taken {
                        port,
                        what,
                        ordinal,
                        flag,
                    },
                    _ => PortError::Refused {
                        port,
                        what,
                        ordinal,
                        flag,
                        reason: e.to_string(),
                    },
                })?;
            }
        }
        Ok(())
    }
}

fn address(first: u16, ordinal: u32) -> SocketAddr {
    let port = u16::try_from(u32::from(first) + ordinal).unwrap_or(u16::MAX);
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let other = if port > 40_000 {
            port - 10_000
        } else {
            port + 10_000
        };
        let error = Ports {
            grpc: other,
            http: port,
        }
        .check(1, 0..1)
        .unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("is taken; choose other ports with --http-port"),
            "{error}"
        );
        assert_eq!(
            Ports {
                grpc: other,
                http: port
            }
            .check(1, 0..0),
            Ok(()),
            "peers that run hold theirs"
        );
    }

    #[test]
    fn ranges_must_fit_and_not_meet() {
        let check = |grpc, http, peers| Ports { grpc, http }.check(peers, 0..0);
        assert_eq!(
            check(65_535, 8080, 2),
            Err(PortError::TooHigh {
                peers: 2,
                flag: "--grpc-port"
            })
        );
        assert_eq!(check(65_535, 8080, 1), Ok(()));
        assert_eq!(check(7000, 7004, 5), Err(PortError::Overlap { peers: 5 }));
        assert_eq!(check(7000, 7005, 5), Ok(()));
    }
}
