//! Who gets in. The table of all chains comes with the issue on trust; these are the ones an operator meets first.

use daemoneye_gateway::pki::{Authority, Leaf as Profile, Validity};
use daemoneye_tests::{
    eventually,
    peer::{Credentials, Session},
    world::{TRUST_DOMAIN, World},
};
use rcgen::ExtendedKeyUsagePurpose;
use tonic::{Code, Status};

use crate::world;

/// Tries to open a session; the transport's refusal and the gateway's are both no.
async fn knock(world: &World, credentials: &Credentials) -> Result<(), Option<Status>> {
    let channel = credentials.channel(world.address).await.map_err(|_| None)?;
    Session::open(channel, vec![]).await.map(|_| ()).map_err(Some)
}

#[tokio::test]
async fn only_a_certificate_of_our_authority_with_a_name_and_a_role_gets_in() {
    let mut world = world("");
    world.start().await;
    let collector = || Profile::collector(TRUST_DOMAIN, "site-a", "procmond-1");
    assert!(knock(&world, &world.credentials("site-a", "procmond-1")).await.is_ok());

    let stranger = Authority::root("Another root").unwrap();
    let of = |profile: Profile| world.credentials_of(&world.authority, &profile);
    let refused = [
        ("no certificate", Credentials { own: None, ..of(collector()) }),
        ("another CA", world.credentials_of(&stranger, &collector())),
        ("expired", of(collector().validity(Validity::expired()))),
        ("not yet valid", of(collector().validity(Validity::not_yet()))),
        ("server only", of(collector().extended_usages([ExtendedKeyUsagePurpose::ServerAuth]))),
        ("no extended key usage", of(collector().extended_usages([]))),
        ("no name", of(collector().without_names())),
        ("two names", of(collector().uri(&format!("spiffe://{TRUST_DOMAIN}/site/site-b/collector/other")))),
    ];
    for (what, credentials) in refused {
        let told = knock(&world, &credentials).await;
        assert!(told.is_err(), "{what}: was admitted");
    }
    let before = world.json("/api/v1/refusals");
    assert!(before.to_string().len() > 200, "refusals are shown: {before}");

    // A valid certificate without any role is told so.
    let without_role = knock(&world, &world.credentials("site-a", "nobody")).await;
    let status = without_role.unwrap_err().expect("the handshake is fine");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
}

#[tokio::test]
async fn a_collector_is_shown_while_it_is_there_and_after_it_has_gone() {
    let mut world = world("");
    world.start().await;
    let channel = world.credentials("site-b", "netmond-7").channel(world.address).await.unwrap();
    let (session, _) = Session::open(channel, vec![]).await.unwrap();
    let listed = |world: &World, list: &str| {
        world.json("/api/v1/collectors")[list]
            .as_array()
            .is_some_and(|rows| rows.iter().any(|row| row["peer"] == "site-b/netmond-7"))
    };
    eventually("it is shown as live", || listed(&world, "live")).await;
    drop(session);
    eventually("it is shown as gone", || listed(&world, "gone") && !listed(&world, "live")).await;
}
