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

    /// Tells the tickets of a port that is no more, and of whatever came after something of it in the same lane.
    pub(super) async fn withdraw(
        &mut self,
        port: u64,
        lanes: HashSet<LaneId>,
        unsettled: VecDeque<Arc<Barrier<Ledger>>>,
    ) {
        // First, so that nothing of it comes back from there.
        for (lane, place) in unsettled.iter().flat_map(|barrier| barrier.outcome().withdraw(port)) {
            self.broken.note(lane, place);
        }
        if lanes.iter().any(|id| self.lanes.get(id).is_some_and(Lane::is_away)) {
            for (id, place) in self.core.hands.withdraw(port, &lanes).await {
                self.broken.note(id, place);
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.forget();
                }
            }
        }
        for id in &lanes {
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            if let Some(place) = lane.leave(port) {
                self.broken.note(*id, place);
            }
            let Some(since) = self.broken.since(*id) else { continue };
            for batch in lane.cut(since) {
                batch.tell(Taken::Withdrawn);
            }
        }
        // Returns of this port find it gone; those of others take their places, if nothing before them was withdrawn.
        self.take_back().await;
        // Lanes that are empty now are seen to.
        self.attempt(lanes).await;
    }
}
