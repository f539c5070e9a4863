//! What may be asked of the policy by an operator, over whatever way: try, apply, compare, explain, shadow.
//!
//! Files are read where they are asked for, which blocks for as long as the disk does; whoever answers on a runtime calls
//! from a blocking task.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    identity::{PeerId, PeerIdError},
    policy::{
        Judge, Policy, PolicyError,
        compare::{Change, Impact},
        explain::{Action, Explanation, Question},
        judge::{Applied, Force, ReloadError},
        shadow::ShadowView,
        subject::Subject,
    },
    snapshot::PolicyView,
};

/// Where an operator's word on the policy is taken. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    judge: Judge,
    file: PathBuf,
}

impl Desk {
    /// A desk before `judge`, whose policy file is `file`.
    #[must_use]
    pub const fn new(judge: Judge, file: PathBuf) -> Self {
        Self { judge, file }
    }

    /// The policy in force, what became of the last reload, and the shadow.
    #[must_use]
    pub fn status(&self) -> Status {
        let view = self.judge.view().borrow().clone();
        Status { policy: PolicyView::clone(&view), file: self.file.clone(), shadow: self.judge.shadow() }
    }

    /// What a policy would do to those who are connected; nothing is applied.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], if it cannot be used.
    pub fn dry_run(&self, candidate: &Candidate) -> Result<Impact, PolicyError> {
        Ok(self.judge.trial(&self.read(candidate)?))
    }

    /// Puts the policy file in force, for `by`.
    ///
    /// # Errors
    ///
    /// [`ReloadError`]: it cannot be used, or would cut more than a fifth of the connected and `force` does not insist.
    pub fn apply(&self, by: &str, force: Force) -> Result<Applied, ReloadError> {
        self.judge.reload(&self.file, by, force)
    }

    /// Judges a policy beside the one in force from now on, for `by`; nothing of it is enforced.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], if it cannot be used; the last shadow stays.
    pub fn shadow(&self, candidate: &Candidate, by: &str) -> Result<(), PolicyError> {
        self.judge.set_shadow(Some(self.read(candidate)?), by);
        Ok(())
    }

    /// Ends the shadow; says what it came to, if there was one.
    #[must_use]
    pub fn end_shadow(&self, by: &str) -> Option<ShadowView> {
        let view = self.judge.shadow();
        if view.is_some() {
            self.judge.set_shadow(None, by);
        }
        view
    }

    /// What a policy would change for `identities`, or for everybody who is connected if there are none.
    ///
    /// # Errors
    ///
    /// [`AskError`]: the policy cannot be used, or an identity is none.
    pub fn diff(&self, candidate: &Candidate, identities: &[String]) -> Result<Vec<Change>, AskError> {
        let new = self.read(candidate)?;
        let subjects = if identities.is_empty() {
            self.judge.connected()
        } else {
            let known = self.judge.connected();
            let subjects = identities.iter().map(|text| subject(text, &known));
            subjects.collect::<Result<_, _>>()?
        };
        Ok(self.judge.policy().changes(&new, &subjects))
    }

    /// Says whether `identity` may do something under the policy in force, and which lines decide that. One that is connected
    /// is judged by its own certificate, another by its name alone.
    ///
    /// # Errors
    ///
    /// [`AskError::Identity`], if it is no identity.
    pub fn explain(&self, asked: &Asked<'_>) -> Result<Explanation, AskError> {
        let subject = subject(asked.identity, &self.judge.connected())?;
        let question = Question {
            subject: &subject,
            collector: asked.collector,
            action: asked.action,
            object: asked.object,
        };
        Ok(self.judge.policy().explain(&question))
    }

    fn read(&self, candidate: &Candidate) -> Result<Policy, PolicyError> {
        match candidate {
            Candidate::File => Policy::load(&self.file),
            Candidate::Text(text) => Policy::parse(text, Path::new("given")),
        }
    }
}

/// A policy that is not in force.
#[derive(Clone, Debug)]
pub enum Candidate {
    /// What the gateway's own policy file says now.
    File,
    /// This text.
    Text(String),
}

/// Somebody's question, in words.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who, as `site/name`.
    pub identity: &'a str,
    /// For whom; empty: for itself.
    pub collector: &'a str,
    /// What it wants to do.
    pub action: Action,
    /// Topic, pattern, or name of a client of the bus.
    pub object: &'a str,
}

/// The policy, for an operator.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The one in force.
    #[serde(flatten)]
    pub policy: PolicyView,
    /// Its file.
    pub file: PathBuf,
    /// The one that is judged beside it.
    pub shadow: Option<ShadowView>,
}

fn subject(text: &str, connected: &[Subject]) -> Result<Subject, AskError> {
    let id: PeerId = text.parse()?;
    let known = connected.iter().find(|subject| *subject.id() == id);
    Ok(known.cloned().unwrap_or_else(|| Subject::named(id)))
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Somebody is named who cannot be.
    #[error("not an identity; write site/name, such as site-a/procmond-1")]
    Identity(#[from] PeerIdError),
    /// A policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}
