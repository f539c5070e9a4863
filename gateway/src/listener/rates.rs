//! How fast strangers may come: from one network, and from all.
//!
//! A connection costs a token of its network and one of all; who proves who he is gets both back. So a rate bounds
//! strangers alone, and a site of thousands behind one address is held up by how many are in mid-handshake, not by how many
//! it has. A network from which somebody was proven is not asked for a token of all: a flood from everywhere does not keep
//! out those who are known.
//!
//! Kept true: the memory of networks is bounded, and strangers cannot push known networks out of it. The lock is taken when
//! somebody comes or is proven, never across an await.

use std::{
    net::IpAddr,
    num::{NonZeroU32, NonZeroUsize},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;
use serde::Deserialize;
use tokio::time::Instant;

use crate::listener::ages::Ages;

/// Settings of the rates; every value is usable as it stands.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    network: Pace,
    all: Pace,
    ipv4_prefix: u8,
    ipv6_prefix: u8,
    networks: NonZeroUsize,
}

/// So many a second, after so many at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) per_second: f64,
    pub(crate) burst: f64,
}

impl Pace {
    pub(crate) fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self { per_second: per_second.get().into(), burst: burst.get().into() }
    }
}

/// The section `[tcp.rates]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// Unproven connections a second from one network, and how many at once before that. Default 50 after 500, 1 to
    /// 1,000,000.
    per_network: NonZeroU32,
    network_burst: NonZeroU32,
    /// Unproven connections a second from all networks of which nobody is known, and how many at once before that. Default
    /// 500 after 2,000, 1 to 1,000,000.
    in_all: NonZeroU32,
    all_burst: NonZeroU32,
    /// Bits of an address that are its network. Default 24 and 56.
    ipv4_prefix: u8,
    ipv6_prefix: u8,
    /// Networks that are remembered. Default 8,192, 64 to 1,048,576.
    networks: usize,
}

impl Default for File {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).expect("no default is zero");
        Self {
            per_network: number(50),
            network_burst: number(500),
            in_all: number(500),
            all_burst: number(2000),
            ipv4_prefix: 24,
            ipv6_prefix: 56,
            networks: 8192,
        }
    }
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        for (key, number) in [
            ("per_network", file.per_network),
            ("network_burst", file.network_burst),
            ("in_all", file.in_all),
            ("all_burst", file.all_burst),
        ] {
            if number.get() > 1_000_000 {
                return Err(format!("{key} must be 1 to 1000000"));
            }
        }
        if !(8..=32).contains(&file.ipv4_prefix) {
            return Err("ipv4_prefix must be 8 to 32".to_owned());
        }
        if !(16..=128).contains(&file.ipv6_prefix) {
            return Err("ipv6_prefix must be 16 to 128".to_owned());
        }
        let networks = NonZeroUsize::new(file.networks).filter(|count| (64..=1 << 20).contains(&count.get()));
        Ok(Self {
            network: Pace::new(file.per_network, file.network_burst),
            all: Pace::new(file.in_all, file.all_burst),
            ipv4_prefix: file.ipv4_prefix,
            ipv6_prefix: file.ipv6_prefix,
            networks: networks.ok_or("networks must be 64 to 1048576")?,
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults are within their own bounds")
    }
}

/// Tokens that come back with time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) const fn full(pace: Pace, now: Instant) -> Self {
        Self { tokens: pace.burst, at: now }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, pace: Pace, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = passed.mul_add(pace.per_second, self.tokens).min(pace.burst);
        self.at = now;
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    pub(crate) fn give_back(&mut self, pace: Pace) {
        self.tokens = (self.tokens + 1.0).min(pace.burst);
    }
}

/// The rates in force. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Rates {
    config: Config,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    all: Bucket,
    networks: Ages<IpAddr, Bucket>,
    /// Networks from which somebody was proven; nobody else gets in here, nor pushes out what one of them has used up.
    known: Ages<IpAddr, Bucket>,
}

