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

#[test]
fn a_share_that_is_lost_says_what_to_do() {
    let shared = |name: &str, state: v1::SharedState, advice: &str| {
        Shared::from(v1::SharedInfo {
            name: name.into(),
            size: 7,
            state: state.into(),
            advice: advice.into(),
            ..Default::default()
        })
    };
    let files = [
        shared("a", v1::SharedState::Unspecified, ""),
        shared("b", v1::SharedState::Lost, "share it again"),
        shared("", v1::SharedState::Lost, "a record cannot be read"),
    ];
    assert_eq!(files.each_ref().map(Shared::here), ["all", "lost", "lost"]);
    assert_eq!(
        advices(&files),
        "b: share it again\na record cannot be read\n"
    );
    let json = serde_json::to_value(&files).unwrap();
    assert!(json[0].get("state").is_none() && json[0].get("advice").is_none());
    assert_eq!(json[1]["state"], "lost");
}

#[tokio::test]
async fn a_file_that_is_written_while_it_is_shared_is_no_fault_of_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "one").unwrap();
    let before = std::fs::metadata(&path).unwrap();
    assert!(!has_changed(&path, &before).await);
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    let later = before.modified().unwrap() + std::time::Duration::from_secs(1);
    file.set_modified(later).unwrap();
    assert!(has_changed(&path, &before).await, "in place");
    std::fs::write(&path, "one and two").unwrap();
    assert!(has_changed(&path, &before).await);
    assert_eq!(ShareError::Changed(path).exit(), Exit::Retryable);
}
