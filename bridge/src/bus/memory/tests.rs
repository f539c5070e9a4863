//! Our broker, held against that of the crate `busrt`: the same clients do the same things on both.

use super::*;

#[test]
fn a_mask_means_what_it_means_on_the_bus() {
    for (mask, name, fits) in [
        ("*", "a", true),
        ("*", "a.b.c", true),
        ("a.*", "a.b.c", true),
        ("a.*", "a", false),
        ("a.?", "a.b", true),
        ("a.?", "a.b.c", false),
        ("?.b", "a.b", true),
        ("a", "a", true),
        ("a", "a.b", false),
        ("a.*.x", "a.b", true),
    ] {
        assert_eq!(masks(mask, name), fits, "{mask} {name}");
    }
}

#[test]
fn a_name_is_free_once_its_client_is_gone() {
    let broker = Broker::default();
    let first = broker.register("engine", 8).unwrap();
    first.subscribe(["events/#"]);
    assert!(broker.register("engine", 8).is_none());
    drop(first);
    let second = broker.register("engine", 8).unwrap();
    assert!(broker.hall.hearers("events/a", None).is_empty(), "what another subscribed to went with him");
    drop(second);
}

#[tokio::test]
async fn who_publishes_waits_for_room_and_goes_on_when_the_reader_goes() {
    use futures_util::FutureExt;

    let broker = Broker::default();
    let speaker = broker.register("speaker", 8).unwrap();
    let mut reader = broker.register("reader", 2).unwrap();
    let queue = reader.take_queue().unwrap();
    reader.subscribe(["a"]);
    speaker.publish("a", None, b"1", false).await;
    speaker.publish("a", None, b"2", false).await;
    assert!(speaker.publish("a", None, b"3", false).now_or_never().is_none(), "the queue takes two");
    assert_eq!(queue.recv().await.unwrap().payload(), b"1");
    speaker.publish("a", None, b"4", true).await;
    queue.close();
    speaker.publish("a", None, b"5", false).await;
    assert_eq!(speaker.send("reader", b"6", false).await, Err(Code::NOT_DELIVERED));
    let rest: Vec<_> = std::iter::from_fn(|| queue.try_recv().ok()).collect();
    let heard: Vec<_> = rest.iter().map(|frame| (frame.payload(), frame.is_realtime())).collect();
    assert_eq!(heard, [(&b"2"[..], false), (b"4", true)]);
}

#[cfg(unix)]
mod beside_busrt {
    use std::collections::BTreeMap;

    use crate::{
        bus::{
            PortError,
            embedded::broker::{Broker, Client, Engine, Frame, Queue},
        },
        native::codec::{Code, server::Kind},
    };

    const NAMES: &[&str] = &["a", "b", "a.b", "a.c", "b.a.c", "x"];
    const MASKS: &[&str] = &["*", "a", "a.*", "?", "?.?", "a.?", "?.a.*", "y", "b.*.c"];
    const TOPICS: &[&str] = &["s", "s/t", "s/t/u", "t", "t/s", "s//t", "S/t"];
    const FILTERS: &[&str] = &["#", "+", "s", "s/#", "s/+", "+/t", "s/+/u", "+/+", "t/s", "s/t/#", "s//t"];

    /// What one step brought: the answer, and what each client heard.
    #[derive(Debug, PartialEq, Eq)]
    struct Outcome {
        answer: Result<(), Code>,
        heard: BTreeMap<&'static str, Vec<Heard>>,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Heard {
        kind: Option<Kind>,
        sender: String,
        topic: Option<String>,
        payload: Vec<u8>,
        realtime: bool,
    }

    impl From<Frame> for Heard {
        fn from(frame: Frame) -> Self {
            Self {
                kind: frame.kind(),
                sender: frame.sender().to_owned(),
                topic: frame.topic().map(str::to_owned),
                payload: frame.payload().to_vec(),
                realtime: frame.is_realtime(),
            }
        }
    }

    struct House {
        broker: Broker,
        clients: BTreeMap<&'static str, (Client, Queue)>,
    }

    impl House {
        fn new(engine: Engine) -> Self {
            Self { broker: Broker::new(engine), clients: BTreeMap::new() }
        }

        /// One random step. Whoever steps with the same dice does the same.
        async fn step(&mut self, dice: &mut fastrand::Rng) -> Outcome {
            let pick = |dice: &mut fastrand::Rng, from: &[&'static str]| from[dice.usize(..from.len())];
            let who = pick(dice, NAMES);
            let (target, mask) = (pick(dice, NAMES), pick(dice, MASKS));
            let (topic, filter) = (pick(dice, TOPICS), pick(dice, FILTERS));
            let (payload, realtime, act) = (dice.u64(..).to_le_bytes(), dice.bool(), dice.u8(..12));
            let answer = match (act, self.clients.get_mut(who)) {
                (0, Some(_)) => {
                    let (client, _) = self.clients.remove(who).unwrap();
                    self.broker.unregister(client).await;
                    Ok(())
                }
                (0 | 1, _) => match self.broker.register(who, 64).await {
                    Ok(mut client) => {
                        let queue = client.take_queue().unwrap();
                        self.clients.insert(who, (client, queue));
                        Ok(())
                    }
                    Err(PortError::Taken) => Err(Code::BUSY),
                    Err(PortError::Closed | PortError::Shared) => Err(Code::OTHER),
                },
                (_, None) => Ok(()),
                (2 | 3, Some((client, _))) => client.subscribe(&[filter]).await,
                (4, Some((client, _))) => client.unsubscribe(&[filter]).await,
                (5, Some((client, _))) => client.exclude(&[filter]).await,
                (6, Some((client, _))) => client.unexclude(&[filter]).await,
                (7, Some((client, _))) => client.send(target, &payload, realtime).await,
                (8, Some((client, _))) => client.broadcast(mask, &payload, realtime).await,
                (9, Some((client, _))) => client.publish_for(topic, target, &payload, realtime).await,
                (_, Some((client, _))) => client.publish(topic, &payload, realtime).await,
            };
            let drain = |queue: &Queue| std::iter::from_fn(|| queue.try_recv()).map(Heard::from).collect();
            let heard = self.clients.iter().map(|(name, (_, queue))| (*name, drain(queue))).collect();
            Outcome { answer, heard }
        }
    }

    #[tokio::test]
    async fn random_conversations_end_alike_on_both() {
        let mut heard = 0;
        for seed in 0..1000 {
            let (mut left, mut right) = (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(seed));
            let (mut busrt, mut ours) = (House::new(Engine::Busrt), House::new(Engine::Memory));
            for step in 0..120 {
                let (theirs, own) = (busrt.step(&mut left).await, ours.step(&mut right).await);
                assert_eq!(own, theirs, "seed {seed}, step {step}");
                heard += own.heard.values().map(Vec::len).sum::<usize>();
            }
        }
        assert!(heard > 10_000, "{heard}: hardly anything was said");
    }
}
