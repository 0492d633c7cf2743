use futures::FutureExt;
use http_body_util::BodyExt;
use peernet_proto::DESCRIPTORS;
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::*;

const PATIENCE: Patience = Patience::fixed(Duration::from_secs(5));

/// Whoever adds a call whose request is a stream has to say so here.
#[test]
fn streams_are_known() {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let mut streams = Vec::new();
    for file in &files {
        for service in &file.service {
            let calls = service.method.iter().filter(|m| m.client_streaming());
            let path = |name| format!("/{}.{}/{}", file.package(), service.name(), name);
            streams.extend(calls.map(|m| path(m.name())));
        }
    }
    streams.sort();
    let mut known = [&STREAMS[..1], &UPLOADS, &[TAKE]].concat();
    known.sort_unstable();
    assert_eq!(streams, known);
}

/// Whoever adds a call between peers has to say so here, or a full peer would refuse its own kind.
#[test]
fn calls_between_peers_are_known() {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let messages = files.iter().flat_map(|file| &file.message_type);
    let messages: Vec<&DescriptorProto> = messages.collect();
    let (mut between_peers, mut all) = (Vec::new(), Vec::new());
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let input = method.input_type().rsplit('.').next();
                let request = messages.iter().find(|m| Some(m.name()) == input).unwrap();
                if names_network(request) {
                    between_peers.push(path.clone());
                }
                all.push(path);
            }
        }
    }
    let listed = |path: &String| OF_PEERS.iter().any(|prefix| path.starts_with(prefix));
    let strangers: Vec<&String> = between_peers.iter().filter(|p| !listed(p)).collect();
    assert!(strangers.is_empty(), "not in OF_PEERS: {strangers:?}");
    for prefix in OF_PEERS {
        assert!(all.iter().any(|path| path.starts_with(prefix)), "{prefix}");
    }
    for known in ["Ring/Deliver", "Chunks/Have", "Swarm/Take", "Shares/Bring"] {
        let path = format!("/peernet.v1.{known}");
        assert!(between_peers.contains(&path), "{path} names no network");
    }
}

fn names_network(message: &DescriptorProto) -> bool {
    message.field.iter().any(|f| f.name() == "network_id")
        || message.nested_type.iter().any(names_network)
}

fn message(length: u32, here: usize) -> Bytes {
    let prefix = [&[0][..], &length.to_be_bytes()].concat();
    prefix
        .into_iter()
        .chain(std::iter::repeat_n(7, here))
        .collect()
}

fn whole(room: &Arc<Room>) -> (mpsc::Sender<Bytes>, Whole) {
    request(room, Follows::Nothing)
}

fn request(room: &Arc<Room>, follows: Follows) -> (mpsc::Sender<Bytes>, Whole) {
    request_on(&Moved::default(), room, follows)
}

fn request_on(came: &Moved, room: &Arc<Room>, follows: Follows) -> (mpsc::Sender<Bytes>, Whole) {
    let (frames, receiver) = mpsc::channel(8);
    let body = Body::new(Sent(receiver, Ending::Whole));
    (
        frames,
        Whole::new(body, room.clone(), came.clone(), follows),
    )
}

/// Frames, and how the request ends after them.
struct Sent(mpsc::Receiver<Bytes>, Ending);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Whole,
    Cancelled,
    /// A reset that says `NO_ERROR`.
    Reset,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let data = ready!(self.0.poll_recv(cx));
        Poll::Ready(match (data, self.1) {
            (Some(data), _) => Some(Ok(Frame::data(data))),
            (None, Ending::Cancelled) => Some(Err(Status::cancelled("by the client"))),
            (None, Ending::Whole | Ending::Reset) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.1 == Ending::Whole && self.0.is_closed() && self.0.is_empty()
    }
}

