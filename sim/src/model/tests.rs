use peernet_core::register::{Head, Value};

use super::*;

struct Test(Model, Name);

impl Test {
    fn new() -> Self {
        Test(Model::default(), Name::new("x").unwrap())
    }

    fn stamp(id: u64) -> Stamp {
        let write = WriteId {
            peer: PeerId(7),
            op: id,
        };
        let version = Version {
            epoch: id,
            round: 0,
            writer: PeerId(7),
            op: id,
        };
        Stamp { version, write }
    }

    /// The file of write `id`, under the name that the register gives to write `write`.
    fn register(&self, id: u64, write: u64) -> Register {
        Register {
            name: self.1.clone(),
            version: Self::stamp(write).version,
            write: Self::stamp(write).write,
            value: Value::Present {
                head: Head::default(),
                body: id.to_be_bytes().to_vec().into(),
                upload: None,
            },
            trail: Box::default(),
        }
    }

    fn put(&mut self, id: u64, start: u64, end: Option<u64>) -> &mut Self {
        self.write(
            id,
            Some(Record {
                id,
                chunks: vec![],
                upload: None,
            }),
            start,
            end,
        )
    }

    fn delete(&mut self, id: u64, start: u64, end: Option<u64>) -> &mut Self {
        self.write(id, None, start, end)
    }

    fn write(&mut self, id: u64, file: Option<Record>, start: u64, end: Option<u64>) -> &mut Self {
        self.conditional(id, file, When::Always, start, end)
    }

    fn conditional(
        &mut self,
        id: u64,
        file: Option<Record>,
        when: When,
        start: u64,
        end: Option<u64>,
    ) -> &mut Self {
        let writer = Some(PeerId(7));
        self.0.begin(&self.1, id, file, when, writer, start);
        if let Some(end) = end {
            self.0.acknowledge(&self.1, id, Self::stamp(id), end);
        }
        self
    }

    fn create(&mut self, id: u64, start: u64, end: Option<u64>) -> &mut Self {
        let file = Some(Record {
            id,
            chunks: vec![],
            upload: None,
        });
        self.conditional(id, file, When::Absent, start, end)
    }

    fn replace(&mut self, id: u64, of: Seen, start: u64, end: Option<u64>) -> &mut Self {
        let file = Some(Record {
            id,
            chunks: vec![],
            upload: None,
        });
        self.conditional(id, file, When::Unchanged(of), start, end)
    }

    fn get(&mut self, seen: Seen, start: u64, end: u64) -> &mut Self {
        self.0.read(&self.1, seen, start, end);
        self
    }

    fn verdict(&self) -> usize {
        self.0.violations().len()
    }
}

use Seen::{File, Nothing, Tombstone};

#[test]
fn one_after_the_other_is_legal() {
    let mut t = Test::new();
    t.get(Nothing, 1, 2)
        .put(1, 3, Some(4))
        .get(File(1), 5, 6)
        .delete(2, 7, Some(8));
    t.get(Tombstone(Test::stamp(2).write), 9, 10)
        .put(3, 11, Some(12))
        .get(File(3), 13, 14);
    assert_eq!(t.verdict(), 0);
}

#[test]
fn a_lost_write_is_noticed() {
    assert_eq!(
        Test::new().put(1, 1, Some(2)).get(Nothing, 3, 4).verdict(),
        1
    );
    assert_eq!(
        Test::new()
            .put(1, 1, Some(2))
            .put(2, 3, Some(4))
            .get(File(1), 5, 6)
            .verdict(),
        1
    );
    assert_eq!(
        Test::new()
            .put(1, 1, Some(2))
            .delete(2, 3, Some(4))
            .get(File(1), 5, 6)
            .verdict(),
        1
    );
}

#[test]
fn a_read_that_goes_back_is_noticed() {
    let mut t = Test::new();
    t.put(1, 1, Some(2))
        .put(2, 3, Some(20))
        .get(File(2), 5, 6)
        .get(File(1), 7, 8);
    assert_eq!(
        t.verdict(),
        1,
        "the second write was seen before it ended, and then no more"
    );
}

#[test]
fn concurrent_operations_may_take_effect_in_either_order() {
    let mut t = Test::new();
    t.put(1, 1, Some(10))
        .put(2, 2, Some(9))
        .get(Nothing, 3, 4)
        .get(File(1), 5, 8)
        .get(File(2), 11, 12);
    assert_eq!(t.verdict(), 0);
    t.get(File(1), 13, 14);
    assert_eq!(t.verdict(), 1);
}

#[test]
fn an_unknown_write_may_show_late_or_never_but_only_once() {
    let mut t = Test::new();
    t.put(1, 1, Some(2)).put(2, 3, None).get(File(1), 4, 5);
    assert_eq!(t.verdict(), 0);
    t.get(File(2), 100, 101);
    assert_eq!(t.verdict(), 0);
    t.get(File(1), 102, 103);
    assert_eq!(t.verdict(), 1);
}

#[test]
fn an_unknown_delete_is_recognised_by_its_coordinator() {
    let mut t = Test::new();
    t.put(1, 1, Some(2))
        .delete(2, 3, None)
        .get(Tombstone(Test::stamp(9).write), 5, 6);
    assert_eq!(t.verdict(), 0);
    let stranger = WriteId {
        peer: PeerId(8),
        op: 1,
    };
    t.get(Tombstone(stranger), 7, 8);
    assert_eq!(t.verdict(), 1);
}

#[test]
fn what_nobody_wrote_or_only_later_is_noticed() {
    assert_eq!(Test::new().get(File(1), 1, 2).verdict(), 1);
    assert_eq!(
        Test::new().get(File(1), 1, 2).put(1, 3, Some(4)).verdict(),
        1
    );
}

