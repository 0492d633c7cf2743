//! The keyword index: which files have a word in their names or labels, kept in the ring itself.
//!
//! **Terms.** A name is cut at white space and punctuation, then by Unicode's word boundaries (UAX 29), and put in lower
//! case; what a file's head says of it (tags, content type: its *labels*) is a term as it is and in words too. A few
//! words that are in most names are not indexed ([`STOP_WORDS`]).
//!
//! **Postings.** For each term there is a list of [`Posting`]s, each with all that a result shows, so that no further
//! look-up is needed. And since a posting has the file's name and head, all its terms follow from it: a search for
//! several words reads the list of the rarest one only and compares the others there.
//!
//! **Shards.** A list is a binary trie (Fredkin, "Trie memory", 1960) over the hashes of the file names. A node is a
//! register under an internal name, replicated, repaired and moved like any other: a leaf of at most [`LEAF_MAX`] bytes
//! of postings, or, once it has split, a mark that says so. So the list of a hot term spreads over the ring, and a page
//! of results touches a few leaves.
//!
//! **Updates** are compare-and-set per node and monotone: a posting gives way only to a newer version of its name. They
//! come from the outbox ([`crate::outbox`]), whose repetitions change nothing. The machine is in [`crate::peer`], rooms
//! `index` and `search`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use unicode_segmentation::UnicodeSegmentation;

use crate::config::Labels;
use crate::io::Search;
use crate::key::{Key, Name};
use crate::member::PeerId;
use crate::outbox::State;
use crate::register::{Head, REGISTER_MAX, Register, Value, Version, WriteId};

/// Longest term, in bytes; longer ones are cut. Guess: longer than words are.
pub const TERM_MAX: usize = 64;
/// Most terms of a file; of more, the first in order of the alphabet count. Guess: a path has a dozen.
pub const TERMS_MAX: usize = 64;
/// Most bytes of a leaf.
pub const LEAF_MAX: usize = REGISTER_MAX;
/// Deepest node of a trie: 2^40 leaves.
const DEPTH_MAX: usize = 40;

/// Words that are not indexed: they are in so many English file names that they tell nothing.
pub const STOP_WORDS: [&str; 12] = [
    "a", "an", "and", "at", "by", "for", "in", "of", "on", "or", "the", "to",
];

/// The words of a text, in lower case and without stop words.
pub fn words(text: &str) -> BTreeSet<String> {
    let parts = text.split(|c: char| c.is_whitespace() || c.is_ascii_punctuation());
    let words = parts.flat_map(|part| part.unicode_words().map(term));
    words
        .filter(|w| !STOP_WORDS.contains(&w.as_str()))
        .collect()
}

/// A label or word as a term.
pub fn term(text: &str) -> String {
    let mut term = text.to_lowercase();
    term.truncate(term.floor_char_boundary(TERM_MAX));
    term
}

/// All terms of a file.
pub fn terms(name: &Name, head: &[u8], labels: Labels) -> BTreeSet<String> {
    let mut terms = words(name.as_str());
    for label in labels.of(head) {
        let text = label.split_once(':').map_or("", |(_, text)| text);
        terms.extend(words(text));
        terms.insert(term(&label));
    }
    terms.into_iter().take(TERMS_MAX).collect()
}

/// The search for all words of a text, where the last of several may be the beginning of one, and for labels.
pub fn search(text: &str, labels: impl IntoIterator<Item = String>) -> Search {
    let mut search = Search {
        terms: words(text),
        ..Search::default()
    };
    search
        .terms
        .extend(labels.into_iter().map(|label| term(&label)));
    let last = text
        .split(|c: char| c.is_whitespace() || c.is_ascii_punctuation())
        .next_back();
    let last = last.map(words).and_then(|mut words| words.pop_last());
    if let Some(last) = last.filter(|_| search.terms.len() > 1) {
        search.terms.remove(&last);
        search.prefix = Some(last);
    }
    search
}

/// One file in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Posting {
    /// The file.
    pub name: Name,
    /// Under which it was seen.
    pub version: Version,
    /// What a result shows; `None`: the file does not have this term any more.
    pub head: Option<Head>,
}

