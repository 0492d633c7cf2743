//! Names by pattern: `get`, `ls`, `rm`, `pin` and `unpin` with `--glob`.
//!
//! The network lists names by their beginning. What a pattern has before its first special character is such a beginning,
//! and what is listed is compared here. Names may have the special characters in them, so a pattern is one only where it
//! is asked for.

use globset::{GlobBuilder, GlobMatcher};
use thiserror::Error;

use crate::exit::Exit;
use crate::names::{self, File};
use crate::servers::{CallError, Servers};

/// Most files of one pattern or prefix. Guess: more should be an archive.
pub(crate) const MOST: usize = 100_000;

/// Why there are no files of a pattern.
#[derive(Debug, Error)]
pub enum PatternError {
    /// It is not one.
    #[error("'{pattern}' is no pattern: {reason}")]
    Invalid {
        /// As it was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing is called so.
    #[error("no file's name matches '{0}'; * does not match /, ** does")]
    Nothing(String),
    /// More than anyone means.
    #[error("more than {MOST} names match '{0}'; narrow it down")]
    TooMany(String),
    /// A peer refused or none was there.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl PatternError {
    /// The exit code's class.
    pub fn exit(&self) -> Exit {
        match self {
            PatternError::Invalid { .. } | PatternError::TooMany(_) => Exit::Usage,
            PatternError::Nothing(_) => Exit::NotFound,
            PatternError::Call(e) => e.exit(),
        }
    }
}

/// A pattern of whole names, as of gitignore: `*` and `?` stand for anything but a slash, `**` for slashes too, `[a-c]` and
/// `{a,b}` for one of several, and `\` takes the next character as it is.
pub(crate) struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Self, PatternError> {
        let mut builder = GlobBuilder::new(text);
        builder.literal_separator(true).backslash_escape(true);
        let glob = builder.build().map_err(|reason| PatternError::Invalid {
            pattern: text.to_owned(),
            reason: reason.kind().to_string(),
        })?;
        Ok(Pattern {
            text: text.to_owned(),
            matcher: glob.compile_matcher(),
        })
    }

    /// How every name begins that matches.
    fn beginning(&self) -> &str {
        let special = self.text.find(['*', '?', '[', '{', '\\']);
        &self.text[..special.unwrap_or(self.text.len())]
    }

    /// The directories that all of them are in, with a slash at the end; empty if there are none.
    pub(crate) fn directory(&self) -> &str {
        let beginning = self.beginning();
        &beginning[..beginning.rfind('/').map_or(0, |slash| slash + 1)]
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        self.matcher.is_match(name)
    }

    /// The files that match, in byte order; at least one.
    pub(crate) async fn files(&self, servers: &Servers) -> Result<Vec<File>, PatternError> {
        let matches = |name: &str| self.matches(name);
        let files = names::all(servers, self.beginning(), MOST, matches).await?;
        match files.len() {
            0 => Err(PatternError::Nothing(self.text.clone())),
            count if count > MOST => Err(PatternError::TooMany(self.text.clone())),
            _ => Ok(files),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    #[test]
    fn a_star_stays_between_slashes_and_two_do_not() {
        let matches = |text: &str, name: &str| pattern(text).matches(name);
        assert!(matches("a/*.jpg", "a/b.jpg"));
        assert!(!matches("a/*.jpg", "a/b/c.jpg"));
        assert!(!matches("a/*.jpg", "xa/b.jpg"), "names are matched whole");
        assert!(matches("a/**/*.jpg", "a/b/c.jpg") && matches("a/**/*.jpg", "a/c.jpg"));
        assert!(matches("a/?[0-9].{jpg,png}", "a/x7.png"));
        assert!(matches(r"a\*", "a*") && !matches(r"a\*", "ab"));
        assert!(matches("*", ".hidden") && matches("ä*", "äö"));
    }

    #[test]
    fn what_is_certain_of_a_pattern_is_asked_for() {
        let known = |text: &str| {
            let pattern = pattern(text);
            (
                pattern.beginning().to_owned(),
                pattern.directory().to_owned(),
            )
        };
        assert_eq!(known("a/b/c*.jpg"), ("a/b/c".into(), "a/b/".into()));
        assert_eq!(known(r"a\*b/*"), ("a".into(), String::new()));
        assert_eq!(known("a/b"), ("a/b".into(), "a/".into()));
        assert_eq!(known("*"), (String::new(), String::new()));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let error = Pattern::new("a/[b").err().unwrap();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().starts_with("'a/[b' is no pattern: "));
    }
}
