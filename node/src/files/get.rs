//! Reading a file.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use clap::ValueEnum;
use peernet_core::collect::{Upload, upload_of};
use peernet_core::key::{Key, Name};
use peernet_core::register::Register;
use peernet_proto::v1;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::budget::Share;
use super::manifest::{ChunkRef, Step, Walk};
use super::outlet::{Outgoing, Sink, Stop, outlet};
use super::record::Content;
use super::{FileError, Files, open};
use crate::disk::Chunk;

/// Chunks of one download under way at once, the one being sent included (guess).
const READ_AHEAD: usize = 6;

/// How often a name's replicas are told that somebody reads it; they remember it for 30 seconds.
const RENEW: Duration = Duration::from_secs(8);
/// How often a name is read until a majority of its replicas knows of the reader; once, unless it is being written (guess).
const HOLDS: usize = 4;

/// A file's bytes, in order. An error ends it.
pub(crate) type ByteStream = Outgoing<FileError>;

/// Whose word a read takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Consistency {
    /// A majority's: what was acknowledged last.
    #[default]
    Quorum,
    /// This peer's, where it can give it.
    One,
}

/// A file that was found.
#[derive(Clone)]
pub(crate) struct Found {
    /// What is known of it.
    pub info: v1::FileInfo,
    name: Name,
    content: Content,
    /// Whose references keep its chunks.
    upload: Option<Upload>,
}

impl Found {
    /// The bytes from `offset` on, `length` of them or to the end, as positions in the file.
    pub(crate) fn range(&self, offset: u64, length: Option<u64>) -> Result<Range<u64>, FileError> {
        let size = self.info.size;
        if offset > size {
            return Err(FileError::Range { offset, size });
        }
        let end = length.map_or(size, |length| offset.saturating_add(length).min(size));
        Ok(offset..end)
    }
}

impl Files {
    /// Finds a file by its name.
    pub(crate) async fn find(
        &self,
        name: Name,
        consistency: Consistency,
    ) -> Result<Found, FileError> {
        if consistency == Consistency::One
            && let Some(found) = self.find_here(&name).await?
        {
            return Ok(found);
        }
        self.find_last(name).await
    }

    /// By this peer's own copy of its record, if the bytes are in it. A file whose bytes are elsewhere is not found here,
    /// since its readers have to be known where its name is, and one that seems to be gone may only not have come yet.
    async fn find_here(&self, name: &Name) -> Result<Option<Found>, FileError> {
        let register = self
            .peer
            .look_at(Key::of_name(name), self.chunks.me())
            .await?;
        if !register.as_ref().is_some_and(Register::is_present) {
            return Ok(None);
        }
        let found = self.found(name.clone(), register, None)?;
        Ok(matches!(found.content, Content::Inline(_)).then_some(found))
    }

    async fn find_last(&self, name: Name) -> Result<Found, FileError> {
        for _ in 0..HOLDS {
            let (register, held) = self.peer.hold_name(name.clone(), None).await?;
            let upload = register.as_ref().and_then(|r| upload_of(&r.value));
            if held || upload.is_none() {
                return self.found(name, register, upload);
            }
        }
        // Its replicas disagree all the time; it is read all the same.
        let register = self.peer.read_name(name.clone()).await?;
        let upload = register.as_ref().and_then(|r| upload_of(&r.value));
        self.found(name, register, upload)
    }

    fn found(
        &self,
        name: Name,
        register: Option<Register>,
        upload: Option<Upload>,
    ) -> Result<Found, FileError> {
        let (summary, content) = open(&name, register)?;
        Ok(Found {
            info: summary.to_info(&name),
            name,
            content,
            upload,
        })
    }

