//! The bytes of the journal, without the file.
//!
//! What was left behind the last record of a generation is of older ones, or zeros, or the beginning of a record that a
//! crash interrupted: whoever reads stops there. The number of a generation is not to be guessed from outside, so nobody
//! can put bytes into a file that would be read as a record.

/// Bytes of a record before its body.
const FRAME: usize = 12;
/// Bytes before a record's first entry.
pub(super) const HEAD: usize = FRAME + 8;

use peernet_core::key::Key;

/// Fills in the head of a record whose entries are there.
pub(super) fn seal(record: &mut [u8], generation: u64) {
    record[FRAME..HEAD].copy_from_slice(&generation.to_be_bytes());
    let body = &record[FRAME..];
    let (len, check) = ((body.len() as u32).to_be_bytes(), check(body));
    record[..4].copy_from_slice(&len);
    record[4..FRAME].copy_from_slice(&check);
}

fn check(body: &[u8]) -> [u8; 8] {
    let Key([a, b, c, d, e, f, g, h, ..]) = Key::of_bytes(body);
    [a, b, c, d, e, f, g, h]
}

/// The records of a generation, from the beginning of the journal.
pub(super) struct Records<'a> {
    text: &'a [u8],
    generation: u64,
    /// What is next has a length that may be right, and not its checksum.
    spoilt: bool,
}

/// What lies at the beginning of some bytes.
enum Read<'a> {
    /// Generation, entries, and what comes after.
    Record(u64, &'a [u8], &'a [u8]),
    /// Less than a record.
    Short,
    /// Enough for a record, and none.
    Spoilt,
}

fn read(text: &[u8]) -> Read<'_> {
    let framed = text.split_first_chunk::<4>().and_then(|(len, rest)| {
        let (sum, rest) = rest.split_first_chunk::<8>()?;
        let (body, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        Some((sum, body, rest))
    });
    let Some((sum, body, rest)) = framed else {
        return Read::Short;
    };
    match body.split_first_chunk() {
        Some((of, entries)) if check(body) == *sum => {
            Read::Record(u64::from_be_bytes(*of), entries, rest)
        }
        _ => Read::Spoilt,
    }
}

impl<'a> Records<'a> {
    pub(super) fn new(text: &'a [u8], generation: u64) -> Self {
        Records {
            text,
            generation,
            spoilt: false,
        }
    }

    /// After the last: it ended where a whole record should be that has not its checksum.
    pub(super) fn spoilt(&self) -> bool {
        self.spoilt
    }

    /// After the last: what comes is of the next generation, and nothing of this one came before. A generation begins when the
    /// database says so, durably: it has said so, and does not any more.
    pub(super) fn begins_after(&self) -> bool {
        let next = self.generation.wrapping_add(1);
        matches!(read(self.text), Read::Record(of, ..) if of == next)
    }

