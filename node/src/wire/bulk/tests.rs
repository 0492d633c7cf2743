use std::iter::repeat_n;

use futures::{FutureExt, stream};
use http_body_util::StreamBody;
use peernet_proto::v1::{Encoding, Referrer};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn message(length: usize) -> PutChunkRequest {
    PutChunkRequest {
        network_id: "0f8b9c1e-4f0d-4a55-8d5c-2f1f6a1f7b10".into(),
        hash: vec![7; 32].into(),
        epoch: 300,
        data: repeat_n(9, length).collect(),
        referrer: Some(Referrer {
            name: "a/b".into(),
            upload: vec![1; 16].into(),
            base: None,
        }),
        length: length as u32,
        encoding: Encoding::Zstd.into(),
    }
}

/// As gRPC and prost write it.
fn written(message: &PutChunkRequest) -> Vec<u8> {
    let length = (message.encoded_len() as u32).to_be_bytes();
    [&[0][..], &length, &message.encode_to_vec()].concat()
}

fn request(frames: Vec<Bytes>) -> Request<Body> {
    let frames = frames.into_iter().map(|b| Ok::<_, Status>(Frame::data(b)));
    Request::new(Body::new(StreamBody::new(stream::iter(frames))))
}

/// What tonic and the service make of what came: the message, and whether its bytes were kept as they came.
fn received(frames: Vec<Bytes>) -> Result<(PutChunkRequest, bool), Status> {
    let request = unpack(request(frames)).now_or_never().unwrap()?;
    let (parts, body) = request.into_parts();
    let bytes = body.collect().now_or_never().unwrap()?.to_bytes();
    let length = u32::from_be_bytes(bytes[1..PREFIX].try_into().unwrap());
    assert_eq!(bytes.len() - PREFIX, length as usize, "a whole message");
    let message = PutChunkRequest::decode(&bytes[PREFIX..]);
    let mut message = tonic::Request::new(message.map_err(|e| Status::internal(e.to_string()))?);
    let kept = parts.extensions.get::<Bulk>().is_some();
    *message.extensions_mut() = parts.extensions;
    Ok((whole(message), kept))
}

