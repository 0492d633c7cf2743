use super::*;
use crate::runner::plan::{Leaving, Waiting};
use crate::runner::tests::runner;

#[test]
fn another_directory_is_advice_only_where_the_path_is_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: PathBuf| {
        let reason = std::os::unix::net::UnixListener::bind(&path).unwrap_err();
        UpError::Socket { path, reason }.to_string()
    };
    let long = open(dir.path().join("x".repeat(200)));
    assert!(long.contains("shorter path with --dir"), "{long}");
    let missing = open(dir.path().join("none").join("s"));
    assert!(!missing.contains("--dir"), "{missing}");
}

#[tokio::test]
async fn a_process_that_cannot_be_started_is_no_reason_to_replace_its_peer() {
    let dir = tempfile::tempdir().unwrap();
    let mut runner = runner(dir.path());
    let log = runner.state().0.log(1);
    std::fs::write(log, "error: of long ago\n").unwrap();
    let crashed = way_out(&runner, 1);
    assert!(crashed.contains("of long ago") && crashed.contains(" replace "));
    runner.round(&mut Screen::new("test")).await;
    for said in [way_out(&runner, 1), does_not_start(&runner, 1).to_string()] {
        assert!(said.contains("cannot be started: "), "{said}");
        let misleads = said.contains("long ago") || said.contains("replace");
        assert!(!misleads, "{said}");
    }
}

#[tokio::test]
async fn only_those_that_do_not_start_are_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let runner = runner(dir.path());
    let name = |i: u32| format!("{}-{i}", runner.state().1.name());
    let mut progress = Progress {
        wanted: 5,
        ready: 4,
        ..Progress::default()
    };
    progress.waiting.push(Waiting {
        name: name(0),
        reason: String::new(),
    });
    assert!(serves_without(&runner, &progress, &[0].into()));
    assert!(!serves_without(&runner, &progress, &[1].into()));
    let text = welcome(&runner, &progress);
    let first = format!(
        "PEERNET_SERVER=http://{}",
        runner.children().launch().ports.grpc(1)
    );
    assert!(text.contains(&first), "{text}");
    progress.leaving.push(Leaving {
        name: name(5),
        slots_left: 1,
        bytes_left: 0,
        blocker: String::new(),
    });
    assert!(!serves_without(&runner, &progress, &[0].into()));
    assert!(serves_without(&runner, &progress, &[0, 5].into()));
}

#[test]
fn progress_is_one_line() {
    let mut progress = Progress {
        wanted: 5,
        running: 7,
        ready: 4,
        ..Progress::default()
    };
    progress.waiting.push(Waiting {
        name: "l-4".into(),
        reason: "joining".into(),
    });
    let blocker = "slot 7 is moving".to_owned();
    progress.leaving.push(Leaving {
        name: "l-6".into(),
        slots_left: 1,
        bytes_left: 2048,
        blocker,
    });
    assert_eq!(
        sentence(&progress),
        "4 of 5 peers ready; l-4: joining; 1 leaving, 1 slot and 2.0 KiB to hand over; l-6: slot 7 is moving"
    );
    assert_eq!(
        sentence(&Progress {
            wanted: 5,
            ready: 5,
            ..Progress::default()
        }),
        "all 5 peers are ready"
    );
}
