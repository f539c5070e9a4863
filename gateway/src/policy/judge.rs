//! The policy in force, which may be replaced while sessions live.
//!
//! A session takes its [`Rights`] once and asks for new ones when [`Watch::changed`] says so; nothing is looked up here for
//! an event.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use daemoneye_bridge::topic::Topic;
use tokio::sync::watch;

use crate::{
    identity::{PeerId, VerifiedPeer},
    policy::{
        Meter, PolicyError, file,
        metrics::Metrics,
        rate::Ledger,
        rule::Role,
        verdict::{Denial, PublishPermit, Rights},
    },
    snapshot::{PolicyView, Timestamp, Trouble},
};

/// The rules of one policy file. Has at least one that allows something.
#[derive(Clone, Debug)]
pub struct Policy {
    roles: Arc<[Arc<Role>]>,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] names the file, the role and the key, and what would be right.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        file::load(path).map(Self::new)
    }

    /// Reads a policy out of `text`; complaints name it `file`.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, PolicyError> {
        file::parse(text, file).map(Self::new)
    }

    fn new(roles: Vec<Role>) -> Self {
        Self { roles: roles.into_iter().map(Arc::new).collect() }
    }

    /// The rules themselves, for tests of later stages.
    #[cfg(test)]
    pub(crate) fn rules(&self) -> &[Arc<Role>] {
        &self.roles
    }

    /// Names of the roles, in the order of the file.
    #[must_use]
    pub fn roles(&self) -> Vec<String> {
        self.roles.iter().map(|role| role.name.clone()).collect()
    }
}

/// A policy and its number.
#[derive(Clone, Debug)]
struct Generation {
    number: u64,
    policy: Policy,
}

/// The policy in force. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Judge {
    current: watch::Sender<Generation>,
    view: watch::Sender<Arc<PolicyView>>,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
}

impl Judge {
    /// Puts `policy` in force as generation 1.
    #[must_use]
    pub fn new(policy: Policy, metrics: Metrics) -> Self {
        let view = PolicyView {
            generation: 1,
            loaded: Some(Timestamp::now()),
            roles: policy.roles(),
            refused: None,
        };
        Self {
            current: watch::Sender::new(Generation { number: 1, policy }),
            view: watch::Sender::new(Arc::new(view)),
            ledger: Arc::new(Ledger::new()),
            metrics: Arc::new(metrics),
        }
    }

    /// Replaces the policy; every session is judged anew.
    pub fn replace(&self, policy: Policy) {
        let roles = policy.roles();
        let mut generation = 0;
        self.current.send_modify(|current| {
            generation = current.number + 1;
            *current = Generation { number: generation, policy };
        });
        let view = PolicyView { generation, loaded: Some(Timestamp::now()), roles, refused: None };
        self.view.send_replace(Arc::new(view));
    }

    /// Loads the policy anew; what is wrong leaves the old one in force and is shown.
    ///
    /// # Errors
    ///
    /// As [`Policy::load`].
    pub fn reload(&self, path: &Path) -> Result<(), PolicyError> {
        match Policy::load(path) {
            Ok(policy) => {
                self.replace(policy);
                Ok(())
            }
            Err(error) => {
                self.view.send_modify(|view| {
                    let since = view.refused.as_ref().map_or_else(SystemTime::now, |trouble| trouble.since.0);
                    let trouble = Trouble { cause: error.to_string(), since: since.into() };
                    *view = Arc::new(PolicyView { refused: Some(trouble), ..PolicyView::clone(view) });
                });
                Err(error)
            }
        }
    }

    /// What may be shown of it.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<PolicyView>> {
        self.view.subscribe()
    }

    /// Whether some role matches `peer` now.
    #[must_use]
    pub fn knows(&self, peer: &VerifiedPeer) -> bool {
        let current = self.current.borrow();
        Rights::of(peer.id(), &current.policy.roles, current.number, &self.metrics).is_ok()
    }

    /// What `peer` may do now.
    ///
    /// # Errors
    ///
    /// [`Denial::Stranger`], if no role matches it.
    pub fn rights(&self, peer: &VerifiedPeer) -> Result<Rights, Denial> {
        let current = self.current.borrow();
        Rights::of(peer.id(), &current.policy.roles, current.number, &self.metrics)
            .inspect_err(|_| self.metrics.stranger())
    }

    /// Whether `rights` are those of the policy in force.
    #[must_use]
    pub fn is_current(&self, rights: &Rights) -> bool {
        self.current.borrow().number == rights.generation()
    }

    /// What the peer of `rights` may do now.
    ///
    /// # Errors
    ///
    /// [`Denial::Stranger`], if no role matches it any longer.
    pub fn renew(&self, rights: &Rights) -> Result<Rights, Denial> {
        let current = self.current.borrow();
        Rights::of(rights.peer(), &current.policy.roles, current.number, &self.metrics)
            .inspect_err(|_| self.metrics.stranger())
    }

    /// Judges one event by itself. A session keeps its [`Rights`] instead.
    ///
    /// # Errors
    ///
    /// [`Denial`] says what forbids it.
    pub fn publish(
        &self,
        peer: &VerifiedPeer,
        collector: &str,
        topic: &Topic,
    ) -> Result<PublishPermit, Denial> {
        let mut speaker = self.rights(peer)?.speaker(collector)?;
        let mut permit = speaker.permit();
        let place = speaker.allow(&mut permit, topic.dotted());
        speaker.count(u64::from(place.is_ok()), u64::from(place.is_err()));
        place.map(|_| permit)
    }

    /// Tells of changes from now on.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(self.current.subscribe())
    }

    /// What `peer` has used of its rates.
    #[must_use]
    pub fn meter(&self, peer: &PeerId) -> Arc<Meter> {
        self.ledger.meter(peer)
    }
}

/// Tells when another policy is in force.
#[derive(Clone, Debug)]
pub struct Watch(watch::Receiver<Generation>);

impl Watch {
    /// Ends when the policy is not the one that was in force when this was last asked.
    ///
    /// Cancel safe. Never ends once the judge is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Settings of the policy; every value is usable as it stands.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// The policy file.
    pub file: PathBuf,
}

/// The section `[policy]`.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// The policy file; read at start-up, and again at each reload. Default: `/etc/daemoneye/policy.toml`.
    file: PathBuf,
}

impl Default for File {
    fn default() -> Self {
        Self { file: "/etc/daemoneye/policy.toml".into() }
    }
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        if file.file.as_os_str().is_empty() {
            return Err("file must name the policy file".to_owned());
        }
        Ok(Self { file: file.file })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { file: File::default().file }
    }
}
