//! Names that only speak.
//!
//! Kept true: whoever calls such a name is told at once that it does not listen, also who does so while it is being registered.

use crate::{
    bus::{
        embedded::broker::Client,
        rpc::{Rpc, code},
    },
    native::codec::server::Kind,
};

/// Makes a client deaf: the broker refuses what is sent to it from now on, and who has called it since it was registered is told.
pub(super) async fn deafen(client: &mut Client) {
    let Some(queue) = client.take_queue() else { return };
    // First, so that nothing comes behind what is taken out.
    queue.close();
    while let Some(frame) = queue.try_recv() {
        if frame.kind() != Some(Kind::Message) {
            continue;
        }
        let payload = [frame.header().unwrap_or_default(), frame.payload()].concat();
        let Ok(Rpc::Request { id, .. }) = Rpc::decode(&payload.into()) else { continue };
        if id != 0 {
            let message = bytes::Bytes::from_static(b"it does not listen");
            let answer = Rpc::Error { id, code: code::ABSENT, message }.encode();
            // Who has left needs no answer.
            client.send(frame.sender(), &answer, false).await.unwrap_or_default();
        }
    }
}
