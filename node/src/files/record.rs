//! How a file is written into its name's register: a head that listings show, and a body.

use bytes::Bytes;
use peernet_core::collect::Upload;
use peernet_core::key::Name;
use peernet_core::register::{Head, Value};
use peernet_proto::v1;
use prost::Message;
use thiserror::Error;

use super::FileError;
use super::manifest::Manifest;
use crate::config::Compression;

/// Layout written by this version.
const FORMAT: u32 = 1;
/// Longest content type, in bytes; keeps a head below 2 KiB.
pub(crate) const CONTENT_TYPE_MAX: usize = 255;

/// Most tags of a file.
pub(crate) const TAGS_MAX: usize = 16;
/// Longest tag, in bytes; with [`TAGS_MAX`] keeps a head below 2 KiB.
pub(crate) const TAG_MAX: usize = 64;
/// The content type that says nothing.
const ANY_BYTES: &str = "application/octet-stream";

/// What a client says of a file's content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Kind {
    /// May be empty.
    pub content_type: String,
    /// In any order.
    pub tags: Vec<String>,
    /// Whether its chunks are compressed, if not as the network says. Nothing that is kept with the file.
    pub compression: Option<Compression>,
}

impl Kind {
    /// Whether a head has room for it, and it can be sent in headers.
    pub(crate) fn check(&self) -> Result<(), FileError> {
        let Kind {
            content_type, tags, ..
        } = self;
        if content_type.len() > CONTENT_TYPE_MAX
            || !content_type.bytes().all(|b| matches!(b, b' '..=b'~'))
        {
            return Err(FileError::ContentType);
        }
        let bad = |tag: &String| {
            !(1..=TAG_MAX).contains(&tag.len())
                || tag.contains(|c: char| c == ',' || c.is_control())
        };
        if tags.len() > TAGS_MAX || tags.iter().any(bad) {
            return Err(FileError::Tags);
        }
        Ok(())
    }
}

/// The label of a tag in the keyword index.
pub(crate) fn tag_label(tag: &str) -> String {
    format!("tag:{tag}")
}

/// The label of a content type, or of its first half, in the keyword index.
pub(crate) fn type_label(content_type: &str) -> String {
    format!("type:{content_type}")
}

/// The labels of a file: its tags, and its content type without parameters.
pub(crate) fn labels(head: &[u8]) -> Vec<String> {
    let Ok(head) = v1::FileHead::decode(head) else {
        return Vec::new();
    };
    let mut labels: Vec<String> = head.tags.iter().map(|tag| tag_label(tag)).collect();
    let content_type = head.content_type.split(';').next().unwrap_or("").trim();
    if !content_type.is_empty() && content_type != ANY_BYTES {
        labels.push(type_label(content_type));
        labels.extend(
            content_type
                .split_once('/')
                .map(|(first, _)| type_label(first)),
        );
    }
    labels
}

/// What is known of a file without its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Summary {
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the inline bytes or of the encoded manifest; changes exactly when the content does.
    pub etag: [u8; 32],
    /// As the client gave it.
    pub kind: Kind,
    /// By the clock of the peer that stored it; informational only.
    pub modified_unix_ms: u64,
    /// Chunks of content; 0 for an inline file.
    pub chunks: u64,
    /// Bytes of one copy of these chunks, as they were sent; `None` where that is not known.
    pub stored: Option<u64>,
    /// Nothing may take its place.
    pub pinned: bool,
}

impl Summary {
    /// The etag in lower-case hex.
    pub(crate) fn etag_hex(&self) -> String {
        peernet_core::key::Key(self.etag).to_string()
    }

    /// As clients see it.
    pub(crate) fn to_info(&self, name: &Name) -> v1::FileInfo {
        v1::FileInfo {
            name: name.to_string(),
            size: self.size,
            etag: self.etag_hex(),
            content_type: self.kind.content_type.clone(),
            modified_unix_ms: self.modified_unix_ms,
            chunks: self.chunks,
            tags: self.kind.tags.clone(),
            pinned: self.pinned,
            stored: self.stored,
        }
    }
}

/// Where a file's bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Here.
    Inline(Bytes),
    /// In chunks.
    Chunks(Manifest),
}

impl Content {
    /// The etag of a file with this content.
    pub(crate) fn etag(&self) -> [u8; 32] {
        match self {
            Content::Inline(bytes) => *blake3::hash(bytes).as_bytes(),
            Content::Chunks(manifest) => {
                *blake3::hash(&manifest.to_wire().encode_to_vec()).as_bytes()
            }
        }
    }
}

