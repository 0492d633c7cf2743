use super::control::Request;
use super::*;

#[test]
fn uuids_are_random_and_say_so() {
    for _ in 0..100 {
        let uuid = uuid();
        let groups: Vec<&str> = uuid.split('-').collect();
        assert_eq!(
            groups.iter().map(|g| g.len()).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
        assert!(
            groups[2].starts_with('4') && groups[3].starts_with(['8', '9', 'a', 'b']),
            "{uuid}"
        );
    }
    assert_ne!(uuid(), uuid());
}

/// What was said.
#[derive(Default)]
struct Lines(Vec<String>);

impl Audience for Lines {
    fn line(&mut self, line: &str) {
        self.0.push(line.to_owned());
    }

    fn progress(&mut self, _: &Progress) {}
}

/// A runner of five peers that cannot be started.
pub(crate) fn runner(dir: &std::path::Path) -> Runner {
    let home = Home::lock(dir).unwrap();
    let network = manifest::read(None).unwrap();
    let mut state = State::new(network, 3, 7000, 8080);
    state.running = state.wanted();
    let launch = Launch {
        name: "local".into(),
        ports: ports::Ports {
            grpc: 7000,
            http: 8080,
        },
        ..child::tests::launch("/no/such/program")
    };
    let (publish, _) = watch::channel(Progress::default());
    let (_, asked) = mpsc::channel(1);
    Runner::new(home, state, launch, publish, asked)
}

async fn ask(runner: &mut Runner, request: Request) -> Option<Result<Reply, String>> {
    let (reply, mut replied) = oneshot::channel();
    let ask = Ask { request, reply };
    runner.take(ask, &mut Lines::default()).await;
    replied.try_recv().ok()
}

#[tokio::test]
async fn a_request_that_cannot_be_written_down_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut runner = runner(dir.path());
    // Nothing can be renamed to a directory.
    let state = dir.path().join("state.json");
    fs::create_dir(&state).unwrap();
    let four = || Request::Scale { peers: 4 };
    let refused = ask(&mut runner, four()).await.unwrap().unwrap_err();
    assert!(refused.contains("mend that and try again"), "{refused}");
    assert_eq!(runner.state.wanted(), 5);
    fs::remove_dir(&state).unwrap();
    assert_eq!(ask(&mut runner, four()).await, None, "it is answered later");
    assert_eq!(runner.state.wanted(), 4);
}

#[tokio::test]
async fn what_cannot_be_started_is_said_once_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut runner = runner(dir.path());
    let mut lines = Lines::default();
    while runner.children.crashes(4) < 2 {
        let progress = runner.round(&mut lines).await;
        runner.rest(&progress, &mut lines).await;
    }
    let said = lines.0.iter().filter(|line| line.contains("local-4"));
    let said: Vec<&String> = said.collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("cannot be started"), "{said:?}");
    let seen = Observed::default();
    runner.perform(Action::Run(4), &seen, &mut lines).await;
    assert_eq!((runner.unstarted(4), runner.children.crashes(4)), (None, 0));
    assert!(runner.unstarted(3).is_some());
}

#[tokio::test]
async fn what_cannot_be_written_down_is_said_once_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut runner = runner(dir.path());
    let state = dir.path().join("state.json");
    fs::create_dir(&state).unwrap();
    let mut lines = Lines::default();
    let seen = Observed::default();
    for _ in 0..3 {
        runner.perform(Action::Founded, &seen, &mut lines).await;
    }
    assert!(!runner.state.founded);
    assert_eq!(lines.0.len(), 1, "{:?}", lines.0);
    fs::remove_dir(&state).unwrap();
    while !runner.state.founded {
        runner.perform(Action::Founded, &seen, &mut lines).await;
        tokio::task::yield_now().await;
    }
    assert!(runner.setbacks.is_empty());
}

#[tokio::test]
async fn a_volume_is_out_of_the_way_at_once_and_removed_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("peer-1.0.gone");
    fs::create_dir(&left).unwrap();
    let mut runner = runner(dir.path());
    let volume = runner.home.volume(2);
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("chunk"), "x").unwrap();
    runner.state.replacing = Some(home::Replaced {
        ordinal: 2,
        peer: "2".into(),
        wiped: false,
    });
    let (seen, mut lines) = (Observed::default(), Lines::default());
    runner.perform(Action::Start(2), &seen, &mut lines).await;
    assert_eq!(runner.children.crashes(2), 1);
    runner.perform(Action::Wipe(2), &seen, &mut lines).await;
    assert!(!volume.exists());
    assert_eq!((runner.unstarted(2), runner.children.crashes(2)), (None, 0));
    assert!(runner.children.may_start(2));
    assert!(runner.state.replacing.as_ref().unwrap().wiped);
    while let Some(removed) = runner.removals.join_next().await {
        removed.unwrap().unwrap();
    }
    assert!(runner.home.set_aside_before().is_empty());
    assert!(!left.exists());
}
