//! Shared files on their way to the peer that the menu talks to. They are that peer's fetches, whoever began them, not the
//! menu's: they are asked for while somebody looks, go on when the menu is left, and end only on a yes.

use crate::menu::transfers::Meter;

/// Ticks between two questions while they are on the screen: 1 s.
const ASK_EVERY: u32 = 4;

/// One of them.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Fetch {
    pub(crate) name: String,
    pub(crate) meter: Meter,
}

/// What a peer fetches, in the order of names.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Fetches {
    /// Which peer says so.
    pub(crate) peer: String,
    pub(crate) all: Vec<Fetch>,
}

/// What is known of them.
#[derive(Default)]
pub(super) struct Swarm {
    pub(super) fetches: Fetches,
    asking: bool,
    since: u32,
}

impl Swarm {
    /// Whether to ask now, unless that is under way.
    pub(super) fn ask(&mut self) -> bool {
        self.since = 0;
        !std::mem::replace(&mut self.asking, true)
    }

    /// Some time has passed; whether to ask again.
    pub(super) fn tick(&mut self) -> bool {
        self.since += 1;
        self.since >= ASK_EVERY && self.ask()
    }

    /// The answer, if there is one.
    pub(super) fn answer(&mut self, fetches: Option<Fetches>) {
        self.asking = false;
        if let Some(fetches) = fetches {
            self.fetches = fetches;
        }
    }
}
