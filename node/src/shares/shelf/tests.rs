use std::collections::HashSet;

use bytes::Bytes;

use super::*;
use crate::files::manifest::{ChunkRef, ROOT_REFS, TreeBuilder};

fn share(shelf: &Arc<Shelf>, name: &str, parts: &[&'static str]) -> Result<Key, ShareError> {
    Ok(commit(shelf, name, parts)?.offer.content)
}

fn commit(shelf: &Arc<Shelf>, name: &str, parts: &[&'static str]) -> Result<Committed, ShareError> {
    let (mut draft, mut tree, mut nodes) = (shelf.draft(), TreeBuilder::new(9), Vec::new());
    let mut added = HashSet::new();
    for part in parts {
        let chunk = Chunk::new(Bytes::from_static(part.as_bytes()));
        let (key, len) = (chunk.key(), part.len() as u64);
        if added.insert(key) {
            draft.add(&chunk)?;
        }
        tree.push(ChunkRef { key, len }, &mut nodes);
    }
    let content = Content::Chunks(tree.finish(&mut nodes));
    for node in nodes {
        draft.add(&Chunk::new(node))?;
    }
    let id = Key(content.etag());
    let offer = Offer {
        name: Name::new(name).unwrap(),
        size: content.size(),
        content: id,
        content_type: String::new(),
        tags: vec!["t".into()],
        since: 7,
    };
    draft.commit(Shared { offer, content }, Taken::Replace)
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
    assert!(shelf.remove(&a).unwrap());
    assert!(!shelf.remove(&a).unwrap());
    assert!(!there(&shelf, "one") && there(&shelf, "two"));
    // Another content under the same name takes its place.
    share(&shelf, "b", &["four"]).unwrap();
    assert!(!there(&shelf, "two") && !there(&shelf, "three") && there(&shelf, "four"));
    drop(shelf);
    assert_eq!(open().whole().len(), 1);
}

#[test]
fn what_was_given_up_is_not_here_and_what_lacks_a_chunk_is_looked_for() {
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
    let [(a, _), (b, holding)] = &shelf.whole()[..] else {
        panic!("both are kept");
    };
    assert_eq!((a.offer.name.as_str(), b.offer.name.as_str()), ("a", "b"));
    assert!(holding.missing() == 3 && !holding.has_some());
    let [(unfinished, _)] = &shelf.unfinished()[..] else {
        panic!("one lacks something");
    };
    assert_eq!(unfinished.offer.name.as_str(), "b");
    // It cannot be had either: what the user shared is the user's.
    assert!(shelf.give_up(b.offer.content).unwrap().is_none());
    assert_eq!(shelf.whole().len(), 2);
    // Shared once more it is whole, for those who follow it as well.
    share(&shelf, "b", &["two"]).unwrap();
    assert!(holding.missing() == 0 && shelf.unfinished().is_empty());
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
    assert!(shelf.finish(id).unwrap());
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
    assert!(shelf.remove(&kept.offer.name).unwrap());
    assert!(!there(&shelf, "four") && shelf.partial().is_empty());
    // Nor does a piece that was being written then.
    shelf.arrived(&four).unwrap();
    assert!(!there(&shelf, "four"));
}

/// A content of another peer, under that name.
fn foreign(name: &str, parts: &[&'static str]) -> Shared {
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Arc::new(Shelf::open(elsewhere.path(), 0).unwrap());
    share(&other, name, parts).unwrap();
    other.whole().remove(0).0
}

fn arrive(shelf: &Shelf, holding: &Holding, parts: &[&'static str]) {
    for part in parts {
        let chunk = Chunk::new(Bytes::from_static(part.as_bytes()));
        shelf.arrived(&chunk).unwrap();
        let mut pieces = holding.layout().pieces().iter();
        let piece = pieces.position(|piece| piece.key == chunk.key());
        holding.add(piece.unwrap() as u32);
    }
}

#[test]
fn a_share_takes_the_name_of_a_fetch_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Shelf::open(dir.path(), 0).unwrap());
    let shelf = open();
    let f = Name::new("f").unwrap();
    let theirs = foreign("f", &["one", "two"]);
    let content = theirs.offer.content;
    let (_, holding) = shelf.draft().begin(theirs.clone()).unwrap();
    let mine = share(&shelf, "f", &["mine"]).unwrap();
    let moved = &shelf.partial()[0].0.offer;
    assert_eq!(moved.name.as_str(), content.to_string());
    assert_eq!(shelf.coming(&f), None);
    arrive(&shelf, &holding, &["one", "two"]);
    assert!(shelf.finish(content).unwrap());
    let named = |shelf: &Shelf| shelf.kept(&Wanted::Name(f.clone())).unwrap().0;
    assert_eq!(named(&shelf).offer.content, mine);
    assert_eq!(shelf.whole().len(), 2);
    drop((shelf, holding));

    // The same after a restart, and with one that fails.
    let shelf = open();
    assert!(there(&shelf, "mine") && there(&shelf, "two"));
    assert_eq!(named(&shelf).offer.content, mine);
    let more = foreign("g", &["three"]);
    shelf.draft().begin(more.clone()).unwrap();
    let g = share(&shelf, "g", &["my own"]).unwrap();
    let gone = shelf.give_up(more.offer.content).unwrap().unwrap();
    assert_eq!(gone.name.as_str(), more.offer.content.to_string());
    assert!(shelf.give_up(g).unwrap().is_none());
    assert!(there(&shelf, "my own") && shelf.partial().is_empty());

    // An older version left both under one name.
    let (kept, _) = shelf.draft().begin(foreign("h", &["four"])).unwrap();
    share(&shelf, "h", &["h"]).unwrap();
    shelf.partial.write(kept.offer.content, &kept).unwrap();
    drop(shelf);
    let shelf = open();
    assert_eq!(shelf.coming(&Name::new("h").unwrap()), None);
    assert_eq!(shelf.partial().len(), 1);
}

#[test]
fn a_fetch_that_has_lost_a_piece_is_not_finished_and_one_that_has_all_is_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Shelf::open(dir.path(), 0).unwrap());
    let shelf = open();
    let (kept, holding) = shelf.draft().begin(foreign("f", &["one", "two"])).unwrap();
    let content = kept.offer.content;
    arrive(&shelf, &holding, &["one", "two"]);
    // A reader found that it is damaged.
    holding.lose(0);
    assert!(!shelf.finish(content).unwrap());
    assert!(shelf.whole().is_empty() && shelf.partial().len() == 1);
    arrive(&shelf, &holding, &["one"]);
    drop((shelf, holding));
    // All of it came, and then the peer stopped.
    let shelf = open();
    let [(unfinished, holding)] = &shelf.unfinished()[..] else {
        panic!("it is not shared as a whole");
    };
    assert!(unfinished.offer.content == content && holding.missing() == 0);
    assert!(shelf.finish(content).unwrap());
    assert!(shelf.partial().is_empty() && shelf.unfinished().is_empty());
    // What is shared lacks something, too.
    holding.lose(1);
    assert!(!shelf.finish(content).unwrap());
    assert!(shelf.finish(Key([0; 32])).unwrap(), "it was given up");
}

