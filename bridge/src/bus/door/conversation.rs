//! One client of the door, from its first byte to its last.
//!
//! Works on any stream, so that named pipes and TLS can be served alike.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::{self, Instant},
};

use crate::{
    bus::{
        PortError,
        door::{
            Config, House, Leaving, SlowReader,
            greet::{GreetError, answer, greet},
            guests::Visitor,
            outbox::Outbox,
            reader::{Memory, Reader, WINDOW},
            reply::Replies,
            writer::{Slow, Writer},
        },
        embedded::{
            Core,
            broker::{Client, Queue},
            member::Member,
            table::Seat,
        },
    },
    native::codec::{Code, CodecError},
};

/// Greets a client and serves it until it leaves.
pub(crate) async fn converse<R, W>((mut source, mut sink): (R, W), visitor: Visitor, house: House)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let House { core, config, .. } = &house;
    let deadline = Instant::now() + config.connection_timeout;
    let admitted = time::timeout_at(deadline, admit((&mut source, &mut sink), visitor, core, config)).await;
    let refused = match admitted {
        Ok(Ok(admitted)) => return serve((source, sink), admitted, visitor, house).await,
        Ok(Err(GreetError::Wire(CodecError::Protocol))) => "not a bus client".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "greeting took too long".to_owned(),
    };
    core.counters.door_refused.add(1);
    tracing::debug!(reason = refused, "local client refused");
}

/// A client that has its name.
struct Admitted {
    client: Client,
    queue: Queue,
    member: Arc<Member>,
    rule: SlowReader,
    seat: Seat,
}

async fn admit<R, W>(
    (source, sink): (&mut R, &mut W),
    visitor: Visitor,
    core: &Arc<Core>,
    config: &Config,
) -> Result<Admitted, GreetError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let name = greet(source, sink).await?;
    let refusal = match core.register(name.as_str(), core.config.buffer_size.get()).await {
        Ok((mut client, id)) => match client.take_queue() {
            Some(queue) => {
                let (rule, half) = (config.rule(name.as_str()), config.outbox_bytes / 2);
                let member = Member::new(id, name.as_str().into(), queue.clone(), (rule.kind(), half));
                let member = member.of_user(visitor.user()).timed(&core.counters.taken_at_door);
                let member = Arc::new(member);
                // Before it hears that it is there: whoever calls it at once must find whose departure to wait for.
                let seat = Seat::take(Arc::clone(core), Arc::clone(&member));
                answer(sink, Code::OK).await?;
                tracing::debug!(name = name.as_str(), "local client admitted");
                return Ok(Admitted { client, queue, member, rule, seat });
            }
            None => Code::OTHER,
        },
        Err(PortError::Taken) => Code::BUSY,
        Err(PortError::Closed | PortError::Shared) => Code::OTHER,
    };
    answer(sink, refusal).await?;
    Err(GreetError::Name { name, code: refusal })
}

async fn serve<R, W>((source, sink): (R, W), admitted: Admitted, visitor: Visitor, house: House)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Admitted { client, queue, member, rule, seat } = admitted;
    let House { core, config, guests } = house;
    let listed = guests.enter((member.id, &member.name), visitor, rule);
    core.counters.door_opened.add(1);
    let replies = Arc::new(Replies::new(Arc::clone(&member), Arc::clone(&core)));
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
        outbox: Outbox::new(config.outbox_bytes),
        slow: Slow::new(rule, Arc::clone(&listed.tally)),
        config,
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
    tell(&left, &core, &member, undelivered);
}

/// Counts how a client left, and says it where somebody should look.
fn tell(left: &Leaving, core: &Core, member: &Member, undelivered: u64) {
    match left {
        Leaving::Slow => {
            core.counters.door_slow_readers.add(1);
            core.counters.door_undelivered.add(undelivered);
            let cause = format!("{} was sent away: it stopped reading", member.name);
            core.counters.door_error.note(cause);
            tracing::warn!(name = %member.name, undelivered, "local client sent away: it stopped reading");
        }
        Leaving::Wire(error) => {
            core.counters.door_broken.add(1);
            core.counters.door_error.note(format!("{} broke the wire: {error}", member.name));
            tracing::debug!(name = %member.name, %error, "local client broke the wire");
        }
        Leaving::Gone | Leaving::Ended => tracing::debug!(name = %member.name, "local client left"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use futures_util::FutureExt;

    use super::*;
    use crate::{
        bus::{Broker, Bus, Routes, door::guests::Guests, embedded},
        native::codec::greeting,
    };

    /// Takes so many bytes, and then no more.
    struct Full(usize);

    impl AsyncWrite for Full {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
            let taken = from.len().min(self.0);
            self.0 -= taken;
            if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_client_is_known_before_it_hears_that_it_is_there_and_gone_when_it_never_does() {
        let routes = Routes::new(Vec::new(), Broker::Embedded).unwrap();
        let (bus, tasks) = embedded::open(embedded::Config::default(), routes);
        let life = crate::lifecycle::Lifecycle::new();
        let leash = life.leash();
        for task in tasks {
            leash.spawn(task);
        }
        let core = bus.core();
        let house = House { core: Arc::clone(core), config: Arc::default(), guests: Arc::new(Guests::new()) };
        let said = [&greeting::opening()[..], &5_u16.to_le_bytes(), b"early"].concat();
        // The opening and its answer, but not the answer to the name.
        let mut greeted = Box::pin(converse(
            (&said[..], Full(greeting::OPENING + 1)),
            Visitor {
                #[cfg(unix)]
                uid: 0,
                pid: None,
            },
            house,
        ));
        while core.table.named("early").is_none() {
            assert!(greeted.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        assert!(bus.departure("early").is_some());
        drop(greeted);
        assert!(core.table.named("early").is_none());
        core.register("early", 16).await.unwrap();
    }
}
