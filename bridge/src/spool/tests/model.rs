//! Random lives: whatever happens, every number is an event as it was appended or lies in a gap, and nothing that was
//! appended and neither settled nor evicted is missing.

use super::*;

/// What should be there.
#[derive(Clone, Copy, Default)]
struct Expected {
    appended: u64,
    acked: u64,
}

#[tokio::test]
async fn random_lives_keep_the_promise() {
    for seed in 0..12 {
        live(seed).await;
    }
}

async fn live(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut directory = tempfile::tempdir().unwrap();
    let mut config = small(directory.path());
    let roomy = seed.is_multiple_of(2);
    if roomy {
        config.max_bytes = 64 << 20;
    }
    let reopen =
        |directory: &Path| Open::with(Config { directory: directory.to_owned(), ..config.clone() }).unwrap();
    let mut open = reopen(directory.path());
    let mut expected = [Expected::default(); 2];
    for _ in 0..150 {
        let class = random.choice(Class::ALL).unwrap();
        let index = usize::from(class == Class::Telemetry);
        match random.u32(0..100) {
            0..60 => {
                let count = random.u64(1..120);
                open.fill(class, count, random.u64(1..40)).await;
                expected[index].appended += count;
            }
            60..80 => {
                let Expected { appended, acked } = expected[index];
                let seq = random.u64(acked..=appended);
                open.spool.ack(class, seq).await;
                expected[index].acked = seq;
            }
            80..90 => {
                let copy = killed(directory.path());
                open.close().await;
                (open, directory) = (reopen(copy.path()), copy);
                // What was settled may have been forgotten; the gateway says it again.
                let acked = open.state(class).acked;
                assert!(acked <= expected[index].acked);
                for (class, expected) in Class::ALL.into_iter().zip(expected) {
                    open.spool.ack(class, expected.acked).await;
                }
            }
            90..95 => {
                open.close().await;
                open = reopen(directory.path());
            }
            _ => {
                open.spool.renew(class).await.unwrap();
            }
        }
        let state = open.state(class);
        let Expected { appended, acked } = expected[index];
        assert_eq!((state.next, state.acked), (appended + 1, acked), "seed {seed}");
        if random.u32(0..4) == 0 {
            examine(&open, class, expected[index], roomy).await;
        }
        assert!(bytes_on_disk(directory.path()) <= config.max_bytes);
    }
    open.close().await;
}

/// Reads all of a class and compares.
async fn examine(open: &Open, class: Class, Expected { appended, acked }: Expected, roomy: bool) {
    let chunks = open.read(class, 1).await;
    assert_eq!(chunks.first().map_or(appended, |chunk| chunk.first_seq() - 1), acked);
    let gaps = gaps(&chunks);
    if roomy {
        assert_eq!(gaps, []);
    }
    let lost =
        |(first, _, reason): &(Seq, Seq, GapReason)| *first == acked + 1 && *reason == GapReason::Evicted;
    assert!(gaps.len() <= 1 && gaps.iter().all(lost), "{gaps:?}");
}
