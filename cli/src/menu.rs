//! `peernet menu`: the network on a full screen, with keys only.
//!
//! [`app`] is a state machine without input or output: an event goes in (a key, an answer, a tick), effects come out
//! (list, store, fetch, remove, look). [`view`] draws its state. [`work`] performs effects in the background, so that the
//! screen answers at once however slow the network is; what may run at a time is bounded in [`app`]. This file owns the
//! terminal and joins the three.

use std::io::{self, IsTerminal};
use std::time::Duration;

use crossterm::event::EventStream;
use futures::StreamExt;
use ratatui::DefaultTerminal;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::args::Global;
use crate::exit::Exit;
use crate::menu::app::{App, Effect, Event};
use crate::menu::work::Work;

mod app;
mod listing;
mod prompt;
mod swarm;
#[cfg(test)]
mod tests;
mod transfers;
mod view;
mod work;

/// How often figures of transfers are shown anew. Guess: often enough to look alive, seldom enough to cost nothing.
const TICK: Duration = Duration::from_millis(250);

/// Why there is no menu.
#[derive(Debug, Error)]
pub enum MenuError {
    /// Nobody could see it or press a key.
    #[error(
        "the menu needs a terminal; in a script use `peernet ls`, `put`, `get`, `rm` and `status`"
    )]
    NoTerminal,
    /// The terminal failed.
    #[error("the terminal failed: {0}")]
    Terminal(#[from] io::Error),
}

impl MenuError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            MenuError::NoTerminal => Exit::Usage,
            MenuError::Terminal(_) => Exit::Permanent,
        }
    }
}

/// Shows the menu until it is left. The terminal is given back as it was, after a panic too.
pub async fn run(global: &Global) -> Result<(), MenuError> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(MenuError::NoTerminal);
    }
    let work = Work::new(global.server.clone());
    let mut terminal = ratatui::try_init()?;
    // On one thread: keys, answers and drawing take turns, and none of them takes long.
    let shown = LocalSet::new().run_until(show(&mut terminal, work)).await;
    ratatui::restore();
    shown
}

async fn show(terminal: &mut DefaultTerminal, mut work: Work) -> Result<(), MenuError> {
    let mut keys = EventStream::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut app, first) = App::new();
    first.into_iter().for_each(|effect| work.perform(effect));
    loop {
        terminal.draw(|frame| view::draw(&app, frame))?;
        let event = tokio::select! {
            key = keys.next() => match key {
                Some(key) => Event::Terminal(key?),
                None => return Ok(()),
            },
            done = work.next() => done,
            _ = ticks.tick() => Event::Tick(work.meters()),
            _ = terminate.recv() => return Ok(()),
        };
        for effect in app.update(event) {
            match effect {
                Effect::Quit => return Ok(()),
                effect => work.perform(effect),
            }
        }
    }
}
