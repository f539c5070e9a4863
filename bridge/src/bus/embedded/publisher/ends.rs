//! How a port ends.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::oneshot;

use crate::bus::{
    Taken,
    embedded::{
        barrier::Barrier,
        lane::{Lane, Speaker},
        ledger::Ledger,
        publisher::Publisher,
    },
};

impl Publisher {
    /// Ends a port: tells its tickets, frees its name.
    pub(super) async fn close(&mut self, port: u64, done: Option<oneshot::Sender<()>>) {
        self.open_all();
        let Some(Speaker { client, listener, lanes, unsettled }) = self.ports.remove(&port) else { return };
        // It leaves the table before its name is free.
        drop(listener);
        self.withdraw(port, lanes, unsettled).await;
        self.core.unregister(client, done).await;
        self.core.leave();
    }

    /// Tells the tickets of a port that is no more.
    pub(super) async fn withdraw(
        &mut self,
        port: u64,
        lanes: HashMap<u64, Lane>,
        unsettled: VecDeque<Arc<Barrier<Ledger>>>,
    ) {
        if lanes.values().any(Lane::is_away) {
            self.core.hands.withdraw(port).await;
        }
        self.blocked.retain(|blocked| blocked.0 != port);
        for lane in lanes.into_values() {
            self.show_hold(lane.held, None);
            lane.waiting.into_iter().for_each(|batch| batch.tell(Taken::Withdrawn));
        }
        for barrier in unsettled {
            barrier.outcome().withdraw(port);
        }
        // Returns of this port find it gone; those of others take their places.
        self.take_back().await;
    }
}
