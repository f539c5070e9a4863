//! Whether entries can be written: an audit that cannot be refuses changes, and that must be seen before somebody needs one.

use std::{sync::PoisonError, time::Duration};

use daemoneye_bridge::settings::Chain;
use serde::Serialize;
use tokio::{sync::watch, task, time};

use crate::{
    snapshot::{Timestamp, Trouble},
    state::audit::{Action, Audit, AuditError, entry::Line},
};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What is recorded when entries can be written again.
#[derive(Serialize)]
struct Resumed {
    /// How many could not be. Of those, what was refused was not done; what is recorded after the fact was.
    missed: u64,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
}

impl Audit {
    /// Why no entry can be written, as far as is known.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.0.trouble.subscribe()
    }

    /// Looks after the file, for as long as it lives: one that is gone is seen before a change needs it, and one that could
    /// not be written is tried again.
    pub async fn watch(self) {
        let mut clock = time::interval(LOOK);
        loop {
            clock.tick().await;
            let audit = self.clone();
            // An error of the join means that the runtime is going away, and this task with it.
            task::spawn_blocking(move || audit.tend()).await.unwrap_or_default();
        }
    }

    /// Looks at the file; if entries are missing, writes how many, which proves that it can be written.
    pub(super) fn tend(&self) {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &self.0.path;
        let result = if writer.missed == 0 {
            writer.look(path)
        } else {
            let since = self.0.trouble.borrow().as_ref().map(|trouble| trouble.since);
            let told = Resumed { missed: writer.missed, since };
            Line::new(writer.head, Timestamp::now(), "gateway", Action::AuditResumed, &told)
                .map_err(|source| AuditError::Payload { action: Action::AuditResumed, source })
                .and_then(|line| writer.put(&line, path))
        };
        if result.is_ok() {
            writer.missed = 0;
        }
        self.note(result.as_ref().err());
        drop(writer);
    }

    /// Shows what became of the last try.
    pub(super) fn note(&self, error: Option<&AuditError>) {
        let path = self.path().display();
        self.0.trouble.send_if_modified(|shown| match (error, shown) {
            (None, None) => false,
            (None, shown @ Some(_)) => {
                tracing::info!(%path, "audit can be written again");
                *shown = None;
                true
            }
            (Some(error), Some(trouble)) => {
                let cause = Chain(error).to_string();
                let is_news = trouble.cause != cause;
                trouble.cause = cause;
                is_news
            }
            (Some(error), shown @ None) => {
                let cause = Chain(error).to_string();
                tracing::error!(error = %cause, "audit cannot be written");
                *shown = Some(Trouble { cause, since: Timestamp::now() });
                true
            }
        });
    }
}
