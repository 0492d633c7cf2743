//! `Files`: clients' files.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use peernet_core::key::{Key, Name};
use peernet_proto::v1;
use peernet_proto::v1::get_response;
use peernet_proto::v1::put_request::Part;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::entrance::Covered;
use super::status::{not_serving, of_file};
use crate::daemon::{Life, Running};
use crate::files::{BrokenOff, FileError, Kind, Naming, Precondition};
use crate::wire::{compression_of, consistency_of};

pub(super) struct Files {
    life: Arc<Life>,
}

impl Files {
    pub(super) fn new(life: Arc<Life>) -> Self {
        Files { life }
    }

    /// Runs a call as one that the peer waits for before it stops.
    async fn call<T, F>(&self, work: impl FnOnce(Arc<Running>) -> F) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<T, FileError>>,
    {
        let running = self.life.serving().map_err(not_serving)?;
        let done = self.life.clients().track_future(work(running)).await;
        done.map(Response::new).map_err(of_file)
    }
}

#[tonic::async_trait]
impl v1::files_server::Files for Files {
    async fn put(
        &self,
        request: Request<Streaming<v1::PutRequest>>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let (_, extensions, mut parts) = request.into_parts();
        let patience = self.life.setup().client_timeout;
        let first = next(&mut parts, patience).await?;
        let Some(Part::Header(header)) = first.and_then(|first| first.part) else {
            return Err(Status::invalid_argument(
                "the first message of an upload carries its header",
            ));
        };
        let v1::PutHeader {
            name,
            content_type,
            size,
            when,
            tags,
            compression,
        } = header;
        let kind = Kind {
            content_type,
            tags,
            compression: compression_of(compression),
        };
        let when = precondition(when);
        let name = name_of(name)?;
        let serving = self.life.serving().map_err(not_serving)?;
        let (_place, covered) = serving.files.place(size).map_err(of_file)?;
        Covered::set(&extensions, covered);
        let mut named = serving.files.naming(size);
        let first = loop {
            match next(&mut parts, patience).await?.map(|next| next.part) {
                Some(Some(Part::Held(more))) => extend(&mut named, more)?,
                Some(part) => break Some(Ok(v1::PutRequest { part })),
                None => break None,
            }
        };
        let (held, _named) = named.done();
        let body = bodies(stream::iter(first).chain(parts));
        self.call(|running| async move {
            let put = running.files.put_rest(name, kind, size, &when, &held, body);
            Ok(v1::PutResponse {
                file: Some(put.await?.info),
            })
        })
        .await
    }

    async fn held(
        &self,
        request: Request<v1::HeldRequest>,
    ) -> Result<Response<v1::HeldResponse>, Status> {
        let keys = keys(&request.into_inner().hashes)?;
        self.call(|running| async move {
            let (held, chunk_size) = running.files.held(&keys).await?;
            Ok(v1::HeldResponse {
                held: held as u32,
                chunk_size,
            })
        })
        .await
    }

