//! `peernet recover --accept-loss`: the way out when a majority of some slots' copies is gone for good. First the runner
//! says what it costs; only after a yes is it done.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use thiserror::Error;

use crate::args::{Global, Recover};
use crate::exit::Exit;
use crate::output;
use crate::runner::control::{Event, Loss, Request};
use crate::scale::{ScaleError, Talk, find};

/// Why nothing was given up.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// The runner was not found, or refused.
    #[error(transparent)]
    Scale(#[from] ScaleError),
    /// Nobody can be asked.
    #[error("this loses data for good; to go ahead without a terminal to ask on, add --yes")]
    Unasked,
    /// The answer cannot be read.
    #[error("the answer cannot be read: {0}")]
    Answer(#[source] io::Error),
}

impl RecoverError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            RecoverError::Scale(error) => error.exit(),
            RecoverError::Unasked => Exit::Usage,
            RecoverError::Answer(_) => Exit::Permanent,
        }
    }
}

/// Says what giving up costs, asks, and does it.
pub async fn run(global: &Global, recover: Recover) -> Result<ExitCode, RecoverError> {
    let Recover {
        peers,
        accept_loss: _,
        yes,
        dir,
    } = recover;
    let ask = async |peers: Vec<String>, accepted: bool| {
        let named = if peers.is_empty() {
            "PEER,...".to_owned()
        } else {
            peers.join(",")
        };
        let instead = format!("kubectl annotate pn/NAME peernet.dev/recover-accept-loss={named}");
        let stream = find(dir.as_deref(), instead).await?;
        let mut talk = Talk::begin(stream, &Request::Recover { peers, accepted }).await?;
        loop {
            match talk.next().await? {
                Event::Loss(loss) => return Ok(loss),
                Event::Refused { reason } => return Err(ScaleError::Refused(reason)),
                Event::Stopping => return Err(ScaleError::Stopped),
                _ => {}
            }
        }
    };
    let cost = ask(peers, false).await?;
    if !yes && !agreed(&cost, global.common.no_input)? {
        // The exit code says it too.
        let _ = writeln!(io::stderr(), "nothing was given up");
        return Ok(ExitCode::from(Exit::Permanent as u8));
    }
    // Exactly those that were shown.
    let lost = ask(cost.peers, true).await?;
    let printed = global
        .common
        .output
        .document(&lost)
        .map_err(ScaleError::Print)?;
    if !printed {
        output::print(&outcome(&lost)).map_err(ScaleError::Print)?;
    }
    Ok(code(&lost))
}

/// Whether it is done everywhere: who has not heard of it may still wait for those that were given up.
fn code(lost: &Loss) -> ExitCode {
    if lost.not_heard.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Exit::Retryable as u8)
    }
}

fn outcome(lost: &Loss) -> String {
    let text = format!("given up for good: {}\n", sentence(lost));
    if lost.not_heard.is_empty() {
        return text;
    }
    format!(
        "{text}not heard by all: {}; to tell them again: peernet recover --accept-loss {}\n",
        lost.not_heard.join("; "),
        // Without names it would find nobody: they are given up.
        lost.peers.join(" ")
    )
}

fn agreed(cost: &Loss, no_input: bool) -> Result<bool, RecoverError> {
    if no_input || !io::stdin().is_terminal() {
        return Err(RecoverError::Unasked);
    }
    // A closed standard error shows in the answer.
    let _ = write!(
        io::stderr(),
        "This gives up for good: {}. Type yes to do it: ",
        sentence(cost)
    );
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(RecoverError::Answer)?;
    Ok(answer.trim() == "yes")
}

fn sentence(loss: &Loss) -> String {
    let Loss {
        peers,
        slots_lost,
        slots_partial,
        not_heard: _,
    } = loss;
    format!(
        "{}; {} lost what only they held ({}), {} lost everything ({})",
        peers.join(", "),
        output::counted(slots_partial.len() as u64, "slot"),
        ranges(slots_partial),
        output::counted(slots_lost.len() as u64, "slot"),
        ranges(slots_lost)
    )
}

/// Ascending numbers with runs drawn together: 1-3, 7.
fn ranges(slots: &[u16]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for slot in slots {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *slot => *last = *slot,
            _ => runs.push((*slot, *slot)),
        }
    }
    let run = |(first, last): &(u16, u16)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    if runs.is_empty() {
        return "none".into();
    }
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_slots_are_drawn_together() {
        assert_eq!(ranges(&[]), "none");
        assert_eq!(ranges(&[7]), "7");
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1-3, 7, 9-10");
    }

    #[test]
    fn the_loss_is_exact() {
        let loss = Loss {
            peers: vec!["demo-1".into(), "demo-2".into()],
            slots_lost: vec![5],
            slots_partial: vec![1, 2],
            not_heard: vec![],
        };
        assert_eq!(
            sentence(&loss),
            "demo-1, demo-2; 2 slots lost what only they held (1-2), 1 slot lost everything (5)"
        );
    }

    #[test]
    fn who_has_not_heard_of_it_is_named_and_no_success() {
        let mut loss = Loss {
            peers: vec!["demo-1".into(), "demo-2".into()],
            slots_lost: vec![],
            slots_partial: vec![],
            not_heard: vec![],
        };
        assert_eq!(code(&loss), ExitCode::SUCCESS);
        assert!(!outcome(&loss).contains("not heard"));
        loss.not_heard = vec!["demo-3 does not answer".into()];
        assert_eq!(code(&loss), ExitCode::from(5));
        let said = outcome(&loss);
        assert!(
            said.contains("not heard by all: demo-3 does not answer"),
            "{said}"
        );
        let again = "peernet recover --accept-loss demo-1 demo-2\n";
        assert!(said.ends_with(again), "{said}");
    }
}