#[test]
fn what_comes_whole_from_others_takes_no_name_and_a_fetch_ends_with_a_share_of_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Arc::new(Shelf::open(dir.path(), 0).unwrap());
    let mine = share(&shelf, "f", &["mine"]).unwrap();
    let text = Bytes::from_static(b"inline");
    let content = Content::Inline(text);
    let id = Key(content.etag());
    let mut shared = foreign("f", &["one"]);
    (shared.offer.content, shared.offer.size) = (id, content.size());
    shared.content = content;
    let committed = shelf.draft().commit(shared, Taken::MakeWay).unwrap();
    assert_eq!(committed.offer.name.as_str(), id.to_string());
    let f = Wanted::Name(Name::new("f").unwrap());
    assert_eq!(shelf.kept(&f).unwrap().0.offer.content, mine);

    let (_, holding) = shelf.draft().begin(foreign("g", &["x", "y"])).unwrap();
    assert_eq!(holding.missing(), 2);
    let committed = commit(&shelf, "other", &["x", "y"]).unwrap();
    assert_eq!(committed.gone.unwrap().name.as_str(), "g");
    assert_eq!(committed.replaced, None);
    assert_eq!(holding.missing(), 0, "who follows the fetch is told");
    let committed = commit(&shelf, "f", &["new"]).unwrap();
    assert_eq!((committed.gone, committed.replaced), (None, Some(mine)));
    assert!(shelf.partial().is_empty());
    assert!(shelf.remove(&Name::new("other").unwrap()).unwrap());
    assert!(!there(&shelf, "x"), "nobody uses it any more");
}

