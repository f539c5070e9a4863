//! A client of BUS/RT whose bus has no room.

use bytes::BytesMut;
use daemoneye_bridge::{
    bus::PortError,
    native::codec::{
        self, Qos,
        client::{self, Head, TopicsOf},
        greeting,
        server::{self, ServerFrame},
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::snapshot::Collectors;

/// The far end of a connection.
struct Client {
    io: DuplexStream,
    read: BytesMut,
}

impl Client {
    async fn greet(&mut self, name: &str) {
        let mut opening = [0; greeting::OPENING];
        self.io.read_exact(&mut opening).await.unwrap();
        let mut said = BytesMut::from(&greeting::opening()[..]);
        greeting::put_name(&mut said, name).unwrap();
        self.io.write_all(&said).await.unwrap();
        for _ in 0..2 {
            assert_eq!(self.io.read_u8().await.unwrap(), codec::Code::OK.0);
        }
    }

    async fn ack(&mut self) -> (u32, codec::Code) {
        loop {
            match server::decode(&mut self.read, 1 << 16).unwrap() {
                Some(ServerFrame::Ack { id, code }) => return (id, code),
                Some(_) => {}
                None => assert!(self.io.read_buf(&mut self.read).await.unwrap() > 0, "it is closed"),
            }
        }
    }
}

#[tokio::test]
async fn a_client_whose_bus_has_no_room_still_hears_what_the_policy_says() {
    let (shelf, mut asked) = Shelf::new(1);
    let stage = Stage::on(shelf, Lifecycle::new(), "", POLICY);
    let busrt = stage.sessions.native(native::Config::default(), CancellationToken::new());
    let peer = VerifiedPeer::assume(PeerId::new("site-a", "x").unwrap());
    let caller = Caller::new(peer, "127.0.0.1:4444".parse().unwrap());
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut client = Client { io: near, read: BytesMut::new() };
    let asking = async {
        let nameless = async {
            let Some(Command::Attach { done, .. }) = asked.recv().await else { panic!("not attached") };
            done.send(Err(PortError::Shared)).unwrap();
        };
        tokio::join!(client.greet("collector.site-a.x"), nameless);
        let published = |id| {
            let mut frame = BytesMut::new();
            client::publish(&mut frame, Head { id, qos: Qos::Processed }, "a/b", b"x").unwrap();
            frame
        };
        client.io.write_all(&published(1)).await.unwrap();
        while asked.is_empty() {
            tokio::task::yield_now().await;
        }
        // The bus has room for one batch, which it does not take.
        let mut said = published(2);
        let head = Head { id: 7, qos: Qos::Processed };
        client::topics(&mut said, head, TopicsOf::Subscribe, &["a/#"]).unwrap();
        said.extend_from_slice(&published(3));
        client.io.write_all(&said).await.unwrap();
        let served = u64::try_from(published(1).len() + said.len() - published(3).len()).unwrap();
        let mut view = stage.sessions.0.registry.view();
        let has_read = |view: &Arc<Collectors>| view.live.first().is_some_and(|live| live.bytes >= served);
        drop(view.wait_for(has_read).await.unwrap());
        stage.judge.replace(policy(&POLICY.replace("a.#", "b.#")));
        let acks = [client.ack().await, client.ack().await, client.ack().await];
        assert_eq!(
            acks,
            [(2, codec::Code::ACCESS), (7, codec::Code::NOT_SUPPORTED), (3, codec::Code::ACCESS)],
            "the first is with the bus"
        );
        let Some(Command::Submit { events, done, .. }) = asked.recv().await else { panic!("not published") };
        assert_eq!(&events.events[0].payload[..], b"x");
        done.send(Taken::All).unwrap_or_default();
        assert_eq!(client.ack().await, (1, codec::Code::OK));
        drop(client);
        let Some(Command::Close { done, .. }) = asked.recv().await else { panic!("not closed") };
        done.send(()).unwrap();
    };
    let served = async { tokio::join!(busrt.converse(far, &caller), asking) };
    time::timeout(Duration::from_secs(10), served).await.expect("it does not wait for the bus");
}
