//! What is served over gRPC besides the federation itself: health and reflection, in their standard forms.

use daemoneye_bridge::{
    bus::{BusState, Link},
    lifecycle::{Leash, Phase},
};
use daemoneye_proto::{FILE_DESCRIPTOR_SET, v1::federation_server::SERVICE_NAME};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, health_reporter},
};
use tonic_reflection::server::{Builder, Error};

/// Adds health and reflection to `routes`; the reporter is for [`report`].
///
/// # Errors
///
/// The descriptors cannot be read: the build is broken.
pub(super) fn add(routes: Routes) -> Result<(Routes, HealthReporter), Error> {
    let described = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (reporter, health) = health_reporter();
    // Clients of either version are about.
    let (v1, v1alpha) = (described().build_v1()?, described().build_v1alpha()?);
    Ok((routes.add_service(health).add_service(v1).add_service(v1alpha), reporter))
}

/// Keeps the health service in step with phase and bus, and lets go of who watches it when the drain begins.
pub(super) async fn report(
    mut reporter: HealthReporter,
    mut phase: watch::Receiver<Phase>,
    mut bus: watch::Receiver<BusState>,
    leash: Leash,
) {
    loop {
        let is_up = matches!(bus.borrow_and_update().link, Link::Up);
        let is_serving = *phase.borrow_and_update() == Phase::Serving;
        let status = if is_up && is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        let alive = tokio::select! {
            biased;
            () = leash.draining() => break,
            changed = phase.changed() => changed.is_ok(),
            changed = bus.changed() => changed.is_ok(),
        };
        if !alive {
            break;
        }
    }
    // Whoever watches would otherwise hold his connection open for as long as he likes.
    for service in SERVICES {
        reporter.clear_service_status(service).await;
    }
}

/// The gateway as a whole, and its one service.
const SERVICES: [&str; 2] = ["", SERVICE_NAME];
