//! Topics and patterns: parse, match, cover, overlap, and the bijection between dots and slashes.
//!
//! `DaemonEye` writes topics with dots, BUS/RT with slashes; segments are `[a-z0-9_-]+`, so either form is read off the
//! other without loss. What crosses the federation is judged by this grammar before a broker or a policy sees it: BUS/RT
//! itself overflows its stack on a topic of thousands of segments and lets a NUL forge a topic.
//!
//! Kept true: a [`Topic`] or [`Pattern`] that exists is well-formed, at most [`MAX_SEGMENTS`] deep and [`MAX_BYTES`] long.

use std::{fmt, hash, sync::Arc};

/// Most segments of a topic or pattern.
pub const MAX_SEGMENTS: usize = 5;

/// Most bytes of a topic or pattern.
pub const MAX_BYTES: usize = 256;

/// A concrete topic, such as `events.process.start`. Cheap to clone.
#[derive(Clone)]
pub struct Topic(Arc<Forms>);

/// Both spellings, made once, because the data path needs one to judge and the other to publish.
struct Forms {
    dotted: Box<str>,
    slashed: Box<str>,
}

impl Topic {
    /// Reads the dotted form.
    ///
    /// # Errors
    ///
    /// [`TopicError`] names what breaks the grammar.
    pub fn parse(dotted: &str) -> Result<Self, TopicError> {
        check_length(dotted)?;
        let mut segments = 0;
        for segment in dotted.split('.') {
            check_segment(segment)?;
            segments += 1;
        }
        check_depth(segments)?;
        Ok(Self(Arc::new(Forms { dotted: dotted.into(), slashed: dotted.replace('.', "/").into() })))
    }

    /// Reads the slashed form that a BUS/RT client uses.
    ///
    /// # Errors
    ///
    /// [`TopicError`] names what breaks the grammar; a dot does, so that the mapping stays a bijection.
    pub fn parse_slashed(slashed: &str) -> Result<Self, TopicError> {
        if slashed.contains('.') {
            return Err(TopicError::Character('.'));
        }
        Self::parse(&slashed.replace('/', "."))
    }

    /// The form with dots, used by `DaemonEye`, the policy and the wire.
    #[must_use]
    pub fn dotted(&self) -> &str {
        &self.0.dotted
    }

    /// The form with slashes, used on the bus.
    #[must_use]
    pub fn slashed(&self) -> &str {
        &self.0.slashed
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.dotted())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dotted())
    }
}

impl PartialEq for Topic {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.dotted() == other.dotted()
    }
}

impl Eq for Topic {}

impl hash::Hash for Topic {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.dotted().hash(state);
    }
}

/// A set of topics: `+` stands for one segment, a final `#` for zero or more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    segments: Box<[Segment]>,
    /// Whether a final `#` follows.
    open: bool,
}

/// One place of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    Any,
    Literal(Box<str>),
}

