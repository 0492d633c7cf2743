//! The client's settings: one file, then the environment (or `.env`), then flags; and `peernet config`, which tells what
//! is in force. How sources are read and laid over one another is [`peernet_node::config::sources`].

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};
use peernet_node::config::sources::{Setting, SourceError, Sources, named};
use thiserror::Error;

use crate::exit::Exit;
use crate::output::{self, Format};

/// Names the file.
pub(crate) const VARIABLE: &str = "PEERNET_CONFIG";

/// Why there are no settings.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file, or `.env`.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The result could not be printed.
    #[error("the result cannot be printed: {0}")]
    Print(#[from] io::Error),
}

impl SettingsError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            SettingsError::Source(SourceError::Unreadable { .. }) => Exit::NotFound,
            SettingsError::Source(_) => Exit::Usage,
            SettingsError::Print(_) => Exit::Permanent,
        }
    }
}

/// A command line with all its sources.
pub(crate) struct Line<T> {
    /// What is to be done.
    pub(crate) args: T,
    /// Every setting, and where it comes from.
    pub(crate) settings: Vec<Setting>,
}

/// Parses the process's arguments over its other sources. Wrong usage and `--help` end the process, as clap has it.
pub(crate) fn line<T: CommandFactory + FromArgMatches>() -> Result<Line<T>, SettingsError> {
    let sources = if env::args_os().nth(1).is_some_and(|a| a == "peer") {
        // A peer's runner decides, and nobody else.
        Sources::default()
    } else {
        let given = named(env::args_os(), VARIABLE);
        Sources::read(
            &T::command(),
            given.or_else(usual).as_deref(),
            Path::new(".env"),
        )?
    };
    let command = sources.under(T::command());
    match parse(command.clone(), env::args_os()) {
        Ok((args, matches)) => Ok(Line {
            args,
            settings: sources.in_force(&command, &matches),
        }),
        Err(error) => {
            let _ = error.print();
            if let Some(origin) = sources.blame(&error) {
                // The exit code tells when nobody reads it.
                let _ = writeln!(io::stderr(), "\nThe value is from {origin}.");
            }
            std::process::exit(error.exit_code())
        }
    }
}

fn parse<T: FromArgMatches>(
    command: Command,
    args: impl Iterator<Item = OsString>,
) -> Result<(T, ArgMatches), clap::Error> {
    let matches = command.try_get_matches_from(args)?;
    Ok((T::from_arg_matches(&matches)?, matches))
}

/// `$XDG_CONFIG_HOME/peernet/config.yaml`, or `~/.config/peernet/config.yaml`, if it is there.
fn usual() -> Option<PathBuf> {
    let set = |variable| {
        env::var_os(variable)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let home = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(home.join("peernet/config.yaml")).filter(|path| path.is_file())
}

/// Prints what is in force.
pub(crate) fn print(settings: &[Setting], output: Format) -> Result<ExitCode, SettingsError> {
    if !output.document(&settings)? {
        let rows = settings.iter().map(|s| {
            let value = s.value.clone().unwrap_or("-".into());
            vec![s.setting.clone(), value, s.origin.to_string()]
        });
        output::print(&output::table(&["SETTING", "VALUE", "FROM"], rows))?;
    }
    Ok(ExitCode::SUCCESS)
}
