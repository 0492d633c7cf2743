//! Files on the screen: those with one prefix, page after page as somebody scrolls down to them.

use crate::names::File;

/// Most names kept: what a person may scroll through. Guess; whoever wants more narrows the prefix.
pub(super) const MOST: usize = 10_000;

/// Part of a listing, as it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) files: Vec<File>,
    /// The name to go on after; empty at the end.
    pub(crate) next: String,
}

/// What is shown of it.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) prefix: String,
    pub(super) files: Vec<File>,
    pub(super) selected: usize,
    /// Where the next page begins; empty when this is all.
    next: String,
    /// The question that is not answered yet; answers to earlier ones are stale.
    asked: Option<u64>,
    /// It was answered at least once.
    pub(super) known: bool,
}

impl Listing {
    /// Nothing yet of the names with this prefix.
    pub(super) fn of(prefix: String) -> Self {
        Listing {
            prefix,
            ..Listing::default()
        }
    }

    /// Asks from the beginning, as question number `ticket`.
    pub(super) fn ask(&mut self, ticket: u64) {
        self.asked = Some(ticket);
        self.next.clear();
    }

    /// The name after which the next page is wanted, when the selection has come near the end of what is known.
    pub(super) fn wants_more(&mut self, ticket: u64) -> Option<String> {
        let near = self.selected + 50 >= self.files.len();
        let wanted = near && self.more() && self.asked.is_none() && self.files.len() < MOST;
        wanted.then(|| {
            self.asked = Some(ticket);
            self.next.clone()
        })
    }

    /// More names follow.
    pub(super) fn more(&self) -> bool {
        !self.next.is_empty()
    }

    /// Takes an answer; false when it answers a question that nobody asks any more. `first`: it begins anew.
    pub(super) fn answer(&mut self, ticket: u64, first: bool, page: Option<Page>) -> bool {
        if self.asked != Some(ticket) {
            return false;
        }
        self.asked = None;
        let Some(Page { files, next }) = page else {
            return true;
        };
        let chosen = self.chosen().map(|f| f.name.clone());
        if first {
            self.files = files;
        } else {
            self.files.extend(files);
        }
        self.files.truncate(MOST);
        self.next = next;
        self.known = true;
        // What was chosen stays chosen although others came or went before it.
        let place = chosen.map(|name| {
            let found = self.files.binary_search_by(|f| f.name.cmp(&name));
            found.unwrap_or_else(|place| place)
        });
        self.selected = place.unwrap_or(0);
        self.step(0);
        true
    }

    /// The file under the bar.
    pub(super) fn chosen(&self) -> Option<&File> {
        self.files.get(self.selected)
    }

    /// Moves the bar.
    pub(super) fn step(&mut self, by: isize) {
        self.selected = step(self.selected, by, self.files.len());
    }
}

/// A place among `count` ones, so many further, without leaving them.
pub(super) fn step(place: usize, by: isize, count: usize) -> usize {
    place.saturating_add_signed(by).min(count.saturating_sub(1))
}
