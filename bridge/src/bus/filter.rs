//! What may be asked of a broker as a subscription, an exclusion, or the address of a message.
//!
//! Ordinary bus clients use their own topics, so this is wider than our grammar. It refuses what harms the broker: depth (its
//! maps recurse) and characters that cut frames or logs apart.

use std::fmt;

use crate::topic::Pattern;

/// Most bytes of a name, or of a mask of names.
pub(crate) const NAME: usize = 256;

/// Most bytes of a topic or filter.
const TOPIC: usize = 1024;

/// Most segments of a topic, filter or mask.
const DEPTH: usize = 16;

/// A subscription or exclusion as BUS/RT matches it: slashed; `+` is one segment, a final `#` one or more. At most 16
/// segments and 1,024 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter(Box<str>);

impl Filter {
    /// Reads a slashed filter.
    ///
    /// # Errors
    ///
    /// [`FilterError`], if it could harm a broker or would mean something else there.
    pub fn parse(slashed: &str) -> Result<Self, FilterError> {
        if is_filter(slashed) { Ok(Self(slashed.into())) } else { Err(FilterError) }
    }

    /// The filters that together hear `pattern` and nothing else.
    pub fn of(pattern: &Pattern) -> impl Iterator<Item = Self> + use<> {
        pattern.bus_forms().into_iter().map(|form| Self(form.into()))
    }

    /// As the bus writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A filter that no broker is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a filter has 1 to 16 slashed segments, at most 1024 bytes, no control character, and `#` only at its end"
)]
pub struct FilterError;

/// Whether it may be a subscription or exclusion.
pub(crate) fn is_filter(filter: &str) -> bool {
    // The broker ignores what stands behind a `#`; taking such filters back would confuse it.
    is_path(filter) && filter.split('/').rev().skip(1).all(|segment| segment != "#")
}

/// Whether it may be the name of an addressee, or the mask of several.
pub(crate) fn is_target(target: &str) -> bool {
    !target.is_empty()
        && target.len() <= NAME
        && target.split('.').count() <= DEPTH
        && !target.contains(char::is_control)
}

/// Whether it may be a topic, wildcards apart.
pub(crate) fn is_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= TOPIC
        && path.split('/').count() <= DEPTH
        && !path.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_harms_the_broker_is_none() {
        let deep = "a/".repeat(3500);
        for bad in ["", "a/#/b", "a\0b", deep.as_str()] {
            assert_eq!(Filter::parse(bad), Err(FilterError), "{bad:?}");
        }
        assert_eq!(Filter::parse("SENSOR/+/#").unwrap().as_str(), "SENSOR/+/#");
        let forms: Vec<_> = Filter::of(&"events.process.#".parse().unwrap()).collect();
        let forms: Vec<_> = forms.iter().map(Filter::as_str).collect();
        assert_eq!(forms, ["events/process", "events/process/#"]);
    }
}
