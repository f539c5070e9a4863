//! The names under which sessions speak: taken, let go, waited for.

use daemoneye_bridge::bus::BusName;

use super::*;

fn said_by(collector: &str, batch: v1::Batch) -> v1::Batch {
    v1::Batch { collector: collector.to_owned(), ..batch }
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_moved_speaks_again_once_it_was_silent_for_a_while() {
    let stage = Stage::new();
    let (mut leaf, _) = stage.join("leaf", vec![state_of(1, 0, 1)]).await;
    leaf.batch(said_by("other", batch(1, 1, &["from there"]))).await;
    leaf.acked(1).await;
    for _ in 0..12 {
        time::sleep(Duration::from_secs(10)).await;
        leaf.heard().await;
    }
    let (mut other, _) = stage.join("other", vec![state_of(2, 0, 1)]).await;
    other.batch(batch(2, 1, &["from here"])).await;
    assert!(other.ack().await.rejected.is_empty());
    leaf.batch(said_by("other", batch(1, 2, &["from there again"]))).await;
    assert_eq!(leaf.ack().await.rejected[0].code(), v1::RejectCode::AlreadyConnected);
    assert_eq!(stage.taken(), ["from there", "from here"]);
}

#[tokio::test(start_paused = true)]
async fn a_collector_whose_events_are_not_settled_keeps_its_name() {
    let stage = Stage::new();
    let (mut leaf, _) = stage.join("leaf", vec![state_of(1, 0, 1)]).await;
    stage.open.send_replace(false);
    leaf.batch(said_by("other", batch(1, 1, &["from there"]))).await;
    for _ in 0..12 {
        time::sleep(Duration::from_secs(10)).await;
        leaf.heard().await;
    }
    stage.open.send_replace(true);
    leaf.acked(1).await;
    assert_eq!(stage.taken(), ["from there"]);
}

#[tokio::test]
async fn a_session_speaks_for_more_collectors_than_it_keeps_names() {
    let stage = Stage::configured("", &POLICY.replace("[\"other\", \"leaf\"]", "[\"*\"]"));
    let (mut leaf, _) = stage.join("leaf", vec![state_of(1, 0, 1)]).await;
    for seq in 1..=300 {
        leaf.batch(said_by(&format!("c{seq}"), batch(1, seq, &["e"]))).await;
        let ack = leaf.ack().await;
        assert!(ack.rejected.is_empty(), "{:?}", ack.rejected);
    }
    assert_eq!(stage.taken().len(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_the_bus_keeps_holds_up_events_and_nothing_else() {
    let (shelf, asked) = Shelf::new(64);
    let stage = Stage::on(Arc::clone(&shelf) as Arc<dyn Bus>, Lifecycle::new(), "", POLICY);
    stage.serve(asked);
    let squatter = shelf.port(&BusName::parse("collector.site-a.other").unwrap()).await.unwrap();
    let (mut leaf, _) = stage.join("leaf", vec![state_of(1, 0, 1)]).await;
    let begun = time::Instant::now();
    leaf.batch(said_by("other", batch(1, 1, &["one"]))).await;
    leaf.batch(batch(1, 2, &["two"])).await;
    leaf.heard().await;
    assert!(begun.elapsed() < Duration::from_millis(500), "the ping waited for the name");
    time::sleep(Duration::from_secs(2)).await;
    drop(squatter);
    let mut rejected = Vec::new();
    while {
        let ack = leaf.ack().await;
        rejected.extend(ack.rejected);
        ack.acked < 2
    } {}
    assert!(rejected.is_empty(), "{rejected:?}");
    assert_eq!(stage.taken(), ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_never_free_costs_its_own_events_and_no_others() {
    let (shelf, asked) = Shelf::new(64);
    let stage = Stage::on(Arc::clone(&shelf) as Arc<dyn Bus>, Lifecycle::new(), "", POLICY);
    stage.serve(asked);
    let _squatter = shelf.port(&BusName::parse("collector.site-a.other").unwrap()).await.unwrap();
    let (mut leaf, _) = stage.join("leaf", vec![state_of(1, 0, 1)]).await;
    leaf.batch(said_by("other", batch(1, 1, &["one"]))).await;
    assert_eq!(leaf.ack().await.rejected[0].code(), v1::RejectCode::AlreadyConnected);
    let begun = time::Instant::now();
    leaf.batch(said_by("other", batch(1, 2, &["two"]))).await;
    leaf.batch(batch(1, 3, &["three"])).await;
    leaf.acked(3).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "the bus was asked for the name again at once");
    assert_eq!(stage.taken(), ["three"]);
}

#[tokio::test]
async fn what_waits_for_the_bus_is_judged_by_the_policy_in_force() {
    let (shelf, asked) = Shelf::new(1);
    let stage = Stage::on(shelf, Lifecycle::new(), "snapshot_interval = '100ms'", POLICY);
    let (mut peer, _) = stage.join("x", vec![state_of(1, 0, 1)]).await;
    peer.batch(batch(1, 1, &["takes the room"])).await;
    peer.heard().await;
    let mut waits = batch(1, 2, &["denied now", "still fine", "malformed", "denied too"]);
    waits.topics.extend(["a.c".to_owned(), "A".to_owned()]);
    waits.events[1].topic = 1;
    waits.events[2].topic = 2;
    peer.batch(waits).await;
    peer.heard().await;
    let rules = POLICY.replace("\"a.#\"", "\"a.c\"").replacen("\"r\"", "\"stricter\"", 1);
    stage.judge.replace(policy(&rules));
    let mut view = stage.sessions.view();
    let is_told = |picture: &Arc<Collectors>| {
        picture.live.first().is_some_and(|row| row.roles.iter().any(|role| role == "stricter"))
    };
    drop(view.wait_for(is_told).await.unwrap());
    stage.serve(asked);
    let mut rejected = Vec::new();
    while {
        let ack = peer.ack().await;
        rejected.extend(ack.rejected.iter().map(|event| (event.seq, event.code())));
        ack.acked < 5
    } {}
    let (denied, malformed) = (v1::RejectCode::TopicDenied, v1::RejectCode::TopicMalformed);
    assert_eq!(rejected, [(2, denied), (4, malformed), (5, denied)]);
    assert_eq!(stage.taken(), ["takes the room", "still fine"]);
}
