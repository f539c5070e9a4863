//! The keys of one table of a policy file, read one by one.

use std::{num::NonZeroU32, sync::Arc};

use daemoneye_bridge::settings::ByteSize;
use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::policy::{
    file::error::{Complaint, Fault, Owner},
    rule::{Entry, Glob, GlobError, TemplateError},
};

/// Where the lines of a text begin.
#[derive(Debug)]
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line of a byte, from 1.
    pub(super) fn at(&self, byte: usize) -> u32 {
        let before = self.0.partition_point(|newline| *newline < byte);
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn of_value(&self, value: &Spanned<DeValue<'_>>) -> u32 {
        self.at(value.span().start)
    }
}

/// A text of a policy, and its line.
pub(super) type Text = (String, u32);

/// The keys of a table that are still to be read.
#[derive(Debug)]
pub(super) struct Keys<'t> {
    pub(super) owner: Owner,
    /// The table's own key, as complaints name it.
    own: &'static str,
    /// The table's own line.
    line: u32,
    table: DeTable<'t>,
    lines: &'t Lines,
}

impl<'t> Keys<'t> {
    pub(super) fn new(
        owner: Owner,
        own: &'static str,
        value: Spanned<DeValue<'t>>,
        lines: &'t Lines,
    ) -> Result<Self, Fault> {
        let line = lines.of_value(&value);
        match value.into_inner() {
            DeValue::Table(table) => Ok(Self { owner, own, line, table, lines }),
            _ => Err(Fault { owner, line, key: own, complaint: Complaint::Table }),
        }
    }

    /// Something is wrong with the table as a whole, or with a key that is not there.
    pub(super) fn fault(&self, key: &'static str, complaint: Complaint) -> Fault {
        self.fault_at(self.line, key, complaint)
    }

    pub(super) fn fault_at(&self, line: u32, key: &'static str, complaint: Complaint) -> Fault {
        Fault { owner: self.owner.clone(), line, key, complaint }
    }

    /// What stands behind `key`, and its line.
    pub(super) fn take(&mut self, key: &'static str) -> Option<(DeValue<'t>, u32)> {
        let value = self.table.remove(key)?;
        let line = self.lines.of_value(&value);
        Some((value.into_inner(), line))
    }

    pub(super) fn required(&mut self, key: &'static str) -> Result<Text, Fault> {
        match self.take(key) {
            None => Err(self.fault(key, Complaint::Missing)),
            Some((DeValue::String(text), line)) => Ok((text.into_owned(), line)),
            Some((_, line)) => Err(self.fault_at(line, key, Complaint::Texts)),
        }
    }

    fn value<T: DeserializeOwned>(&mut self, key: &'static str) -> Result<Option<(T, u32)>, Fault> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        let line = self.lines.of_value(&value);
        T::deserialize(value.into_deserializer())
            .map(|value| Some((value, line)))
            .map_err(|error| self.fault_at(line, key, Complaint::Value(error.message().to_owned())))
    }

    pub(super) fn table(&mut self, key: &'static str) -> Result<Option<Self>, Fault> {
        let value = self.table.remove(key);
        value.map(|value| Self::new(self.owner.clone(), key, value, self.lines)).transpose()
    }

    /// One text, or a list of them.
    pub(super) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<Text>>, Fault> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        let items = match value.get_ref() {
            DeValue::Array(_) => match value.into_inner() {
                DeValue::Array(items) => items.into_iter().collect(),
                _ => Vec::new(),
            },
            _ => vec![value],
        };
        let text = |item: Spanned<DeValue<'t>>| {
            let line = self.lines.of_value(&item);
            match item.into_inner() {
                DeValue::String(text) => Ok((text.into_owned(), line)),
                _ => Err(self.fault_at(line, key, Complaint::Texts)),
            }
        };
        items.into_iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// Templates of topics or clients, each with its line.
    pub(super) fn entries<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, TemplateError>,
    ) -> Result<Vec<Entry<T>>, Fault> {
        let texts = self.texts(key)?.unwrap_or_default();
        let entry = |(text, line): Text| match parse(&text) {
            Ok(value) => Ok(Entry { value, text: Arc::from(text), line, builtin: None }),
            Err(error) => Err(self.fault_at(line, key, Complaint::Pattern { text, error })),
        };
        texts.into_iter().map(entry).collect()
    }

    /// One glob, or a list of them; each with its line.
    pub(super) fn globs(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<Glob, GlobError>,
    ) -> Result<Option<Vec<Entry<Glob>>>, Fault> {
        let Some(texts) = self.texts(key)? else { return Ok(None) };
        let glob = |(text, line): Text| match parse(&text) {
            Ok(value) => Ok(Entry { value, text: Arc::from(text), line, builtin: None }),
            Err(error) => Err(self.fault_at(line, key, Complaint::Glob { text, error })),
        };
        texts.into_iter().map(glob).collect::<Result<_, _>>().map(Some)
    }

    /// Users of the operating system: one, or a list of them.
    pub(super) fn uids(&mut self) -> Result<Option<Vec<u32>>, Fault> {
        const KEY: &str = "uid";
        let Some((value, line)) = self.take(KEY) else { return Ok(None) };
        let uid = |value: &DeValue<'_>| {
            let number = value.as_integer()?;
            u32::from_str_radix(number.as_str(), number.radix()).ok()
        };
        let uids: Option<Vec<u32>> = match &value {
            DeValue::Array(items) => items.iter().map(|item| uid(item.get_ref())).collect(),
            one => uid(one).map(|uid| vec![uid]),
        };
        uids.filter(|uids| !uids.is_empty()).map(Some).ok_or_else(|| self.fault_at(line, KEY, Complaint::Uid))
    }

    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<NonZeroU32>, Fault> {
        let Some((value, line)) = self.take(key) else { return Ok(None) };
        let number = value.as_integer();
        let number = number.and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
        number.and_then(NonZeroU32::new).map(Some).ok_or_else(|| self.fault_at(line, key, Complaint::Number))
    }

    pub(super) fn bytes(&mut self, key: &'static str) -> Result<Option<(NonZeroU32, u32)>, Fault> {
        let Some((size, line)) = self.value::<ByteSize>(key)? else { return Ok(None) };
        let nonzero = u32::try_from(size.as_u64()).ok().and_then(NonZeroU32::new);
        nonzero.map(|bytes| Some((bytes, line))).ok_or_else(|| self.fault_at(line, key, Complaint::Bytes))
    }

    /// Refuses whatever was not read.
    pub(super) fn finish(self, known: &'static [&'static str]) -> Result<(), Fault> {
        match self.table.into_iter().next() {
            None => Ok(()),
            Some((unknown, _)) => Err(Fault {
                line: self.lines.at(unknown.span().start),
                owner: self.owner,
                key: self.own,
                complaint: Complaint::Unknown { unknown: unknown.into_inner().into_owned(), known },
            }),
        }
    }
}
