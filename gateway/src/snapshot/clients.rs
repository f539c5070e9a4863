//! Who is in at the door of the local bus.

use daemoneye_bridge::bus::door::SlowReader;
use serde::Serialize;

use crate::snapshot::Timestamp;

/// Local clients of the bus, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Clients {
    /// Each of them.
    pub clients: Vec<Client>,
}

/// A local client of the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Its name on the bus: its own choice, within what the door allows.
    pub name: String,
    /// Number of its user, as the kernel says.
    pub uid: u32,
    /// Number of its process, where the kernel tells.
    pub pid: Option<i32>,
    /// When it came in.
    pub since: Timestamp,
    /// What happens when it reads too slowly: `disconnect`, `block` or `drop_oldest`.
    pub slow_reader: SlowReader,
    /// Bytes that wait for it.
    pub waiting_bytes: u64,
    /// Messages written to it.
    pub delivered: u64,
    /// Messages dropped because it read too slowly.
    pub dropped: u64,
    /// How often its rule took hold of it.
    pub slow_episodes: u64,
    /// Whether it has hold of it now.
    pub is_slow: bool,
}
