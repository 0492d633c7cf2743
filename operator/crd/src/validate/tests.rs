use super::*;
use crate::spec::Commands;

fn network() -> PeerNetwork {
    PeerNetwork::new("demo", PeerNetworkSpec::default())
}

fn with(change: impl FnOnce(&mut PeerNetwork)) -> Result<(), Violation> {
    let mut network = network();
    change(&mut network);
    network.validate()
}

#[test]
fn defaults_are_valid() {
    assert_eq!(network().validate(), Ok(()));
}

#[test]
fn fewer_peers_than_copies_are_refused_with_the_way_out() {
    let error = with(|n| n.spec.replicas = 2).unwrap_err();
    assert_eq!(error, Violation::FewerPeersThanCopies);
    assert!(error.to_string().contains("raise replicas"), "{error}");
}

#[test]
fn numbers_outside_the_schema_are_refused() {
    assert!(with(|n| n.spec.replicas = 1001).is_err());
    assert!(with(|n| n.spec.replication.factor = 8).is_err());
    assert!(with(|n| n.spec.replication.write = 0).is_err());
    assert!(with(|n| n.spec.chunk_size = 1).is_err());
    assert!(with(|n| n.spec.repair.grace_seconds = 0).is_err());
    assert_eq!(
        with(|n| n.spec.replication.write = 4),
        Err(Violation::WriteAboveFactor)
    );
}

#[test]
fn commands_fetch_from_hosts_and_blocks() {
    let allow = |all: &[&str]| {
        with(|n| {
            let name = |name: &str| name.to_owned();
            let (uri, fetch_allow) = (name("uri"), all.iter().map(|a| name(a)).collect());
            n.spec.events = Some(Events {
                uri: SecretKey {
                    name: name("broker"),
                    key: uri,
                },
                ca: None,
                exchange: None,
                commands: Some(Commands {
                    fetch_allow,
                    fetch_ca: None,
                }),
            });
        })
    };
    assert_eq!(allow(&[]), Ok(()));
    let secret = |name: &str, key: &str| SecretKey {
        name: name.into(),
        key: key.into(),
    };
    let trusting = |name: &str| {
        with(|n| {
            n.spec.events = Some(Events {
                uri: secret("broker", "uri"),
                ca: None,
                exchange: None,
                commands: Some(Commands {
                    fetch_allow: Vec::new(),
                    fetch_ca: Some(secret(name, "ca.crt")),
                }),
            });
        })
    };
    assert_eq!(trusting("authorities"), Ok(()));
    let refused = Violation::SecretKey("spec.events.commands.fetchCa");
    assert_eq!(trusting("../authorities"), Err(refused));
    let good = [
        "*",
        "*.a.b",
        "a-b.c",
        "10.0.0.0/8",
        "fd00::/8",
        "0.0.0.0/0",
        "[::1]",
    ];
    assert_eq!(allow(&good), Ok(()));
    for bad in [
        "",
        "*a",
        "a/b",
        "10.0.0.0/33",
        "10.0/8",
        "http://x",
        "a,b",
        "a b",
        "[x]",
    ] {
        assert_eq!(allow(&["a", bad]), Err(Violation::FetchAllow(bad.into())));
    }
    assert!(allow(&["a"; 65]).is_err());
}

#[test]
fn events_name_secrets_and_an_exchange() {
    let events = |name: &str, key: &str, exchange: Option<&str>| {
        let secret = |name: &str, key: &str| SecretKey {
            name: name.into(),
            key: key.into(),
        };
        with(|n| {
            n.spec.events = Some(Events {
                uri: secret("broker", "uri"),
                ca: Some(secret(name, key)),
                exchange: exchange.map(Into::into),
                commands: None,
            });
        })
    };
    assert_eq!(events("my-broker.2", "CA_1.crt", None), Ok(()));
    let refused = Err(Violation::SecretKey("spec.events.ca"));
    for bad in ["", "Broker", "a..b", "-a", "a-", "a/b", &"x".repeat(254)] {
        assert_eq!(events(bad, "uri", None), refused, "{bad:?}");
    }
    for bad in ["", "../uri", "a b", &"x".repeat(254)] {
        assert_eq!(events("broker", bad, None), refused, "{bad:?}");
    }
    for good in ["a.b", "amq", "amqp.x", "AMQ.x", &"x".repeat(127)] {
        assert_eq!(events("broker", "uri", Some(good)), Ok(()), "{good:?}");
    }
    for bad in ["", "a b", "ä", &"x".repeat(128)] {
        let refused = Err(Violation::Exchange(bad.into()));
        assert_eq!(events("broker", "uri", Some(bad)), refused);
    }
    assert_eq!(
        events("broker", "uri", Some("amq.topic")),
        Err(Violation::BrokersExchange)
    );
}

#[test]
fn names_must_serve_as_names_of_services_and_pods() {
    for bad in [
        "",
        "1st",
        "Demo",
        "demo-",
        "-demo",
        "de.mo",
        &"x".repeat(51),
    ] {
        assert_eq!(
            with(|n| n.metadata.name = Some(bad.into())),
            Err(Violation::Name),
            "{bad:?}"
        );
    }
    assert_eq!(with(|n| n.metadata.name = Some("a-1".into())), Ok(()));
}

#[test]
fn names_of_other_objects_are_refused_for_new_networks_only() {
    for bad in ["default", "a-peers"] {
        let mut network = network();
        network.metadata.name = Some(bad.into());
        assert_eq!(network.validate_new(), Err(Violation::NameTaken), "{bad}");
        assert_eq!(network.validate_update(&network), Ok(()), "{bad}");
    }
    for good in ["a", "peers", "a-peers-1", "default-1"] {
        let mut network = network();
        network.metadata.name = Some(good.into());
        assert_eq!(network.validate_new(), Ok(()), "{good}");
    }
}

#[test]
fn sizes_follow_the_pattern() {
    for good in ["1Gi", "500Mi", "1.5Ti", "1000000", "9k"] {
        assert!(is_size(good), "{good}");
    }
    for bad in [
        "", "0Gi", "Gi", "1gb", "1.Gi", ".5Gi", "-1Gi", "1 Gi", "1.2.3Gi",
    ] {
        assert!(!is_size(bad), "{bad}");
    }
}

#[test]
fn factor_write_and_storage_stay_as_they_were() {
    let old = network();
    let mut new = network();
    new.spec.replicas = 9;
    assert_eq!(new.validate_update(&old), Ok(()));
    new.spec.replication.factor = 5;
    assert_eq!(new.validate_update(&old), Err(Violation::FactorChanged));
    for write in [1, 3] {
        let mut new = network();
        new.spec.replication.write = write;
        assert_eq!(new.validate(), Ok(()));
        assert_eq!(new.validate_update(&old), Err(Violation::WriteChanged));
    }
    let mut new = network();
    new.spec.storage.class_name = Some("fast".into());
    assert_eq!(new.validate_update(&old), Err(Violation::StorageChanged));
}
