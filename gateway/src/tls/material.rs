//! The own certificates: kept up to date, and shown.

use std::{sync::Arc, time::Duration};

use daemoneye_bridge::trust::{self, Store};
use tokio::sync::watch;

use crate::{
    snapshot::{self, Certificate, Part, Trouble},
    tls::Metrics,
};

/// What is shown now, and the future that follows the files. It never ends.
pub(super) fn follow(
    store: Store,
    every: Duration,
    metrics: Metrics,
) -> (Part<snapshot::Material>, impl Future<Output = ()> + Send + 'static) {
    let (publish, shown) = watch::channel(Arc::new(show(&store)));
    metrics.material(&store.current());
    let following = async move {
        let mut status = store.status();
        let reloads = store.follow(every, |outcome| metrics.reload(outcome));
        let publishing = async {
            // Whoever reloads, the watcher or an operator, moves the status.
            while status.changed().await.is_ok() {
                metrics.material(&store.current());
                publish.send_replace(Arc::new(show(&store)));
            }
        };
        tokio::join!(reloads, publishing);
    };
    (shown, following)
}

fn show(store: &Store) -> snapshot::Material {
    let material = store.current();
    let trust::Status { loaded, refused, .. } = store.status().borrow().clone();
    let own = std::iter::once(material.leaf()).map(|leaf| Certificate::of("server", leaf));
    let between = material.intermediates().iter().map(|between| Certificate::of("ca", between));
    let anchors = material.anchors().iter().map(|anchor| Certificate::of("ca", anchor.certificate()));
    snapshot::Material {
        loaded: Some(loaded.into()),
        certificates: own.chain(between).chain(anchors).collect(),
        refused: refused.map(|(cause, since)| Trouble { cause, since: since.into() }),
    }
}
