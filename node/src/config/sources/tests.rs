use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;

use super::*;
use crate::Config;

#[derive(Parser)]
struct Daemon {
    #[command(flatten)]
    config: Config,
}

struct Files(tempfile::TempDir);

impl Files {
    fn new(file: &str, dot_env: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("peer.yaml"), file).unwrap();
        std::fs::write(dir.path().join(".env"), dot_env).unwrap();
        Files(dir)
    }

    fn read(&self) -> Result<Sources, SourceError> {
        let (file, dot_env) = (self.0.path().join("peer.yaml"), self.0.path().join(".env"));
        Sources::read(&Daemon::command(), Some(&file), &dot_env)
    }
}

const FILE: &str = "# a peer\nname: p-0\ndata-dir: /data\nseeds: [a:1, b:2]\nchunk-size: 65536\nawait-assignment: true\n";

#[test]
fn the_later_source_wins_and_each_is_named() {
    let files = Files::new(
        FILE,
        "PEERNET_CHUNK_SIZE=131072\nPEERNET_NAME='p-1'\nOTHER=x\n",
    );
    let sources = files.read().unwrap();
    let command = sources.under(Daemon::command());
    let args = ["peer", "--name", "p-2", "--advertise-host", "h"];
    let matches = command.clone().try_get_matches_from(args).unwrap();
    let config = Daemon::from_arg_matches(&matches).unwrap().config;
    assert_eq!((config.name.as_str(), config.chunk_size), ("p-2", 131_072));
    assert_eq!(config.seeds, ["a:1", "b:2"]);
    assert!(config.await_assignment && !config.found);
    assert!(config.check().is_ok());
    let in_force = sources.in_force(&command, &matches);
    let origin = |name: &str| {
        let setting = in_force.iter().find(|s| s.setting == name).unwrap();
        let origin = setting.origin.to_string();
        (
            setting.value.clone().unwrap_or_default(),
            origin.replace(files.0.path().to_str().unwrap(), "DIR"),
        )
    };
    let expected = [
        ("name", "p-2", "command line"),
        ("chunk-size", "131072", "PEERNET_CHUNK_SIZE in DIR/.env"),
        ("data-dir", "/data", "DIR/peer.yaml, line 3"),
        ("seeds", "a:1,b:2", "DIR/peer.yaml, line 4"),
        ("http-listen", "0.0.0.0:8080", "default"),
        ("zone", "", "default"),
    ];
    for (name, value, from) in expected {
        assert_eq!(origin(name), (value.to_owned(), from.to_owned()), "{name}");
    }
}

#[test]
fn what_no_flag_knows_is_refused_with_its_line() {
    let refused = [
        (
            "name: a\nnam: b\n",
            "line 2: there is no setting 'nam'; there are: name, data-dir",
        ),
        ("faults: x\n", "line 1: there is no setting 'faults'"),
        ("\nname: {a: b}\n", "line 2: 'name' needs one value"),
        ("name:\n", "line 1: 'name' needs one value"),
        ("name: a\nname: b\n", "duplicate"),
        ("just words\n", "a `setting: value` on each line"),
    ];
    for (text, words) in refused {
        let error = Files::new(text, "").read().unwrap_err().to_string();
        assert!(
            error.contains(words) && error.contains("peer.yaml"),
            "{error}"
        );
    }
    let long = "#".repeat(LONGEST as usize + 1);
    assert!(matches!(
        Files::new(&long, "").read(),
        Err(SourceError::TooLong(_))
    ));
    assert!(Files::new("# nothing\n", "").read().unwrap().0.is_empty());
    assert!(matches!(
        Files::new("", "A=b\nexport PEERNET_NAME no equals sign\n").read(),
        Err(SourceError::DotEnv { line: 2, .. })
    ));
}