impl Posting {
    fn size(&self) -> usize {
        POSTING + self.name.as_str().len() + self.head.as_ref().map_or(0, |head| head.bytes.len())
    }
}

/// Bytes of a posting besides its name and head: two lengths and the version.
const POSTING: usize = 2 + 2 + 40;

/// What the list of each term has to learn from a name's states: the last one, and those that are no more.
pub fn updates<'a>(
    name: &Name,
    now: &State,
    former: impl Iterator<Item = &'a State>,
    labels: Labels,
) -> BTreeMap<String, Posting> {
    let of = |state: &State| match &state.head {
        Some(head) => terms(name, &head.bytes, labels),
        None => BTreeSet::new(),
    };
    let posting = |head: Option<Head>| Posting {
        name: name.clone(),
        version: now.version,
        head,
    };
    let gone = former.flat_map(of).map(|term| (term, posting(None)));
    let mut updates: BTreeMap<String, Posting> = gone.collect();
    updates.extend(
        of(now)
            .into_iter()
            .map(|term| (term, posting(now.head.clone()))),
    );
    updates
}

/// A node's place: the first bits of the hashes of the names below it, and which register holds it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Path {
    bits: Vec<bool>,
    id: Key,
}

impl Path {
    /// The root of a term's list.
    pub fn root(term: &str) -> Self {
        Path {
            bits: Vec::new(),
            id: Key::of_bytes(term.as_bytes()),
        }
    }

    /// The two nodes below that this split has made; `None` when there may be none. Each attempt to split has nodes of
    /// its own, so that what another one left behind is never seen.
    pub fn children(&self, split: WriteId) -> Option<[Path; 2]> {
        let child = |bit| {
            let mut bits = self.bits.clone();
            bits.push(bit);
            let mut id = BytesMut::from(&self.id.0[..]);
            id.put_slice(&split_bytes(split));
            id.put_u8(u8::from(bit));
            let id = Key::of_bytes(&id);
            Path { bits, id }
        };
        (self.bits.len() < DEPTH_MAX).then(|| [child(false), child(true)])
    }

    /// Whether a key belongs below.
    pub fn covers(&self, key: &Key) -> bool {
        let bit = |i: usize| key.0[i / 8] >> (7 - i % 8) & 1 == 1;
        self.bits.iter().enumerate().all(|(i, b)| bit(i) == *b)
    }

    /// The greatest key below.
    pub fn last(&self) -> Key {
        let mut key = [0xff; 32];
        for (i, _) in self.bits.iter().enumerate().filter(|(_, bit)| !**bit) {
            key[i / 8] &= !(1 << (7 - i % 8));
        }
        Key(key)
    }

    /// The register that holds this node.
    pub fn register(&self) -> Name {
        Name::internal(&format!("index/{}", self.id)).expect("short, and without odd characters")
    }
}

fn split_bytes(split: WriteId) -> [u8; SPLIT_LEN] {
    let mut bytes = [0; SPLIT_LEN];
    bytes[..16].copy_from_slice(&split.peer.0.to_be_bytes());
    bytes[16..].copy_from_slice(&split.op.to_be_bytes());
    bytes
}

/// Bytes that name a split.
const SPLIT_LEN: usize = 24;

/// A node of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// Postings, by name.
    Leaf(Leaf),
    /// They are in the two nodes below that this attempt has made.
    Split(WriteId),
}

/// Set in the length of a head, which is below it: the file is pinned.
const PINNED: u16 = 1 << 15;

const LEAF: u8 = 0;
const SPLIT: u8 = 1;

impl Node {
    /// What a register holds. One that nobody wrote, or that cannot be understood, is an empty leaf.
    pub fn of(register: Option<&Register>) -> Node {
        let Some(Value::Present { body, .. }) = register.map(|r| &r.value) else {
            return Node::Leaf(Leaf::default());
        };
        match body.split_first() {
            Some((&SPLIT, mut rest)) if rest.len() == SPLIT_LEN => Node::Split(WriteId {
                peer: PeerId(rest.get_u128()),
                op: rest.get_u64(),
            }),
            Some((&LEAF, rest)) => {
                Node::Leaf(Leaf::decode(body.slice_ref(rest)).unwrap_or_default())
            }
            _ => Node::Leaf(Leaf::default()),
        }
    }

