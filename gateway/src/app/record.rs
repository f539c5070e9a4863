//! Writes down in the audit which material and which policy are in force, once each, under the name of who or what put them
//! there.
//!
//! After the fact, unlike the deny-list: a revocation must not wait for a disk. What could not be written is told as an
//! error, for a human must act.

use std::sync::Arc;

use daemoneye_bridge::{settings::Chain, trust::Generation};
use serde::Serialize;
use tokio::{sync::watch, task};

use crate::{
    snapshot::{Part, PolicyView},
    state::audit::{Action, Audit, AuditError},
};

/// What is recorded of material.
#[derive(Serialize)]
struct Material<'a> {
    generation: u64,
    certificate: &'a str,
    serial: &'a str,
    /// SHA-256 of the keys of the authorities.
    anchors: Vec<String>,
}

/// What is recorded of a policy.
#[derive(Serialize)]
struct Policy<'a> {
    generation: u64,
    /// How many identities it cut.
    cut: usize,
    /// Of the newest; the roles of one that was replaced at once are not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<&'a [String]>,
}

/// Records every change of either. Never ends.
pub(super) async fn changes(
    audit: Audit,
    mut material: watch::Receiver<Arc<Generation>>,
    mut policy: Part<PolicyView>,
) {
    let mut applied = policy.borrow_and_update().generation;
    loop {
        tokio::select! {
            changed = material.changed() => match changed {
                Ok(()) => {
                    let next = Arc::clone(&material.borrow_and_update());
                    record(&audit, move |audit| loaded(audit, &next)).await;
                }
                Err(_gone) => return std::future::pending().await,
            },
            changed = policy.changed() => match changed {
                Ok(()) => {
                    let next = Arc::clone(&policy.borrow_and_update());
                    // A policy that was refused moves the view too.
                    let after = std::mem::replace(&mut applied, next.generation);
                    if next.generation != after {
                        record(&audit, move |audit| put(audit, &next, after)).await;
                    }
                }
                Err(_gone) => return std::future::pending().await,
            },
        }
    }
}

type Written = Result<(), AuditError>;

fn loaded(audit: &Audit, generation: &Generation) -> Written {
    let material = generation.material();
    let payload = Material {
        generation: generation.number(),
        certificate: material.leaf().subject(),
        serial: material.leaf().serial(),
        anchors: material.anchors().iter().map(|anchor| anchor.certificate().spki_hex()).collect(),
    };
    audit.append(generation.by(), Action::MaterialReloaded, &payload).map(drop)
}

/// Each policy that came `after` that generation: several may have, while the last was written.
fn put(audit: &Audit, view: &PolicyView, after: u64) -> Written {
    let newer = view.history.iter().rev().filter(|change| change.generation > after);
    for change in newer {
        let roles = (change.generation == view.generation).then_some(&*view.roles);
        let payload = Policy { generation: change.generation, cut: change.cut, roles };
        audit.append(&change.by, Action::PolicyApplied, &payload)?;
    }
    Ok(())
}

async fn record(audit: &Audit, work: impl FnOnce(&Audit) -> Written + Send + 'static) {
    let audit = audit.clone();
    // An error of the join means that the runtime is going away.
    if let Ok(Err(error)) = task::spawn_blocking(move || work(&audit)).await {
        tracing::error!(error = %Chain(&error), "change not recorded in the audit");
    }
}
