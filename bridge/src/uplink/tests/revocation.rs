//! A leaf and a gateway whose certificate is revoked.

use super::*;

fn untrusted(status: &crate::uplink::Status) -> bool {
    status.last_error.as_ref().is_some_and(|trouble| {
        trouble.lasting && trouble.what.contains("is not trusted: certificate_revoked")
    })
}

#[tokio::test]
async fn a_leaf_does_not_speak_with_a_gateway_whose_certificate_is_revoked() {
    let gateway = Scripted::open().await;
    gateway.revoke(1, &[1, 2], 2100);
    let collector = collector(&gateway, |_| {});
    until(&mut collector.status(), untrusted).await;
    assert_eq!(collector.status().borrow().sessions, 0);
}

#[tokio::test]
async fn a_gateway_that_is_revoked_while_a_session_lives_is_left_at_once() {
    let mut gateway = Scripted::open().await;
    gateway.revoke(1, &[7], 2100);
    let collector = collector(&gateway, |_| {});
    let (mut session, _) = gateway.welcomed(1000).await;
    gateway.revoke(2, &[1, 7], 2100);
    assert_eq!(session.closed().await, 0);
    until(&mut collector.status(), untrusted).await;
}

#[tokio::test]
async fn a_list_that_went_stale_ends_no_session_and_begins_none() {
    let mut gateway = Scripted::open().await;
    gateway.revoke(1, &[], 2100);
    let collector = collector(&gateway, |config| config.uplink.revocation.rule.need = Need::Required);
    let (mut session, _) = gateway.welcomed(1000).await;
    let mut generations = collector.certificates().watch();
    generations.mark_unchanged();
    // Its next was due before now.
    gateway.revoke(2, &[], 2026);
    timeout(PATIENCE, generations.changed()).await.unwrap().unwrap();
    publish(&collector, CRITICAL, 1..=3).await;
    let batch = session.batch().await;
    session.ack(&batch.stream, 3, Vec::new()).await;
    timeout(PATIENCE, collector.flush()).await.unwrap().unwrap();
    session.end(Status::unavailable("killed")).await;
    let stale = |status: &crate::uplink::Status| {
        status.last_error.as_ref().is_some_and(|trouble| trouble.what.contains("crl_stale"))
    };
    until(&mut collector.status(), stale).await;
}

/// The session before takes its time to settle, and meanwhile the certificate of the next connection is revoked.
#[tokio::test]
async fn a_gateway_that_is_revoked_before_the_hello_of_a_handover_is_told_nothing() {
    let mut gateway = Scripted::open().await;
    gateway.revoke(1, &[], 2100);
    let collector = collector(&gateway, |config| config.uplink.drain_timeout = PATIENCE * 6);
    publish(&collector, CRITICAL, 1..=3).await;
    let (mut session, _) = gateway.welcomed(1000).await;
    assert_eq!(session.connection, 1);
    let stream = session.batch().await.stream;
    gateway.renew();
    until(&mut gateway.connections, |count| *count == 2).await;
    let mut generations = collector.certificates().watch();
    generations.mark_unchanged();
    gateway.revoke(2, &[2], 2100);
    timeout(PATIENCE, generations.changed()).await.unwrap().unwrap();
    session.ack(&stream, 3, Vec::new()).await;
    assert_eq!(session.closed().await, 0);
    drop(session);
    let (session, _) = gateway.welcomed(1000).await;
    assert_eq!(session.connection, 1, "the old connection is kept");
}
