//! A refusal, told to the operator: the reason, and what exactly is wrong.
//!
//! Texts quote what strangers claim: every quotation is escaped and cut here, once, so that log, terminal and page can show
//! it as it stands.

use std::{fmt, time::Duration};

use crate::trust::RefusalReason;

/// Why a chain was refused, and what exactly is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    reason: RefusalReason,
    detail: Box<str>,
}

impl Finding {
    /// Puts one together; `detail` is for people, and quotes strangers through [`quoted`] alone.
    #[must_use]
    pub fn new(reason: RefusalReason, detail: impl Into<Box<str>>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The stable code.
    #[must_use]
    pub const fn reason(&self) -> RefusalReason {
        self.reason
    }

    /// What exactly is wrong.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl From<RefusalReason> for Finding {
    fn from(reason: RefusalReason) -> Self {
        Self::new(reason, reason.meaning())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Finding {}

/// What a stranger claims, in backticks: escaped, and cut after 96 characters.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut shown = String::from("`");
    let mut rest = text.chars();
    for claimed in rest.by_ref().take(LONGEST) {
        match claimed {
            '`' => shown.push('\''),
            // The other direction of writing would turn the sentence round.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(claimed.escape_unicode());
            }
            _ => shown.extend(claimed.escape_debug()),
        }
    }
    shown.push_str(if rest.next().is_some() { "…`" } else { "`" });
    shown
}

const LONGEST: usize = 96;

/// A time in words, in its largest unit: "3 minutes".
pub(super) fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds.div_ceil(60), "minute"),
        7200..172_800 => (seconds.div_ceil(3600), "hour"),
        _ => (seconds.div_ceil(86_400), "day"),
    };
    if count == 1 { format!("{count} {unit}") } else { format!("{count} {unit}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_claim_is_escaped_and_cut() {
        assert_eq!(quoted("CN=a`b\u{1b}[31m\n"), "`CN=a'b\\u{1b}[31m\\n`");
        assert_eq!(quoted("\u{202e}x"), "`\\u{202e}x`");
        assert_eq!(quoted(&"x".repeat(200)).chars().count(), 99);
    }

    #[test]
    fn times_are_told_in_their_largest_unit() {
        assert_eq!(in_words(Duration::from_secs(1)), "1 second");
        assert_eq!(in_words(Duration::from_secs(179)), "3 minutes");
        assert_eq!(in_words(Duration::from_hours(49)), "3 days");
    }
}
