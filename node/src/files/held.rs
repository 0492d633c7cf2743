//! Going on with an upload that was broken off, without anybody keeping a record of it.
//!
//! Chunks are named by their hashes, and those that an upload has sent stay for an hour with its references (ADR 12). So
//! whoever sends a file again asks first, by hashes, how much of its beginning is held, and names that much instead of
//! sending it; each such chunk is pinned for the new upload, as any chunk that a put finds. It works through any peer, also
//! after the one that took the first part has gone, and spares the bytes of every file that begins like another.

use std::collections::{BTreeSet, HashMap};

use futures::future::join_all;
use peernet_core::collect::Referrer;
use peernet_core::key::Key;
use peernet_core::member::PeerId;
use tracing::debug;

use super::budget::{Budget, Share};
use super::manifest::ChunkRef;
use super::{FileError, Files};

/// Most chunks asked for at once: 1 GiB of chunks of 1 MiB (guess: a page that is hashed in a second).
pub(crate) const ASKED_MAX: usize = 1024;
/// Most chunks named in place of their bytes: 8 MiB of hashes for 256 GiB in chunks of 1 MiB; the rest is sent (guess).
pub(crate) const HELD_MAX: usize = 262_144;

/// Bytes of memory that a named chunk takes until its file is stored: its hash, and again in each of two sets (guess: what
/// those take whose entries are half full).
const NAMED: usize = 192;
/// So many bytes are taken at once for named chunks: 341 of them.
const STEP: usize = 64 * 1024;

/// The chunks at the beginning of a file that its sender says are held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Held {
    /// In the file's order.
    pub keys: Vec<Key>,
    /// Bytes of each of them.
    pub chunk_size: u32,
}

impl Held {
    /// Bytes of the file in them, if files are cut so here.
    pub(super) fn bytes(&self, ours: u32) -> Result<u64, FileError> {
        let Held { keys, chunk_size } = self;
        if keys.len() > HELD_MAX {
            return Err(FileError::TooManyHeld(keys.len()));
        }
        if !keys.is_empty() && *chunk_size != ours {
            let theirs = *chunk_size;
            return Err(FileError::ChunkSize { theirs, ours });
        }
        Ok(keys.len() as u64 * u64::from(ours))
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = ChunkRef> {
        let len = u64::from(self.chunk_size);
        self.keys.iter().map(move |key| ChunkRef { key: *key, len })
    }
}

/// The chunks that an upload names, as their hashes come. They count as memory of uploads over gRPC, beside the upload's
/// place, so that nobody has more of it for having said that little would come.
pub(crate) struct Naming {
    held: Held,
    /// Bytes of chunks here.
    ours: u32,
    announced: Option<u64>,
    room: Budget,
    shares: Vec<Share>,
}

impl Naming {
    /// Takes in more of them. Fails when files are cut otherwise here, or when they are more than the file has, or than there
    /// is memory for now.
    pub(crate) fn extend(&mut self, keys: Vec<Key>, chunk_size: u32) -> Result<(), FileError> {
        if keys.is_empty() {
            return Ok(());
        }
        let more = self.held.keys.len() + keys.len();
        if more > HELD_MAX {
            return Err(FileError::TooManyHeld(more));
        }
        let ours = self.ours;
        if chunk_size != ours {
            let theirs = chunk_size;
            return Err(FileError::ChunkSize { theirs, ours });
        }
        let received = more as u64 * u64::from(ours);
        if let Some(announced) = self.announced.filter(|size| received > *size) {
            return Err(FileError::Size {
                announced,
                received,
            });
        }
        while self.shares.len() * STEP < more * NAMED {
            let share = self.room.take_now(STEP);
            self.shares.push(share.ok_or(FileError::TooManyUploads)?);
        }
        self.held.chunk_size = chunk_size;
        self.held.keys.extend(keys);
        Ok(())
    }

    /// All that came, and its memory, to be kept until the upload is over.
    pub(crate) fn done(self) -> (Held, Vec<Share>) {
        (self.held, self.shares)
    }
}

impl Files {
    /// What takes in the chunks that an upload over gRPC names, of a file of so many bytes if that is known.
    pub(crate) fn naming(&self, announced: Option<u64>) -> Naming {
        Naming {
            held: Held::default(),
            ours: self.chunk_size,
            announced,
            room: self.streamed.clone(),
            shares: Vec::new(),
        }
    }

