//! Asking a server: one connection for one request.

use hyper::body::Body;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

/// Most that waits in memory to be sent, in bytes, as at the server's end; what is not taken makes the sender wait.
const BUFFER: usize = super::BUFFER;

/// Who asks, and the connection, which ends when this is dropped.
pub(crate) type Shaken<B> = (SendRequest<B>, AbortOnDropHandle<()>);

/// Speaks HTTP/1.1 on a connection that is open.
pub(crate) async fn shake_hands<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Shaken<B>, hyper::Error>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let mut client = Builder::new();
    let shaken = client.max_buf_size(BUFFER).handshake(TokioIo::new(stream));
    let (sender, connection) = shaken.await?;
    let connection = tokio::spawn(async move {
        // Whoever reads the body is told.
        let _ = connection.await;
    });
    Ok((sender, AbortOnDropHandle::new(connection)))
}
