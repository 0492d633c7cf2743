//! Connections to pods through the API server, for gRPC's client to use in place of sockets.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::Portforwarder;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint, Error};

/// The port of a peer's pod that serves gRPC.
const GRPC_PORT: u16 = 7000;

/// The pods of a namespace, to be connected to.
#[derive(Clone)]
pub(crate) struct Forward {
    pods: Arc<Api<Pod>>,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forward")
    }
}

impl Forward {
    pub(super) fn new(pods: Api<Pod>) -> Self {
        Forward {
            pods: Arc::new(pods),
        }
    }

    /// Connects to a peer by its pod's name.
    pub(crate) async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, Error> {
        let forward = self.clone();
        let connector = tower::service_fn(move |uri: Uri| {
            let forward = forward.clone();
            async move { forward.open(&uri).await.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(connector).await
    }

    async fn open(&self, uri: &Uri) -> io::Result<Tunnel> {
        let pod = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(GRPC_PORT);
        let mut forwarder = self
            .pods
            .portforward(pod, &[port])
            .await
            .map_err(io::Error::other)?;
        let stream = forwarder.take_stream(port).expect("it was asked for, once");
        Ok(Tunnel { stream, forwarder })
    }
}

/// The address of the peer in a pod of this name.
pub(crate) fn pod(name: &str) -> String {
    format!("http://{name}:{GRPC_PORT}")
}

/// A stream to a pod; its end ends the forwarding.
struct Tunnel {
    stream: DuplexStream,
    forwarder: Portforwarder,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
