//! What the menu knows and does: an event in, effects out. Neither clock nor network nor terminal is touched here.

use crossterm::event::{Event as Terminal, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::menu::listing::{Listing, Page, step};
use crate::menu::prompt::{Answer, Prompt, Question};
use crate::menu::swarm::{Fetches, Swarm};
use crate::menu::transfers::{Meter, Stage, Transfers, UNDER_WAY, Way};
use crate::names::File;
use crate::status::picture::Picture;
use crate::status::verdict::Verdict;

/// Ticks between two looks at the peers while they are on the screen: 2 s.
const LOOK_EVERY: u32 = 8;
/// Rows that a page key moves by.
const PAGE: isize = 10;

/// What can be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pane {
    Files,
    Search,
    Peers,
    Ring,
    Transfers,
}

impl Pane {
    pub(super) const ALL: [Pane; 5] = [
        Pane::Files,
        Pane::Search,
        Pane::Peers,
        Pane::Ring,
        Pane::Transfers,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Pane::Files => "Files",
            Pane::Search => "Search",
            Pane::Peers => "Peers",
            Pane::Ring => "Ring",
            Pane::Transfers => "Transfers",
        }
    }

    fn other(self, by: usize) -> Self {
        Pane::ALL[(self as usize + by) % Pane::ALL.len()]
    }
}

/// A list of files on the screen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Which {
    All,
    Found,
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A key, a paste, a new size.
    Terminal(Terminal),
    /// Some time has passed; how far the transfers are.
    Tick(Vec<(u64, Meter)>),
    /// Names came, or why not.
    Listed {
        which: Which,
        ticket: u64,
        first: bool,
        page: Result<Page, String>,
    },
    /// The peers were asked.
    Looked(Result<Box<(Picture, Verdict)>, String>),
    /// The asked peer said what it fetches, or why not.
    Swarm(Result<Fetches, String>),
    /// A name was changed: what was done, or why not.
    Changed(Result<String, String>),
    /// A transfer ended: as what or where, or why not.
    Moved {
        id: u64,
        outcome: Result<String, String>,
    },
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    List {
        which: Which,
        ticket: u64,
        prefix: String,
        after: String,
    },
    Look,
    /// Ask for the peer's fetches.
    Swarm,
    /// End one of them.
    GiveUp {
        name: String,
    },
    Remove {
        name: String,
    },
    Rename {
        name: String,
        to: String,
    },
    Pin {
        name: String,
        pinned: bool,
    },
    Put {
        id: u64,
        path: String,
        name: String,
    },
    Get {
        id: u64,
        name: String,
        path: String,
    },
    Cancel {
        id: u64,
    },
    Quit,
}

/// How the last action went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    Busy(String),
    Done(String),
    Failed(String),
}

/// All that is known.
pub(super) struct App {
    pub(super) pane: Pane,
    pub(super) files: Listing,
    pub(super) found: Listing,
    /// The last look at the peers.
    pub(super) network: Option<(Picture, Verdict)>,
    pub(super) peer: usize,
    pub(super) transfers: Transfers,
    pub(super) swarm: Swarm,
    pub(super) prompt: Option<Prompt>,
    pub(super) message: Message,
    pub(super) help: bool,
    /// Of the next question or transfer.
    number: u64,
    looking: bool,
    since_look: u32,
}

impl App {
    /// The first screen, and what fills it.
    pub(super) fn new() -> (Self, Vec<Effect>) {
        let mut app = App {
            pane: Pane::Files,
            files: Listing::default(),
            found: Listing::default(),
            network: None,
            peer: 0,
            transfers: Transfers::default(),
            swarm: Swarm::default(),
            prompt: None,
            message: Message::Busy("listing files".into()),
            help: false,
            number: 0,
            looking: false,
            since_look: 0,
        };
        let mut effects = app.list(Which::All);
        effects.extend(app.look());
        (app, effects)
    }

