//! One client of the door, from its first byte to its last.
//!
//! Works on any stream, so that named pipes and TLS can be served alike.

use std::sync::Arc;

use busrt::client::AsyncClient;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::{self, Instant},
};

use crate::{
    bus::{
        PortError,
        door::{
            Config, Leaving,
            greet::{GreetError, answer, greet},
            outbox::Outbox,
            reader::{Memory, Reader, WINDOW},
            reply::Replies,
            writer::Writer,
        },
        embedded::{
            Core,
            member::{Kind, Member},
            table::Seat,
        },
    },
    native::codec::{Code, CodecError},
};

/// Greets a client of `user` and serves it until it leaves.
pub(super) async fn converse<R, W>(
    (mut source, mut sink): (R, W),
    user: Option<u32>,
    core: Arc<Core>,
    config: Arc<Config>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let deadline = Instant::now() + config.connection_timeout;
    let admitted = time::timeout_at(deadline, admit((&mut source, &mut sink), user, &core, &config)).await;
    let refused = match admitted {
        Ok(Ok(admitted)) => return serve((source, sink), admitted, core, config).await,
        Ok(Err(GreetError::Wire(CodecError::Protocol))) => "not a bus client".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "greeting took too long".to_owned(),
    };
    core.counters.door_refused.add(1);
    tracing::debug!(reason = refused, "local client refused");
}

/// A client that has its name.
struct Admitted {
    client: busrt::broker::Client,
    queue: busrt::EventChannel,
    member: Arc<Member>,
}

async fn admit<R, W>(
    (source, sink): (&mut R, &mut W),
    user: Option<u32>,
    core: &Core,
    config: &Config,
) -> Result<Admitted, GreetError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let name = greet(source, sink).await?;
    let refusal = match core.register(name.as_str(), core.config.buffer_size.get()).await {
        Ok((mut client, id)) => match client.take_event_channel() {
            Some(queue) => {
                answer(sink, Code::OK).await?;
                let kind = (Kind::Door, config.outbox_bytes / 2);
                let member = Member::new(id, name.as_str().into(), queue.clone(), kind).of_user(user);
                let member = Arc::new(member);
                tracing::debug!(name = name.as_str(), "local client admitted");
                return Ok(Admitted { client, queue, member });
            }
            None => Code::OTHER,
        },
        Err(PortError::Taken) => Code::BUSY,
        Err(PortError::Closed | PortError::Shared) => Code::OTHER,
    };
    answer(sink, refusal).await?;
    Err(GreetError::Name { name, code: refusal })
}

async fn serve<R, W>((source, sink): (R, W), admitted: Admitted, core: Arc<Core>, config: Arc<Config>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Admitted { client, queue, member } = admitted;
    core.counters.door_opened.add(1);
    let seat = Seat::take(Arc::clone(&core), Arc::clone(&member));
    let replies = Arc::new(Replies::new(Arc::clone(&member)));
    let window = Arc::new(Semaphore::new(WINDOW));
    let mut reader = Reader {
        source,
        client,
        core: Arc::clone(&core),
        member: Arc::clone(&member),
        replies: Arc::clone(&replies),
        window: Arc::clone(&window),
        config: Arc::clone(&config),
        memory: Memory::default(),
    };
    let mut writer = Writer {
        sink,
        queue,
        core: Arc::clone(&core),
        member: Arc::clone(&member),
        replies,
        config,
        outbox: Outbox::default(),
    };
    let left = tokio::select! {
        // Writing first: a client that writes without end must still be read to.
        biased;
        left = writer.run() => left,
        left = reader.run() => left,
        () = core.ended.cancelled() => Leaving::Ended,
    };
    if matches!(left, Leaving::Ended) {
        writer.finish(&window).await;
    }
    // The tokens in the outbox before the seat, as those not yet collected.
    member.close();
    let undelivered = writer.undelivered();
    drop(writer);
    drop(seat);
    core.unregister(reader.client, None).await;
    core.counters.door_closed.add(1);
    match left {
        Leaving::Slow => {
            core.counters.door_slow_readers.add(1);
            core.counters.door_undelivered.add(undelivered);
            tracing::warn!(name = %member.name, undelivered, "local client sent away: it stopped reading");
        }
        Leaving::Wire(error) => tracing::debug!(name = %member.name, %error, "local client broke the wire"),
        Leaving::Gone | Leaving::Ended => tracing::debug!(name = %member.name, "local client left"),
    }
}
