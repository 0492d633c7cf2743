//! `peernet completions` and `peernet man`: both come from the definition of the command line, so they cannot be stale.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Command, CommandFactory};
use thiserror::Error;

use crate::args::{Args, Completions, Man};
use crate::exit::Exit;
use crate::kubectl::{self, Plugin};
use crate::output;

/// Why nothing, or not all of it, was written.
#[derive(Debug, Error)]
pub enum ManualError {
    /// The directory or a file in it.
    #[error("the man pages cannot be written to '{}': {reason}; name another directory", .dir.display())]
    Write {
        /// Where.
        dir: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The result could not be printed.
    #[error("the result cannot be printed: {0}")]
    Print(#[from] io::Error),
}

impl ManualError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        Exit::Permanent
    }
}

/// Of the program as it was called.
fn definition() -> Command {
    if kubectl::is_called() {
        Plugin::command()
    } else {
        Args::command()
    }
}

/// Prints the completions of a shell.
pub fn completions(command: &Completions) -> Result<(), ManualError> {
    let mut script = Vec::new();
    // kubectl completes its plugins by itself, through an executable of another name.
    let mut definition = definition();
    let name = definition.get_name().to_owned();
    clap_complete::generate(command.shell, &mut definition, name, &mut script);
    output::raw(&String::from_utf8_lossy(&script))?;
    Ok(())
}

/// Writes one page for the program and one for each command that is not hidden.
pub fn pages(command: &Man) -> Result<(), ManualError> {
    let Man { dir } = command;
    let failed = |reason| ManualError::Write {
        dir: dir.clone(),
        reason,
    };
    fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(definition(), dir).map_err(failed)?;
    output::print(&format!("wrote the man pages to {}\n", dir.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        pages(&Man {
            dir: dir.path().join("man1"),
        })
        .unwrap();
        let page = |name: &str| fs::read_to_string(dir.path().join("man1").join(name));
        for command in Args::command().get_subcommands() {
            let name = format!("peernet-{}.1", command.get_name());
            match page(&name) {
                Ok(text) => assert!(
                    text.contains("SYNOPSIS") && !command.is_hide_set(),
                    "{name}"
                ),
                Err(_) => assert!(command.is_hide_set(), "{name} is missing"),
            }
        }
        assert!(page("peernet.1").unwrap().contains("Exit codes"));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = pages(&Man {
            dir: "/dev/null/man1".into(),
        })
        .unwrap_err();
        assert!(error.to_string().contains("/dev/null/man1"), "{error}");
        assert_eq!(error.exit(), Exit::Permanent);
    }
}
