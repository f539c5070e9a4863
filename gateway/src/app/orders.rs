//! Reloads that an operator asks for, one at a time, under his name.
//!
//! Files and SIGHUP are followed without anybody asking; whoever asks wants to know what became of it. A reload that is
//! forced stands in the audit before it is tried: what cannot be recorded is not forced. What came into force is recorded
//! for every way alike, in [`record`](super::record).

use daemoneye_bridge::{
    settings::Chain,
    trust::{self, Store, revocation::Order},
};
use serde_json::json;
use tokio::{sync::mpsc, task};

use crate::{
    admin::{Outcome, Reload, Reloaded, What},
    policy::{Applied, Force, command::Desk},
    state::audit::{Action, Audit, AuditError},
};

/// What a reload is about.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    pub(super) store: Store,
    pub(super) policy: Desk,
    pub(super) audit: Audit,
}

impl Orders {
    /// The way to ask, for [`Self::serve`]. One may wait while one is under way.
    pub(super) fn channel() -> (mpsc::Sender<Reload>, mpsc::Receiver<Reload>) {
        mpsc::channel(1)
    }

    /// Does what is asked for until nobody can ask any more.
    pub(super) async fn serve(self, mut asked: mpsc::Receiver<Reload>) {
        while let Some(Reload { what, force, actor, reply }) = asked.recv().await {
            let done = self.reload(what, force, &actor).await;
            tracing::info!(actor, force, certificates = ?done.certificates, policy = ?done.policy, "reload asked for");
            if reply.send(done).is_err() {
                tracing::debug!("who asked for a reload did not wait");
            }
        }
    }

    async fn reload(&self, what: What, force: bool, actor: &str) -> Reloaded {
        if force && let Err(error) = self.record(actor, Action::ReloadForced, json!({})).await {
            let refused = Outcome::Refused(Chain(&error).to_string());
            return Reloaded { certificates: refused.clone(), policy: refused };
        }
        let (order, force) = if force { (Order::Any, Force::Insist) } else { (Order::Forward, Force::Ask) };
        let certificates = match what {
            What::All => self.certificates(order, actor).await,
            What::Policy => Outcome::Unchanged,
        };
        Reloaded { certificates, policy: self.policy(force, actor).await }
    }

    async fn certificates(&self, order: Order, actor: &str) -> Outcome {
        match self.store.reload_for(order, actor).await {
            Ok(trust::Reload::Unchanged) => Outcome::Unchanged,
            Ok(trust::Reload::Changed { generation, what }) => {
                let what: Vec<&str> = what.iter().map(|part| part.as_str()).collect();
                Outcome::Changed(format!("generation {generation}: {}", what.join(", ")))
            }
            Err(error) => Outcome::Refused(Chain(&error).to_string()),
        }
    }

    async fn policy(&self, force: Force, actor: &str) -> Outcome {
        let (desk, by) = (self.policy.clone(), actor.to_owned());
        match task::spawn_blocking(move || desk.apply(&by, force)).await {
            Ok(Ok(Applied::Changed { generation, impact })) => {
                let cut = impact.cut.len();
                Outcome::Changed(format!(
                    "generation {generation}; of {} connected {cut} were cut",
                    impact.connected
                ))
            }
            Ok(Err(error)) => Outcome::Refused(Chain(&error).to_string()),
            // Or the runtime is going away, and this task with it.
            Ok(Ok(Applied::Unchanged { .. })) | Err(_) => Outcome::Unchanged,
        }
    }

    async fn record(&self, actor: &str, action: Action, what: serde_json::Value) -> Result<(), AuditError> {
        let (audit, actor) = (self.audit.clone(), actor.to_owned());
        // It is flushed to the disk.
        task::spawn_blocking(move || audit.append(&actor, action, &what))
            .await
            .map_or(Ok(()), |done| done.map(|_| ()))
    }
}
