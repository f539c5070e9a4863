//! The way down: which local clients of the bus may call or address which collectors. Nobody by default.
//!
//! The other direction of a policy: the clients are known by their name on the bus and by the user that the operating system
//! says they are, not by a certificate. Kept true: a permit is made by [`crate::policy::Judge::downlink`] only, for one
//! client, one collector and one way.

use serde::Serialize;

use crate::{
    identity::PeerId,
    policy::{
        rule::{Entry, Glob},
        verdict::Denial,
    },
};

/// Collectors by site and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whom {
    site: Glob,
    name: Glob,
}

impl Whom {
    /// Reads a `site/name` with `*` where wanted.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (site, name) = text.split_once('/')?;
        Some(Self { site: Glob::parse(site).ok()?, name: Glob::parse(name).ok()? })
    }

    pub(crate) fn admits(&self, site: &str, name: &str) -> bool {
        self.site.matches(site) && self.name.matches(name)
    }
}

/// A `[[downlink]]` of a policy.
#[derive(Clone, Debug)]
pub(crate) struct Downlink {
    /// Its place in the file, from 1.
    pub(crate) number: usize,
    /// Names of clients that are meant; at least one.
    pub(crate) clients: Vec<Entry<Glob>>,
    /// Users that they must be; `None` stands for any.
    pub(crate) uids: Option<Vec<u32>>,
    /// Whom they may call.
    pub(crate) call: Vec<Entry<Whom>>,
    /// Whom they may send to.
    pub(crate) send: Vec<Entry<Whom>>,
}

/// A local client of the bus, as its door knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalClient<'a> {
    /// Its name on the bus.
    pub name: &'a str,
    /// Its user, if the operating system says so; unknown behind a foreign broker.
    pub uid: Option<u32>,
}

/// What a local client wants of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// To call it and wait for its answer.
    Call,
    /// To send it a message.
    Send,
}

impl Downlink {
    /// Whether it lets `client` reach `collector` in this way.
    fn allows(&self, client: LocalClient<'_>, way: Way, collector: &PeerId) -> bool {
        let whom = match way {
            Way::Call => &self.call,
            Way::Send => &self.send,
        };
        let is_user = self.uids.as_ref().is_none_or(|uids| client.uid.is_some_and(|uid| uids.contains(&uid)));
        is_user
            && self.clients.iter().any(|glob| glob.value.matches(client.name))
            && whom.iter().any(|whom| whom.value.admits(collector.site(), collector.name()))
    }
}

/// Judges a local client: some downlink must allow it.
pub(super) fn judge(
    downlinks: &[Downlink],
    client: LocalClient<'_>,
    way: Way,
    collector: &PeerId,
) -> Result<DownlinkPermit, Denial> {
    downlinks
        .iter()
        .find(|downlink| downlink.allows(client, way, collector))
        .map(|found| DownlinkPermit { collector: collector.clone(), way, by: found.number })
        .ok_or(Denial::Downlink)
}

/// Permission for a local client to reach one collector once.
#[derive(Debug)]
#[must_use = "a permit that is not spent was checked for nothing"]
pub struct DownlinkPermit {
    collector: PeerId,
    way: Way,
    by: usize,
}

impl DownlinkPermit {
    /// The number of the `[[downlink]]` that allowed it, from 1.
    #[must_use]
    pub const fn by(&self) -> usize {
        self.by
    }

    /// Spends it: who may be reached, and how.
    #[must_use]
    pub fn spend(self) -> (PeerId, Way) {
        (self.collector, self.way)
    }
}
