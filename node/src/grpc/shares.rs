//! `Shares`: files that stay with a peer.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use peernet_core::flood::{Ask, Cost, FLOOD_TTL, Method, WALK_TTL, WALKERS};
use peernet_core::key::{Key, Name};
use peernet_core::share::{Offer, Wanted};
use peernet_proto::v1;
use peernet_proto::v1::fetch_share_request::Wanted as Named;
use peernet_proto::v1::fetch_share_response as response;
use peernet_proto::v1::share_request::Part;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::entrance::Covered;
use super::status::{check_network, not_serving, of_file, of_share, of_wire};
use crate::daemon::{Life, Running};
use crate::files::{BrokenOff, FileError, STALL};
use crate::shares::{Header, ShareError, Sharer, Unread, flood, sum};
use crate::wire::Wire;

pub(super) struct Shares {
    life: Arc<Life>,
}

impl Shares {
    pub(super) fn new(life: Arc<Life>) -> Self {
        Shares { life }
    }

    /// Runs a call as one that the peer waits for before it stops.
    async fn call<T, F>(&self, work: impl FnOnce(Arc<Running>) -> F) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<T, ShareError>>,
    {
        let running = self.life.serving().map_err(not_serving)?;
        let done = self.life.clients().track_future(work(running)).await;
        done.map(Response::new).map_err(of_share)
    }
}

#[tonic::async_trait]
impl v1::shares_server::Shares for Shares {
    async fn share(
        &self,
        request: Request<Streaming<v1::ShareRequest>>,
    ) -> Result<Response<v1::ShareResponse>, Status> {
        let (_, extensions, mut parts) = request.into_parts();
        let first = timeout(STALL, parts.message()).await;
        let first = first.map_err(|_| of_file(FileError::Stalled(STALL.as_secs())))??;
        let Some(Part::Header(header)) = first.and_then(|first| first.part) else {
            return Err(Status::invalid_argument(
                "the first message of a share carries its header",
            ));
        };
        let v1::ShareHeader {
            name,
            content_type,
            size,
            tags,
        } = header;
        self.call(|running| async move {
            let header = Header {
                name: Name::new(name)?,
                content_type,
                tags,
                announced: size,
            };
            let (_place, covered) = running.files.place(size)?;
            Covered::set(&extensions, covered);
            let offer = running.shares.share(header, bodies(parts)).await?;
            Ok(v1::ShareResponse {
                file: Some(info(&offer)),
            })
        })
        .await
    }

    async fn unshare(
        &self,
        request: Request<v1::UnshareRequest>,
    ) -> Result<Response<v1::UnshareResponse>, Status> {
        let v1::UnshareRequest { name, unfinished } = request.into_inner();
        self.call(|running| async move {
            let (name, shares) = (Name::new(name)?, &running.shares);
            match unfinished {
                true => shares.give_up(name).await?,
                false => shares.unshare(name).await?,
            }
            Ok(v1::UnshareResponse {})
        })
        .await
    }

    async fn list(
        &self,
        _: Request<v1::ListSharesRequest>,
    ) -> Result<Response<v1::ListSharesResponse>, Status> {
        self.call(|running| async move {
            let listed = running.shares.list().into_iter();
            let some = |bytes: u64| (bytes > 0).then_some(bytes);
            let files = listed.map(|(shared, holding)| v1::SharedInfo {
                missing: some(holding.missing()),
                received: some(holding.received()),
                ..info(&shared.offer)
            });
            let mut lost: Vec<v1::SharedInfo> =
                running.shares.unread().iter().map(lost_info).collect();
            lost.sort_by(|a, b| (&a.name, &a.advice).cmp(&(&b.name, &b.advice)));
            let files = files.chain(lost).collect();
            Ok(v1::ListSharesResponse { files })
        })
        .await
    }

