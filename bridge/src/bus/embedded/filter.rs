//! Subscriptions as BUS/RT matches them, and the index of who holds which.
//!
//! Slashed; `+` is one segment, a final `#` one or more. Ordinary bus clients may subscribe to what our own grammar does
//! not know, so this works on any text.

use std::collections::HashMap;

/// Whether `filter` matches `topic`.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let mut given = topic.split('/');
    for wanted in filter.split('/') {
        let Some(segment) = given.next() else { return false };
        match wanted {
            "#" => return true,
            "+" => {}
            literal if literal == segment => {}
            _ => return false,
        }
    }
    given.next().is_none()
}

/// Who holds which filter, as a tree over segments: looking a topic up costs by its depth, not by the number of members.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Whose filter ends here.
    here: Vec<u64>,
    /// Whose filter ends with `#` here.
    rest: Vec<u64>,
    any: Option<Box<Self>>,
    literal: HashMap<Box<str>, Self>,
}

impl Index {
    /// Adds a member's filter; it must not hold it yet.
    pub(crate) fn insert(&mut self, filter: &str, member: u64) {
        let mut node = self;
        for segment in filter.split('/') {
            node = match segment {
                "#" => {
                    node.rest.push(member);
                    return;
                }
                "+" => node.any.get_or_insert_default(),
                literal => node.literal.entry(literal.into()).or_default(),
            };
        }
        node.here.push(member);
    }

    /// Takes a member's filter away.
    pub(crate) fn remove(&mut self, filter: &str, member: u64) {
        let (first, rest) = split(filter);
        if first == "#" {
            self.rest.retain(|holder| *holder != member);
            return;
        }
        let forget = |child: &mut Self| {
            match rest {
                Some(rest) => child.remove(rest, member),
                None => child.here.retain(|holder| *holder != member),
            }
            child.is_empty()
        };
        if first == "+" {
            if self.any.as_deref_mut().is_some_and(forget) {
                self.any = None;
            }
        } else if self.literal.get_mut(first).is_some_and(forget) {
            self.literal.remove(first);
        }
    }

    /// Appends the holders of filters that match `topic`; a holder of several may come several times.
    pub(crate) fn holders(&self, topic: &str, into: &mut Vec<u64>) {
        into.extend(&self.rest);
        let (first, rest) = split(topic);
        for child in self.any.as_deref().into_iter().chain(self.literal.get(first)) {
            match rest {
                Some(rest) => child.holders(rest, into),
                None => into.extend(&child.here),
            }
        }
    }

    /// Whether some topic is matched by `filter` and by a filter held here.
    pub(crate) fn overlaps(&self, filter: &str) -> bool {
        if !self.rest.is_empty() {
            return true;
        }
        let (first, rest) = split(filter);
        let under = |child: &Self| match rest {
            _ if first == "#" => !child.is_empty(),
            Some(rest) => child.overlaps(rest),
            None => !child.here.is_empty(),
        };
        match first {
            "#" | "+" => self.any.as_deref().into_iter().chain(self.literal.values()).any(under),
            literal => self.any.as_deref().into_iter().chain(self.literal.get(literal)).any(under),
        }
    }

    fn is_empty(&self) -> bool {
        self.here.is_empty() && self.rest.is_empty() && self.any.is_none() && self.literal.is_empty()
    }
}

/// The first segment, and what follows it.
fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All paths of up to three segments out of `alphabet`.
    fn paths(alphabet: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = alphabet.iter().map(|&segment| segment.to_owned()).collect();
        for _ in 0..2 {
            let longer: Vec<String> = all
                .iter()
                .flat_map(|stem| alphabet.iter().map(move |next| format!("{stem}/{next}")))
                .collect();
            all.extend(longer);
        }
        all.sort();
        all.dedup();
        all
    }

    fn filters() -> Vec<String> {
        let mut all = paths(&["a", "b", "+"]);
        all.extend(paths(&["a", "+"]).into_iter().map(|stem| format!("{stem}/#")));
        all.push("#".to_owned());
        all
    }

    #[test]
    fn a_hash_wants_at_least_one_segment() {
        assert!(matches("#", "a") && matches("a/#", "a/b/c") && !matches("a/#", "a"));
        assert!(matches("a/+", "a/b") && !matches("a/+", "a") && !matches("a/+", "a/b/c"));
        assert!(matches("a//b", "a//b") && !matches("a//b", "a/b"));
    }

    #[test]
    fn the_index_agrees_with_matching_one_by_one() {
        let topics = paths(&["a", "b", "c"]);
        let filters = filters();
        let mut index = Index::default();
        for (member, filter) in (0..).zip(&filters) {
            index.insert(filter, member);
        }
        for topic in &topics {
            let mut holders = Vec::new();
            index.holders(topic, &mut holders);
            holders.sort_unstable();
            let expected: Vec<u64> =
                (0..).zip(&filters).filter(|(_, filter)| matches(filter, topic)).map(|(n, _)| n).collect();
            assert_eq!(holders, expected, "{topic}");
        }
        for (member, filter) in (0..).zip(&filters) {
            index.remove(filter, member);
        }
        assert!(index.is_empty(), "{index:?}");
    }

    #[test]
    fn overlap_agrees_with_brute_force() {
        let topics: Vec<String> = paths(&["a", "b", "c"])
            .into_iter()
            .flat_map(|t| [format!("{t}/c"), format!("{t}/a"), t])
            .collect();
        let filters = filters();
        for held in &filters {
            let mut index = Index::default();
            index.insert(held, 1);
            for asked in &filters {
                let both = topics.iter().any(|topic| matches(held, topic) && matches(asked, topic));
                assert_eq!(index.overlaps(asked), both, "{held} and {asked}");
            }
        }
    }
}