    /// Takes one event.
    pub(super) fn update(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Terminal(Terminal::Key(key)) if key.kind != KeyEventKind::Release => {
                self.key(key)
            }
            Event::Terminal(Terminal::Paste(text)) => {
                if let Some(prompt) = &mut self.prompt {
                    prompt.paste(&text);
                }
                vec![]
            }
            // A new size shows at the next drawing.
            Event::Terminal(_) => vec![],
            Event::Tick(meters) => self.tick(&meters),
            Event::Listed {
                which,
                ticket,
                first,
                page,
            } => self.listed(which, ticket, first, page),
            Event::Looked(looked) => self.looked(looked),
            Event::Swarm(answer) => self.swarming(answer),
            Event::Changed(outcome) => self.changed(outcome),
            Event::Moved { id, outcome } => self.moved(id, outcome),
        }
    }

    /// The files that are on the screen.
    pub(super) fn listing(&self) -> Option<&Listing> {
        match self.pane {
            Pane::Files => Some(&self.files),
            Pane::Search => Some(&self.found),
            Pane::Peers | Pane::Ring | Pane::Transfers => None,
        }
    }

    /// The lists of peers know this one under the bar.
    pub(super) fn peers(&self) -> usize {
        self.network
            .as_ref()
            .map_or(0, |(picture, _)| picture.peers.len())
    }

    fn key(&mut self, key: KeyEvent) -> Vec<Effect> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return vec![Effect::Quit];
        }
        if std::mem::take(&mut self.help) {
            return vec![];
        }
        if let Some(mut prompt) = self.prompt.take() {
            match prompt.key(key) {
                Answer::Open => self.prompt = Some(prompt),
                Answer::No => self.message = Message::Done("nothing was done".into()),
                Answer::Yes => return self.answered(prompt),
            }
            return vec![];
        }
        self.command(key.code)
    }

    fn command(&mut self, key: KeyCode) -> Vec<Effect> {
        match key {
            KeyCode::Char('q') => return self.quit(),
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char(digit @ '1'..='5') => {
                return self.open(Pane::ALL[digit as usize - '1' as usize]);
            }
            KeyCode::Tab | KeyCode::Right => return self.open(self.pane.other(1)),
            KeyCode::BackTab | KeyCode::Left => {
                return self.open(self.pane.other(Pane::ALL.len() - 1));
            }
            KeyCode::Up | KeyCode::Char('k') => return self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => return self.step(1),
            KeyCode::PageUp => return self.step(-PAGE),
            KeyCode::PageDown => return self.step(PAGE),
            KeyCode::Home => return self.step(isize::MIN),
            KeyCode::End => return self.step(isize::MAX),
            KeyCode::Char('r') => return self.refresh(),
            KeyCode::Char('p') => self.prompt = Some(Prompt::new(Question::PutPath, "")),
            KeyCode::Char('/') => {
                self.pane = Pane::Search;
                self.prompt = Some(Prompt::new(Question::Prefix, &*self.found.prefix));
            }
            KeyCode::Char('g') | KeyCode::Enter => self.ask_about_file(|file| {
                let last = file.name.rsplit('/').next().unwrap_or_default();
                Prompt::new(
                    Question::GetPath {
                        name: file.name.clone(),
                    },
                    last,
                )
            }),
            KeyCode::Char('d') | KeyCode::Delete => self.ask_about_file(|file| {
                Prompt::new(
                    Question::Remove {
                        name: file.name.clone(),
                    },
                    "",
                )
            }),
            KeyCode::Char('m') => self.ask_about_file(|file| {
                let name = file.name.clone();
                Prompt::new(Question::NewName { name }, &*file.name)
            }),
            KeyCode::Char('P') => return self.pin(),
            KeyCode::Char('c') if self.pane == Pane::Transfers => return self.cancel(),
            _ => {}
        }
        vec![]
    }

    fn quit(&mut self) -> Vec<Effect> {
        match self.transfers.running() {
            0 => vec![Effect::Quit],
            transfers => {
                self.prompt = Some(Prompt::new(Question::Quit { transfers }, ""));
                vec![]
            }
        }
    }

    fn open(&mut self, pane: Pane) -> Vec<Effect> {
        self.pane = pane;
        match pane {
            Pane::Search if !self.found.known => {
                self.prompt = Some(Prompt::new(Question::Prefix, ""));
                vec![]
            }
            Pane::Peers | Pane::Ring => self.look(),
            Pane::Transfers => self.ask_swarm(),
            Pane::Files | Pane::Search => vec![],
        }
    }

    fn step(&mut self, by: isize) -> Vec<Effect> {
        let (which, listing) = match self.pane {
            Pane::Files => (Which::All, &mut self.files),
            Pane::Search => (Which::Found, &mut self.found),
            Pane::Peers | Pane::Ring => {
                self.peer = step(self.peer, by, self.peers());
                return vec![];
            }
            Pane::Transfers => {
                let rows = self.transfers.all.len() + self.swarm.fetches.all.len();
                self.transfers.selected = step(self.transfers.selected, by, rows);
                return vec![];
            }
        };
        listing.step(by);
        self.number += 1;
        let ticket = self.number;
        let more = listing.wants_more(ticket);
        more.map(|after| Effect::List {
            which,
            ticket,
            prefix: listing.prefix.clone(),
            after,
        })
        .into_iter()
        .collect()
    }

    fn refresh(&mut self) -> Vec<Effect> {
        match self.pane {
            Pane::Files => {
                self.message = Message::Busy("listing files".into());
                self.list(Which::All)
            }
            Pane::Search if self.found.known => self.search(self.found.prefix.clone()),
            Pane::Peers | Pane::Ring => {
                self.message = Message::Busy("asking every peer".into());
                self.look()
            }
            Pane::Transfers => {
                self.message = Message::Busy("asking what the peer fetches".into());
                self.ask_swarm()
            }
            Pane::Search => vec![],
        }
    }

    /// Pins the chosen file, or unpins it. Either is taken back by the same key, so nobody is asked.
    fn pin(&mut self) -> Vec<Effect> {
        let Some(file) = self.chosen() else {
            return vec![];
        };
        let (name, pinned) = (file.name.clone(), !file.pinned);
        let doing = if pinned { "pinning" } else { "unpinning" };
        self.message = Message::Busy(format!("{doing} {name}"));
        vec![Effect::Pin { name, pinned }]
    }

    fn ask_about_file(&mut self, question: impl Fn(&File) -> Prompt) {
        self.prompt = self.chosen().map(|file| question(&file));
    }

    /// The file under the bar; the message says why there is none.
    fn chosen(&mut self) -> Option<File> {
        let none = match self.listing().map(Listing::chosen) {
            Some(Some(file)) => return Some(file.clone()),
            Some(None) => "no file is chosen: none is listed here",
            None => "choose a file first: 1 lists them, / looks for some",
        };
        self.message = Message::Failed(none.into());
        None
    }

    fn answered(&mut self, prompt: Prompt) -> Vec<Effect> {
        let Prompt { question, text } = prompt;
        let empty = text.is_empty();
        match question {
            Question::PutPath
            | Question::PutName { .. }
            | Question::GetPath { .. }
            | Question::NewName { .. }
                if empty =>
            {
                self.message = Message::Failed("nothing was typed, so nothing was done".into());
                vec![]
            }
            Question::PutPath => {
                let own = text
                    .trim_end_matches('/')
                    .rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                self.prompt = Some(Prompt::new(Question::PutName { path: text }, own));
                vec![]
            }
            Question::PutName { path } => self.begin(Way::Put, text, path),
            Question::GetPath { name } => self.begin(Way::Get, name, text),
            Question::Prefix => self.search(text),
            Question::Remove { name } => {
                self.message = Message::Busy(format!("removing {name}"));
                vec![Effect::Remove { name }]
            }
            Question::GiveUp { name } => {
                self.message = Message::Busy(format!("giving up {name}"));
                vec![Effect::GiveUp { name }]
            }
            Question::NewName { name } => {
                self.message = Message::Busy(format!("renaming {name}"));
                vec![Effect::Rename { name, to: text }]
            }
            Question::Quit { .. } => vec![Effect::Quit],
        }
    }

    fn begin(&mut self, way: Way, name: String, path: String) -> Vec<Effect> {
        self.number += 1;
        let id = self.number;
        if !self.transfers.begin(id, way, &name) {
            self.message = Message::Failed(format!(
                "{UNDER_WAY} transfers are under way; try again when one has ended, or cancel one (5, then c)"
            ));
            return vec![];
        }
        match way {
            Way::Put => {
                self.message = Message::Busy(format!("storing {name}"));
                vec![Effect::Put { id, path, name }]
            }
            Way::Get => {
                self.message = Message::Busy(format!("fetching {name}"));
                vec![Effect::Get { id, name, path }]
            }
        }
    }

    fn cancel(&mut self) -> Vec<Effect> {
        let Transfers { all, selected } = &self.transfers;
        let Some(id) = all.get(*selected).map(|t| t.id) else {
            // Below the menu's own transfers are the peer's fetches.
            let fetch = self.swarm.fetches.all.get(selected - all.len());
            let question = fetch.map(|fetch| Question::GiveUp {
                name: fetch.name.clone(),
            });
            self.prompt = question.map(|question| Prompt::new(question, ""));
            return vec![];
        };
        let Some(cancelled) = self.transfers.end(id, Stage::Cancelled) else {
            return vec![];
        };
        self.message = Message::Done(format!("{} is cancelled, nothing was kept", cancelled.name));
        vec![Effect::Cancel { id }]
    }

    fn search(&mut self, prefix: String) -> Vec<Effect> {
        self.pane = Pane::Search;
        self.message = Message::Busy(format!("looking for names that begin with '{prefix}'"));
        if prefix != self.found.prefix {
            self.found = Listing::of(prefix);
        }
        self.list(Which::Found)
    }

    fn list(&mut self, which: Which) -> Vec<Effect> {
        self.number += 1;
        let ticket = self.number;
        let listing = match which {
            Which::All => &mut self.files,
            Which::Found => &mut self.found,
        };
        listing.ask(ticket);
        vec![Effect::List {
            which,
            ticket,
            prefix: listing.prefix.clone(),
            after: String::new(),
        }]
    }

    /// Asks the peers, unless they are being asked.
    fn look(&mut self) -> Vec<Effect> {
        self.since_look = 0;
        if std::mem::replace(&mut self.looking, true) {
            vec![]
        } else {
            vec![Effect::Look]
        }
    }

    fn tick(&mut self, meters: &[(u64, Meter)]) -> Vec<Effect> {
        self.transfers.measure(meters);
        self.since_look += 1;
        if self.pane == Pane::Transfers && self.swarm.tick() {
            return vec![Effect::Swarm];
        }
        let shown = matches!(self.pane, Pane::Peers | Pane::Ring);
        if shown && self.since_look >= LOOK_EVERY {
            self.look()
        } else {
            vec![]
        }
    }

    fn listed(
        &mut self,
        which: Which,
        ticket: u64,
        first: bool,
        page: Result<Page, String>,
    ) -> Vec<Effect> {
        let listing = match which {
            Which::All => &mut self.files,
            Which::Found => &mut self.found,
        };
        let failure = page.as_ref().err().cloned();
        if !listing.answer(ticket, first, page.ok()) {
            return vec![];
        }
        let waiting = matches!(&self.message, Message::Busy(what) if what.starts_with("l"));
        let more = if listing.more() {
            " and more below"
        } else {
            ""
        };
        let count = listing.files.len() as u64;
        match failure {
            Some(reason) => self.message = Message::Failed(reason),
            None if waiting => {
                let files = crate::output::counted(count, "file");
                self.message = Message::Done(format!("{files}{more}"));
            }
            None => {}
        }
        vec![]
    }

    fn looked(&mut self, looked: Result<Box<(Picture, Verdict)>, String>) -> Vec<Effect> {
        self.looking = false;
        let waiting = matches!(&self.message, Message::Busy(what) if what.starts_with("asking"));
        match looked {
            Ok(looked) => {
                if waiting {
                    self.message = Message::Done("the peers were asked".into());
                }
                self.network = Some(*looked);
                self.peer = step(self.peer, 0, self.peers());
            }
            Err(reason) => self.message = Message::Failed(reason),
        }
        vec![]
    }

    fn ask_swarm(&mut self) -> Vec<Effect> {
        match self.swarm.ask() {
            true => vec![Effect::Swarm],
            false => vec![],
        }
    }

    fn swarming(&mut self, answer: Result<Fetches, String>) -> Vec<Effect> {
        let waiting = matches!(&self.message, Message::Busy(what) if what.starts_with("asking"));
        match &answer {
            Ok(_) if waiting => self.message = Message::Done("the peer was asked".into()),
            Ok(_) => {}
            Err(reason) => self.message = Message::Failed(reason.clone()),
        }
        self.swarm.answer(answer.ok());
        let rows = self.transfers.all.len() + self.swarm.fetches.all.len();
        self.transfers.selected = step(self.transfers.selected, 0, rows);
        vec![]
    }

    /// Lists again after a failure too: a rename may have done its first half.
    fn changed(&mut self, outcome: Result<String, String>) -> Vec<Effect> {
        self.message = match outcome {
            Ok(done) => Message::Done(done),
            Err(reason) => Message::Failed(reason),
        };
        self.list_again()
    }

    fn moved(&mut self, id: u64, outcome: Result<String, String>) -> Vec<Effect> {
        let stage = match &outcome {
            Ok(place) => Stage::Done(place.clone()),
            Err(reason) => Stage::Failed(reason.clone()),
        };
        let Some(transfer) = self.transfers.end(id, stage) else {
            return vec![];
        };
        let (way, name) = (transfer.way, &transfer.name);
        self.message = match (way, outcome) {
            (Way::Put, Ok(stored)) => Message::Done(format!("stored {stored}")),
            (Way::Get, Ok(path)) => Message::Done(format!("wrote {name} to {path}")),
            (Way::Put, Err(reason)) => Message::Failed(format!("{name} was not stored: {reason}")),
            (Way::Get, Err(reason)) => Message::Failed(format!("{name} was not fetched: {reason}")),
        };
        if way == Way::Put {
            self.list_again()
        } else {
            vec![]
        }
    }

    fn list_again(&mut self) -> Vec<Effect> {
        let mut effects = self.list(Which::All);
        if self.found.known {
            effects.extend(self.list(Which::Found));
        }
        effects
    }
}