impl Segment {
    fn admits(&self, segment: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Literal(literal) => **literal == *segment,
        }
    }

    fn covers(&self, other: &Self) -> bool {
        matches!(self, Self::Any) || self == other
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl Pattern {
    /// The set of all topics, `#`.
    #[must_use]
    pub fn all() -> Self {
        Self { segments: Box::default(), open: true }
    }

    /// Reads the dotted form.
    ///
    /// # Errors
    ///
    /// [`TopicError`] names what breaks the grammar. `*` is no wildcard and no letter of a segment.
    pub fn parse(dotted: &str) -> Result<Self, TopicError> {
        check_length(dotted)?;
        let mut segments = Vec::new();
        let mut open = false;
        for segment in dotted.split('.') {
            if open {
                return Err(TopicError::HashNotLast);
            }
            match segment {
                "#" => open = true,
                "+" => segments.push(Segment::Any),
                literal => {
                    check_segment(literal)?;
                    segments.push(Segment::Literal(literal.into()));
                }
            }
        }
        check_depth(segments.len())?;
        Ok(Self { segments: segments.into(), open })
    }

    /// Whether `topic` is in this set.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut given = topic.dotted().split('.');
        self.segments.iter().all(|wanted| given.next().is_some_and(|segment| wanted.admits(segment)))
            && (self.open || given.next().is_none())
    }

    /// Whether every topic of `other` is in this set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let enough = if self.open {
            self.segments.len() <= other.segments.len()
        } else {
            // A `#` of `other` at full depth stands for nothing more, as no topic is deeper.
            self.segments.len() == other.segments.len()
                && (!other.open || other.segments.len() == MAX_SEGMENTS)
        };
        enough && self.segments.iter().zip(&other.segments).all(|(mine, theirs)| mine.covers(theirs))
    }

    /// Whether some topic is in both sets.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.segments.len(), other.segments.len());
        let lengths_meet = mine == theirs || (mine < theirs && self.open) || (theirs < mine && other.open);
        lengths_meet && self.segments.iter().zip(&other.segments).all(|(a, b)| a.overlaps(b))
    }

    /// The BUS/RT subscriptions that together hear this set and nothing else.
    ///
    /// A final `#` matches zero or more segments here and one or more in BUS/RT, so `x.y.#` becomes `x/y` and `x/y/#`.
    #[must_use]
    pub fn bus_forms(&self) -> Vec<String> {
        let stem = self.spell("/");
        match (stem.is_empty(), self.open) {
            (true, _) => vec!["#".to_owned()],
            (false, false) => vec![stem],
            (false, true) => {
                let tail = format!("{stem}/#");
                vec![stem, tail]
            }
        }
    }

    fn spell(&self, separator: &str) -> String {
        let segments: Vec<&str> = self
            .segments
            .iter()
            .map(|segment| match segment {
                Segment::Any => "+",
                Segment::Literal(literal) => literal,
            })
            .collect();
        segments.join(separator)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stem = self.spell(".");
        match (stem.is_empty(), self.open) {
            (true, _) => f.write_str("#"),
            (false, false) => f.write_str(&stem),
            (false, true) => write!(f, "{stem}.#"),
        }
    }
}

impl std::str::FromStr for Pattern {
    type Err = TopicError;

    fn from_str(dotted: &str) -> Result<Self, TopicError> {
        Self::parse(dotted)
    }
}

impl<'de> serde::Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dotted = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&dotted).map_err(|error| {
            serde::de::Error::custom(format_args!("pattern `{}`: {error}", dotted.escape_debug()))
        })
    }
}

/// Whether `segment` may stand in a topic.
#[must_use]
pub fn is_segment(segment: &str) -> bool {
    check_segment(segment).is_ok()
}

const fn check_length(text: &str) -> Result<(), TopicError> {
    if text.len() > MAX_BYTES { Err(TopicError::TooLong) } else { Ok(()) }
}

const fn check_depth(segments: usize) -> Result<(), TopicError> {
    if segments > MAX_SEGMENTS { Err(TopicError::TooDeep) } else { Ok(()) }
}

fn check_segment(segment: &str) -> Result<(), TopicError> {
    if segment.is_empty() {
        return Err(TopicError::EmptySegment);
    }
    let foreign = segment.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '_' | '-'));
    foreign.map_or(Ok(()), |character| Err(TopicError::Character(character)))
}

