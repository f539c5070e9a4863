//! The policy in force, which may be replaced while sessions live.
//!
//! A session takes its [`Rights`] once and asks for new ones when [`Watch::changed`] says so; nothing is looked up here for
//! an event.

use std::{path::Path, path::PathBuf, sync::Arc, time::SystemTime};

use daemoneye_bridge::topic::Topic;
use tokio::sync::watch;

use crate::{
    identity::{PeerId, VerifiedPeer},
    policy::{
        Meter, Policy, PolicyError,
        compare::Impact,
        downlink::{self, DownlinkPermit, LocalClient, Way},
        fleet::{Fleet, Tenure},
        metrics::{Decision, Metrics},
        permit::PublishPermit,
        rate::Ledger,
        shadow::{Shadow, ShadowView},
        subject::Subject,
        verdict::{Denial, Rights},
    },
    snapshot::{PolicyChange, PolicyView, Timestamp, Trouble},
};

/// A policy and its number, with the one that is judged beside it.
#[derive(Clone, Debug)]
struct Generation {
    /// Counts up with each policy in force.
    number: u64,
    /// Counts up with each change of either policy: what rights are compared by.
    epoch: u64,
    policy: Policy,
    shadow: Option<Arc<Shadow>>,
}

/// The policy in force. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Judge {
    current: watch::Sender<Generation>,
    view: watch::Sender<Arc<PolicyView>>,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    fleet: Fleet,
}

/// Whether a policy that would cut more than a fifth of the connected is applied all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It waits for a word.
    Ask,
    /// This is the word.
    Insist,
}

/// What became of a policy that was to be applied.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Applied {
    /// It is in force.
    Changed {
        /// Its number.
        generation: u64,
        /// Who was cut.
        impact: Impact,
    },
    /// It says, letter by letter, what the one in force says.
    Unchanged {
        /// Number of the one in force.
        generation: u64,
    },
}

impl Judge {
    /// Most changes that are remembered.
    const HISTORY: usize = 32;

    /// Puts `policy` in force as generation 1.
    #[must_use]
    pub fn new(policy: Policy, metrics: Metrics) -> Self {
        let loaded = Timestamp::now();
        let by = "start-up".to_owned();
        let view = PolicyView {
            generation: 1,
            loaded: Some(loaded),
            roles: policy.roles(),
            refused: None,
            history: vec![PolicyChange { generation: 1, at: loaded, by, cut: 0 }],
        };
        Self {
            current: watch::Sender::new(Generation { number: 1, epoch: 1, policy, shadow: None }),
            view: watch::Sender::new(Arc::new(view)),
            ledger: Arc::new(Ledger::new()),
            metrics: Arc::new(metrics),
            fleet: Fleet::default(),
        }
    }

    /// Replaces the policy, whoever is cut; every session is judged anew.
    pub fn replace(&self, policy: Policy) {
        self.put(policy, "the process itself", 0);
    }

    /// Replaces the policy for `by`; every session is judged anew.
    ///
    /// # Errors
    ///
    /// [`Held`], if more than a fifth of the connected would be cut and `force` does not insist. The old one stays in force.
    pub fn apply(&self, policy: Policy, by: &str, force: Force) -> Result<Applied, Held> {
        let current = self.policy();
        if current.source() == policy.source() {
            self.view.send_if_modified(|view| {
                let stale = view.refused.is_some();
                if stale {
                    *view = Arc::new(PolicyView { refused: None, ..PolicyView::clone(view) });
                }
                stale
            });
            return Ok(Applied::Unchanged { generation: self.current.borrow().number });
        }
        let impact = Impact::of(&policy, &self.fleet.members());
        if force == Force::Ask && impact.needs_force() {
            let held = Held { impact: Box::new(impact) };
            self.refused(held.to_string());
            return Err(held);
        }
        let generation = self.put(policy, by, impact.cut.len());
        Ok(Applied::Changed { generation, impact })
    }

    fn put(&self, policy: Policy, by: &str, cut: usize) -> u64 {
        let roles = policy.roles();
        let mut generation = 0;
        self.current.send_modify(|current| {
            generation = current.number + 1;
            current.number = generation;
            current.epoch += 1;
            current.policy = policy;
        });
        let at = Timestamp::now();
        self.view.send_modify(|view| {
            let mut history = view.history.clone();
            history.insert(0, PolicyChange { generation, at, by: by.to_owned(), cut });
            history.truncate(Self::HISTORY);
            *view = Arc::new(PolicyView { generation, loaded: Some(at), roles, refused: None, history });
        });
        generation
    }