    /// As a register's value.
    pub fn value(&self) -> Value {
        let body = match self {
            Node::Split(split) => {
                let mut body = BytesMut::from(&[SPLIT][..]);
                body.put_slice(&split_bytes(*split));
                body.freeze()
            }
            Node::Leaf(leaf) => leaf.encode(),
        };
        Value::Present {
            head: Head::default(),
            body,
            upload: None,
        }
    }
}

/// Postings, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leaf {
    postings: BTreeMap<Name, (Version, Head)>,
}

impl Leaf {
    /// How many.
    pub fn len(&self) -> usize {
        self.postings.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.postings.is_empty()
    }

    /// All of them, in byte order of the names.
    pub fn postings(&self) -> impl Iterator<Item = Posting> {
        self.postings.iter().map(|(name, (version, head))| Posting {
            name: name.clone(),
            version: *version,
            head: Some(head.clone()),
        })
    }

    /// Takes a posting over unless a newer one of that name is there. True when something changed.
    pub fn merge(&mut self, posting: &Posting) -> bool {
        let held = self.postings.get(&posting.name);
        if held.is_some_and(|(version, _)| *version >= posting.version) {
            return false;
        }
        match &posting.head {
            Some(head) => {
                let entry = (posting.version, head.clone());
                self.postings.insert(posting.name.clone(), entry);
                true
            }
            None => self.postings.remove(&posting.name).is_some(),
        }
    }

    /// Whether it has to split.
    pub fn is_too_large(&self) -> bool {
        1 + self.postings().map(|p| p.size()).sum::<usize>() > LEAF_MAX
    }

    fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u8(LEAF);
        for (name, (version, head)) in &self.postings {
            body.put_u16(name.as_str().len() as u16);
            body.put_slice(name.as_str().as_bytes());
            body.put_u64(version.epoch);
            body.put_u64(version.round);
            body.put_u128(version.writer.0);
            body.put_u64(version.op);
            let pinned = if head.pinned { PINNED } else { 0 };
            body.put_u16(head.bytes.len() as u16 | pinned);
            body.put_slice(&head.bytes);
        }
        body.freeze()
    }

    fn decode(mut body: Bytes) -> Option<Leaf> {
        let mut postings = BTreeMap::new();
        while !body.is_empty() {
            let name = bytes(&mut body)?;
            let name = Name::new(String::from_utf8(name.to_vec()).ok()?).ok()?;
            let version = Version {
                epoch: body.try_get_u64().ok()?,
                round: body.try_get_u64().ok()?,
                writer: PeerId(body.try_get_u128().ok()?),
                op: body.try_get_u64().ok()?,
            };
            let pinned = body.first()? & (PINNED >> 8) as u8 != 0;
            let bytes = bytes(&mut body)?;
            postings.insert(name, (version, Head { bytes, pinned }));
        }
        Some(Leaf { postings })
    }
}