#[test]
fn a_record_that_cannot_be_used_now_is_kept_with_all_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Shelf::open(dir.path(), 0).unwrap());
    let shelf = open();
    for (name, text) in [
        ("new", "one"),
        ("stuck", "two"),
        ("rotten", "three"),
        ("named", "four"),
        ("x", "x"),
    ] {
        share(&shelf, name, &[text]).unwrap();
    }
    let path =
        |name: &str, shelf: &Shelf| shelf.files.path(Key::of_name(&Name::new(name).unwrap()));
    let [new, stuck, rotten, named] =
        ["new", "stuck", "rotten", "named"].map(|name| path(name, &shelf));
    drop(shelf);
    // Field 1 is the format; the last one counts.
    let mut record = std::fs::read(&new).unwrap();
    record.extend([8, 99]);
    std::fs::write(&new, record).unwrap();
    std::fs::write(&rotten, b"rot").unwrap();
    // Well-formed, and of another name.
    let mut record = std::fs::read(&named).unwrap();
    let at = record.windows(5).position(|part| part == b"named");
    record[at.expect("it has its name")] ^= 1;
    std::fs::write(&named, record).unwrap();
    // Neither there nor missing: the system refuses to look, as it does when there are too many open files.
    let key = Key::of_bytes(b"two").to_string();
    let chunk = dir.path().join("shared/chunks").join(&key[..2]).join(&key);
    std::fs::remove_file(&chunk).unwrap();
    std::os::unix::fs::symlink(&chunk, &chunk).unwrap();

    let shelf = open();
    let names: Vec<String> = offers(&shelf).iter().map(|o| o.name.to_string()).collect();
    assert_eq!(names, ["x"]);
    assert!([&new, &stuck, &rotten, &named].iter().all(|p| p.exists()));
    let unread = shelf.unread();
    assert!(unread.len() == 4 && unread.iter().all(|record| record.lost.is_none()));
    assert!(
        unread
            .iter()
            .all(|r| r.advice().contains("share the file again"))
    );
    for text in ["one", "three", "four"] {
        assert!(there(&shelf, text), "{text}");
    }
    // What goes now may be theirs as well, and their names are not free.
    shelf.remove(&Name::new("x").unwrap()).unwrap();
    assert!(there(&shelf, "x"));
    let (kept, _) = shelf.draft().begin(foreign("new", &["six"])).unwrap();
    assert_eq!(kept.offer.name.as_str(), kept.offer.content.to_string());
    // The user's word ends it.
    share(&shelf, "new", &["five"]).unwrap();
    for name in ["stuck", "rotten", "named"] {
        assert!(shelf.remove(&Name::new(name).unwrap()).unwrap(), "{name}");
        assert!(!path(name, &shelf).exists());
    }
    drop(shelf);
    let shelf = open();
    assert!(
        !there(&shelf, "three")
            && !there(&shelf, "one")
            && !there(&shelf, "x")
            && there(&shelf, "five")
    );
}

#[test]
fn a_share_whose_manifest_is_lost_is_kept_and_heals_when_it_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Shelf::open(dir.path(), 0).unwrap());
    let shelf = open();
    // More than the root of a manifest has room for.
    let content = share(&shelf, "a", &["one"; ROOT_REFS + 1]).unwrap();
    let (shared, holding) = shelf.kept(&Wanted::Content(content)).unwrap();
    let pieces: HashSet<Key> = holding.layout().pieces().iter().map(|p| p.key).collect();
    let node = holding.layout().keys().find(|key| !pieces.contains(key));
    let node = node.expect("a manifest of several chunks");
    let lost = shelf.read(&node).unwrap();
    shelf.chunks.remove(&node).unwrap();
    drop((shelf, holding));

    let shelf = open();
    assert!(shelf.whole().is_empty());
    let a = Wanted::Name(Name::new("a").unwrap());
    let record = shelf.lost(&a).unwrap();
    assert_eq!(record.lost.as_ref().unwrap().offer, shared.offer);
    assert!(
        record.advice().contains("its manifest is lost"),
        "{}",
        record.advice()
    );
    assert!(shelf.read_again(&record, None).unwrap().is_none());
    // Meanwhile the user fetches it under the only name that is free for it.
    let mut draft = shelf.draft();
    draft.add(&lost).unwrap();
    let (fetch, holding) = draft.begin(shared.clone()).unwrap();
    assert_eq!(fetch.offer.name.as_str(), content.to_string());
    let healed = shelf.read_again(&record, None).unwrap().unwrap();
    assert_eq!(healed.kept.0.offer, shared.offer);
    assert!(Arc::ptr_eq(&healed.kept.1, &holding));
    assert_eq!(healed.gone.unwrap().name, fetch.offer.name);
    assert!(shelf.unread().is_empty() && shelf.partial().is_empty());
    assert!(shelf.read_again(&record, None).unwrap().is_none(), "once");
    drop((shelf, holding));
    assert_eq!(offers(&open()), [shared.offer]);
}

#[test]
fn a_record_whose_root_has_rotted_heals_when_it_is_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Shelf::open(dir.path(), 0).unwrap());
    let shelf = open();
    let content = share(&shelf, "a", &["one", "two"]).unwrap();
    let (shared, _) = shelf.kept(&Wanted::Content(content)).unwrap();
    let path = shelf.files.path(Key::of_name(&shared.offer.name));
    drop(shelf);
    let mut record = std::fs::read(&path).unwrap();
    let key = Key::of_bytes(b"two").0;
    let at = record.windows(32).position(|part| part == key);
    record[at.expect("the root names its pieces")] ^= 1;
    std::fs::write(&path, record).unwrap();

    let shelf = open();
    let [record] = &shelf.unread()[..] else {
        panic!("one record");
    };
    assert!(record.lost.as_ref().unwrap().content.is_none());
    assert!(there(&shelf, "one"));
    let healed = shelf.read_again(record, Some(shared.content.clone()));
    assert_eq!(healed.unwrap().unwrap().kept.1.missing(), 0);
    drop(shelf);
    assert_eq!(offers(&open()), [shared.offer]);
}