    type GetStream = BoxStream<'static, Result<v1::GetResponse, Status>>;

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let v1::GetRequest {
            name,
            offset,
            length,
            consistency,
        } = request.into_inner();
        let name = name_of(name)?;
        let consistency = consistency_of(consistency);
        self.call(|running| async move {
            let found = running.files.find(name, consistency).await?;
            let range = found.range(offset, length)?;
            let info = get_response::Part::File(found.info.clone());
            let bytes = running
                .files
                .stream(found, range)
                .map(|part| part.map(get_response::Part::Data));
            let parts = stream::iter([Ok(info)]).chain(bytes);
            Ok(parts
                .map(|part| {
                    part.map(|part| v1::GetResponse { part: Some(part) })
                        .map_err(of_file)
                })
                .boxed())
        })
        .await
    }

    async fn stat(
        &self,
        request: Request<v1::StatRequest>,
    ) -> Result<Response<v1::StatResponse>, Status> {
        let name = name_of(request.into_inner().name)?;
        self.call(|running| async move {
            Ok(v1::StatResponse {
                file: Some(running.files.stat(&name).await?),
            })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let v1::DeleteRequest { name, when } = request.into_inner();
        let (name, when) = (name_of(name)?, precondition(when));
        self.call(|running| async move {
            running.files.delete(name, &when).await?;
            Ok(v1::DeleteResponse {})
        })
        .await
    }

    async fn rename(
        &self,
        request: Request<v1::RenameRequest>,
    ) -> Result<Response<v1::RenameResponse>, Status> {
        let v1::RenameRequest {
            name,
            new_name,
            when,
        } = request.into_inner();
        let (from, to, when) = (name_of(name)?, name_of(new_name)?, precondition(when));
        self.call(|running| async move {
            let file = running.files.rename(from, to, &when).await?;
            Ok(v1::RenameResponse { file: Some(file) })
        })
        .await
    }

    async fn pin(
        &self,
        request: Request<v1::PinRequest>,
    ) -> Result<Response<v1::PinResponse>, Status> {
        let v1::PinRequest { name, when } = request.into_inner();
        let (name, when) = (name_of(name)?, precondition(when));
        self.call(|running| async move {
            let file = running.files.pin(name, true, &when).await?;
            Ok(v1::PinResponse { file: Some(file) })
        })
        .await
    }

    async fn unpin(
        &self,
        request: Request<v1::UnpinRequest>,
    ) -> Result<Response<v1::UnpinResponse>, Status> {
        let v1::UnpinRequest { name, when } = request.into_inner();
        let (name, when) = (name_of(name)?, precondition(when));
        self.call(|running| async move {
            let file = running.files.pin(name, false, &when).await?;
            Ok(v1::UnpinResponse { file: Some(file) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        let v1::ListRequest {
            prefix,
            after,
            limit,
        } = request.into_inner();
        self.call(|running| async move {
            let page = running.files.list(prefix, after, limit).await?;
            let next = page.next.map(|name| name.to_string()).unwrap_or_default();
            Ok(v1::ListResponse {
                files: page.files,
                next,
            })
        })
        .await
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let name = name_of(request.into_inner().name)?;
        self.call(|running| async move { running.files.explain(&name).await })
            .await
    }
}

fn name_of(text: String) -> Result<Name, Status> {
    Name::new(text).map_err(|error| of_file(error.into()))
}

fn precondition(when: Option<v1::Precondition>) -> Precondition {
    when.unwrap_or_default().into()
}

/// The next message of an upload, from a client that does not stand still.
async fn next(
    parts: &mut Streaming<v1::PutRequest>,
    patience: Duration,
) -> Result<Option<v1::PutRequest>, Status> {
    timeout(patience, parts.message())
        .await
        .map_err(|_| of_file(FileError::Stalled(patience.as_secs())))?
}

fn extend(named: &mut Naming, more: v1::HeldChunks) -> Result<(), Status> {
    let v1::HeldChunks { hashes, chunk_size } = more;
    named.extend(keys(&hashes)?, chunk_size).map_err(of_file)
}

fn keys(hashes: &[Bytes]) -> Result<Vec<Key>, Status> {
    let key = |hash: &Bytes| <[u8; 32]>::try_from(&hash[..]).map(Key);
    let keys = hashes.iter().map(key).collect::<Result<_, _>>();
    keys.map_err(|_| Status::invalid_argument("a chunk's hash has 32 bytes"))
}

/// The bytes of an upload. A second header is an error, since the client meant two files.
fn bodies(
    parts: impl Stream<Item = Result<v1::PutRequest, Status>> + Send,
) -> impl Stream<Item = Result<Bytes, BrokenOff>> + Send {
    parts.map(|part| match part {
        Ok(v1::PutRequest {
            part: Some(Part::Data(data)),
        }) => Ok(data),
        Ok(v1::PutRequest {
            part: Some(Part::Header(_)),
        }) => Err(BrokenOff::Connection("a second header came".into())),
        Ok(v1::PutRequest {
            part: Some(Part::Held(_)),
        }) => Err(BrokenOff::Connection(
            "chunks that are held were named after data".into(),
        )),
        Ok(v1::PutRequest { part: None }) => Ok(Bytes::new()),
        Err(status) => Err(BrokenOff::Connection(status.message().to_owned())),
    })
}
