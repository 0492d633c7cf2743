//! A chunk in its message, to and from the wire without a copy.
//!
//! prost writes a message into one buffer, and tonic gathers what comes in one: a chunk would be copied for each peer it
//! goes to, and once more at each of them. So the request that carries a chunk leaves in three frames of HTTP/2: what is
//! before the chunk's bytes, the bytes where they lie, and what comes after them. In a row they are what protobuf and gRPC
//! say, field by field in order; who is at the other end need not know of it. [`pack`] makes the frames, and [`send`], on
//! the way to the connection, puts them in the place of the body.
//!
//! At the other end [`unpack`] looks at the frames before tonic does. One that begins where the chunk's bytes begin, and
//! has all of them, is kept as it came, and tonic decodes the message without it; [`whole`] puts both together. HTTP/2
//! promises nothing about frames: other senders cut them as they like, and so does a window that is nearly full. What is
//! cut otherwise is copied, and nothing else changes. Measured, uploads of 64 MiB took a fifth less of the processors.

use std::array::IntoIter;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Frame;
use peernet_proto::v1::PutChunkRequest;
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};
use tonic::Status;
use tonic::body::Body;

use crate::link::leaving;
use crate::transport::MESSAGE_MAX;

/// Number of the field with the chunk's bytes.
const DATA: u32 = 4;
/// Before a message (gRPC over HTTP/2, "Length-Prefixed-Message"): whether it is compressed, and its length.
const PREFIX: usize = 5;
/// What is before a chunk is shorter: the network's id, a hash and an epoch have 100 bytes. Bounds how often it is
/// looked through.
const HEAD_MAX: usize = 1024;
/// Shorter chunks are copied: that costs little, and a frame may hold on to all that was read with it.
const SHORTEST: usize = 16 * 1024;

/// The frames of a request.
#[derive(Clone)]
struct Frames([Bytes; 3]);

/// The bytes that were kept out of a message.
#[derive(Clone)]
struct Bulk(Bytes);

/// A request whose body [`send`] will make of the message, and what is gone when all of it has left; without a chunk it is
/// a request like any other.
pub(crate) fn pack(message: PutChunkRequest) -> (tonic::Request<PutChunkRequest>, Weak<()>) {
    if message.data.is_empty() {
        return (tonic::Request::new(message), Weak::new());
    }
    let mut request = tonic::Request::new(PutChunkRequest::default());
    let [head, data, after] = frames(message);
    // HTTP/2 takes turns by frame, so the last one may come long after the chunk.
    let (after, leaves) = leaving(after);
    request.extensions_mut().insert(Frames([head, data, after]));
    (request, leaves)
}

/// Fields are written in order, so those before the chunk and those after it may be written apart.
fn frames(message: PutChunkRequest) -> [Bytes; 3] {
    let PutChunkRequest {
        network_id,
        hash,
        epoch,
        data,
        referrer,
        length,
        encoding,
    } = message;
    let before = PutChunkRequest {
        network_id,
        hash,
        epoch,
        ..PutChunkRequest::default()
    };
    let after = PutChunkRequest {
        referrer,
        length,
        encoding,
        ..PutChunkRequest::default()
    };
    let (mut before, after) = (before.encode_to_vec(), after.encode_to_vec());
    encode_key(DATA, WireType::LengthDelimited, &mut before);
    encode_varint(data.len() as u64, &mut before);
    let length = (before.len() + data.len() + after.len()) as u32;
    let head = [&[0][..], &length.to_be_bytes(), &before].concat();
    [head.into(), data, after.into()]
}

/// Puts the frames that [`pack`] made in the place of the body.
pub(crate) fn send(mut request: Request<Body>) -> Request<Body> {
    if let Some(Frames(frames)) = request.extensions_mut().remove() {
        *request.body_mut() = Body::new(Leaving(frames.into_iter()));
    }
    request
}

/// A body that says of its last frame that it is: the end would otherwise be a frame of its own, and wait for another turn.
struct Leaving(IntoIter<Bytes, 3>);