/// A length, and so many bytes.
fn bytes(body: &mut Bytes) -> Option<Bytes> {
    let len = usize::from(body.try_get_u16().ok()? & !PINNED);
    (len <= body.len()).then(|| body.split_to(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(terms: &[&str]) -> BTreeSet<String> {
        terms.iter().map(|t| (*t).to_owned()).collect()
    }

    fn posting(name: &str, op: u64, head: Option<&'static [u8]>) -> Posting {
        Posting {
            name: Name::new(name).unwrap(),
            version: Version {
                op,
                ..Version::least_of(1)
            },
            head: head.map(|head| Bytes::from_static(head).into()),
        }
    }

    #[test]
    fn words_are_found_in_any_script() {
        assert_eq!(
            words("Photos/The_Summer-2024 in Zürich.JPG"),
            set(&["photos", "summer", "2024", "zürich", "jpg"])
        );
        assert_eq!(words("МОСКВА и 東京"), set(&["москва", "и", "東", "京"]));
        assert!(words("the/of").is_empty());
        assert_eq!(term(&"é".repeat(99)).len(), TERM_MAX);
    }

    #[test]
    fn labels_are_terms_whole_and_in_words() {
        let labels = Labels(|_| vec!["tag:Summer Trip".into(), "type:image/png".into()]);
        let name = Name::new("x").unwrap();
        assert_eq!(
            terms(&name, b"", labels),
            set(&[
                "x",
                "tag:summer trip",
                "summer",
                "trip",
                "type:image/png",
                "image",
                "png"
            ])
        );
    }

    #[test]
    fn a_change_reaches_old_and_new_terms() {
        let labels = Labels(|head| vec![String::from_utf8_lossy(head).into_owned()]);
        let state = |op, head: Option<&'static [u8]>| State {
            version: posting("f", op, None).version,
            write: WriteId {
                peer: PeerId(1),
                op,
            },
            head: head.map(|head| Bytes::from_static(head).into()),
        };
        let name = Name::new("f").unwrap();
        let (old, new) = (state(1, Some(b"tag:a")), state(2, Some(b"tag:c")));
        let found = updates(&name, &new, [&old].into_iter(), labels);
        let kept = |term: &str| found[term].head.is_some();
        assert!(kept("f") && kept("tag:c") && kept("c") && !kept("tag:a"));
        assert!(found.values().all(|p| p.version == new.version));
        let found = updates(&name, &state(3, None), [&new].into_iter(), labels);
        assert!(found.values().all(|p| p.head.is_none()) && found.len() == 3);
    }

    #[test]
    fn only_what_is_newer_replaces() {
        let mut leaf = Leaf::default();
        assert!(leaf.merge(&posting("f", 2, Some(b"two"))));
        assert!(!leaf.merge(&posting("f", 1, Some(b"one"))));
        assert!(!leaf.merge(&posting("f", 1, None)));
        assert!(!leaf.merge(&posting("f", 2, Some(b"two"))));
        assert!(leaf.merge(&posting("f", 3, None)));
        assert!(!leaf.merge(&posting("f", 4, None)));
        assert!(leaf.is_empty());
    }

    #[test]
    fn nodes_survive_their_registers_and_damage_is_an_empty_leaf() {
        let mut leaf = Leaf::default();
        leaf.merge(&posting("a/ü", 1, Some(b"head")));
        leaf.merge(&posting("b", 2, Some(b"")));
        let mut pinned = posting("c", 3, Some(b"head"));
        pinned.head = pinned.head.map(|head| Head {
            pinned: true,
            ..head
        });
        leaf.merge(&pinned);
        let register = |value| Register {
            name: Path::root("x").register(),
            version: Version::least_of(1),
            write: WriteId {
                peer: PeerId(1),
                op: 1,
            },
            value,
            trail: Box::default(),
        };
        let split = WriteId {
            peer: PeerId(7),
            op: 8,
        };
        for node in [Node::Split(split), Node::Leaf(leaf.clone())] {
            assert_eq!(Node::of(Some(&register(node.value()))), node);
        }
        let whole = leaf.encode();
        for end in 0..whole.len() {
            let value = Value::Present {
                head: Head::default(),
                body: whole.slice(..end),
                upload: None,
            };
            let Node::Leaf(found) = Node::of(Some(&register(value))) else {
                panic!("a part of a leaf is no split");
            };
            assert!(found.len() < leaf.len());
        }
    }

    #[test]
    fn two_children_share_what_their_parent_covers() {
        let mut path = Path::root("t");
        let split = |op| WriteId {
            peer: PeerId(1),
            op,
        };
        let key = Key::of_bytes(b"some name");
        for _ in 0..DEPTH_MAX {
            let [low, high] = path.children(split(1)).unwrap();
            let [other, _] = path.children(split(2)).unwrap();
            assert!(low.covers(&key) != high.covers(&key));
            assert!(low.last() < high.last() && high.last() == path.last());
            assert_ne!(low.register(), high.register());
            assert_ne!(low.register(), other.register());
            path = if low.covers(&key) { low } else { high };
            assert!(path.covers(&key) && path.covers(&path.last()));
        }
        assert_eq!(path.children(split(1)), None);
    }
}
