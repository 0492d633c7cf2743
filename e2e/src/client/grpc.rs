//! Over gRPC.

use blake3::Hasher;
use futures::{StreamExt, stream};
use peernet_proto::v1::{
    DeleteRequest, GetRequest, PutHeader, PutRequest, get_response, put_request,
};

use super::{Received, TransferError};
use crate::content::Content;
use crate::peer::Peer;

pub(super) async fn put(peer: &Peer, name: &str, content: Content) -> Result<(), TransferError> {
    let file = put_claiming(peer, name, content, content.len).await?;
    if file != content.len {
        return Err(TransferError::Contract("another size was stored"));
    }
    Ok(())
}

/// Puts a file while announcing a size that need not be true; returns the size that was stored.
///
/// # Errors
/// See [`TransferError`].
pub async fn put_claiming(
    peer: &Peer,
    name: &str,
    content: Content,
    size: u64,
) -> Result<u64, TransferError> {
    let header = PutHeader {
        name: name.into(),
        content_type: "application/octet-stream".into(),
        size: Some(size),
        ..Default::default()
    };
    let header = put_request::Part::Header(header);
    let data = content.blocks().map(put_request::Part::Data);
    let requests = std::iter::once(header)
        .chain(data)
        .map(|part| PutRequest { part: Some(part) });
    let answer = peer.files().await?.put(stream::iter(requests)).await?;
    let file = answer.into_inner().file;
    Ok(file
        .ok_or(TransferError::Contract(
            "a put was answered without the file",
        ))?
        .size)
}

pub(super) async fn get(peer: &Peer, name: &str) -> Result<Received, TransferError> {
    let request = GetRequest {
        name: name.into(),
        ..GetRequest::default()
    };
    let mut answers = peer.files().await?.get(request).await?.into_inner();
    let (mut hasher, mut len, mut announced) = (Hasher::new(), 0, None);
    while let Some(answer) = answers.next().await {
        match answer?.part {
            Some(get_response::Part::File(file)) => announced = Some(file.size),
            Some(get_response::Part::Data(data)) => {
                hasher.update(&data);
                len += data.len() as u64;
            }
            None => return Err(TransferError::Contract("an empty message in a get")),
        }
    }
    if announced != Some(len) {
        return Err(TransferError::Contract(
            "a get ended well, but not at the announced size",
        ));
    }
    Ok(Received {
        hash: hasher.finalize(),
        len,
    })
}

pub(super) async fn delete(peer: &Peer, name: &str) -> Result<(), TransferError> {
    peer.files()
        .await?
        .delete(DeleteRequest {
            name: name.into(),
            when: None,
        })
        .await?;
    Ok(())
}