    /// How many of these chunks, from the first on, are durable on the write quorum now; and how many bytes files are cut
    /// into here.
    pub(crate) async fn held(&self, keys: &[Key]) -> Result<(usize, u32), FileError> {
        if keys.len() > ASKED_MAX {
            return Err(FileError::TooManyHeld(keys.len()));
        }
        let slots = keys.iter().map(|key| key.slot()).collect();
        let routes = self.peer.routes(slots).await?;
        let mut asked: HashMap<PeerId, (String, Vec<usize>)> = HashMap::new();
        for (n, route) in routes.into_iter().enumerate() {
            for holder in route.holders.into_iter().filter(|holder| holder.up) {
                let of = asked
                    .entry(holder.id)
                    .or_insert((holder.address, Vec::new()));
                of.1.push(n);
            }
        }
        let answers = join_all(asked.into_iter().map(async |(id, (address, numbers))| {
            let wanted = numbers.iter().map(|n| keys[*n]).collect();
            let there = self.chunks.have(id, &address, wanted).await;
            let there = there.unwrap_or_else(|error| {
                debug!(%id, "does not say what it holds: {error}");
                Vec::new()
            });
            let held = numbers.into_iter().zip(there);
            held.filter_map(|(n, held)| held.then_some(n))
                .collect::<Vec<_>>()
        }))
        .await;
        let mut copies = vec![0; keys.len()];
        for n in answers.into_iter().flatten() {
            copies[n] += 1;
        }
        let held = copies
            .iter()
            .take_while(|copies| **copies >= self.write)
            .count();
        Ok((held, self.chunk_size))
    }

    /// Pins the chunks that are said to be held, on the write quorum of each; fails when one is not, or has another length.
    pub(super) async fn pin_held(&self, held: &Held, by: &Referrer) -> Result<(), FileError> {
        let len = held.chunk_size;
        let keys: BTreeSet<(Key, u32)> = held.keys.iter().map(|key| (*key, len)).collect();
        self.pin_all(keys, by).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_cut_as_here_and_bounded() {
        let held = |count, chunk_size| Held {
            keys: vec![Key([1; 32]); count],
            chunk_size,
        };
        assert_eq!(held(0, 0).bytes(7).unwrap(), 0);
        assert_eq!(held(3, 7).bytes(7).unwrap(), 21);
        assert!(matches!(
            held(3, 8).bytes(7),
            Err(FileError::ChunkSize { theirs: 8, ours: 7 })
        ));
        assert!(matches!(
            held(HELD_MAX + 1, 7).bytes(7),
            Err(FileError::TooManyHeld(_))
        ));
    }

    fn naming(announced: Option<u64>, room: &Budget) -> Naming {
        Naming {
            held: Held::default(),
            ours: 7,
            announced,
            room: room.clone(),
            shares: Vec::new(),
        }
    }

    #[test]
    fn no_more_chunks_are_named_than_the_file_has() {
        let room = Budget::new(STEP);
        let mut named = naming(Some(20), &room);
        named.extend(vec![Key([1; 32]); 2], 7).unwrap();
        named.extend(Vec::new(), 0).unwrap();
        assert!(matches!(
            named.extend(vec![Key([1; 32])], 6),
            Err(FileError::ChunkSize { theirs: 6, ours: 7 })
        ));
        assert!(matches!(
            named.extend(vec![Key([1; 32])], 7),
            Err(FileError::Size {
                announced: 20,
                received: 21
            })
        ));
        let (held, _shares) = named.done();
        assert_eq!((held.keys.len(), held.chunk_size), (2, 7));
        let none = naming(Some(0), &room).extend(vec![Key([1; 32])], 7);
        assert!(matches!(none, Err(FileError::Size { .. })));
    }

    #[test]
    fn chunks_that_are_named_count_as_memory_until_their_upload_is_over() {
        let room = Budget::new(3 * STEP);
        let of_steps = |steps: usize| vec![Key([1; 32]); steps * STEP / NAMED];
        let mut first = naming(None, &room);
        first.extend(of_steps(1), 7).unwrap();
        first.extend(of_steps(1), 7).unwrap();
        assert_eq!(room.taken(), 2 * STEP as u64);
        let mut second = naming(None, &room);
        assert!(matches!(
            second.extend(of_steps(2), 7),
            Err(FileError::TooManyUploads)
        ));
        drop(second);
        let shares = first.done().1;
        assert_eq!(room.taken(), 2 * STEP as u64);
        drop(shares);
        assert_eq!(room.taken(), 0);
        let most = naming(None, &Budget::new(usize::MAX / 2)).extend(of_steps(769), 7);
        assert!(matches!(most, Err(FileError::TooManyHeld(_))));
    }
}