    async fn find(
        &self,
        request: Request<v1::FindSharesRequest>,
    ) -> Result<Response<v1::FindSharesResponse>, Status> {
        let v1::FindSharesRequest {
            text,
            method,
            ttl,
            everywhere,
            limit,
            walkers,
        } = request.into_inner();
        let or = |given: u32, default: u32| if given == 0 { default } else { given };
        let (method, ttl) = match v1::SearchMethod::try_from(method) {
            Ok(v1::SearchMethod::Walk) => (Method::Walk(or(walkers, WALKERS)), or(ttl, WALK_TTL)),
            Ok(v1::SearchMethod::Flood | v1::SearchMethod::Unspecified) => {
                (Method::Flood, or(ttl, FLOOD_TTL))
            }
            Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "{method} is not a way to search; flood or walk"
                )));
            }
        };
        self.call(|running| async move {
            let ask = Ask {
                wanted: Wanted::words(&text)?,
                method,
                ttl,
                everywhere,
                want: limit as usize,
            };
            let (hits, found) = running.shares.find(ask).await?;
            Ok(v1::FindSharesResponse {
                hits: hits.iter().map(hit).collect(),
                cost: Some(cost(found)),
            })
        })
        .await
    }

    type FetchStream = BoxStream<'static, Result<v1::FetchShareResponse, Status>>;

    async fn fetch(
        &self,
        request: Request<v1::FetchShareRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let v1::FetchShareRequest { wanted, everywhere } = request.into_inner();
        let wanted = match wanted {
            Some(Named::Name(name)) => {
                Wanted::Name(Name::new(name).map_err(|e| of_share(e.into()))?)
            }
            Some(Named::Content(content)) => Wanted::Content(content.parse().map_err(|_| {
                Status::invalid_argument("a content is 64 lower-case hexadecimal digits")
            })?),
            None => {
                return Err(Status::invalid_argument(
                    "say which file by its name or its content",
                ));
            }
        };
        self.call(|running| async move {
            let (offer, bytes) = running.shares.fetch(wanted, everywhere).await?;
            let first = stream::iter([Ok(response::Part::File(info(&offer)))]);
            let bytes = bytes.map(|part| part.map(response::Part::Data));
            let parts = first.chain(bytes).map(|part| {
                part.map(|part| v1::FetchShareResponse { part: Some(part) })
                    .map_err(of_share)
            });
            Ok(parts.boxed())
        })
        .await
    }

    async fn who(
        &self,
        request: Request<v1::WhoRequest>,
    ) -> Result<Response<v1::WhoResponse>, Status> {
        let v1::WhoRequest { name, everywhere } = request.into_inner();
        self.call(|running| async move { who(&running, Name::new(name)?, everywhere).await })
            .await
    }

    type PrefetchStream = BoxStream<'static, Result<v1::PrefetchResponse, Status>>;

    async fn prefetch(
        &self,
        request: Request<v1::PrefetchRequest>,
    ) -> Result<Response<Self::PrefetchStream>, Status> {
        let v1::PrefetchRequest { name, peers } = request.into_inner();
        self.call(|running| async move {
            let (name, files) = (Name::new(name)?, &running.files);
            let progress = running.shares.prefetch(files, name, peers as usize).await?;
            let progress = ReceiverStream::new(progress).map(|told| told.map_err(of_share));
            Ok(progress.boxed())
        })
        .await
    }

    async fn bring(
        &self,
        request: Request<v1::BringRequest>,
    ) -> Result<Response<v1::BringResponse>, Status> {
        let v1::BringRequest {
            network_id,
            content,
        } = request.into_inner();
        let running = self.life.serving().map_err(not_serving)?;
        check_network(&network_id, &running.network)?;
        let content = content_key(&content)?;
        let missing = running.shares.bring_here(content).await;
        let missing = missing.map_err(of_share)?;
        Ok(Response::new(v1::BringResponse { missing }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeShareRequest>,
    ) -> Result<Response<v1::DescribeShareResponse>, Status> {
        let v1::DescribeShareRequest {
            network_id,
            content,
        } = request.into_inner();
        let running = self.life.member().map_err(not_serving)?;
        check_network(&network_id, &running.network)?;
        let content = content_key(&content)?;
        let kept = running.shares.kept(&Wanted::Content(content));
        let (shared, _) = kept.ok_or_else(|| Status::not_found("this peer does not share it"))?;
        Ok(Response::new(v1::DescribeShareResponse {
            offer: Some(shared.offer.to_wire()),
            body: shared.content.encode(),
        }))
    }
}

fn content_key(content: &Bytes) -> Result<Key, Status> {
    Key::from_wire(content.clone(), "content").map_err(of_wire)
}

/// Both ways a file can be had.
async fn who(
    running: &Running,
    name: Name,
    everywhere: bool,
) -> Result<v1::WhoResponse, ShareError> {
    let stored = match running.files.explain(&name).await {
        Ok(stored) => Some(stored),
        Err(FileError::NotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let wanted = Wanted::Name(name.clone());
    let (shared, searched) = running.shares.find(flood(wanted, everywhere, 0)).await?;
    if stored.is_none() && shared.is_empty() {
        return Err(ShareError::File(FileError::NotFound(name)));
    }
    let etag = stored
        .as_ref()
        .and_then(|s| Some(s.file.as_ref()?.etag.clone()));
    let mut contents: Vec<Key> = shared.iter().map(|s| s.offer.content).collect();
    contents.extend(etag.as_ref().and_then(|etag| etag.parse::<Key>().ok()));
    contents.sort_unstable();
    contents.dedup();
    let (mut providers, mut costs) = (Vec::new(), vec![searched]);
    // A name that many peers use for different files: the first few are enough to go on.
    for content in contents.into_iter().take(16) {
        let (members, asked) = running.shares.providers(content).await?;
        costs.push(asked);
        if !members.is_empty() {
            providers.push(v1::ContentProviders {
                content: content.to_string(),
                peers: members.into_iter().map(|m| m.name).collect(),
            });
        }
    }
    let stored = stored.unwrap_or_default();
    let mut holders: BTreeMap<&String, v1::ChunkTally> = BTreeMap::new();
    for chunk in &stored.chunks {
        for (peer, verified) in chunk.holders.iter().zip(&chunk.verified_unix_ms) {
            let tally = holders.entry(peer).or_insert_with(|| v1::ChunkTally {
                peer: peer.clone(),
                chunks: 0,
                verified_unix_ms: *verified,
            });
            tally.chunks += 1;
            tally.verified_unix_ms = tally.verified_unix_ms.min(*verified);
        }
    }
    Ok(v1::WhoResponse {
        stored_content: etag,
        holders: holders.into_values().collect(),
        chunks: stored.chunks.len() as u32,
        name_holders: stored.name_holders,
        shared: shared.iter().map(hit).collect(),
        providers,
        cost: Some(cost(sum(&costs))),
        zones: stored.zones,
    })
}

fn info(offer: &Offer) -> v1::SharedInfo {
    let Offer {
        name,
        size,
        content,
        content_type,
        tags,
        since,
    } = offer;
    v1::SharedInfo {
        name: name.to_string(),
        size: *size,
        content: content.to_string(),
        content_type: content_type.clone(),
        tags: tags.clone(),
        since_unix_ms: *since,
        missing: None,
        received: None,
        state: v1::SharedState::Unspecified.into(),
        advice: String::new(),
    }
}

/// Of a record that cannot be used now.
fn lost_info(unread: &Unread) -> v1::SharedInfo {
    let known = unread.lost.as_ref().map(|lost| info(&lost.offer));
    v1::SharedInfo {
        state: v1::SharedState::Lost.into(),
        advice: unread.advice(),
        ..known.unwrap_or_default()
    }
}

fn hit(sharer: &Sharer) -> v1::SharedHit {
    let Sharer { offer, member } = sharer;
    v1::SharedHit {
        file: Some(info(offer)),
        peer_id: member.id.to_string(),
        peer: member.name.clone(),
        zone: member.zone.clone(),
    }
}

fn cost(cost: Cost) -> v1::SearchCost {
    let Cost {
        peers,
        messages,
        silent,
        full,
    } = cost;
    v1::SearchCost {
        peers,
        messages,
        shards: 0,
        silent,
        full,
    }
}

/// The bytes of a file to be shared.
fn bodies(parts: Streaming<v1::ShareRequest>) -> impl Stream<Item = Result<Bytes, BrokenOff>> {
    parts.map(|part| match part {
        Ok(v1::ShareRequest {
            part: Some(Part::Data(data)),
        }) => Ok(data),
        Ok(v1::ShareRequest {
            part: Some(Part::Header(_)),
        }) => Err(BrokenOff::Connection("a second header came".into())),
        Ok(v1::ShareRequest { part: None }) => Ok(Bytes::new()),
        Err(status) => Err(BrokenOff::Connection(status.message().to_owned())),
    })
}
