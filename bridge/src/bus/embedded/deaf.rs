//! Names that only speak.
//!
//! Kept true: whoever calls such a name is told at once that it does not listen, also who does so while it is being registered.

use busrt::{FrameKind, QoS, borrow::Cow, broker::Client, client::AsyncClient};

use crate::bus::rpc::{Rpc, code};

/// Makes a client deaf: the broker refuses what is sent to it from now on, and who has called it since it was registered is told.
pub(super) async fn deafen(client: &mut Client) {
    let Some(queue) = client.take_event_channel() else { return };
    // First, so that nothing comes behind what is taken out.
    queue.close();
    while let Ok(frame) = queue.try_recv() {
        if frame.kind() != FrameKind::Message {
            continue;
        }
        let payload = [frame.header().unwrap_or_default(), frame.payload()].concat();
        let Ok(Rpc::Request { id, .. }) = Rpc::decode(&payload.into()) else { continue };
        if id != 0 {
            let message = bytes::Bytes::from_static(b"it does not listen");
            let answer = Rpc::Error { id, code: code::ABSENT, message }.encode();
            // Who has left needs no answer.
            drop(client.send(frame.sender(), Cow::Borrowed(&answer), QoS::No).await);
        }
    }
}
