//! The own certificates: kept up to date, and shown.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use daemoneye_bridge::trust::{self, Store, revocation::ListStatus};
use tokio::{sync::watch, time};

use crate::{
    snapshot::{self, Certificate, Part, RevocationList, Trouble},
    tls::Metrics,
};

/// What is shown now, and the future that follows the files. It never ends.
pub(super) fn follow(
    store: Store,
    every: Duration,
    metrics: Metrics,
) -> (Part<snapshot::Material>, impl Future<Output = ()> + Send + 'static) {
    let (publish, shown) = watch::channel(Arc::new(show(&store, &metrics)));
    let following = async move {
        let mut status = store.status();
        let reloads = store.follow(every, |outcome| metrics.reload(outcome));
        let publishing = async {
            // Whoever reloads, the watcher or an operator, moves the status; a list goes stale by itself.
            while !matches!(time::timeout(RENEWED, status.changed()).await, Ok(Err(_))) {
                publish.send_replace(Arc::new(show(&store, &metrics)));
            }
        };
        tokio::join!(reloads, publishing);
    };
    (shown, following)
}

/// How often it is looked whether a list went stale.
const RENEWED: Duration = Duration::from_secs(5);

fn show(store: &Store, metrics: &Metrics) -> snapshot::Material {
    let material = store.current();
    let lists = material.lists().status(SystemTime::now());
    metrics.material(&material);
    metrics.lists(&lists);
    let trust::Status { loaded, refused, unfetched, .. } = store.status().borrow().clone();
    let own = std::iter::once(material.leaf()).map(|leaf| Certificate::of("server", leaf));
    let between = material.intermediates().iter().map(|between| Certificate::of("ca", between));
    let anchors = material.anchors().iter().map(|anchor| Certificate::of("ca", anchor.certificate()));
    let unfetched = unfetched.into_iter().min_by_key(|(_, (_, since))| *since);
    snapshot::Material {
        loaded: Some(loaded.into()),
        certificates: own.chain(between).chain(anchors).collect(),
        lists: lists.into_iter().map(list).collect(),
        refused: refused.map(|(cause, since)| Trouble { cause, since: since.into() }),
        unfetched: unfetched
            .map(|(url, (cause, since))| Trouble { cause: format!("{url}: {cause}"), since: since.into() }),
    }
}

fn list(status: ListStatus) -> RevocationList {
    let ListStatus { issuer, number, this_update, next_update, entries, source, word, .. } = status;
    RevocationList {
        issuer,
        number: number.to_string(),
        this_update: this_update.into(),
        next_update: next_update.into(),
        entries,
        source,
        status: word.as_str(),
    }
}
