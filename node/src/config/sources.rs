//! Where settings come from: one file, then the environment, then flags, the later winning.
//!
//! What can be set is what the command line defines: each flag that has an environment variable may also stand in the
//! file, under the flag's own name, or as that variable in `.env`. File and `.env` become the flags' defaults, so that
//! checks, help and precedence are clap's. `.env` is a stand-in for the environment: it wins over the file and loses
//! against a variable that is really set; what it holds for other programs is passed over, even when it makes no sense,
//! and never repeated. A default gives way to a flag it cannot stand beside. Secrets are not shown.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::builder::ArgPredicate;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde::{Serialize, Serializer};
use serde_yaml::{Mapping, Value};
use thiserror::Error;

/// Longest file, in bytes. Guess: a hundred times what all settings take.
const LONGEST: u64 = 64 * 1024;

/// Why a file is not taken. Each sentence names the file and what to change.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum SourceError {
    #[error("the configuration '{}' cannot be read: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: io::Error },
    #[error("the configuration '{}' is longer than {LONGEST} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("the configuration '{}' is not what it should be, a `setting: value` on each line: {reason}", .path.display())]
    Syntax {
        path: PathBuf,
        reason: serde_yaml::Error,
    },
    #[error("{origin}: there is no setting '{key}'; there are: {known}")]
    Unknown {
        origin: Origin,
        key: String,
        known: String,
    },
    #[error("{origin}: '{key}' needs one value, or a list of them")]
    NotAValue { origin: Origin, key: String },
    #[error("{}, line {line}: this is not a `VARIABLE=value` on one line; quote a value that has spaces", .path.display())]
    DotEnv { path: PathBuf, line: usize },
}