impl Content {
    /// Bytes of the file.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Chunks(manifest) => manifest.size(),
        }
    }

    /// As it is kept and sent.
    pub(crate) fn encode(&self) -> Bytes {
        let content = match self {
            Content::Inline(bytes) => v1::file_body::Content::Inline(bytes.clone()),
            Content::Chunks(manifest) => v1::file_body::Content::Manifest(manifest.to_wire()),
        };
        let body = v1::FileBody {
            content: Some(content),
        };
        body.encode_to_vec().into()
    }

    /// Checks what was kept or sent.
    pub(crate) fn decode(body: &Bytes) -> Result<Self, RecordError> {
        let wire = v1::FileBody::decode(body.clone()).map_err(|_| RecordError::Encoding)?;
        match wire.content {
            Some(v1::file_body::Content::Inline(bytes)) => Ok(Content::Inline(bytes)),
            Some(v1::file_body::Content::Manifest(manifest)) => {
                Ok(Content::Chunks(Manifest::from_wire(manifest)?))
            }
            None => Err(RecordError::Encoding),
        }
    }
}

/// A record that this version cannot read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub(crate) enum RecordError {
    #[error("it is not a file's record")]
    Encoding,
    #[error("it has layout {0}; this peer reads layout 1 only, so it needs a newer version")]
    Format(u32),
    #[error("its manifest is {0} levels deep")]
    Depth(u32),
    #[error("one of its manifest's nodes has {0} references")]
    Refs(usize),
    #[error("one of its references has no hash")]
    Hash,
    #[error("one of its references has the impossible length {0}")]
    Length(u64),
    #[error("its head says {head} bytes and its body {body}")]
    Size { head: u64, body: u64 },
}

/// The register's value for a file. `upload`: whose references keep the content's chunks.
pub(crate) fn encode(summary: &Summary, content: &Content, upload: Option<Upload>) -> Value {
    let Summary {
        size,
        etag,
        kind,
        modified_unix_ms,
        chunks,
        stored,
        pinned,
    } = summary;
    let head = v1::FileHead {
        format: FORMAT,
        size: *size,
        etag: Bytes::copy_from_slice(etag),
        content_type: kind.content_type.clone(),
        tags: kind.tags.clone(),
        modified_unix_ms: *modified_unix_ms,
        chunks: *chunks,
        stored: *stored,
    };
    Value::Present {
        head: Head {
            bytes: head.encode_to_vec().into(),
            pinned: *pinned,
        },
        body: content.encode(),
        upload,
    }
}

/// Reads a head.
pub(crate) fn decode_head(head: &Head) -> Result<Summary, RecordError> {
    let wire = v1::FileHead::decode(head.bytes.clone()).map_err(|_| RecordError::Encoding)?;
    let v1::FileHead {
        format,
        size,
        etag,
        content_type,
        modified_unix_ms,
        chunks,
        tags,
        stored,
    } = wire;
    if format != FORMAT {
        return Err(RecordError::Format(format));
    }
    let etag = <[u8; 32]>::try_from(&etag[..]).map_err(|_| RecordError::Encoding)?;
    Ok(Summary {
        size,
        etag,
        kind: Kind {
            content_type,
            tags,
            compression: None,
        },
        modified_unix_ms,
        chunks,
        stored,
        pinned: head.pinned,
    })
}

/// Reads head and body, which have to agree.
pub(crate) fn decode(head: &Head, body: &Bytes) -> Result<(Summary, Content), RecordError> {
    let summary = decode_head(head)?;
    let content = Content::decode(body)?;
    let body = content.size();
    if body != summary.size {
        return Err(RecordError::Size {
            head: summary.size,
            body,
        });
    }
    Ok((summary, content))
}

#[cfg(test)]
mod tests {
    use peernet_core::key::Key;
    use peernet_core::register::HEAD_MAX;

    use super::*;
    use crate::files::manifest::ChunkRef;

    fn round_trip(content: &Content, size: u64) -> Result<(Summary, Content), RecordError> {
        let kind = Kind {
            content_type: "x".repeat(CONTENT_TYPE_MAX),
            tags: vec!["é".repeat(TAG_MAX / 2); TAGS_MAX],
            compression: None,
        };
        kind.check().expect("the largest");
        let summary = Summary {
            size,
            etag: content.etag(),
            kind,
            modified_unix_ms: u64::MAX,
            chunks: u64::MAX,
            stored: Some(u64::MAX),
            pinned: true,
        };
        let Value::Present { head, body, .. } = encode(&summary, content, None) else {
            unreachable!()
        };
        assert!(head.bytes.len() <= HEAD_MAX);
        let decoded = decode(&head, &body)?;
        assert_eq!(decoded.0, summary);
        Ok(decoded)
    }

    #[test]
    fn records_round_trip() {
        let empty = Content::Inline(Bytes::new());
        assert_eq!(round_trip(&empty, 0).unwrap().1, empty);
        let refs = vec![ChunkRef {
            key: Key([7; 32]),
            len: 9,
        }];
        let chunks = Content::Chunks(Manifest {
            chunk_size: 9,
            depth: 0,
            refs,
        });
        assert_eq!(round_trip(&chunks, 9).unwrap().1, chunks);
    }

    #[test]
    fn head_and_body_must_agree() {
        let content = Content::Inline(Bytes::from_static(b"abc"));
        assert_eq!(
            round_trip(&content, 4),
            Err(RecordError::Size { head: 4, body: 3 })
        );
        assert_eq!(decode_head(&Head::default()), Err(RecordError::Format(0)));
    }
}
