//! The way to the terminal: tables that fit, and nothing that a stranger could drive it with.

use std::{
    fmt::Write as _,
    io::{self, Write},
    iter,
};

use anyhow::Context;
use clap::Args;
use serde_json::Value;

/// How answers are written.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Format {
    /// Shows the answer as JSON, as it came.
    #[arg(long, global = true)]
    json: bool,
}

impl Format {
    /// Whether it is JSON.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// Shows a value: as JSON, or in the words of `text`.
    ///
    /// # Errors
    ///
    /// Standard output takes nothing.
    pub(crate) fn show(self, value: &Value, text: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        let text = if self.json { json(value) } else { text(value) };
        io::stdout().write_all(text.as_bytes()).context("could not write the answer")
    }
}

/// A value as JSON on a line of its own, for values that come one after the other.
pub(crate) fn json_line(value: &Value) -> String {
    harmless(&format!("{value}\n"))
}

/// A value as JSON: the same to who parses it, and harmless to a terminal. What JSON lets through unescaped stands within
/// strings alone, so that it can be escaped as such.
fn json(value: &Value) -> String {
    harmless(&format!("{value:#}\n"))
}

fn harmless(json: &str) -> String {
    let mut text = String::new();
    for c in json.chars() {
        // Quotes and backslashes are JSON's own by now, and so are line ends.
        if (c.is_ascii() && c != '\u{7f}') || c.escape_debug().count() == 1 {
            text.push(c);
            continue;
        }
        // RFC 8259, 7: as UTF-16, in which beyond the first plane a character is two.
        for unit in c.encode_utf16(&mut [0; 2]) {
            // A string can always be written to.
            let _written = write!(text, "\\u{unit:04x}");
        }
    }
    text
}

/// Columns as wide as their widest cell, within [`WIDTH`] characters: the text of cells that are too wide goes on in the
/// next line.
pub(crate) fn table(heads: &[&str], mut rows: Vec<Vec<String>>) -> String {
    rows.insert(0, heads.iter().map(|head| (*head).to_owned()).collect());
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let widest =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths = fit((0..heads.len()).map(|column| widest(column).unwrap_or(0)).collect());
    rows.iter().map(|row| lines(row, &widths)).collect()
}

/// Takes from the widest columns until all fit; from the first, by which a row is found, only if it is over half a line.
fn fit(mut widths: Vec<usize>) -> Vec<usize> {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > WIDTH {
        let spare = |(column, width): &(usize, &mut usize)| *column > 0 || **width > WIDTH / 2;
        match widths.iter_mut().enumerate().filter(spare).map(|(_, width)| width).max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => break,
        }
    }
    widths
}

/// One row, in as many lines as its longest cell takes.
fn lines(row: &[String], widths: &[usize]) -> String {
    let cells: Vec<Vec<String>> = row.iter().zip(widths).map(|(cell, width)| wrap(cell, *width)).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    let line = |at: usize| {
        let parts: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{:<width$}", cell.get(at).map_or("", String::as_str)))
            .collect();
        format!("{}\n", parts.join(GAP).trim_end())
    };
    (0..height).map(line).collect()
}

/// Cuts a text into lines of at most `width` characters, between words where it can be.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { continue };
        let taken = line.chars().count();
        if taken > 0 && taken + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        let mut rest = word.chars().peekable();
        let pieces = iter::from_fn(|| {
            rest.peek()?;
            Some(rest.by_ref().take(width).collect::<String>())
        });
        if taken == 0 {
            lines.pop();
        }
        lines.extend(pieces);
        if lines.is_empty() {
            lines.push(String::new());
        }
    }
    lines
}

/// Texts may be a stranger's: what would move the cursor of a terminal, turn its text around, or not be seen is escaped.
pub(crate) fn printable(text: &str) -> String {
    let escaped = |c: char| {
        // The standard library knows what is not printable; quotes are, and a backslash must tell an escape from itself.
        let raw = matches!(c, '"' | '\'').then_some(c);
        raw.into_iter().chain(c.escape_debug().take(if raw.is_some() { 0 } else { usize::MAX }))
    };
    text.chars().flat_map(escaped).collect()
}

/// The text at `key`; empty if there is none.
pub(crate) fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The number at `key`; 0 if there is none.
pub(crate) fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// What is listed at `key`.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// The texts at `keys`, as cells.
pub(crate) fn cells(value: &Value, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| text_of(value, key).to_owned()).collect()
}

/// The moment at `key`, to the minute; what is no moment stays as it is.
pub(crate) fn when(value: &Value, key: &str) -> String {
    let text = text_of(value, key);
    match (text.get(..10), text.get(11..16), text.get(10..11)) {
        (Some(day), Some(minute), Some("T")) if text.ends_with('Z') => format!("{day} {minute}Z"),
        _ => text.to_owned(),
    }
}

/// Characters of a line.
pub(crate) const WIDTH: usize = 100;

/// What stands between columns.
const GAP: &str = "  ";

/// No column is made narrower than this.
const NARROWEST: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_cannot_drive_the_terminal() {
        let text = table(&["A", "B"], vec![vec!["\u{1b}[2Jx".to_owned(), "\u{202e}y\nz\u{200b}".to_owned()]]);
        assert_eq!(text, "A           B\n\\u{1b}[2Jx  \\u{202e}y\\nz\\u{200b}\n");
        assert_eq!(printable("O'Hara \"é日\" \\u{1b}"), "O'Hara \"é日\" \\\\u{1b}");
    }

    #[test]
    fn a_strangers_text_cannot_drive_the_terminal_as_json_either() {
        let value = serde_json::json!({"\u{9b}2J": "\u{1b}[2J \u{9b}31m \u{202e}y\u{200b} \u{7f} é日 \u{1f600} \u{e0041} \"q\""});
        let text = json(&value);
        let raw = |c: char| c != '\n' && !matches!(c, '"' | '\\') && c.escape_debug().count() > 1;
        assert!(!text.contains(raw), "{text:?}");
        assert!(text.contains("é日"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn what_is_too_wide_goes_on_in_the_next_line() {
        let rows = vec![vec!["short".to_owned(), "word ".repeat(60), "x".repeat(90)]];
        let text = table(&["A", "B", "C"], rows);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 60);
        assert_eq!(text.matches('x').count(), 90);
    }

    #[test]
    fn a_moment_is_told_to_the_minute() {
        let value = serde_json::json!({"a": "2026-11-28T21:59:05.54Z", "b": "for good"});
        assert_eq!(
            [when(&value, "a"), when(&value, "b"), when(&value, "c")],
            ["2026-11-28 21:59Z", "for good", ""]
        );
    }

    #[test]
    fn words_stay_whole_where_they_fit() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh i", 3), ["abc", "def", "gh", "i"]);
        assert_eq!(wrap("", 3), [""]);
    }
}
