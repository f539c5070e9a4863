//! The table of held commands.

use bytes::Bytes;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use crate::state::{StoreError, store::Store};

/// Per number: what is known of the command, and its payload.
pub(super) const COMMANDS: TableDefinition<'_, u64, (&str, &[u8])> = TableDefinition::new("commands");

impl Store {
    /// All commands: number, what is known of it, payload.
    pub(super) fn commands(&self) -> Result<Vec<(u64, String, Bytes)>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(COMMANDS)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (number, value) = row?;
                let (about, payload) = value.value();
                rows.push((number.value(), about.to_owned(), Bytes::copy_from_slice(payload)));
            }
            Ok(rows)
        })
    }

    /// Writes a command, or removes it.
    pub(super) fn set_command(&self, number: u64, row: Option<(&str, &[u8])>) -> Result<(), StoreError> {
        self.change(|database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(COMMANDS)?;
                match row {
                    Some(row) => drop(table.insert(number, row)?),
                    None => drop(table.remove(number)?),
                }
            }
            write.commit()?;
            Ok(())
        })
    }
}
