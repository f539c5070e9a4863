//! How a port ends.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use tokio::sync::oneshot;

use crate::bus::{
    LaneId, Taken,
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
        lanes: HashSet<LaneId>,
        unsettled: VecDeque<Arc<Barrier<Ledger>>>,
    ) {
        if lanes.iter().any(|id| self.lanes.get(id).is_some_and(Lane::is_away)) {
            for id in self.core.hands.withdraw(port, &lanes).await {
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.forget();
                }
            }
        }
        for id in &lanes {
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            let (of_port, was_next) = lane.withdraw(port);
            let held = lane.held.take_if(|_| was_next);
            self.show_hold(held, None);
            for batch in of_port {
                batch.tell(Taken::Withdrawn);
            }
        }
        for barrier in unsettled {
            barrier.outcome().withdraw(port);
        }
        // Returns of this port find it gone; those of others take their places, and what waited behind it may go.
        self.take_back().await;
        self.attempt(lanes).await;
    }
}
