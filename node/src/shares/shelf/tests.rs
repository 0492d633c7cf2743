use bytes::Bytes;

use super::*;
use crate::files::manifest::{ChunkRef, TreeBuilder};

fn share(shelf: &Arc<Shelf>, name: &str, parts: &[&'static str]) -> Result<Key, ShareError> {
    let (mut draft, mut tree, mut nodes) = (shelf.draft(), TreeBuilder::new(9), Vec::new());
    for part in parts {
        let chunk = Chunk::new(Bytes::from_static(part.as_bytes()));
        draft.add(&chunk)?;
        let (key, len) = (chunk.key(), part.len() as u64);
        tree.push(ChunkRef { key, len }, &mut nodes);
    }
    let content = Content::Chunks(tree.finish(&mut nodes));
    let id = Key(content.etag());
    let offer = Offer {
        name: Name::new(name).unwrap(),
        size: content.size(),
        content: id,
        content_type: String::new(),
        tags: vec!["t".into()],
        since: 7,
    };
    draft.commit(Shared { offer, content })?;
    Ok(id)
}

fn there(shelf: &Shelf, text: &str) -> bool {
    shelf.read(&Key::of_bytes(text.as_bytes())).is_ok()
}

fn offers(shelf: &Shelf) -> Vec<Offer> {
    let whole = shelf.whole().into_iter();
    whole.map(|(shared, _)| shared.offer).collect()
}

#[test]
fn shares_survive_a_restart_and_chunks_go_with_their_last_share() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Shelf::open(dir.path(), 0).unwrap());
    let shelf = open();
    let first = share(&shelf, "a", &["one", "two"]).unwrap();
    share(&shelf, "b", &["two", "three"]).unwrap();
    let before = offers(&shelf);
    drop(shelf);
    let shelf = open();
    assert_eq!(offers(&shelf), before);
    assert_eq!(
        shelf
            .kept(&Wanted::Content(first))
            .unwrap()
            .0
            .offer
            .name
            .as_str(),
        "a"
    );
    let a = Name::new("a").unwrap();
    assert!(shelf.remove(&a).unwrap().is_some());
    assert!(shelf.remove(&a).unwrap().is_none());
    assert!(!there(&shelf, "one") && there(&shelf, "two"));
    // Another content under the same name takes its place.
    share(&shelf, "b", &["four"]).unwrap();
    assert!(!there(&shelf, "two") && !there(&shelf, "three") && there(&shelf, "four"));
    drop(shelf);
    assert_eq!(open().whole().len(), 1);
}

#[test]
fn what_was_given_up_or_is_damaged_is_not_shared() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Shelf::open(dir.path(), 0).unwrap());
    let shelf = open();
    let mut draft = shelf.draft();
    let chunk = Chunk::new(Bytes::from_static(b"half"));
    draft.add(&chunk).unwrap();
    drop(draft);
    assert!(!there(&shelf, "half"));
    // As after a crash: a chunk without a record.
    shelf.chunks.write(&chunk, Purpose::Client).unwrap();
    share(&shelf, "a", &["one"]).unwrap();
    share(&shelf, "b", &["two"]).unwrap();
    shelf.chunks.remove(&Key::of_bytes(b"two")).unwrap();
    drop(shelf);
    let shelf = open();
    assert!(!there(&shelf, "half"));
    let names: Vec<String> = offers(&shelf).iter().map(|o| o.name.to_string()).collect();
    assert_eq!(names, ["a"], "what lacks a chunk is not offered");
}

#[test]
fn a_content_on_its_way_survives_a_restart_with_what_is_here_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Shelf::open(dir.path(), 0).unwrap());
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Arc::new(Shelf::open(elsewhere.path(), 0).unwrap());
    let id = share(&other, "a", &["one", "two", "one", "three"]).unwrap();
    let (shared, _) = other.kept(&Wanted::Content(id)).unwrap();

    let shelf = open();
    share(&shelf, "mine", &["two"]).unwrap();
    let begin = |shelf: &Arc<Shelf>| shelf.draft().begin(shared.clone()).unwrap().1;
    let holding = begin(&shelf);
    assert_eq!(holding.layout().order(), [0, 1, 0, 2]);
    assert!(
        holding.here().iter().eq([1]),
        "what another share has is here"
    );
    assert_eq!(holding.missing(), 8);
    let wrong = Chunk::claimed(&Key::of_bytes(b"one"), Bytes::from_static(b"eno"));
    assert!(matches!(wrong, Err(ChunkError::Mismatch(_))));
    let one = Chunk::new(Bytes::from_static(b"one"));
    shelf.arrived(&one).unwrap();
    assert!(shelf.whole().len() == 1 && shelf.partial().len() == 1);
    drop((shelf, holding));

    let shelf = open();
    let holding = begin(&shelf);
    assert!(holding.here().iter().eq([0, 1]));
    let three = Chunk::new(Bytes::from_static(b"three"));
    shelf.arrived(&three).unwrap();
    holding.add(2);
    shelf.finish(id).unwrap();
    assert!(holding.here().is_full() && shelf.partial().is_empty());
    drop(shelf);
    let shelf = open();
    assert_eq!(shelf.whole().len(), 2);
    assert!(shelf.partial().is_empty());
    shelf.remove(&Name::new("mine").unwrap()).unwrap();
    assert!(there(&shelf, "two"), "the fetched file has it too");

    // What is given up leaves nothing, and a name that is taken is not taken away.
    let id = share(&other, "b", &["four"]).unwrap();
    let (mut shared, _) = other.kept(&Wanted::Content(id)).unwrap();
    shared.offer.name = Name::new("a").unwrap();
    let (kept, _) = shelf.draft().begin(shared).unwrap();
    assert_eq!(kept.offer.name.as_str(), id.to_string());
    let four = Chunk::new(Bytes::from_static(b"four"));
    shelf.arrived(&four).unwrap();
    assert!(shelf.remove(&kept.offer.name).unwrap().is_some());
    assert!(!there(&shelf, "four") && shelf.partial().is_empty());
}
