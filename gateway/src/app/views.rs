//! Parts of the snapshot that stages outside this crate, or without words for people, do not make themselves.

use std::{sync::Arc, time::SystemTime};

use daemoneye_bridge::bus::{BusState, Link};
use tokio::sync::watch;

use crate::{
    snapshot::{BusView, HeldRoute, Part, StateView, Trouble},
    state::Health,
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
    let held =
        state.held.iter().map(|held| HeldRoute { route: held.route.clone(), since: held.since.into() });
    BusView { broker, down, held: held.collect() }
}

/// The state file, for people.
pub(super) fn state(health: &Health) -> StateView {
    let trouble = match health {
        Health::Failing { since, cause } => Some(trouble(cause, *since)),
        Health::Healthy => None,
    };
    StateView { trouble }
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
