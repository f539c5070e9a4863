//! Parts of the snapshot that stages outside this crate, or without words for people, do not make themselves.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use daemoneye_bridge::{
    bus::{BusState, Held, Link, Refusal, door::LocalClient},
    spool, uplink,
};
use tokio::{sync::watch, time};

use crate::{
    snapshot::{BusView, Client, Clients, HeldRoute, Part, StateView, Trouble, UpstreamView},
    state::Health,
    upstream::Upstream,
};

/// A part that shows what `source` holds, and the future that keeps it so for as long as the source lives.
pub(super) fn mirror<A, B>(
    mut source: watch::Receiver<A>,
    show: impl Fn(&A) -> B + Send + 'static,
) -> (Part<B>, impl Future<Output = ()> + Send + 'static)
where
    A: Send + Sync + 'static,
    B: Send + Sync + 'static,
{
    let first = show(&source.borrow_and_update());
    let (publish, part) = watch::channel(Arc::new(first));
    let follow = async move {
        while source.changed().await.is_ok() {
            let next = show(&source.borrow_and_update());
            publish.send_replace(Arc::new(next));
        }
    };
    (part, follow)
}

/// The bus, for people.
pub(super) fn bus(broker: &'static str, state: &BusState) -> BusView {
    let down = match &state.link {
        Link::Down { since, cause } => Some(trouble(cause, *since)),
        Link::Up => None,
    };
    BusView { broker, down, held: state.held.iter().map(held).collect() }
}

fn held(held: &Held) -> HeldRoute {
    let (consumer, cause) = match &held.refusal {
        Some(Refusal { consumer, cause }) => (Some(consumer.clone()), cause.clone()),
        None => (None, "nobody subscribes to it".to_owned()),
    };
    HeldRoute { route: held.route.clone(), since: held.since.into(), consumer, cause }
}

/// Local clients of the bus.
pub(super) fn clients(list: &Arc<Vec<LocalClient>>) -> Clients {
    let show = |client: &LocalClient| Client {
        name: client.name.clone(),
        uid: client.uid,
        pid: client.pid,
        since: client.since.into(),
        slow_reader: client.slow_reader,
        waiting_bytes: client.waiting_bytes,
        delivered: client.delivered,
        dropped: client.dropped,
        slow_episodes: client.slow_episodes,
        is_slow: client.is_slow,
    };
    Clients { clients: list.iter().map(show).collect() }
}

/// The state file, for people.
pub(super) fn state(health: &Health) -> StateView {
    let trouble = match health {
        Health::Failing { since, cause } => Some(trouble(cause, *since)),
        Health::Healthy => None,
    };
    StateView { trouble }
}

/// The way up, for people, and the future that keeps it so.
pub(super) fn upstream(way: &Upstream) -> (Part<UpstreamView>, impl Future<Output = ()> + Send + 'static) {
    let name = way.name().to_owned();
    let (link, queue) = (way.link(), way.queue());
    let show = move || climb(&name, &link.borrow(), &queue.borrow());
    let (publish, part) = watch::channel(Arc::new(show()));
    let follow = async move {
        // Both change with every batch; nobody looks as often.
        let mut ticks = time::interval(RENEWED);
        loop {
            ticks.tick().await;
            let next = show();
            publish.send_if_modified(|shown| {
                let is_news = **shown != next;
                if is_news {
                    *shown = Arc::new(next);
                }
                is_news
            });
        }
    };
    (part, follow)
}

/// How often the way up is looked at.
const RENEWED: Duration = Duration::from_secs(1);

fn climb(name: &str, status: &uplink::Status, queue: &spool::Stats) -> UpstreamView {
    let (gateway, peer) = match &status.link {
        uplink::Link::Up { gateway, peer, .. } => (Some(gateway.clone()), Some(peer.clone())),
        _ => (None, None),
    };
    let last = status.last_error.as_ref();
    let oldest = queue.classes.iter().filter_map(|class| class.oldest).min();
    UpstreamView {
        name: name.to_owned(),
        gateway,
        peer,
        since: status.link.since().map(Into::into),
        trouble: last.map(|last| trouble(&last.what, last.at)),
        disk_error: queue.disk_error.clone(),
        waiting: queue.classes.iter().map(|class| class.events).sum(),
        oldest: oldest.map(|nanos| (UNIX_EPOCH + Duration::from_nanos(nanos)).into()),
        bytes: queue.bytes,
        max_bytes: queue.max_bytes,
        acked: status.acked,
        rejected: status.rejected,
        lost: queue.classes.iter().map(|class| class.evicted + class.corrupt).sum(),
    }
}

fn trouble(cause: &str, since: SystemTime) -> Trouble {
    Trouble { cause: cause.to_owned(), since: since.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_shows_what_its_source_holds_until_the_source_is_gone() {
        let (source, receiver) = watch::channel(BusState { link: Link::Up, held: Vec::new() });
        let (part, follow) = mirror(receiver, |state| bus("embedded", state));
        assert!(part.borrow().down.is_none());
        source.send_modify(|state| {
            state.link = Link::Down { since: SystemTime::now(), cause: "gone".to_owned() };
        });
        drop(source);
        follow.await;
        assert_eq!(part.borrow().down.as_ref().unwrap().cause, "gone");
    }
}