#[test]
fn what_other_programs_keep_in_dot_env_is_passed_over_and_never_repeated() {
    let others = "DB_PASSWORD=it's secret here\nKEY=\"-----BEGIN\nabc def\n-----END\"\nHOST=h\n";
    let sources = Files::new("", &format!("{others}PEERNET_NAME=$HOST-0 # ours\n"))
        .read()
        .unwrap();
    assert_eq!(sources.0["name"].0, "h-0");
    let ours = format!("{others}PEERNET_EVENTS=amqp://me:hunter2@it's\n");
    let error = Files::new("", &ours).read().unwrap_err();
    for shown in [error.to_string(), format!("{error:?}")] {
        assert!(!shown.contains("hunter2") && !shown.contains("secret"));
    }
    let sentence = error.to_string();
    assert!(sentence.contains(".env, line 6: "), "{sentence}");
}

const URI: &str = "amqp://me:hunter2@broker";

#[test]
fn a_password_is_not_shown() {
    let in_file = Files::new(&format!("events: {URI}\n"), "");
    let in_dot_env = Files::new("", &format!("PEERNET_EVENTS={URI}\n"));
    for (files, args) in [
        (&in_file, vec!["peer"]),
        (&in_dot_env, vec!["peer"]),
        (&Files::new("", ""), vec!["peer", "--events", URI]),
    ] {
        let sources = files.read().unwrap();
        let command = sources
            .under(Daemon::command())
            .mut_args(|a| a.required(false));
        let help = command.clone().render_long_help().to_string();
        assert!(help.contains("--events <URI>") && !help.contains("hunter2"));
        let matches = command.clone().try_get_matches_from(args).unwrap();
        let in_force = sources.in_force(&command, &matches);
        assert!(!format!("{in_force:?}").contains("hunter2"));
        let events = in_force.iter().find(|s| s.setting == "events").unwrap();
        assert_eq!(events.value.as_deref(), Some("(secret)"));
        assert_ne!(events.origin, Origin::Default);
    }
}

#[test]
fn a_later_source_wins_over_a_flag_it_cannot_stand_beside() {
    let (uri, file) = (format!("events: {URI}\n"), "events-uri-file: f\n");
    let (uri_env, file_env) = (
        format!("PEERNET_EVENTS={URI}\n"),
        "PEERNET_EVENTS_URI_FILE=f\n",
    );
    let cases: [(&str, &str, &[&str], &str); 6] = [
        (&uri, "", &["--events-uri-file", "f"], "events-uri-file"),
        ("", &uri_env, &["--events-uri-file", "f"], "events-uri-file"),
        (file, "", &["--events", URI], "events"),
        (&uri, file_env, &[], "events-uri-file"),
        (file, &uri_env, &[], "events"),
        (file, "", &[], "events-uri-file"),
    ];
    for (yaml, dot_env, flags, winner) in cases {
        let sources = Files::new(yaml, dot_env).read().unwrap();
        let command = sources
            .under(Daemon::command())
            .mut_args(|a| a.required(false));
        let args = std::iter::once(&"peer").chain(flags);
        let matches = command.clone().try_get_matches_from(args).unwrap();
        let set: Vec<String> = sources
            .in_force(&command, &matches)
            .into_iter()
            .filter(|s| ["events", "events-uri-file"].contains(&s.setting.as_str()))
            .filter(|s| s.value.is_some())
            .map(|s| s.setting)
            .collect();
        assert_eq!(set, [winner], "{yaml}{dot_env}{flags:?}");
    }
}

#[test]
fn a_wrong_value_is_traced_to_its_line() {
    let sources = Files::new("name: a\ndata-dir: /d\nchunk-size: big\n", "")
        .read()
        .unwrap();
    let error = sources
        .under(Daemon::command())
        .try_get_matches_from(["peer"])
        .unwrap_err();
    let origin = sources.blame(&error).unwrap().to_string();
    assert!(origin.ends_with("peer.yaml, line 3"), "{origin}");
}

#[test]
fn the_file_is_named_before_everything_else_is_read() {
    let named = |args: &[&str]| named(args.iter().map(Into::into), "PEERNET_NOT_SET");
    assert_eq!(named(&["p", "ls", "--config", "a"]), Some("a".into()));
    assert_eq!(named(&["p", "--config=b", "ls"]), Some("b".into()));
    assert_eq!(named(&["p", "put", "--", "--config", "a"]), None);
    assert_eq!(named(&["p", "--configure"]), None);
}