#[test]
fn what_is_sent_is_what_prost_and_grpc_would_have_written() {
    for length in [1, 127, 128, SHORTEST - 1, SHORTEST, 1024 * 1024] {
        let message = message(length);
        let ((packed, leaves), place) = (pack(message.clone()), message.data.as_ptr());
        let mut request = Request::new(Body::empty());
        *request.extensions_mut() = packed.into_parts().1;
        let mut body = send(request).into_body();
        let mut sent = Vec::new();
        while let Some(frame) = body.frame().now_or_never().unwrap() {
            sent.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(sent.concat(), written(&message), "{length} bytes");
        drop(body);
        assert_eq!(leaves.strong_count(), 1, "some of it is still here");
        assert_eq!(sent[1].as_ptr(), place, "they were copied");
        let (received, kept) = received(sent).unwrap();
        let as_it_came = received.data.as_ptr() == place;
        assert_eq!((as_it_came, kept), (length >= SHORTEST, length >= SHORTEST));
        assert_eq!(received, message);
        assert_eq!(leaves.strong_count(), 0, "all of it has left");
    }
}

#[test]
fn a_reference_alone_goes_out_as_any_message() {
    let (packed, leaves) = pack(message(0));
    assert_eq!(leaves.strong_count(), 0);
    assert_eq!(*packed.get_ref(), message(0));
    assert!(packed.extensions().is_empty());
    let request = send(request(vec![Bytes::from_static(b"untouched")]));
    let body = request.into_body().collect().now_or_never().unwrap();
    assert_eq!(body.unwrap().to_bytes(), "untouched");
    let frames = vec![written(&message(0)).into()];
    assert_eq!(received(frames).unwrap(), (message(0), false));
}

proptest! {
    #[test]
    fn however_it_is_cut_it_is_the_same_message(
        length in prop_oneof![0..300_usize, SHORTEST - 1..SHORTEST + 2],
        cuts: Vec<Index>,
        at_the_chunk: [bool; 2],
    ) {
        let message = message(length);
        let mut rest = Bytes::from(written(&message));
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(rest.len())).collect();
        let [head, ..] = frames(message.clone());
        let ends = [head.len(), head.len() + length].into_iter().zip(at_the_chunk);
        cuts.extend(ends.filter(|(at, cut)| *cut && *at < rest.len()).map(|(at, _)| at));
        cuts.sort_unstable();
        let mut frames: Vec<Bytes> = cuts.iter().rev().map(|at| rest.split_off(*at)).collect();
        frames.push(rest);
        frames.reverse();
        prop_assert_eq!(received(frames).unwrap().0, message);
    }

    #[test]
    fn what_is_hostile_is_refused_or_left_to_tonic(bytes: Vec<u8>, cut: Index) {
        let mut first = Bytes::from([&[0, 0, 0, 0][..], &bytes].concat());
        let second = first.split_off(cut.index(first.len()));
        // Whatever it makes of it, nothing is invented: tonic gets no more than came.
        if let Ok(request) = unpack(request(vec![first.clone(), second.clone()])).now_or_never().unwrap() {
            let (parts, body) = request.into_parts();
            let left = body.collect().now_or_never().unwrap().unwrap().to_bytes().len();
            let kept = parts.extensions.get::<Bulk>().map_or(0, |Bulk(kept)| kept.len());
            prop_assert!(left + kept <= first.len() + second.len());
        }
    }
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    let frames = |message: &PutChunkRequest| frames(message.clone()).to_vec();
    let message = message(SHORTEST);
    let announce = |length: u32, frames: &mut Vec<Bytes>| {
        let mut head = BytesMut::from(&frames[0][..]);
        head[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        frames[0] = head.freeze();
    };
    let code = |frames| {
        unpack(request(frames))
            .now_or_never()
            .unwrap()
            .unwrap_err()
            .code()
    };
    // A chunk longer than its message, a byte too many, and more than any message may have.
    for length in [SHORTEST as u32, message.encoded_len() as u32 - 1] {
        let mut short = frames(&message);
        announce(length, &mut short);
        assert_eq!(code(short), tonic::Code::InvalidArgument, "{length}");
    }
    let mut long = frames(&message);
    announce(MESSAGE_MAX as u32 + 1, &mut long);
    assert_eq!(code(long), tonic::Code::OutOfRange);
    // One that never becomes whole is left as it is, for tonic to refuse.
    let mut broken_off = frames(&message);
    broken_off.truncate(2);
    let request = unpack(request(broken_off)).now_or_never().unwrap().unwrap();
    let body = request
        .into_body()
        .collect()
        .now_or_never()
        .unwrap()
        .unwrap()
        .to_bytes();
    let length = u32::from_be_bytes(body[1..PREFIX].try_into().unwrap()) as usize;
    assert!(body.len() - PREFIX < length);
}

#[test]
fn of_a_chunk_that_comes_twice_the_last_counts() {
    let twice = [
        message(SHORTEST).encode_to_vec(),
        message(SHORTEST + 1).encode_to_vec(),
    ]
    .concat();
    let expected = PutChunkRequest::decode(&twice[..]).unwrap();
    let mut frames = frames(message(SHORTEST)).to_vec();
    frames.push(message(SHORTEST + 1).encode_to_vec().into());
    let mut head = BytesMut::from(&frames[0][..]);
    head[1..PREFIX].copy_from_slice(&(twice.len() as u32).to_be_bytes());
    frames[0] = head.freeze();
    let (received, kept) = received(frames).unwrap();
    assert!(kept);
    assert_eq!(received, expected);
}

#[test]
fn what_is_compressed_is_left_to_tonic() {
    let mut frames = frames(message(SHORTEST)).to_vec();
    let mut head = BytesMut::from(&frames[0][..]);
    head[0] = 1;
    frames[0] = head.freeze();
    let request = unpack(request(frames.clone()))
        .now_or_never()
        .unwrap()
        .unwrap();
    assert!(request.extensions().get::<Bulk>().is_none());
    let body = request
        .into_body()
        .collect()
        .now_or_never()
        .unwrap()
        .unwrap();
    assert_eq!(body.to_bytes(), frames.concat());
}
