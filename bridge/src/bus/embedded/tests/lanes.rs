//! What waits for what.

use super::*;
use crate::bus::LaneId;

#[tokio::test]
async fn a_held_lane_does_not_hold_up_the_others_of_its_port() {
    let bench = bench(vec![rule("telemetry.#", Confirm::Socket, Unheard::Hold)]);
    let port = bench.port("a").await;
    let mut engine = bench.hear("engine", "events.#").await;
    let lane = LaneId::new();
    let mut held = port.try_submit(lane, one("telemetry.a", "1")).unwrap();
    let mut behind = port.try_submit(lane, one("events.a", "2")).unwrap();
    let other = port.try_submit(LaneId::new(), one("events.a", "3")).unwrap();
    assert_eq!(payloads(&next(&mut engine, 1).await), ["3"]);
    engine.taken();
    assert_eq!(soon(other).await, Taken::All);
    assert!(stays_open(&mut held).await && stays_open(&mut behind).await);
    let mut later = bench.hear("later", "telemetry.#").await;
    assert_eq!(payloads(&next(&mut later, 1).await), ["1"]);
    assert_eq!(payloads(&next(&mut engine, 1).await), ["2"]);
    later.taken();
    engine.taken();
    assert_eq!((soon(held).await, soon(behind).await), (Taken::All, Taken::All));
    assert!(bench.held().is_empty());
}

/// A bus of several publishers, and two ports that are near each other.
async fn neighbours() -> (Bench, [Port; 2]) {
    let config = Config { publishers: NonZeroUsize::new(4).unwrap(), ..Config::default() };
    let bench = bench_with(config, vec![rule("telemetry.#", Confirm::Socket, Unheard::Hold)]);
    let _elsewhere = bench.port("elsewhere").await;
    let one = soon(bench.bus.port_near(&name("one"), 7)).await.unwrap();
    let _between = bench.port("between").await;
    let two = soon(bench.bus.port_near(&name("two"), 7)).await.unwrap();
    (bench, [one, two])
}

#[tokio::test]
async fn a_lane_keeps_its_order_through_all_its_ports() {
    let (bench, ports) = neighbours().await;
    let lane = LaneId::new();
    let mut tickets = Vec::new();
    for n in 0..10 {
        tickets.push(ports[n % 2].try_submit(lane, one("telemetry.a", &n.to_string())).unwrap());
    }
    assert!(stays_open(&mut tickets[9]).await);
    let mut engine = bench.hear("engine", "telemetry.#").await;
    let mut heard = Vec::new();
    while heard.len() < 10 {
        heard.extend(payloads(&next(&mut engine, 100).await));
    }
    assert_eq!(heard.join(" "), "0 1 2 3 4 5 6 7 8 9");
    engine.taken();
    for ticket in tickets {
        assert_eq!(soon(ticket).await, Taken::All);
    }
}

#[tokio::test]
async fn a_lane_that_has_lost_a_batch_goes_no_further_through_any_port() {
    let (bench, [one_port, other]) = neighbours().await;
    let mut engine = bench.hear("engine", "events.#").await;
    let lane = LaneId::new();
    let before = other.try_submit(lane, one("events.a", "0")).unwrap();
    let held = one_port.try_submit(lane, one("telemetry.a", "1")).unwrap();
    let mut behind = other.try_submit(lane, one("events.a", "2")).unwrap();
    let beside = other.try_submit(other.lane(), one("events.a", "3")).unwrap();
    assert_eq!(payloads(&next(&mut engine, 1).await), ["0"]);
    assert_eq!(payloads(&next(&mut engine, 1).await), ["3"]);
    engine.taken();
    assert_eq!((soon(before).await, soon(beside).await), (Taken::All, Taken::All));
    assert!(stays_open(&mut behind).await, "it passed what came before it");
    assert!(!bench.held().is_empty());
    soon(one_port.close()).await;
    assert_eq!(
        (held.now_or_never(), behind.now_or_never()),
        (Some(Taken::Withdrawn), Some(Taken::Withdrawn))
    );
    assert!(bench.held().is_empty());
    let later = other.try_submit(lane, one("events.a", "4")).unwrap();
    let own = other.try_submit(other.lane(), one("events.a", "5")).unwrap();
    assert_eq!(soon(later).await, Taken::Withdrawn);
    assert_eq!(payloads(&next(&mut engine, 1).await), ["5"]);
    engine.taken();
    assert_eq!(soon(own).await, Taken::All);
}

#[tokio::test]
async fn what_was_published_but_not_taken_counts_as_lost_when_its_port_closes() {
    let (bench, [one_port, other]) = neighbours().await;
    let mut engine = bench.hear("engine", "events.#").await;
    let lane = LaneId::new();
    let published = one_port.try_submit(lane, one("events.a", "1")).unwrap();
    assert_eq!(payloads(&next(&mut engine, 1).await), ["1"]);
    soon(one_port.close()).await;
    assert_eq!(published.now_or_never(), Some(Taken::Withdrawn));
    let later = other.try_submit(lane, one("events.a", "2")).unwrap();
    assert_eq!(soon(later).await, Taken::Withdrawn);
}
