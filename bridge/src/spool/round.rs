//! What is written in one go: the appends that wait, and who is to be told.

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::{
    event::{Class, Origin},
    spool::{
        Record,
        handle::{Append, Command, PerClass, SpoolError},
    },
};

/// Records of one round, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) records: PerClass<Vec<Record>>,
    /// With what holds their place in the budget until they are told.
    waiting: Vec<(oneshot::Sender<Result<(), SpoolError>>, OwnedSemaphorePermit)>,
    weight: usize,
}

/// Payload bytes after which a round takes no more.
const MOST: usize = 4 * 1024 * 1024;

impl Round {
    /// Takes an append and those that wait behind it; returns also the command that came after those.
    pub(super) fn gather(first: Append, inbox: &mut mpsc::Receiver<Command>) -> (Self, Option<Command>) {
        let mut round = Self::default();
        round.add(first);
        while round.weight < MOST {
            match inbox.try_recv() {
                Ok(Command::Append(more)) => round.add(more),
                Ok(other) => return (round, Some(other)),
                Err(_) => break,
            }
        }
        (round, None)
    }

    fn add(&mut self, append: Append) {
        let Append { records, done, budget } = append;
        let PerClass { critical, telemetry } = records;
        for (class, records) in [(Class::Critical, critical), (Class::Telemetry, telemetry)] {
            self.weight += records.iter().map(|record| record.payload.len()).sum::<usize>();
            let all = self.records.of_mut(class);
            if all.is_empty() {
                *all = records;
            } else {
                all.extend(records);
            }
        }
        self.waiting.push((done, budget));
    }

    /// Tells everybody the same: a round is written as a whole or not at all.
    pub(super) fn tell(self, written: &Result<(), SpoolError>) {
        for (done, _budget) in self.waiting {
            // Who dropped the call is not told.
            let _gone = done.send(written.clone());
        }
    }
}

/// Brings together the events of each collector, so that blocks and batches stay large where collectors take turns. Those of
/// one keep their order. Of relayed ones those of an origin are brought together, and keep theirs: they were numbered before.
pub(super) fn bring_together(records: &mut [Record]) {
    if records.windows(2).any(|pair| matches!(pair, [one, other] if source(one) != source(other))) {
        records.sort_by(|one, other| source(one).cmp(&source(other)));
    }
}

/// Whose order an event keeps.
fn source(record: &Record) -> (Option<&Origin>, Option<&str>) {
    match &record.origin {
        Some((origin, _)) => (Some(origin), None),
        None => (None, record.collector.as_deref()),
    }
}