/// Where a value was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// In the file, on this line, counted from 1.
    File(PathBuf, usize),
    /// In `.env`, under this variable.
    DotEnv(PathBuf, String),
    /// In the environment, under this variable.
    Environment(String),
    /// On the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Origin::DotEnv(path, variable) => write!(f, "{variable} in {}", path.display()),
            Origin::Environment(variable) => write!(f, "{variable} in the environment"),
            Origin::Flag => f.write_str("command line"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One setting as it is in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Setting {
    /// The flag's name.
    pub setting: String,
    /// In the flag's own syntax; nothing when it is not set.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// What file and `.env` say, by flag.
#[derive(Debug, Default)]
pub struct Sources(BTreeMap<String, (String, Origin)>);

impl Sources {
    /// Reads what is there for the flags of `command`. A `file` has to exist; a `dot_env` need not.
    ///
    /// # Errors
    /// A file cannot be read, or says what no flag knows.
    pub fn read(
        command: &Command,
        file: Option<&Path>,
        dot_env: &Path,
    ) -> Result<Self, SourceError> {
        let mut sources = Sources::default();
        if let Some(path) = file {
            sources.take(command, path, &text(path)?)?;
        }
        if dot_env.is_file() {
            sources.take_dot_env(command, dot_env)?;
        }
        Ok(sources)
    }

    fn take(&mut self, command: &Command, path: &Path, text: &str) -> Result<(), SourceError> {
        let syntax = |reason| SourceError::Syntax {
            path: path.to_owned(),
            reason,
        };
        // An empty document, or one of comments alone, sets nothing.
        let found: Option<Mapping> = serde_yaml::from_str(text).map_err(syntax)?;
        for (key, value) in found.unwrap_or_default() {
            let key = plain(&key).unwrap_or_default();
            let origin = Origin::File(path.to_owned(), line_of(text, &key));
            if settable(command).all(|arg| arg.get_long() != Some(&key)) {
                let known: Vec<&str> = settable(command).filter_map(Arg::get_long).collect();
                return Err(SourceError::Unknown {
                    origin,
                    key,
                    known: known.join(", "),
                });
            }
            let value = match &value {
                Value::Sequence(all) => all
                    .iter()
                    .map(plain)
                    .collect::<Option<Vec<_>>>()
                    .map(|v| v.join(",")),
                one => plain(one),
            };
            match value {
                Some(value) => self.0.insert(key, (value, origin)),
                None => return Err(SourceError::NotAValue { origin, key }),
            };
        }
        Ok(())
    }

    fn take_dot_env(&mut self, command: &Command, path: &Path) -> Result<(), SourceError> {
        // Line by line, so that one that makes no sense spoils no other; together, because a value may refer to earlier ones.
        let mut sound = String::new();
        for (before, line) in text(path)?.lines().enumerate() {
            let line = format!("{line}\n");
            if dotenvy::from_read_iter(line.as_bytes()).all(|entry| entry.is_ok()) {
                sound += &line;
            } else if is_ours(&line) {
                return Err(SourceError::DotEnv {
                    path: path.to_owned(),
                    line: before + 1,
                });
            }
        }
        for (variable, value) in dotenvy::from_read_iter(sound.as_bytes()).filter_map(Result::ok) {
            let of_variable = |arg: &&Arg| arg.get_env().is_some_and(|e| *e == *variable);
            if let Some(key) = settable(command).find(of_variable).and_then(Arg::get_long) {
                let origin = Origin::DotEnv(path.to_owned(), variable);
                self.0.insert(key.to_owned(), (value, origin));
            }
        }
        Ok(())
    }

    /// The same command line with these values where neither a flag nor the environment says otherwise.
    pub fn under(&self, command: Command) -> Command {
        let known = command.clone();
        let rivals = rivals(&known);
        command.mut_args(|arg| {
            let Some((value, origin)) = arg.get_long().and_then(|key| self.0.get(key)) else {
                return arg;
            };
            let mine = rivals
                .iter()
                .filter(|(one, _)| one.get_id() == arg.get_id());
            let mine: Vec<&Arg> = mine.map(|(_, rival)| *rival).collect();
            let beats = |rival: &&Arg| {
                let theirs = rival.get_long().and_then(|key| self.0.get(key));
                let in_dot_env = matches!(theirs, Some((_, Origin::DotEnv(..))));
                in_dot_env && matches!(origin, Origin::File(..))
            };
            if mine.iter().any(beats) {
                return arg;
            }
            let hidden = arg.is_hide_default_value_set() || arg.is_hide_env_values_set();
            // What is given here is not missing on the command line.
            let arg = arg.required(false).default_value(value.clone());
            let arg = arg.hide_default_value(hidden);
            mine.into_iter().fold(arg, |arg, rival| {
                arg.default_value_if(rival.get_id().clone(), ArgPredicate::IsPresent, None)
            })
        })
    }

    /// Where the value that clap complains about was found, if not on the command line.
    pub fn blame(&self, error: &clap::Error) -> Option<&Origin> {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let flag = text(ContextKind::InvalidArg)?.split_whitespace().next()?;
        let (value, origin) = self.0.get(flag.trim_start_matches("--"))?;
        (Some(value.as_str()) == text(ContextKind::InvalidValue)).then_some(origin)
    }

    /// Every setting as it is in force.
    pub fn in_force(&self, command: &Command, matches: &ArgMatches) -> Vec<Setting> {
        let settings = settable(command).map(|arg| {
            let setting = arg.get_long().unwrap_or_default().to_owned();
            let raw = matches.get_raw(arg.get_id().as_str());
            let value = raw.map(|values| {
                if arg.is_hide_env_values_set() {
                    return "(secret)".to_owned();
                }
                values
                    .map(|v| v.to_string_lossy().into_owned())
                    .collect::<Vec<_>>()
                    .join(",")
            });
            let origin = match matches.value_source(arg.get_id().as_str()) {
                Some(ValueSource::CommandLine) => Origin::Flag,
                Some(ValueSource::EnvVariable) => Origin::Environment(
                    arg.get_env()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned(),
                ),
                // One that gave way to another flag.
                None => Origin::Default,
                _ => self
                    .0
                    .get(&setting)
                    .map_or(Origin::Default, |(_, origin)| origin.clone()),
            };
            Setting {
                setting,
                value,
                origin,
            }
        });
        settings.collect()
    }
}

/// The flags that may be set elsewhere.
fn settable(command: &Command) -> impl Iterator<Item = &Arg> {
    let settable =
        |arg: &&Arg| arg.get_env().is_some() && !arg.is_hide_set() && arg.get_id() != CONFIG;
    command.get_arguments().filter(settable)
}

/// Flags with a value that cannot be given together with another one, in both directions.
fn rivals(command: &Command) -> Vec<(&Arg, &Arg)> {
    let valued = |arg: &&Arg| arg.get_action().takes_values();
    let mut all = Vec::new();
    for arg in settable(command).filter(valued) {
        for rival in command.get_arg_conflicts_with(arg) {
            if valued(&rival) {
                all.extend([(arg, rival), (rival, arg)]);
            }
        }
    }
    all
}

/// Whether a line of `.env` is meant for this program.
fn is_ours(line: &str) -> bool {
    let line = line.trim_start();
    let variable = line.strip_prefix("export").unwrap_or(line).trim_start();
    variable.starts_with("PEERNET_")
}

/// The flag that names the file, and that a file cannot set.
pub const CONFIG: &str = "config";

/// The file that is named by `--config` among the arguments, or by the variable.
pub fn named(
    mut args: impl Iterator<Item = std::ffi::OsString>,
    variable: &str,
) -> Option<PathBuf> {
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        match text.strip_prefix("--config") {
            _ if text == "--" => break,
            Some("") => return args.next().map(PathBuf::from),
            Some(value) if value.starts_with('=') => return Some(PathBuf::from(&value[1..])),
            _ => {}
        }
    }
    std::env::var_os(variable)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

fn text(path: &Path) -> Result<String, SourceError> {
    let unreadable = |reason| SourceError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LONGEST + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > LONGEST {
        return Err(SourceError::TooLong(path.to_owned()));
    }
    Ok(text)
}

/// A value that fits on a command line.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

/// The line that a key stands on: keys begin lines, because nothing is nested.
fn line_of(text: &str, key: &str) -> usize {
    let begins = |line: &str| {
        let rest = line.trim_start_matches(['"', '\'']).strip_prefix(key);
        rest.is_some_and(|r| {
            r.trim_start_matches(['"', '\''])
                .trim_start()
                .starts_with(':')
        })
    };
    text.lines().position(begins).map_or(1, |i| i + 1)
}

#[cfg(test)]
mod tests;
