use crossterm::event::{Event as Terminal, KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal as Screen;
use ratatui::backend::TestBackend;

use super::app::{App, Effect, Event, Message, Which};
use super::listing::Page;
use super::swarm::{Fetch, Fetches};
use super::transfers::{Meter, UNDER_WAY};
use super::view;
use crate::names::File;
use crate::status::picture::{Copies, Figures, Peer, Picture, State};
use crate::status::verdict::Verdict;

fn press(app: &mut App, code: KeyCode) -> Vec<Effect> {
    app.update(Event::Terminal(Terminal::Key(code.into())))
}

/// Presses a key for each letter; what the last of them caused.
fn type_in(app: &mut App, text: &str) -> Vec<Effect> {
    let pressed = text.chars().map(|c| press(app, KeyCode::Char(c)));
    pressed.last().unwrap_or_default()
}

fn file(name: &str) -> File {
    File {
        name: name.into(),
        size: 2048,
        etag: "e".into(),
        content_type: "t".into(),
        tags: Vec::new(),
        modified: "2026-11-20T18:04:05Z".into(),
        chunks: 1,
        stored: None,
        pinned: false,
    }
}

/// Answers the listing that was asked for.
fn list(app: &mut App, asked: &Effect, names: &[&str], next: &str) {
    let Effect::List {
        which,
        ticket,
        after,
        ..
    } = asked
    else {
        panic!("{asked:?} is no listing");
    };
    let files = names.iter().map(|n| file(n)).collect();
    app.update(Event::Listed {
        which: *which,
        ticket: *ticket,
        first: after.is_empty(),
        page: Ok(Page {
            files,
            next: next.into(),
        }),
    });
}

/// With these files in the first pane.
fn with_files(names: &[&str]) -> App {
    let (mut app, effects) = App::new();
    list(&mut app, &effects[0], names, "");
    app
}

fn peer(i: u64, state: State) -> Peer {
    Peer {
        name: format!("demo-{i}"),
        id: format!("id{i}"),
        zone: format!("zone-{i}"),
        state,
        reason: String::new(),
        address: "127.0.0.1:7000".into(),
        http_address: "127.0.0.1:8080".into(),
        position: format!("{:016x}", i << 62),
        version: "0".into(),
        figures: Some(Figures {
            slots: 4096,
            ..Figures::default()
        }),
    }
}

fn look(app: &mut App) {
    let picture = Picture {
        network_id: "n".into(),
        asked: "demo-0".into(),
        only_asked: false,
        peers: vec![
            peer(0, State::Active),
            peer(1, State::Active),
            peer(2, State::Down),
        ],
        copies: Some(Copies {
            factor: 3,
            slots: 4096,
            slots_short: 4096,
            slots_stuck: 0,
            slots_busy: 0,
            fewest: 2,
        }),
    };
    let verdict = Verdict::on(&picture);
    app.update(Event::Looked(Ok(Box::new((picture, verdict)))));
}

/// The screen as text, without colours.
fn screen(app: &App, width: u16, height: u16) -> String {
    let mut screen = Screen::new(TestBackend::new(width, height)).unwrap();
    screen.draw(|frame| view::draw(app, frame)).unwrap();
    screen.backend().to_string()
}

#[test]
fn the_first_screen_lists_files_and_asks_the_peers() {
    let (mut app, effects) = App::new();
    assert!(matches!(
        &effects[..],
        [
            Effect::List {
                which: Which::All,
                ..
            },
            Effect::Look
        ]
    ));
    list(&mut app, &effects[0], &["a.txt", "docs/b.txt"], "");
    let text = screen(&app, 80, 24);
    for expected in [
        "1 Files",
        "5 Transfers",
        "2 files",
        "2.0 KiB",
        "docs/b.txt",
        "ok: 2 files",
        "d delete",
    ] {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
}

#[test]
fn a_file_is_stored_under_its_own_name_unless_another_is_typed() {
    let mut app = with_files(&[]);
    type_in(&mut app, "p/tmp/a.txt");
    assert!(press(&mut app, KeyCode::Enter).is_empty());
    assert!(screen(&app, 80, 24).contains("Store as (end with / for a folder): a.txt"));
    let effects = press(&mut app, KeyCode::Enter);
    let [Effect::Put { id, path, name }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!((path.as_str(), name.as_str()), ("/tmp/a.txt", "a.txt"));
    let meter = Meter {
        bytes: 1 << 20,
        size: Some(4 << 20),
        bytes_per_second: 524_288.0,
        seconds_left: 6,
    };
    app.update(Event::Tick(vec![(*id, meter)]));
    press(&mut app, KeyCode::Char('5'));
    let text = screen(&app, 80, 24);
    assert!(
        text.contains("[==        ] 1.0 MiB of 4.0 MiB, 512.0 KiB/s"),
        "{text}"
    );
    let effects = app.update(Event::Moved {
        id: *id,
        outcome: Ok("a.txt".into()),
    });
    assert!(
        matches!(&effects[..], [Effect::List { .. }]),
        "what is listed has changed"
    );
    assert_eq!(app.message, Message::Done("stored a.txt".into()));
}

#[test]
fn the_chosen_file_is_fetched() {
    let mut app = with_files(&["a", "docs/b.txt"]);
    press(&mut app, KeyCode::Down);
    press(&mut app, KeyCode::Char('g'));
    let effects = press(&mut app, KeyCode::Enter);
    let [Effect::Get { id, name, path }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!((name.as_str(), path.as_str()), ("docs/b.txt", "b.txt"));
    app.update(Event::Moved {
        id: *id,
        outcome: Err("the disk is full".into()),
    });
    let text = screen(&app, 80, 24);
    assert!(
        text.contains("failed: docs/b.txt was not fetched: the disk is full"),
        "{text}"
    );
}

#[test]
fn nothing_is_removed_without_a_yes() {
    let mut app = with_files(&["a"]);
    press(&mut app, KeyCode::Char('d'));
    assert!(screen(&app, 80, 24).contains("Remove a from the network for good? y/n"));
    for key in [KeyCode::Enter, KeyCode::Char('d'), KeyCode::Char(' ')] {
        assert!(press(&mut app, key).is_empty(), "{key:?}");
    }
    assert!(press(&mut app, KeyCode::Char('n')).is_empty());
    assert!(
        press(&mut app, KeyCode::Char('y')).is_empty(),
        "the question is gone"
    );
    press(&mut app, KeyCode::Char('d'));
    assert_eq!(
        press(&mut app, KeyCode::Char('y')),
        [Effect::Remove { name: "a".into() }]
    );
}

#[test]
fn a_file_gets_the_name_that_is_typed() {
    let mut app = with_files(&["a/old"]);
    press(&mut app, KeyCode::Char('m'));
    assert!(screen(&app, 80, 24).contains("Rename a/old to: a/old"));
    type_in(&mut app, "er");
    let effects = press(&mut app, KeyCode::Enter);
    let (name, to) = ("a/old".into(), "a/older".into());
    assert_eq!(effects, [Effect::Rename { name, to }]);
    let again = app.update(Event::Changed(Ok("renamed a/old to a/older".into())));
    assert!(matches!(&again[..], [Effect::List { .. }]));
    assert!(screen(&app, 80, 24).contains("ok: renamed a/old to a/older"));
}

#[test]
fn the_chosen_file_is_pinned_and_unpinned_by_the_same_key() {
    let mut app = with_files(&["a", "b"]);
    press(&mut app, KeyCode::Down);
    for pinned in [true, false] {
        let effects = press(&mut app, KeyCode::Char('P'));
        let name = "b".into();
        assert_eq!(effects, [Effect::Pin { name, pinned }]);
        app.update(Event::Changed(Ok("done".into())));
        app.files.files[1].pinned = pinned;
        assert_eq!(screen(&app, 80, 24).contains("* b"), pinned);
    }
    press(&mut app, KeyCode::Char('3'));
    assert!(press(&mut app, KeyCode::Char('P')).is_empty());
    assert!(screen(&app, 80, 24).contains("choose a file first"));
}

#[test]
fn a_search_shows_what_begins_so_and_forgets_stale_answers() {
    let mut app = with_files(&["a"]);
    type_in(&mut app, "/do");
    let first = press(&mut app, KeyCode::Enter);
    type_in(&mut app, "/cs/");
    let second = press(&mut app, KeyCode::Enter);
    assert!(
        matches!(&second[..], [Effect::List { which: Which::Found, prefix, .. }] if prefix == "docs/")
    );
    list(&mut app, &first[0], &["dog"], "");
    assert!(
        app.found.files.is_empty(),
        "it answers a question that nobody asks any more"
    );
    list(&mut app, &second[0], &["docs/b", "docs/c"], "");
    let text = screen(&app, 80, 24);
    assert!(
        text.contains("2 beginning with docs/") && text.contains("docs/c"),
        "{text}"
    );
}

#[test]
fn further_pages_come_when_somebody_scrolls_down_to_them() {
    let (mut app, effects) = App::new();
    list(&mut app, &effects[0], &["a", "b"], "b");
    let more = press(&mut app, KeyCode::Down);
    assert!(
        matches!(&more[..], [Effect::List { after, .. }] if after == "b"),
        "{more:?}"
    );
    assert!(press(&mut app, KeyCode::Down).is_empty(), "asked once");
    list(&mut app, &more[0], &["c"], "");
    let chosen = app.files.chosen().map(|f| f.name.as_str());
    assert_eq!((app.files.files.len(), chosen), (3, Some("b")));
    press(&mut app, KeyCode::End);
    assert_eq!(app.files.selected, 2);
}

#[test]
fn peers_and_the_ring_are_drawn_and_looked_at_again() {
    let (mut app, _) = App::new();
    look(&mut app);
    assert_eq!(press(&mut app, KeyCode::Char('3')), [Effect::Look]);
    let text = screen(&app, 80, 24);
    assert!(
        text.contains("DEGRADED: 1 of 3 peers down") && text.contains("demo-2"),
        "{text}"
    );
    look(&mut app);
    let asked: Vec<Effect> = (0..20)
        .flat_map(|_| app.update(Event::Tick(vec![])))
        .collect();
    assert_eq!(
        asked,
        [Effect::Look],
        "one question at a time, however slow the answer"
    );
    press(&mut app, KeyCode::Char('4'));
    let text = screen(&app, 80, 24);
    // Clockwise: the first at the top, the second to the right of the third.
    let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}:\n{text}"));
    assert!(place("● demo-0") < place("x demo-2"), "{text}");
    assert!(place("x demo-2") < place("● demo-1"), "{text}");
    assert!(text.contains("50.0 %") && text.contains("25.0 %"), "{text}");
}

#[test]
fn transfers_are_bounded_and_not_given_up_by_accident() {
    let mut app = with_files(&["a"]);
    let begin = |app: &mut App| {
        press(app, KeyCode::Char('g'));
        press(app, KeyCode::Enter)
    };
    let ids: Vec<u64> = (0..UNDER_WAY)
        .map(|_| match &begin(&mut app)[..] {
            [Effect::Get { id, .. }] => *id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(begin(&mut app).is_empty());
    assert!(matches!(&app.message, Message::Failed(m) if m.contains("16 transfers")));
    assert!(press(&mut app, KeyCode::Char('q')).is_empty());
    assert!(screen(&app, 80, 24).contains("Give up 16 transfers and leave? y/n"));
    press(&mut app, KeyCode::Esc);
    press(&mut app, KeyCode::Char('5'));
    let newest = *ids.last().unwrap();
    assert_eq!(
        press(&mut app, KeyCode::Char('c')),
        [Effect::Cancel { id: newest }]
    );
    let late = app.update(Event::Moved {
        id: newest,
        outcome: Ok("a".into()),
    });
    assert!(late.is_empty() && screen(&app, 80, 24).contains("cancelled"));
    press(&mut app, KeyCode::Char('q'));
    assert_eq!(press(&mut app, KeyCode::Char('y')), [Effect::Quit]);
}

#[test]
fn what_the_peer_fetches_is_shown_and_given_up_on_a_yes() {
    let mut app = with_files(&["a"]);
    let ask = press(&mut app, KeyCode::Char('5'));
    assert_eq!(ask, [Effect::Swarm]);
    assert!(press(&mut app, KeyCode::Char('r')).is_empty(), "asked once");
    assert!(screen(&app, 80, 24).contains("no shared file is on its way"));
    let fetch = |name: &str, bytes_per_second| Fetch {
        name: name.into(),
        meter: Meter {
            bytes: 3 << 20,
            size: Some(4 << 20),
            bytes_per_second,
            seconds_left: 2,
        },
    };
    let answer = |app: &mut App, all: &[Fetch]| {
        app.update(Event::Swarm(Ok(Fetches {
            peer: "peer:7000".into(),
            all: all.to_vec(),
        })))
    };
    let both = [fetch("film", 524_288.0), fetch("song", 0.0)];
    assert!(answer(&mut app, &both).is_empty());
    assert_eq!(app.message, Message::Done("the peer was asked".into()));
    let text = screen(&app, 100, 24);
    for expected in [
        "0 under way, and 2 to peer:7000",
        "swarm film",
        "[=======   ] 3.0 MiB of 4.0 MiB, 512.0 KiB/s, 2 s left",
        "3.0 MiB of 4.0 MiB, waiting",
    ] {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    // Again about every second, while it is on the screen and has been answered.
    let ticks = |app: &mut App| -> Vec<Effect> {
        (0..10)
            .flat_map(|_| app.update(Event::Tick(vec![])))
            .collect()
    };
    assert_eq!(ticks(&mut app), [Effect::Swarm]);
    app.update(Event::Swarm(Err("nobody answers".into())));
    let text = screen(&app, 80, 24);
    assert!(text.contains("failed: nobody answers") && text.contains("swarm film"));

    // They are below the menu's own.
    press(&mut app, KeyCode::Char('1'));
    press(&mut app, KeyCode::Char('g'));
    press(&mut app, KeyCode::Enter);
    press(&mut app, KeyCode::Char('5'));
    press(&mut app, KeyCode::End);
    assert!(press(&mut app, KeyCode::Char('c')).is_empty());
    assert!(screen(&app, 80, 24).contains("Give up fetching song"));
    press(&mut app, KeyCode::Char('n'));
    press(&mut app, KeyCode::Char('c'));
    let effects = press(&mut app, KeyCode::Char('y'));
    assert_eq!(
        effects,
        [Effect::GiveUp {
            name: "song".into()
        }]
    );
    app.update(Event::Changed(Ok("song is not fetched any more".into())));
    answer(&mut app, &both[..1]);
    assert_eq!(app.transfers.selected, 1, "the bar stays on a row");
    assert!(!screen(&app, 80, 24).contains("swarm song"));
    // Nobody is asked whether to leave for what goes on without the menu.
    answer(&mut app, &[]);
    press(&mut app, KeyCode::Home);
    assert!(matches!(
        &press(&mut app, KeyCode::Char('c'))[..],
        [Effect::Cancel { .. }]
    ));
    answer(&mut app, &both);
    assert_eq!(press(&mut app, KeyCode::Char('q')), [Effect::Quit]);
}

#[test]
fn control_c_leaves_at_once_even_from_a_question() {
    let mut app = with_files(&["a"]);
    press(&mut app, KeyCode::Char('d'));
    let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(
        app.update(Event::Terminal(Terminal::Key(key))),
        [Effect::Quit]
    );
}

#[test]
fn every_pane_fits_every_size_and_no_name_reaches_the_terminal_raw() {
    let (mut app, effects) = App::new();
    list(
        &mut app,
        &effects[0],
        &["a\u{1b}[2Jb", "ä".repeat(400).as_str()],
        "",
    );
    look(&mut app);
    for pane in ['1', '2', '3', '4', '5', '?'] {
        app.prompt = None;
        press(&mut app, KeyCode::Char(pane));
        for (width, height) in [(1, 1), (49, 12), (50, 12), (80, 24), (300, 90)] {
            let text = screen(&app, width, height);
            assert!(!text.contains('\u{1b}'), "pane {pane}, {width}x{height}");
        }
    }
    assert!(screen(&app, 49, 24).contains("The menu needs"));
}