#[test]
fn conditions_that_held_are_legal() {
    let mut t = Test::new();
    t.create(1, 1, Some(2))
        .replace(2, File(1), 3, Some(4))
        .delete(3, 5, Some(6))
        .create(4, 7, Some(8))
        .get(File(4), 9, 10);
    assert_eq!(t.verdict(), 0);
    // Concurrent with a delete of unknown outcome, there may have been room again.
    t.delete(5, 11, None).create(6, 12, Some(13));
    assert_eq!(t.verdict(), 0);
}

#[test]
fn a_lost_update_is_noticed() {
    let mut t = Test::new();
    t.put(1, 1, Some(2))
        .replace(2, File(1), 3, Some(10))
        .replace(3, File(1), 4, Some(9));
    assert_eq!(t.verdict(), 1, "both replaced the same");
}

#[test]
fn a_write_between_a_condition_and_its_write_is_noticed() {
    let mut t = Test::new();
    t.put(1, 1, Some(2)).put(2, 3, Some(20));
    t.replace(3, File(1), 4, Some(10)).get(File(3), 5, 6);
    assert_eq!(t.verdict(), 0, "the put comes last");
    t.get(File(2), 7, 8);
    assert_eq!(t.verdict(), 0);
    let mut t = Test::new();
    t.put(1, 1, Some(2)).put(2, 3, Some(20));
    t.replace(3, File(1), 4, Some(10)).get(File(2), 5, 6);
    t.get(File(3), 12, 13);
    assert_eq!(t.verdict(), 1, "the put came first, and was no more");
}

#[test]
fn two_creations_without_a_delete_are_noticed() {
    let mut t = Test::new();
    t.create(1, 1, Some(10)).create(2, 2, Some(9));
    assert_eq!(t.verdict(), 1);
    let mut t = Test::new();
    t.create(1, 1, None)
        .create(2, 2, Some(9))
        .get(File(1), 10, 11);
    assert_eq!(t.verdict(), 1, "the first took effect after the second");
}

#[test]
fn a_refusal_is_a_read_and_has_to_be_right() {
    let mut t = Test::new();
    t.put(1, 1, Some(2)).create(2, 3, None);
    let name = t.1.clone();
    let file = t.register(1, 1);
    t.0.refuse(&name, 2, Some(&file), Condition::Absent, 4);
    assert_eq!(t.verdict(), 0);
    t.create(3, 5, None);
    t.0.refuse(&name, 3, None, Condition::Absent, 6);
    assert_eq!(t.verdict(), 1, "there was room");
}

#[test]
fn a_file_written_anew_is_another_only_where_a_fence_may_have_been() {
    for (fences, write, wrong) in [(false, 9, 1), (true, 9, 0), (true, 1, 1)] {
        let mut t = Test::new();
        if fences {
            t.0.expect_fences();
        }
        t.put(1, 1, Some(2)).replace(2, File(1), 3, None);
        let (name, file) = (t.1.clone(), t.register(1, write));
        let condition = Condition::Unchanged(Test::stamp(1).write);
        t.0.refuse(&name, 2, Some(&file), condition, 4);
        assert_eq!(t.verdict(), wrong, "fences: {fences}, write {write}");
    }
}

#[test]
fn a_fence_leaves_no_file_only_where_there_was_none() {
    let fence = || {
        let peer = PeerId(8);
        Tombstone(WriteId { peer, op: 1 })
    };
    let mut t = Test::new();
    t.get(Nothing, 1, 2).get(fence(), 3, 4);
    assert_eq!(t.verdict(), 1, "nobody deleted it");
    t.0.expect_fences();
    assert_eq!(t.verdict(), 0);
    t.replace(1, fence(), 5, Some(6)).get(File(1), 7, 8);
    assert_eq!(t.verdict(), 0);
    t.get(fence(), 9, 10);
    assert_eq!(t.verdict(), 1, "the file is lost");
}

#[test]
fn certain_is_what_must_still_be_there() {
    let mut t = Test::new();
    t.put(1, 1, Some(2));
    assert_eq!(t.0.certain().len(), 1);
    t.put(2, 3, None);
    assert_eq!(t.0.certain().len(), 0);
}

#[test]
fn a_listing_shows_what_exists_all_the_time_and_nothing_that_is_deleted_all_the_time() {
    let shown = |names: &[&str], test: &mut Test| {
        let names = names.iter().map(|n| Name::new(*n).unwrap()).collect();
        test.0.listed(&names, 20, 30);
        let found = std::mem::take(&mut test.0.violations);
        found.iter().map(Violation::kind).collect::<Vec<_>>()
    };
    let mut file = Test::new();
    file.delete(1, 1, Some(2)).put(2, 3, Some(4));
    assert_eq!(shown(&["x"], &mut file), []);
    assert_eq!(shown(&[], &mut file), [Kind::Lost]);
    let mut gone = Test::new();
    gone.put(1, 1, Some(2)).delete(2, 3, Some(4));
    assert_eq!(shown(&[], &mut gone), []);
    assert_eq!(shown(&["x"], &mut gone), [Kind::Resurrected]);
    // One that ends meanwhile, one that begins, one of which nobody knows how it ended.
    for (start, end) in [(5, Some(25)), (25, Some(40)), (5, None)] {
        let mut open = Test::new();
        open.put(1, 1, Some(2)).delete(2, start, end);
        assert_eq!(shown(&["x"], &mut open), []);
        assert_eq!(shown(&[], &mut open), []);
    }
    let mut later = Test::new();
    later.put(1, 1, Some(2)).delete(2, 31, Some(40));
    assert_eq!(shown(&[], &mut later), [Kind::Lost]);
}