    /// Keeps the chunks of an upload for a reader until dropped.
    pub(super) fn keep(&self, name: Name, upload: Upload) -> AbortOnDropHandle<()> {
        let peer = self.peer.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                sleep(RENEW).await;
                if let Err(error) = peer.hold_name(name.clone(), Some(upload)).await {
                    debug!(%name, "its replicas could not be told of a reader: {error}");
                }
            }
        }))
    }

    /// Streams a range of a file that was found; only the chunks needed are read. A client that takes nothing for so
    /// long as its patience is given up, and with it the memory it holds; for 5 seconds if that memory is short.
    pub(crate) fn stream(&self, found: Found, range: Range<u64>) -> ByteStream {
        let manifest = match found.content {
            Content::Inline(all) => {
                return Outgoing::Few(all.slice(range.start as usize..range.end as usize));
            }
            Content::Chunks(manifest) => manifest,
        };
        let (outlet, stream) = outlet();
        let (files, sink) = (self.clone(), outlet.sink());
        self.tasks.spawn(async move {
            let (patience, budget) = (files.patience, files.downloads.clone());
            let work = async move {
                let walk = Walk::new(&manifest, range);
                let _kept = found.upload.map(|u| files.keep(found.name.clone(), u));
                let download = Download {
                    files,
                    name: found.name,
                    walk,
                    ready: None,
                    ahead: VecDeque::new(),
                };
                download.run(&sink).await
            };
            outlet.fill(work, patience, Some(&budget)).await;
        });
        stream
    }
}

/// A chunk under way, the bytes of it that are wanted, and its memory.
struct Ahead {
    fetch: AbortOnDropHandle<Result<Chunk, FileError>>,
    wanted: Range<usize>,
    share: Option<Share>,
}

struct Download {
    files: Files,
    name: Name,
    walk: Walk,
    /// Found by the walk, waiting for memory.
    ready: Option<(ChunkRef, Range<usize>)>,
    ahead: VecDeque<Ahead>,
}

impl Download {
    async fn run(mut self, sink: &Sink<FileError>) -> Result<(), Stop<FileError>> {
        loop {
            self.look_ahead().await?;
            let Some(Ahead {
                fetch,
                wanted,
                share,
            }) = self.ahead.pop_front()
            else {
                return Ok(());
            };
            let chunk = fetch
                .await
                .map_err(|error| FileError::Interrupted(error.to_string()))??;
            let data = chunk.into_data();
            if data.len() < wanted.end {
                return Err(FileError::Interrupted(
                    "a chunk is shorter than its manifest says".into(),
                )
                .into());
            }
            sink.send(data.slice(wanted), share).await?;
        }
    }

    /// Starts fetching the next chunks. One is always under way, if need be after waiting for memory behind other
    /// downloads; more only while there is plenty.
    async fn look_ahead(&mut self) -> Result<(), FileError> {
        while self.ahead.len() < READ_AHEAD {
            if self.ready.is_none() {
                self.ready = self.next_piece().await?;
            }
            let Some((chunk, wanted)) = self.ready.clone() else {
                return Ok(());
            };
            let len = chunk.len as usize;
            let share = match self.ahead.is_empty() {
                true => self.files.downloads.take(len).await,
                false => match self.files.downloads.take_spare(len) {
                    None => return Ok(()),
                    share => share,
                },
            };
            self.ready = None;
            let files = self.files.clone();
            let fetch =
                AbortOnDropHandle::new(tokio::spawn(async move { files.fetch(chunk.key).await }));
            self.ahead.push_back(Ahead {
                fetch,
                wanted,
                share,
            });
        }
        Ok(())
    }

    async fn next_piece(&mut self) -> Result<Option<(ChunkRef, Range<usize>)>, FileError> {
        self.files.next_piece(&mut self.walk, &self.name).await
    }
}

impl Files {
    /// Walks on to the next chunk, reading the manifest's nodes on the way.
    async fn next_piece(
        &self,
        walk: &mut Walk,
        name: &Name,
    ) -> Result<Option<(ChunkRef, Range<usize>)>, FileError> {
        let record = |reason| FileError::Record {
            name: name.clone(),
            reason,
        };
        loop {
            match walk.step().map_err(record)? {
                None => return Ok(None),
                Some(Step::Piece(chunk, wanted)) => return Ok(Some((chunk, wanted))),
                Some(Step::Node(node)) => {
                    let node = self.fetch(node.key).await?.into_data();
                    walk.enter(node).map_err(record)?;
                }
            }
        }
    }
}