impl Rates {
    pub(super) fn new(config: Config) -> Self {
        // Two memories of two generations each.
        let generation = NonZeroUsize::new(config.networks.get() / 4).unwrap_or(NonZeroUsize::MIN);
        let table = Table {
            all: Bucket::full(config.all, Instant::now()),
            networks: Ages::new(generation),
            known: Ages::new(generation),
        };
        Self { config, table: Arc::new(Mutex::new(table)) }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a connection from `address` costs.
    pub(super) fn take(&self, address: IpAddr, now: Instant) -> Result<Toll, Over> {
        let network = self.network(address);
        let (own, all) = (self.config.network, self.config.all);
        let mut table = self.lock();
        let known = table.known.peek(&network).map(|bucket| bucket.take(own, now));
        let is_known = known.is_some();
        let passes =
            known.unwrap_or_else(|| table.networks.touch(&network, || Bucket::full(own, now)).take(own, now));
        if !passes {
            return Err(Over::Network);
        }
        if !is_known && !table.all.take(all, now) {
            return Err(Over::All);
        }
        drop(table);
        Ok(Toll { rates: self.clone(), network, of_all: !is_known })
    }

    fn network(&self, address: IpAddr) -> IpAddr {
        let address = address.to_canonical();
        let prefix = if address.is_ipv4() { self.config.ipv4_prefix } else { self.config.ipv6_prefix };
        // The prefix is within its bounds.
        IpNet::new(address, prefix).map_or(address, |network| network.network())
    }
}

/// What was paid for a connection.
#[derive(Debug)]
pub(super) struct Toll {
    rates: Rates,
    network: IpAddr,
    of_all: bool,
}

impl Toll {
    /// Gives it back: whoever came is no stranger.
    pub(super) fn give_back(self) {
        let Self { rates, network, of_all } = self;
        let own = rates.config.network;
        let mut table = rates.lock();
        let before = table.networks.peek(&network).copied();
        let new = || before.unwrap_or_else(|| Bucket::full(own, Instant::now()));
        table.known.touch(&network, new).give_back(own);
        if of_all {
            table.all.give_back(rates.config.all);
        }
    }
}

/// Which rate was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    All,
    Network,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rates(text: &str) -> Rates {
        Rates::new(toml::from_str(text).unwrap())
    }

    fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
        IpAddr::from([a, b, c, d])
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_network_hurts_no_other() {
        let (rates, now) = (rates("per_network = 10\nnetwork_burst = 20"), Instant::now());
        let passed = (0..=255).filter(|host| rates.take(v4(10, 0, 0, *host), now).is_ok()).count();
        assert_eq!(passed, 20);
        assert_eq!(rates.take(v4(10, 0, 0, 1), now).unwrap_err(), Over::Network);
        assert!(rates.take(v4(10, 0, 1, 1), now).is_ok());
        let later = now + Duration::from_secs(1);
        assert_eq!((0..50).filter(|_| rates.take(v4(10, 0, 0, 1), later).is_ok()).count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_proves_himself_pays_nothing_and_is_known_from_then_on() {
        let text = "per_network = 1\nnetwork_burst = 4\nin_all = 1\nall_burst = 8";
        let (rates, now) = (rates(text), Instant::now());
        for _ in 0..1000 {
            rates.take(v4(192, 0, 2, 7), now).unwrap().give_back();
        }
        let strangers = (0..=255).filter(|net| rates.take(v4(10, 0, *net, 1), now).is_ok()).count();
        assert_eq!(strangers, 8);
        assert_eq!(rates.take(v4(198, 51, 100, 1), now).unwrap_err(), Over::All);
        assert!(rates.take(v4(192, 0, 2, 8), now).is_ok(), "its network is known");
    }

    #[tokio::test(start_paused = true)]
    async fn networks_without_number_neither_fill_the_memory_nor_push_out_the_known() {
        let text = "networks = 64\nin_all = 1\nall_burst = 1";
        let (rates, now) = (rates(text), Instant::now());
        rates.take(v4(192, 0, 2, 7), now).unwrap().give_back();
        for number in 0..100_000_u32 {
            drop(rates.take(IpAddr::from((0x0a00_0000 + (number << 8)).to_be_bytes()), now));
        }
        assert!(rates.lock().networks.len() <= 64);
        assert!(rates.take(v4(192, 0, 2, 7), now).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn networks_without_number_do_not_make_a_known_one_forget_what_it_owes() {
        let text = "networks = 64\nper_network = 1\nnetwork_burst = 4\nin_all = 1\nall_burst = 1";
        let (rates, now) = (rates(text), Instant::now());
        rates.take(v4(192, 0, 2, 7), now).unwrap().give_back();
        let passed = (0..20).filter(|_| rates.take(v4(192, 0, 2, 8), now).is_ok()).count();
        assert_eq!(passed, 4);
        for number in 0..1000_u32 {
            drop(rates.take(IpAddr::from((0x0a00_0000 + (number << 8)).to_be_bytes()), now));
        }
        assert_eq!(rates.take(v4(192, 0, 2, 8), now).unwrap_err(), Over::Network);
    }

    #[test]
    fn an_address_of_version_6_is_counted_with_its_prefix_and_a_mapped_one_as_version_4() {
        let rates = rates("");
        let network = |text: &str| rates.network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:22ff::9"), "2001:db8:1:2200::");
        assert_eq!(network("::ffff:192.0.2.9"), "192.0.2.0");
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_its_name() {
        for (text, key) in [
            ("per_network = 2000000", "per_network"),
            ("ipv4_prefix = 33", "ipv4_prefix"),
            ("ipv6_prefix = 0", "ipv6_prefix"),
            ("networks = 1", "networks"),
        ] {
            assert!(toml::from_str::<Config>(text).unwrap_err().to_string().contains(key), "{text}");
        }
    }
}
