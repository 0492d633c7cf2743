use super::*;

#[test]
fn hits_name_the_peer_and_the_cost_its_words() {
    let hit = Hit::from(v1::SharedHit {
        file: Some(v1::SharedInfo {
            name: "a b".into(),
            size: 2048,
            tags: vec!["x".into(), "y".into()],
            ..Default::default()
        }),
        peer: "p-0".into(),
        zone: "a".into(),
        peer_id: String::new(),
    });
    let text = hit_table(&[hit], false);
    assert_eq!(
        text,
        "PEER  ZONE     SIZE  TAGS  NAME\np-0   a     2.0 KiB  x,y   a b\n"
    );
    let cost = |silent| Cost {
        peers: 1,
        messages: 2,
        silent,
        full: silent / 3,
    };
    assert_eq!(cost(0).sentence(), "asked 1 peer with 2 messages");
    let sentence = cost(3).sentence();
    assert!(
        sentence.ends_with("; 3 did not answer; 1 peer may have more than the 64 told, add words"),
        "{sentence}"
    );
    let here = |missing| {
        let size = 1_000;
        Shared::from(v1::SharedInfo {
            size,
            missing,
            ..Default::default()
        })
        .here()
    };
    assert_eq!(
        [here(None), here(Some(1)), here(Some(1_000))],
        ["all", "99%", "0%"]
    );
}
