//! The gRPC services: thin, each method translates and calls.

use std::sync::Arc;
use std::time::Duration;

use peernet_proto::DESCRIPTORS;
use peernet_proto::v1::admin_server::AdminServer;
use peernet_proto::v1::chunks_server::ChunksServer;
use peernet_proto::v1::files_server::FilesServer;
use peernet_proto::v1::peers_server::PeersServer;
use peernet_proto::v1::ring_server::RingServer;
use peernet_proto::v1::search_server::SearchServer;
use peernet_proto::v1::shares_server::SharesServer;
use peernet_proto::v1::swarm_server::SwarmServer;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::daemon::Life;
use crate::files::STREAM;
use crate::link::TRANSFER;
use crate::transport::MESSAGE_MAX;
use entrance::Entrance;

mod admin;
mod chunks;
mod entrance;
mod files;
mod peers;
mod ring;
mod search;
mod shares;
mod status;
mod swarm;

#[cfg(test)]
mod slow;

/// Flow control: a chunk of 1 MiB passes without a stop (measured; HTTP/2's default of 64 KiB halves the throughput).
const STREAM_WINDOW: u32 = STREAM as u32;
/// The same for all streams of a connection together. Connections times this is not what lies here: a window is full only where
/// nobody reads on, and a call of one message is read to its end at once or refused ([`Entrance`]), whereas streams are read
/// on by as many as have a place, or are refused.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Large frames cost less (measured: 256 KiB to 1 MiB).
const FRAME: u32 = 1024 * 1024;
/// Calls at once on one connection; bounds what one peer or client can make this one hold.
const STREAMS: u32 = 256;
/// Largest request of those that only ask something, in bytes (guess: sixteen of the longest names and what is beside them).
const QUESTION_MAX: usize = 64 * 1024;
/// How often the health service looks at the most whether the peer is ready: each time the core walks through its slots.
const HEALTH: Duration = Duration::from_secs(1);
/// How often it looks at a peer that is ready, besides when the members change: little else makes it unready.
const HEALTH_READY: Duration = Duration::from_secs(10);

/// Serves gRPC until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    life: Arc<Life>,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (reporter, health) = health_reporter();
    let watching = tokio::spawn(report_health(reporter, life.clone()));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // What errors carry, for those who know nothing but what they are told here.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?
        .max_decoding_message_size(QUESTION_MAX);
    /// What comes in is at most so large.
    macro_rules! sized {
        ($server:ident, $service:expr, $max:expr) => {
            $server::new($service)
                .max_decoding_message_size($max)
                .max_encoding_message_size(MESSAGE_MAX)
        };
    }
    let patience = life.setup().client_timeout;
    // A silent client is asked whether it is there, and has as long to answer: 20 seconds each, which is a default of gRPC.
    let check = patience * 2 / 3;
    let at = life.clone();
    let guests = at.doors().grpc.open(listener, Some(patience * 2));
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(check))
        .http2_keepalive_timeout(Some(check))
        .layer(Entrance::new(patience, TRANSFER))
        .add_service(health)
        .add_service(reflection)
        .add_service(sized!(AdminServer, admin::Admin::new(life.clone()), STREAM))
        .add_service(chunks::Unpacking(sized!(
            ChunksServer,
            chunks::Chunks::new(life.clone()),
            MESSAGE_MAX
        )))
        // Clients' messages keep to tonic's limit of 4 MiB: each upload may hold one that has not come in whole.
        .add_service(
            FilesServer::new(files::Files::new(life.clone()))
                .max_encoding_message_size(MESSAGE_MAX),
        )
        .add_service(sized!(
            PeersServer,
            peers::Peers::new(life.clone()),
            QUESTION_MAX
        ))
        .add_service(
            SharesServer::new(shares::Shares::new(life.clone()))
                .max_encoding_message_size(MESSAGE_MAX),
        )
        .add_service(sized!(
            SwarmServer,
            swarm::Swarm::new(life.clone()),
            QUESTION_MAX
        ))
        .add_service(sized!(
            SearchServer,
            search::Search::new(life.clone()),
            QUESTION_MAX
        ))
        .add_service(sized!(
            RingServer,
            ring::Ring::new(life, stop.clone()),
            MESSAGE_MAX
        ))
        .serve_with_incoming_shutdown(guests, stop.cancelled())
        .await;
    watching.abort();
    Ok(served?)
}

/// Tells the health service: the process as a whole serves from the start, files only when the peer is ready.
async fn report_health(reporter: HealthReporter, life: Arc<Life>) {
    loop {
        let mut news = life.member().map(|running| running.peer.news()).ok();
        // Before the peer is asked, so that no change is missed.
        news.iter_mut().for_each(|news| news.mark_unchanged());
        let ready = life.status().await.is_ok_and(|status| status.ready);
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        reporter
            .set_service_status("peernet.v1.Files", status)
            .await;
        sleep(HEALTH).await;
        if let (true, Some(mut news)) = (ready, news) {
            tokio::select! {
                // Or the peer has ended, which the next look finds.
                _ = news.changed() => {}
                () = life.stops() => {}
                () = sleep(HEALTH_READY) => {}
            }
        }
    }
}