/// What breaks the grammar of topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// A character outside `[a-z0-9_-]`.
    #[error("character {0:?} is not one of a-z, 0-9, `_`, `-`")]
    Character(char),
    /// Two separators in a row, one at an end, or nothing at all.
    #[error("a segment is empty")]
    EmptySegment,
    /// `#` before the end.
    #[error("`#` may only stand last")]
    HashNotLast,
    /// More than [`MAX_SEGMENTS`].
    #[error("more than {MAX_SEGMENTS} segments")]
    TooDeep,
    /// More than [`MAX_BYTES`].
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::parse(text).unwrap()
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn dots_and_slashes_are_a_bijection() {
        for text in ["a", "events.process.start", "a-1.b_2.c.d.e"] {
            let dotted = topic(text);
            assert_eq!(Topic::parse_slashed(dotted.slashed()).unwrap(), dotted);
        }
        assert_eq!(Topic::parse_slashed("a.b/c"), Err(TopicError::Character('.')));
    }

    #[test]
    fn what_could_harm_a_broker_is_refused() {
        assert_eq!(Topic::parse(""), Err(TopicError::EmptySegment));
        assert_eq!(Topic::parse(".broker.info"), Err(TopicError::EmptySegment));
        assert_eq!(Topic::parse("a\0b"), Err(TopicError::Character('\0')));
        assert_eq!(Topic::parse("a.b%%c"), Err(TopicError::Character('%')));
        assert_eq!(Topic::parse("a.+"), Err(TopicError::Character('+')));
        assert_eq!(Topic::parse("a.b.c.d.e.f"), Err(TopicError::TooDeep));
        assert_eq!(Topic::parse(&"a/".repeat(3500)), Err(TopicError::TooLong));
        assert_eq!(Topic::parse("Events"), Err(TopicError::Character('E')));
        assert_eq!(Pattern::parse("#.a"), Err(TopicError::HashNotLast));
        assert_eq!(Pattern::parse("a.*"), Err(TopicError::Character('*')));
    }

    #[test]
    fn a_final_hash_matches_zero_or_more_segments() {
        let open = pattern("events.process.#");
        assert!(open.matches(&topic("events.process")));
        assert!(open.matches(&topic("events.process.start.x")));
        assert!(!open.matches(&topic("events")));
        assert!(!open.matches(&topic("events.network.dns")));
        assert_eq!(open.bus_forms(), ["events/process", "events/process/#"]);
        assert_eq!(pattern("#").bus_forms(), ["#"]);
        assert_eq!(pattern("a.+.c").bus_forms(), ["a/+/c"]);
    }

    /// Every pattern of up to three places over a two-letter alphabet, with and without `#`.
    fn small_patterns() -> Vec<Pattern> {
        let mut stems: Vec<Vec<&str>> = vec![vec![]];
        let mut all = vec![pattern("#")];
        for _ in 0..3 {
            stems = stems
                .iter()
                .flat_map(|stem| ["a", "b", "+"].map(|next| [stem.as_slice(), &[next]].concat()))
                .collect();
            for stem in &stems {
                all.push(pattern(&stem.join(".")));
                all.push(pattern(&format!("{}.#", stem.join("."))));
            }
        }
        all
    }

    /// Every topic of up to five places: deep enough to tell any two small patterns apart.
    fn small_topics() -> Vec<Topic> {
        let mut stems: Vec<String> = vec!["a".into(), "b".into()];
        let mut all = Vec::new();
        for _ in 0..MAX_SEGMENTS {
            all.extend(stems.iter().map(|stem| topic(stem)));
            // A third letter stands for all those that no small pattern spells out.
            stems =
                stems.iter().flat_map(|stem| ["a", "b", "c"].map(|next| format!("{stem}.{next}"))).collect();
        }
        all.push(topic("c"));
        all.push(topic("c.c"));
        all.push(topic("c.a.b"));
        all
    }

    #[test]
    fn cover_and_overlap_agree_with_brute_force() {
        let topics = small_topics();
        let patterns = small_patterns();
        let sets: Vec<Vec<bool>> = patterns
            .iter()
            .map(|pattern| topics.iter().map(|topic| pattern.matches(topic)).collect())
            .collect();
        for (left, left_set) in patterns.iter().zip(&sets) {
            for (right, right_set) in patterns.iter().zip(&sets) {
                let mut both = left_set.iter().zip(right_set);
                let overlap = both.clone().any(|(a, b)| *a && *b);
                let cover = both.all(|(a, b)| *a || !*b);
                assert_eq!(left.overlaps(right), overlap, "{left} overlaps {right}");
                // `c` at the front is not enumerated in full, so a cover may only be claimed where it is true.
                if left.covers(right) {
                    assert!(cover, "{left} does not cover {right}");
                }
                if cover && left.to_string() != "#" && right.to_string() != "#" {
                    assert!(
                        left.covers(right) || right.to_string().starts_with('+'),
                        "{left} covers {right}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_hash_at_full_depth_stands_for_nothing_more() {
        assert!(pattern("a.a.a.a.a").covers(&pattern("a.a.a.a.a.#")));
        assert!(!pattern("a.a").covers(&pattern("a.a.#")));
    }
}
