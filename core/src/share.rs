//! Files that stay with the peer that shares them: only who has them is published, not their bytes.
//!
//! An [`Offer`] is what others see of a shared file when they search ([`crate::flood`]). It names the file's *content* by
//! the hash of the inline bytes or of the encoded manifest, the same as a stored file's etag, so that equal files cut
//! alike are known as equal wherever they are. The bytes are the daemon's concern.

use thiserror::Error;

use crate::key::{Key, Name};

/// Files one peer may share. Guess: what a search may walk over in a millisecond, and a few MiB of memory.
pub const SHARES_MAX: usize = 4_096;
/// Tags of one shared file.
pub const TAGS_MAX: usize = 16;
/// Bytes of one tag.
pub const TAG_MAX: usize = 64;
/// Bytes of a search's text.
pub const TEXT_MAX: usize = 256;
/// Words of a search's text.
pub const WORDS_MAX: usize = 16;
/// Bytes of a content type.
pub const TYPE_MAX: usize = 255;
/// What is published of a shared file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Unique at the peer that shares it.
    pub name: Name,
    /// Bytes.
    pub size: u64,
    /// Hash of the inline bytes or of the encoded manifest.
    pub content: Key,
    /// Media type, as the sharer gave it; may be empty.
    pub content_type: String,
    /// Words to find it by, at most [`TAGS_MAX`] of [`TAG_MAX`] bytes.
    pub tags: Vec<String>,
    /// Milliseconds since the Unix epoch by the sharer's clock; informational only.
    pub since: u64,
}

/// Why a file cannot be shared, or searched for.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InvalidShare {
    /// Too many tags, or one that is empty, too long or has control characters.
    #[error(
        "a shared file has at most {TAGS_MAX} tags of 1 to {TAG_MAX} bytes without control characters"
    )]
    Tags,
    /// Not a content type.
    #[error("the content type has to be at most {TYPE_MAX} bytes of printable ASCII")]
    Type,
    /// Not a search.
    #[error(
        "a search has 1 to {WORDS_MAX} words, at most {TEXT_MAX} bytes in all, without control characters"
    )]
    Text,
}

impl Offer {
    /// Checks what came from a client or another peer.
    pub fn check(&self) -> Result<(), InvalidShare> {
        let fits =
            |tag: &String| (1..=TAG_MAX).contains(&tag.len()) && !tag.chars().any(char::is_control);
        if self.tags.len() > TAGS_MAX || !self.tags.iter().all(fits) {
            return Err(InvalidShare::Tags);
        }
        let printable = self.content_type.bytes().all(|b| (0x20..0x7f).contains(&b));
        if self.content_type.len() > TYPE_MAX || !printable {
            return Err(InvalidShare::Type);
        }
        Ok(())
    }
}

/// What a search looks for. Whoever is asked decides for itself, which is what an unstructured search is good for: any
/// question that the owner of a file can answer may be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Each word is part of the name, or is a tag. Lower case.
    Words(Vec<String>),
    /// This name.
    Name(Name),
    /// This content, under any name.
    Content(Key),
}

impl Wanted {
    /// The words of a text, in lower case.
    pub fn words(text: &str) -> Result<Self, InvalidShare> {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        Wanted::Words(words).checked()
    }

    /// Checks what came from elsewhere.
    pub fn checked(self) -> Result<Self, InvalidShare> {
        if let Wanted::Words(words) = &self {
            let bytes: usize = words.iter().map(String::len).sum();
            let plain = |w: &String| !w.is_empty() && !w.chars().any(char::is_control);
            if !(1..=WORDS_MAX).contains(&words.len())
                || bytes > TEXT_MAX
                || !words.iter().all(plain)
            {
                return Err(InvalidShare::Text);
            }
        }
        Ok(self)
    }

    /// Whether this is one of those looked for.
    pub fn matches(&self, offer: &Offer) -> bool {
        match self {
            Wanted::Name(name) => offer.name == *name,
            Wanted::Content(content) => offer.content == *content,
            Wanted::Words(words) => {
                let name = offer.name.as_str().to_lowercase();
                let tags: Vec<String> = offer.tags.iter().map(|t| t.to_lowercase()).collect();
                words.iter().all(|w| name.contains(w) || tags.contains(w))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn offer(name: &str, tags: &[&str]) -> Offer {
        Offer {
            name: Name::new(name).unwrap(),
            size: 1,
            content: Key::of_bytes(name.as_bytes()),
            content_type: String::new(),
            tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            since: 0,
        }
    }

    #[test]
    fn every_word_is_in_the_name_or_a_tag() {
        let film = offer("films/Blue Sky.mkv", &["Drama", "1994"]);
        for text in ["blue", "SKY drama", "films/ mkv 1994"] {
            assert!(Wanted::words(text).unwrap().matches(&film), "{text}");
        }
        for text in ["blue comedy", "199", "dram"] {
            assert!(!Wanted::words(text).unwrap().matches(&film), "{text}");
        }
        assert!(Wanted::Content(film.content).matches(&film));
        assert!(!Wanted::Name(Name::new("films").unwrap()).matches(&film));
    }

    #[test]
    fn what_is_too_large_or_odd_is_refused() {
        assert_eq!(Wanted::words("  "), Err(InvalidShare::Text));
        assert_eq!(Wanted::words(&"a ".repeat(17)), Err(InvalidShare::Text));
        assert_eq!(Wanted::words(&"a".repeat(257)), Err(InvalidShare::Text));
        assert_eq!(offer("a", &[""]).check(), Err(InvalidShare::Tags));
        assert_eq!(offer("a", &["a\n"]).check(), Err(InvalidShare::Tags));
        assert_eq!(offer("a", &["t"; 17]).check(), Err(InvalidShare::Tags));
        assert_eq!(offer("a", &["t"; 16]).check(), Ok(()));
    }
}