    /// After the last: a record of the same generation comes later all the same. So what is between was whole once: no
    /// record is written before the one in front of it is on the disk, where each of them is synced.
    pub(super) fn more(&self) -> bool {
        let of = self.generation.to_be_bytes();
        let framed = self.text.get(FRAME..).unwrap_or_default();
        let mut places = framed.windows(of.len()).enumerate();
        places.any(|(at, bytes)| bytes == of && matches!(read(&self.text[at..]), Read::Record(..)))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    /// The next record's entries.
    fn next(&mut self) -> Option<&'a [u8]> {
        match read(self.text) {
            // One of another generation is of before the last sync of the database, which has it all.
            Read::Record(of, entries, rest) if of == self.generation => {
                self.text = rest;
                Some(entries)
            }
            Read::Spoilt => {
                self.spoilt = true;
                None
            }
            Read::Record(..) | Read::Short => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: u64 = 0x1122_3344_5566_7788;
    const NEW: u64 = OLD + 1;

    /// Entries of no meaning, of lengths that differ.
    fn entries(n: u8) -> Vec<u8> {
        vec![n; usize::from(n) % 3 * 7 + 5]
    }

    fn record(generation: u64, n: u8) -> Vec<u8> {
        let mut record = vec![0; HEAD];
        record.extend(entries(n));
        seal(&mut record, generation);
        record
    }

    fn journal(generation: u64, numbers: impl IntoIterator<Item = u8>) -> Vec<u8> {
        let records = numbers.into_iter().map(|n| record(generation, n));
        records.flatten().collect()
    }

    /// What is read back, and whether more was found behind.
    type Reader = fn(&[u8], u64) -> (Vec<Vec<u8>>, bool);

    fn ours(text: &[u8], generation: u64) -> (Vec<Vec<u8>>, bool) {
        let mut records = Records::new(text, generation);
        let all = records.by_ref().map(<[u8]>::to_vec).collect();
        (all, records.more())
    }

    /// Goes on with what an older generation left.
    fn past_the_generation(text: &[u8], _: u64) -> (Vec<Vec<u8>>, bool) {
        let (mut text, mut all) = (text, Vec::new());
        while let Read::Record(_, entries, rest) = read(text) {
            all.push(entries.to_vec());
            text = rest;
        }
        (all, false)
    }

    /// Believes what has the length of a record and its generation.
    fn without_checksums(text: &[u8], generation: u64) -> (Vec<Vec<u8>>, bool) {
        let (mut text, mut all) = (text, Vec::new());
        while let Some((len, rest)) = text.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            let Some(body) = rest.get(8..).and_then(|rest| rest.get(..len)) else {
                break;
            };
            match body.split_first_chunk() {
                Some((of, entries)) if u64::from_be_bytes(*of) == generation => {
                    all.push(entries.to_vec());
                }
                _ => break,
            }
            text = &rest[8 + len..];
        }
        (all, false)
    }

    /// Takes whatever ends early for a crash.
    fn never_more(text: &[u8], generation: u64) -> (Vec<Vec<u8>>, bool) {
        (ours(text, generation).0, false)
    }

    /// A record that was acknowledged is lost, one is there that was not of this generation, or a power cut is taken for
    /// rot, where a crash interrupts the last of three records at some byte.
    fn fails_at_a_crash(reader: Reader) -> Option<String> {
        let acknowledged = journal(NEW, [1, 2]);
        let last = record(NEW, 3);
        let wanted = |n: u8| (1..=n).map(entries).collect::<Vec<_>>();
        // What the blocks held before: nothing, zeros, or an older generation, whose records end where ours do or not.
        let before = [
            Vec::new(),
            vec![0; 300],
            journal(OLD, [1, 2, 3, 4, 5, 6]),
            journal(OLD, [9, 9, 9, 9, 9, 9]),
            journal(OLD, [8, 7, 6, 5, 4, 3, 2, 1]),
        ];
        for (of, before) in before.iter().enumerate() {
            for cut in 0..=last.len() {
                let mut text = [&acknowledged[..], &last[..cut]].concat();
                text.extend(before.get(text.len()..).unwrap_or_default());
                // Its end may be what was there before.
                let written = text[acknowledged.len()..].starts_with(&last);
                let found = reader(&text, NEW);
                if found != (wanted(2 + u8::from(written)), false) {
                    return Some(format!("over {of}, cut after {cut}: {found:?}"));
                }
            }
            // And of a generation that has no record yet.
            if reader(before, NEW) != (Vec::new(), false) {
                return Some(format!("over {of}, nothing written"));
            }
        }
        None
    }

    /// A bit that rots before the last record is not noticed, or something is read that nobody wrote.
    fn fails_at_rot(reader: Reader) -> Option<String> {
        let whole = [journal(NEW, [1, 2, 3, 4]), journal(OLD, [5, 6])].concat();
        let noticed = journal(NEW, [1, 2, 3]).len();
        (0..noticed * 8).find_map(|bit| {
            let mut text = whole.clone();
            text[bit / 8] ^= 1 << (bit % 8);
            let (found, more) = reader(&text, NEW);
            let prefix = (1..).zip(&found).all(|(n, found)| *found == entries(n));
            (!more || !prefix || found.len() > 3).then(|| format!("bit {bit}: {found:?}"))
        })
    }

    #[test]
    fn a_crash_loses_nothing_that_was_synced_and_brings_nothing_back() {
        assert_eq!(fails_at_a_crash(ours), None);
    }

    #[test]
    fn what_rots_before_a_whole_record_is_noticed() {
        assert_eq!(fails_at_rot(ours), None);
    }

    #[test]
    fn readers_with_a_fault_are_caught() {
        assert!(fails_at_a_crash(past_the_generation).is_some());
        assert!(fails_at_a_crash(without_checksums).is_some());
        assert_eq!(fails_at_a_crash(never_more), None);
        assert!(fails_at_rot(never_more).is_some());
        assert!(fails_at_rot(without_checksums).is_some());
    }
}