#[tokio::test]
async fn what_is_broken_off_is_not_whole() {
    let room = Room::new(100 * 1024, PATIENCE);
    for ending in [Ending::Whole, Ending::Cancelled, Ending::Reset] {
        for follows in [Follows::Alike, Follows::Covered(Covered::default())] {
            let (frames, receiver) = mpsc::channel(8);
            let body = Body::new(Sent(receiver, ending));
            let body = Whole::new(body, room.clone(), Moved::default(), follows);
            // Between two messages: what came is well-formed.
            frames.send(message(3, 3)).await.unwrap();
            frames.send(message(2, 2)).await.unwrap();
            drop(frames);
            let code = body.collect().await.err().map(|status| status.code());
            let expected = (ending != Ending::Whole).then_some(Code::Aborted);
            assert_eq!(code, expected, "{ending:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn half_messages_take_room_until_they_are_whole_or_late() {
    let room = Room::new(100 * 1024, PATIENCE);
    let length = |n: usize| (n * 1024) as u32;
    // What comes at once takes none, whatever is before it.
    let (frames, small) = whole(&room);
    let mut data = message(3, 3);
    frames.send(data.split_to(4)).await.unwrap();
    frames.send(data).await.unwrap();
    drop(frames);
    assert_eq!(small.collect().await.unwrap().to_bytes(), message(3, 3));
    assert_eq!(room.budget.taken(), 0);

    let (frames, mut first) = whole(&room);
    frames.send(message(length(60), 1024)).await.unwrap();
    assert!(first.frame().await.unwrap().is_ok());
    assert_eq!(room.budget.taken(), 60 * 1024);
    let (others, mut second) = whole(&room);
    others.send(message(length(60), 1024)).await.unwrap();
    assert!(second.frame().now_or_never().is_none(), "there is no room");
    frames.send(Bytes::from(vec![7; 59 * 1024])).await.unwrap();
    drop(frames);
    first.collect().await.unwrap();
    assert!(second.frame().await.unwrap().is_ok());
    // Now and then a byte does not make it come in time.
    let late = loop {
        others.send(Bytes::from_static(b"7")).await.unwrap();
        assert!(second.frame().await.unwrap().is_ok());
        sleep(Duration::from_secs(1)).await;
        if let Some(late) = second.frame().now_or_never() {
            break late.unwrap().unwrap_err();
        }
    };
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    drop(second);
    assert_eq!(room.budget.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_takes_its_room_while_its_connection_moves_and_not_for_ever() {
    let (still, whole) = (Duration::from_secs(5), Duration::from_secs(60));
    let room = Room::new(100 * 1024, Patience { still, whole });
    let came = Moved::default();
    let begin = async || {
        let (frames, mut chunk) = request_on(&came, &room, Follows::Nothing);
        frames.send(message(60 * 1024, 1024)).await.unwrap();
        assert!(chunk.frame().await.unwrap().is_ok());
        (frames, chunk)
    };
    let moving = async |seconds: u64, bytes: usize, chunk: &mut Whole| {
        for second in 0..seconds {
            sleep(Duration::from_secs(1)).await;
            came.add(bytes);
            if let Some(late) = chunk.frame().now_or_never() {
                let late = late.unwrap().unwrap_err();
                assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
                return second;
            }
        }
        seconds
    };
    // Its one frame takes long to come, while others come before it.
    let (frames, mut chunk) = begin().await;
    assert_eq!(moving(30, 4096, &mut chunk).await, 30);
    frames.send(vec![7; 59 * 1024].into()).await.unwrap();
    drop(frames);
    chunk.collect().await.unwrap();
    assert_eq!(room.budget.taken(), 0);
    // Bytes now and then do not count, and many do not for ever.
    for (bytes, given_up) in [(50, 4..7), (4096, 59..62)] {
        let (_frames, mut chunk) = begin().await;
        let second = moving(100, bytes, &mut chunk).await;
        assert!(given_up.contains(&second), "{second} s");
        drop(chunk);
        assert_eq!(room.budget.taken(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn each_message_of_a_stream_takes_room_until_it_is_whole_or_late() {
    let room = Room::new(100 * 1024, PATIENCE);
    let (frames, mut stream) = request(&room, Follows::Alike);
    let next = async |stream: &mut Whole| stream.frame().await.unwrap().map(|_| ());
    // Two, the beginning of a third and its end with a fourth.
    let two = [message(3, 3), message(0, 0), message(2, 2)].concat();
    frames.send(two.into()).await.unwrap();
    next(&mut stream).await.unwrap();
    assert_eq!(room.budget.taken(), 0);
    let third = [message(1, 1), message(60 * 1024, 1024)].concat();
    frames.send(third.into()).await.unwrap();
    next(&mut stream).await.unwrap();
    assert_eq!(room.budget.taken(), 60 * 1024);
    let end = [&[7; 59 * 1024][..], &message(50 * 1024, 9)].concat();
    frames.send(end.into()).await.unwrap();
    next(&mut stream).await.unwrap();
    assert_eq!(room.budget.taken(), 50 * 1024);
    frames.send(vec![7; 50 * 1024 - 9].into()).await.unwrap();
    next(&mut stream).await.unwrap();
    assert_eq!(room.budget.taken(), 0);
    // Silence between messages is no fault, within one it is.
    assert!(stream.frame().now_or_never().is_none());
    sleep(Duration::from_secs(60)).await;
    assert!(stream.frame().now_or_never().is_none());
    frames.send(message(100, 9)).await.unwrap();
    next(&mut stream).await.unwrap();
    let late = next(&mut stream).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    drop(stream);
    assert_eq!(room.budget.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_an_upload_has_a_place_for_takes_no_room() {
    let room = Room::new(100 * 1024, PATIENCE);
    let covered = Covered::default();
    let mut extensions = Extensions::default();
    extensions.insert(covered.clone());
    let (frames, mut upload) = request(&room, Follows::Covered(covered));
    let next = async |upload: &mut Whole| {
        let data = upload
            .frame()
            .await
            .unwrap()
            .map(|f| f.into_data().unwrap());
        data.map(|data| data.len())
    };
    // The first message comes in two frames, the second of which brings half of the next message.
    frames.send(message(20 * 1024, 1024)).await.unwrap();
    assert_eq!(next(&mut upload).await.unwrap(), PREFIX + 1024);
    assert_eq!(room.budget.taken(), 20 * 1024);
    let end = [&[7; 19 * 1024][..], &message(60 * 1024, 1024)].concat();
    frames.send(end.into()).await.unwrap();
    assert_eq!(next(&mut upload).await.unwrap(), 19 * 1024, "the first one");
    assert_eq!(room.budget.taken(), 0);
    Covered::set(&extensions, 60 * 1024);
    assert_eq!(next(&mut upload).await.unwrap(), PREFIX + 1024);
    frames.send(vec![7; 59 * 1024].into()).await.unwrap();
    assert_eq!(next(&mut upload).await.unwrap(), 59 * 1024);
    assert_eq!(room.budget.taken(), 0);
    // What is longer than the client has said takes room, and has to be whole in time.
    frames.send(message(61 * 1024, 1024)).await.unwrap();
    assert_eq!(next(&mut upload).await.unwrap(), PREFIX + 1024);
    assert_eq!(room.budget.taken(), 61 * 1024);
    let late = next(&mut upload).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    drop(upload);
    assert_eq!(room.budget.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_may_follow_the_message() {
    let room = Room::new(100 * 1024, PATIENCE);
    let second = message(10_000, 5_000);
    // In a frame of its own, in the first one, and after a message that came in two.
    let cases = [
        vec![message(3, 3), second.clone()],
        vec![[&message(3, 3)[..], &second].concat().into()],
        vec![message(3, 1), Bytes::from_static(b"77"), second],
    ];
    for frames_sent in cases {
        let (frames, body) = whole(&room);
        for frame in frames_sent {
            frames.send(frame).await.unwrap();
        }
        let refused = body.collect().await.map(|_| ()).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert_eq!(room.budget.taken(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_to_come_again() {
    let room = Room::new(100 * 1024, PATIENCE);
    let held = room.budget.take_now(90 * 1024).unwrap();
    let mut waiting = Vec::new();
    for n in 0..=WAITING {
        let (frames, mut body) = whole(&room);
        frames.send(message(20 * 1024, 1)).await.unwrap();
        match body.frame().now_or_never() {
            None => waiting.push((frames, body)),
            Some(refused) => {
                let refused = refused.unwrap().unwrap_err();
                assert_eq!(
                    (n, refused.code()),
                    (WAITING, tonic::Code::ResourceExhausted)
                );
            }
        }
    }
    assert_eq!(waiting.len(), WAITING);
    let (_, mut first) = waiting.remove(0);
    let refused = first.frame().await.unwrap().unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let (_, mut last) = waiting.remove(0);
    assert!(last.frame().await.unwrap().is_err(), "it waited as long");
    drop((waiting, held));
    // What no service takes is left to the service to refuse.
    let (frames, mut body) = whole(&room);
    frames.send(message(u32::MAX, 1)).await.unwrap();
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(room.budget.taken(), 0);
}
