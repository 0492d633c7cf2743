//! The bytes of what is stored. A file is opened once: what is hashed to find out what of it is held, and what is sent, are
//! the same file, whatever takes its name meanwhile.

use std::cmp::Ordering;
use std::fs::Metadata;
use std::io;
use std::time::SystemTime;

use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, Take};

use super::{Job, PutError, is_stdin};

/// What is read.
pub(super) enum Source {
    /// Standard input, a pipe or a device: it has no size of its own, and is read once.
    Stream(Box<dyn AsyncRead + Send + Unpin>),
    /// A file, up to where it ended when it was opened.
    File(Take<File>, Stamp),
}

/// What tells that a file was written to.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
}

/// What became of a file since it was opened.
#[derive(Clone, Copy)]
pub(super) enum Since {
    /// Nothing.
    Kept,
    /// It is longer: something was appended, as to logs, or it was written anew.
    Grown,
    /// It was written to.
    Written,
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Stamp {
            size: meta.len(),
            // Not every file system knows it.
            modified: meta.modified().ok(),
        }
    }
}

/// Opens what the job is about.
pub(super) async fn open(job: &Job) -> Result<Source, PutError> {
    if is_stdin(&job.path) {
        return Ok(Source::Stream(Box::new(tokio::io::stdin())));
    }
    let failed = |reason: io::Error| match reason.kind() {
        io::ErrorKind::NotFound => PutError::Missing(job.path.clone()),
        _ => PutError::Read {
            path: job.path.clone(),
            reason,
        },
    };
    let file = File::open(&job.path).await.map_err(failed)?;
    let meta = file.metadata().await.map_err(failed)?;
    if !meta.is_file() {
        return Ok(Source::Stream(Box::new(file)));
    }
    // What is appended after this moment is not part of it.
    Ok(Source::File(file.take(meta.len()), Stamp::of(&meta)))
}

impl Source {
    /// Bytes in all, where that is known.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Source::Stream(_) => None,
            Source::File(_, stamp) => Some(stamp.size),
        }
    }

    /// Goes to that byte of a file. A stream is where it is.
    pub(super) async fn begin_at(&mut self, offset: u64) -> io::Result<()> {
        let Source::File(file, stamp) = self else {
            return Ok(());
        };
        file.get_mut().seek(io::SeekFrom::Start(offset)).await?;
        file.set_limit(stamp.size.saturating_sub(offset));
        Ok(())
    }

    /// The next so many bytes; fewer at the end only.
    pub(super) async fn next(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(most);
        match self {
            Source::Stream(stream) => stream.take(most as u64).read_to_end(&mut buffer).await?,
            Source::File(file, _) => file.take(most as u64).read_to_end(&mut buffer).await?,
        };
        Ok(buffer)
    }

    /// Whether the file was written to since it was opened, so that what was read may be some of this and some of that.
    pub(super) async fn since_opened(&mut self) -> io::Result<Since> {
        let Source::File(file, before) = self else {
            return Ok(Since::Kept);
        };
        let now = Stamp::of(&file.get_ref().metadata().await?);
        Ok(match now.size.cmp(&before.size) {
            Ordering::Greater => Since::Grown,
            Ordering::Equal if now.modified == before.modified => Since::Kept,
            Ordering::Equal | Ordering::Less => Since::Written,
        })
    }
}