    /// Loads the policy anew for `by`; what is wrong leaves the old one in force and is shown.
    ///
    /// # Errors
    ///
    /// [`ReloadError`]: it cannot be used, or waits for a word.
    pub fn reload(&self, path: &Path, by: &str, force: Force) -> Result<Applied, ReloadError> {
        let policy = Policy::load(path).inspect_err(|error| {
            self.refused(daemoneye_bridge::settings::Chain(error).to_string());
        })?;
        Ok(self.apply(policy, by, force)?)
    }

    fn refused(&self, cause: String) {
        self.view.send_modify(|view| {
            let since = view.refused.as_ref().map_or_else(SystemTime::now, |trouble| trouble.since.0);
            let trouble = Trouble { cause, since: since.into() };
            *view = Arc::new(PolicyView { refused: Some(trouble), ..PolicyView::clone(view) });
        });
    }

    /// What `policy` would do to those who are connected. Nothing is applied.
    #[must_use]
    pub fn trial(&self, policy: &Policy) -> Impact {
        Impact::in_full(&self.policy(), policy, &self.fleet.members())
    }

    /// Judges `policy` beside the one in force from now on, in place of the last such; `None` ends that. Nothing of it is
    /// enforced.
    pub fn set_shadow(&self, policy: Option<Policy>, by: &str) {
        let shadow = policy.map(|policy| Shadow::new(policy, by, &self.metrics));
        self.current.send_modify(|current| {
            current.epoch += 1;
            current.shadow = shadow;
        });
    }

    /// The policy that is judged beside the one in force, and what it would decide otherwise.
    #[must_use]
    pub fn shadow(&self) -> Option<ShadowView> {
        let shadow = self.current.borrow().shadow.clone();
        shadow.map(|shadow| shadow.view())
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.current.borrow().policy.clone()
    }

    /// Everybody who has rights now, each once.
    #[must_use]
    pub fn connected(&self) -> Vec<Subject> {
        let mut subjects: Vec<_> =
            self.fleet.members().iter().map(|tenure| tenure.subject().clone()).collect();
        subjects.sort_by(|a, b| a.id().cmp(b.id()));
        subjects.dedup();
        subjects
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
        Rights::of(peer, current.policy.rules(), current.epoch, &self.metrics).is_ok()
    }

    /// What `peer` may do now.
    ///
    /// # Errors
    ///
    /// [`Denial::Stranger`], if no role matches it.
    pub fn rights(&self, peer: &VerifiedPeer) -> Result<Rights, Denial> {
        self.grant(peer.into(), None)
    }

    /// Whether `rights` are those of the policy in force.
    #[must_use]
    pub fn is_current(&self, rights: &Rights) -> bool {
        self.current.borrow().epoch == rights.generation()
    }

    /// What the peer of `rights` may do now.
    ///
    /// # Errors
    ///
    /// [`Denial::Stranger`], if no role matches it any longer.
    pub fn renew(&self, rights: &Rights) -> Result<Rights, Denial> {
        self.grant(rights.subject().clone(), rights.tenure().map(Arc::clone))
    }

    fn grant(&self, subject: Subject, tenure: Option<Arc<Tenure>>) -> Result<Rights, Denial> {
        let current = self.current.borrow().clone();
        let second = current.shadow.as_ref().map(|shadow| shadow.second(&subject));
        // Listed before it is judged: a policy that comes in between is either tried against it or judges it.
        let tenure = tenure.unwrap_or_else(|| self.fleet.enter(subject.clone()));
        let peer = subject.id().clone();
        let rights = Rights::of(subject, current.policy.rules(), current.epoch, &self.metrics);
        if let Some(second) = &second {
            second.connect(&peer, rights.is_ok());
        }
        rights.map(|rights| rights.held(tenure, second)).inspect_err(|_| self.metrics.stranger())
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

    /// Judges whether a local client of the bus may reach a collector; nobody may, unless a `[[downlink]]` says so.
    ///
    /// # Errors
    ///
    /// [`Denial::Downlink`], if none does.
    pub fn downlink(
        &self,
        client: LocalClient<'_>,
        way: Way,
        collector: &PeerId,
    ) -> Result<DownlinkPermit, Denial> {
        let policy = self.policy();
        let judged = downlink::judge(policy.downlinks(), client, way, collector);
        self.metrics.downlink(Decision::of(judged.is_ok()));
        judged
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

/// A policy waits for a word, because it would cut too many.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "policy not applied: it {impact}, which is more than a fifth of the connected; apply it with force if that is meant"
)]
pub struct Held {
    /// Who would be cut.
    pub impact: Box<Impact>,
}

/// Why a policy was not put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// It waits for a word.
    #[error(transparent)]
    Held(#[from] Held),
    /// It cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
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
