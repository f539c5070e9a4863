//! The rules of one policy file.

use std::{path::Path, sync::Arc};

use crate::policy::{
    PolicyError,
    compare::{self, Change},
    downlink::Downlink,
    explain::{self, Explanation, Question},
    file::{self, Contents},
    rule::Role,
    subject::Subject,
};

/// The rules of one policy file. Has at least one that allows something. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy {
    roles: Arc<[Arc<Role>]>,
    downlinks: Arc<[Downlink]>,
    source: Arc<str>,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] names the file, the line, the role and the key, and what would be right.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        Self::parse(&file::text(path)?, path)
    }

    /// Reads a policy out of `text`; complaints name it `file`.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, PolicyError> {
        let Contents { roles, downlinks } = file::parse(text, file)?;
        Ok(Self {
            roles: roles.into_iter().map(Arc::new).collect(),
            downlinks: downlinks.into(),
            source: text.into(),
        })
    }

    /// The rules themselves.
    pub(crate) fn rules(&self) -> &[Arc<Role>] {
        &self.roles
    }

    pub(super) fn downlinks(&self) -> &[Downlink] {
        &self.downlinks
    }

    /// Names of the roles, in the order of the file.
    #[must_use]
    pub fn roles(&self) -> Vec<String> {
        self.roles.iter().map(|role| role.name.clone()).collect()
    }

    /// How many `[[downlink]]` tables it has.
    #[must_use]
    pub fn downlink_count(&self) -> usize {
        self.downlinks.len()
    }

    /// The text that it was read from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Says whether somebody may do something, and which lines decide that.
    #[must_use]
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        explain::explain(self, question)
    }

    /// What would change for each of `subjects` if `new` took its place; those for whom nothing would are left out.
    #[must_use]
    pub fn changes(&self, new: &Self, subjects: &[Subject]) -> Vec<Change> {
        compare::between(self, new, subjects)
    }
}
