//! What changes between the verdict on a certificate and the registration of its connection: the handshake that began
//! under the old word ends well, and its connection is cut by the new one.

use std::{fs, time::Duration};

use daemoneye_tests::{
    eventually,
    hesitant::{Fate, Hesitant},
    peer::Credentials,
    world::World,
};
use time::OffsetDateTime;

use crate::{
    crowd::{Revoker, deny, tomorrow},
    revoke::AT_ONCE,
    world,
};

/// A gateway that trusts a revoker, and a collector of that one.
struct Scene {
    world: World,
    revoker: Revoker,
    anchors: String,
}

/// The serial number of the collector.
const SERIAL: u64 = 7;

impl Scene {
    async fn begin() -> Self {
        let (mut world, mut revoker) = (world(""), Revoker::new(10));
        let (anchors, _) = revoker.trusted_by(&world);
        world.start().await;
        Self { world, revoker, anchors }
    }

    /// It has shown its certificate, and the gateway has judged it.
    async fn hesitate(&self, until: OffsetDateTime) -> Hesitant {
        let own = Some(self.revoker.issue("procmond-1", SERIAL, until));
        let credentials = Credentials { anchors: self.anchors.clone(), own };
        let hesitant = Hesitant::connect(&credentials, self.world.address).expect("the gateway shakes hands");
        hesitant.heard().await;
        hesitant
    }

    fn counted(&self, name: &str) -> f64 {
        self.world.metric(&format!("daemoneye_gateway_{name}"))
    }

    async fn reloaded(&self) {
        let changed = || self.counted("tls_reloads_total{outcome=\"changed\"}") > 0.5;
        eventually("the new material is in force", changed).await;
    }

    /// Goes on, and must find itself cut for `reason`, although its handshake ended well.
    async fn is_cut(&self, hesitant: Hesitant, reason: &str) {
        let accepted = "tls_handshakes_total{outcome=\"accepted\"}";
        assert!(self.counted(accepted) < 0.5, "{reason}: it has not proven anything yet");
        let fate = hesitant.go_on().await.expect("it is answered or sent away");
        println!("{reason}: {fate:?}");
        assert!(matches!(fate, Fate::Out(took) if took < AT_ONCE), "{reason}: {fate:?}");
        let cut = || self.counted(&format!("session_cuts_total{{reason=\"{reason}\"}}"));
        eventually("the cut is counted", || (cut() - 1.0).abs() < 0.5).await;
        assert!((self.counted(accepted) - 1.0).abs() < 0.5, "{reason}: refused in its handshake");
        assert!(self.counted("session_untracked").abs() < 0.5, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hesitates_is_let_in_if_nothing_changed() {
    let scene = Scene::begin().await;
    let hesitant = scene.hesitate(tomorrow()).await;
    assert_eq!(hesitant.go_on().await.unwrap(), Fate::In);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_comes_between_verdict_and_registration_cuts() {
    let mut scene = Scene::begin().await;
    let hesitant = scene.hesitate(tomorrow()).await;
    scene.revoker.revoke(SERIAL);
    fs::write(scene.world.path("tls/next"), scene.revoker.next_list()).unwrap();
    fs::rename(scene.world.path("tls/next"), scene.world.path("tls/revoker.crl")).unwrap();
    scene.reloaded().await;
    scene.is_cut(hesitant, "revoked").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anchors_that_go_between_verdict_and_registration_cut() {
    let scene = Scene::begin().await;
    let hesitant = scene.hesitate(tomorrow()).await;
    fs::write(scene.world.path("tls/anchors.pem"), &scene.anchors).unwrap();
    scene.reloaded().await;
    scene.is_cut(hesitant, "untrusted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_that_comes_between_verdict_and_registration_cuts() {
    let scene = Scene::begin().await;
    let hesitant = scene.hesitate(tomorrow()).await;
    deny(&scene.world, "site-a/procmond-1");
    scene.is_cut(hesitant, "denied").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_between_verdict_and_registration_cuts() {
    let scene = Scene::begin().await;
    let until = (OffsetDateTime::now_utc() + Duration::from_secs(3)).replace_nanosecond(0).unwrap();
    let hesitant = scene.hesitate(until).await;
    assert!(OffsetDateTime::now_utc() < until, "the machine is too slow: it ended before it was shown");
    eventually("the certificate ends", || OffsetDateTime::now_utc() > until).await;
    scene.is_cut(hesitant, "certificate_expired").await;
}