impl hyper::body::Body for Leaving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.next().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.len() == 0
    }
}

/// Waits for all of a request's message, and keeps the chunk's bytes out of it where they came in one piece.
pub(crate) async fn unpack(request: Request<Body>) -> Result<Request<Body>, Status> {
    let (mut parts, mut body) = request.into_parts();
    let mut gathered = Gathered::default();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            gathered.push(data)?;
        }
    }
    let (message, bulk) = gathered.finish();
    if let Some(bulk) = bulk {
        parts.extensions.insert(Bulk(bulk));
    }
    Ok(Request::from_parts(parts, Body::new(Full::new(message))))
}

/// The message with what [`unpack`] kept out of it.
pub(crate) fn whole(request: tonic::Request<PutChunkRequest>) -> PutChunkRequest {
    let (_, mut extensions, mut message) = request.into_parts();
    // Of a field that comes twice the last one counts, and the first was kept.
    if let (Some(Bulk(data)), true) = (extensions.remove(), message.data.is_empty()) {
        message.data = data;
    }
    message
}

/// What has come of a request of one message.
#[derive(Default)]
struct Gathered {
    /// Without the field of the bulk bytes, if they were kept.
    bytes: BytesMut,
    bulk: Option<Bytes>,
    /// Length of that field.
    kept: usize,
}

impl Gathered {
    fn push(&mut self, mut frame: Bytes) -> Result<(), Status> {
        if self.bulk.is_none() && !self.bytes.is_empty() {
            match self.bulk_begins() {
                Some((field, length)) if (SHORTEST..=frame.len()).contains(&length) => {
                    self.kept = self.bytes.len() - field + length;
                    self.bytes.truncate(field);
                    self.bulk = Some(frame.split_to(length));
                }
                _ => {
                    let rest = self.announced().unwrap_or(PREFIX);
                    self.bytes.reserve(rest.saturating_sub(self.bytes.len()));
                }
            }
        }
        self.bytes.extend_from_slice(&frame);
        match self.announced() {
            Some(all) if all > PREFIX + MESSAGE_MAX => Err(Status::out_of_range(format!(
                "a message has at most {MESSAGE_MAX} bytes; this one is said to have {}",
                all - PREFIX
            ))),
            Some(all) if self.bytes.len() + self.kept > all => Err(Status::invalid_argument(
                "more bytes came than the message was said to have",
            )),
            _ => Ok(()),
        }
    }

    /// Bytes of the message with what is before it, once that is known.
    fn announced(&self) -> Option<usize> {
        let length = self.bytes.get(1..PREFIX)?.try_into().ok()?;
        Some(PREFIX + u32::from_be_bytes(length) as usize)
    }

    /// Where the chunk's field begins and how many bytes it has, if they are what comes next.
    fn bulk_begins(&self) -> Option<(usize, usize)> {
        let compressed = self.bytes.first() != Some(&0);
        if compressed || self.bytes.len() > HEAD_MAX {
            return None;
        }
        let mut head = self.bytes.get(PREFIX..)?;
        while !head.is_empty() {
            let field = self.bytes.len() - head.len();
            let (number, kind) = decode_key(&mut head).ok()?;
            if number == DATA && kind == WireType::LengthDelimited {
                let length = usize::try_from(decode_varint(&mut head).ok()?).ok()?;
                let room = self.announced()?.checked_sub(self.bytes.len())?;
                return (head.is_empty() && length <= room).then_some((field, length));
            }
            skip_field(kind, number, &mut head, DecodeContext::default()).ok()?;
        }
        None
    }

    /// The message as tonic takes it, and the bytes that are kept out of it.
    fn finish(mut self) -> (Bytes, Option<Bytes>) {
        if let (Some(all), Some(_)) = (self.announced(), &self.bulk) {
            let length = (all - PREFIX - self.kept) as u32;
            self.bytes[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        }
        (self.bytes.freeze(), self.bulk)
    }
}

#[cfg(test)]
mod tests;
