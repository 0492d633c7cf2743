//! A question on the last line but one: a line to be edited, or yes and no.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Longest answer, in bytes: a path of the system (4,096) is.
const LONGEST: usize = 4096;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Question {
    /// Which local file to store.
    PutPath,
    /// Under which name.
    PutName {
        /// The local file.
        path: String,
    },
    /// Where to write the file of that name.
    GetPath {
        /// In the network.
        name: String,
    },
    /// Which names to look for.
    Prefix,
    /// Whether to remove the file of that name.
    Remove {
        /// In the network.
        name: String,
    },
    /// Whether the peer is to give up fetching the shared file of that name.
    GiveUp {
        /// Under which the peer would share it.
        name: String,
    },
    /// What to call the file of that name.
    NewName {
        /// In the network.
        name: String,
    },
    /// Whether to give up transfers under way.
    Quit {
        /// How many.
        transfers: usize,
    },
}

/// A question and what was typed so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Prompt {
    pub(super) question: Question,
    pub(super) text: String,
}

/// What a key did to it.
pub(super) enum Answer {
    /// Still asking.
    Open,
    /// Taken back.
    No,
    /// The text, or yes.
    Yes,
}

impl Prompt {
    pub(super) fn new(question: Question, text: impl Into<String>) -> Self {
        let text = text.into();
        Prompt { question, text }
    }

    /// Whether a single key answers it.
    fn is_choice(&self) -> bool {
        matches!(
            self.question,
            Question::Remove { .. } | Question::GiveUp { .. } | Question::Quit { .. }
        )
    }

    /// The question in words.
    pub(super) fn words(&self) -> String {
        match &self.question {
            Question::PutPath => "Local file to store: ".into(),
            Question::PutName { .. } => "Store as (end with / for a folder): ".into(),
            Question::GetPath { name } => format!("Write {name} to: "),
            Question::Prefix => "Names that begin with: ".into(),
            Question::Remove { name } => format!("Remove {name} from the network for good? y/n "),
            Question::GiveUp { name } => {
                format!("Give up fetching {name}, and drop what the peer has of it? y/n ")
            }
            Question::NewName { name } => format!("Rename {name} to: "),
            Question::Quit { transfers: 1 } => "Give up 1 transfer and leave? y/n ".into(),
            Question::Quit { transfers } => {
                format!("Give up {transfers} transfers and leave? y/n ")
            }
        }
    }

    /// Takes one key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Answer {
        if self.is_choice() {
            return match key.code {
                KeyCode::Char('y' | 'Y') => Answer::Yes,
                KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => Answer::No,
                _ => Answer::Open,
            };
        }
        match key.code {
            KeyCode::Enter => return Answer::Yes,
            KeyCode::Esc => return Answer::No,
            KeyCode::Backspace => drop(self.text.pop()),
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                self.text.clear()
            }
            KeyCode::Char(c)
                if !key
                    .modifiers
                    .intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) =>
            {
                self.insert(c);
            }
            _ => {}
        }
        Answer::Open
    }

    /// Takes what was pasted.
    pub(super) fn paste(&mut self, text: &str) {
        if !self.is_choice() {
            text.chars().for_each(|c| self.insert(c));
        }
    }

    fn insert(&mut self, c: char) {
        if !c.is_control() && self.text.len() + c.len_utf8() <= LONGEST {
            self.text.push(c);
        }
    }
}
