//! A distribution of durations in constant memory.

use std::time::Duration;

/// Durations, counted in buckets that are at most 1/64 wide of what they hold: a quantile is wrong by 2 % at most.
#[derive(Clone, Debug)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

/// Buckets a doubling, as a power of two.
const PRECISION: u32 = 6;

/// Doublings of a microsecond above the exact range: up to 2^40 µs, twelve days.
const DOUBLINGS: u32 = 34;

const BUCKETS: usize = (DOUBLINGS as usize + 1) << PRECISION;

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0 }
    }
}

impl Latencies {
    /// Counts one.
    pub fn note(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(micros).min(BUCKETS - 1)) {
            *bucket += 1;
            self.count += 1;
        }
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
        self.count += other.count;
    }

    /// How many were counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// What was counted, in ranges that double: the end of each that holds any, and how many fell into it.
    pub fn doublings(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let mut sums = std::collections::BTreeMap::<u64, u64>::new();
        for (bucket, count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            *sums.entry((upper_bound(bucket) + 1).next_power_of_two()).or_default() += count;
        }
        sums.into_iter().map(|(end, count)| (Duration::from_micros(end), count))
    }

    /// The duration that `per_mille` of 1,000 do not exceed; none if nothing was counted.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> Option<Duration> {
        let rank = (self.count * per_mille.min(1000)).div_ceil(1000).max(1);
        let mut below = 0;
        let bucket = self.buckets.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(Duration::from_micros(upper_bound(bucket)))
    }
}

/// Small values have a bucket each; from then on a doubling is cut into 2^PRECISION equal buckets.
fn bucket_of(micros: u64) -> usize {
    let doubling = micros.max(1).ilog2().saturating_sub(PRECISION);
    let within = (micros >> doubling) + (u64::from(doubling) << PRECISION);
    usize::try_from(within).unwrap_or(usize::MAX)
}

/// The greatest value that falls into a bucket.
const fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let size = 1 << PRECISION;
    if bucket < 2 * size {
        return bucket;
    }
    let doubling = bucket / size - 1;
    ((bucket % size + size + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_its_bound_says() {
        for micros in (0..5000).chain([65_535, 65_536, 1_000_000, 3_600_000_000]) {
            let bucket = bucket_of(micros);
            assert!(micros <= upper_bound(bucket), "{micros}");
            assert!(bucket == 0 || micros > upper_bound(bucket - 1), "{micros}");
            assert!(upper_bound(bucket) - micros <= micros / 64, "{micros}");
        }
    }

    #[test]
    fn a_quantile_is_exact_to_two_percent() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(500), None);
        for micros in 1..=10_000 {
            latencies.note(Duration::from_micros(micros));
        }
        let near = |per_mille, micros: u64| {
            let found = latencies.quantile(per_mille).unwrap().as_micros();
            assert!(found.abs_diff(micros.into()) <= u128::from(micros) / 50, "{per_mille}: {found}");
        };
        near(500, 5_000);
        near(990, 9_900);
        near(1000, 10_000);
        assert_eq!(latencies.quantile(0), Some(Duration::from_micros(1)));
    }

    #[test]
    fn what_is_longer_than_the_longest_bucket_is_counted_there() {
        let mut latencies = Latencies::default();
        latencies.note(Duration::MAX);
        latencies.merge(&latencies.clone());
        assert_eq!(latencies.count(), 2);
        assert!(latencies.quantile(500).unwrap() > Duration::from_hours(24));
    }
}
