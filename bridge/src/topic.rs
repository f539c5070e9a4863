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

    /// What both admit.
    fn both<'a>(&'a self, other: &'a Self) -> Option<&'a Self> {
        match (self, other) {
            (Self::Any, other) => Some(other),
            (_, Self::Any) => Some(self),
            _ => (self == other).then_some(self),
        }
    }

    /// Bytes of the shortest segment that it admits.
    fn shortest(&self) -> usize {
        match self {
            Self::Any => 1,
            Self::Literal(literal) => literal.len(),
        }
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
        other.uncovered(std::iter::once(self)).is_none()
    }

    /// A part of this set that `rules` do not cover, though they may share the work; none if every topic is in one of them.
    ///
    /// Exact, because there is always one more segment than the rules spell out: if they cover a `+` of this set, they do
    /// so with wildcards, so that for each depth one rule must cover all that is as deep. Only a set so long that its
    /// bytes leave no choice but single letters, each of which a rule spells out, is taken for uncovered.
    #[must_use]
    pub fn uncovered<'a>(&self, rules: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let rules: Vec<&Self> = rules.collect();
        let covered = |depth: usize| rules.iter().any(|rule| rule.covers_at(self, depth));
        let depth = self.depths().find(|depth| !covered(*depth))?;
        let mut segments = self.segments.to_vec();
        segments.resize(depth, Segment::Any);
        Some(Self { segments: segments.into(), open: false })
    }

    /// Depths of topics in this set: not what its form admits and the bounds of a topic do not.
    fn depths(&self) -> impl Iterator<Item = usize> + use<> {
        let deepest = if self.open { MAX_SEGMENTS } else { self.segments.len() };
        let spelt: usize = self.segments.iter().map(Segment::shortest).sum();
        let least = self.segments.len();
        // The shortest topic of a depth has single letters for wildcards, and separators.
        (least.max(1)..=deepest).filter(move |depth| spelt + (depth - least) + (depth - 1) <= MAX_BYTES)
    }

    /// Whether every topic of `other` with `depth` segments is in this set, as far as one rule can say.
    fn covers_at(&self, other: &Self, depth: usize) -> bool {
        let deep_enough = self.segments.len() == depth || (self.open && self.segments.len() < depth);
        let given = other.segments.iter().chain(std::iter::repeat(&Segment::Any));
        deep_enough && self.segments.iter().zip(given).all(|(mine, theirs)| mine.covers(theirs))
    }

    /// The topics that are in both sets; none if there is no such topic.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let (short, long) =
            if self.segments.len() <= other.segments.len() { (self, other) } else { (other, self) };
        if short.segments.len() < long.segments.len() && !short.open {
            return None;
        }
        let rest = std::iter::repeat(&Segment::Any);
        let both = long.segments.iter().zip(short.segments.iter().chain(rest));
        let segments = both.map(|(a, b)| a.both(b).cloned()).collect::<Option<_>>()?;
        let common = Self { segments, open: short.open && long.open };
        // Two halves may each leave room that they do not leave together.
        common.depths().next().is_some().then_some(common)
    }

    /// Whether some topic is in both sets.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.intersection(other).is_some()
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

    /// Every word of `letters`, of up to `longest` letters.
    fn words(letters: &[&str], longest: usize) -> Vec<Vec<String>> {
        let mut all = vec![Vec::new()];
        let mut last = all.clone();
        for _ in 0..longest {
            last = last
                .iter()
                .flat_map(|stem: &Vec<String>| {
                    letters.iter().map(move |letter| [stem.as_slice(), &[(*letter).to_owned()]].concat())
                })
                .collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    /// Every pattern of up to five places over a two-letter alphabet, with and without `#`.
    fn small_patterns() -> Vec<Pattern> {
        let stems = words(&["a", "b", "+"], MAX_SEGMENTS);
        let closed = stems.iter().filter(|stem| !stem.is_empty()).map(|stem| pattern(&stem.join(".")));
        let open = stems.iter().map(|stem| pattern(&[stem.as_slice(), &["#".to_owned()]].concat().join(".")));
        closed.chain(open).collect()
    }

    /// Every topic of up to five places. A third letter stands for all those that no small pattern spells out.
    fn small_topics() -> Vec<Topic> {
        let words = words(&["a", "b", "c"], MAX_SEGMENTS);
        words.iter().filter(|word| !word.is_empty()).map(|word| topic(&word.join("."))).collect()
    }

    /// The small topics that a pattern matches, a bit each.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Set([u64; 6]);

    impl Set {
        fn of(pattern: &Pattern, topics: &[Topic]) -> Self {
            let mut bits = [0; 6];
            for (at, topic) in topics.iter().enumerate() {
                bits[at / 64] |= u64::from(pattern.matches(topic)) << (at % 64);
            }
            Self(bits)
        }

        fn with(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
            Self(std::array::from_fn(|at| join(self.0[at], other.0[at])))
        }

        fn is_empty(self) -> bool {
            self.0 == [0; 6]
        }
    }

    fn sets() -> Vec<(Pattern, Set)> {
        let topics = small_topics();
        assert_eq!(topics.len(), 363);
        small_patterns().into_iter().map(|pattern| (pattern.clone(), Set::of(&pattern, &topics))).collect()
    }

    #[test]
    fn cover_overlap_and_intersection_agree_with_brute_force_for_every_small_pair() {
        let (sets, topics) = (sets(), small_topics());
        let mut found = [0_usize; 2];
        for (left, left_set) in &sets {
            for (right, right_set) in &sets {
                let both = left_set.with(*right_set, |a, b| a & b);
                let cover = right_set.with(*left_set, |right, left| right & !left).is_empty();
                assert_eq!(left.covers(right), cover, "{left} covers {right}");
                let common = left.intersection(right);
                assert_eq!(common.is_none(), both.is_empty(), "{left} overlaps {right}");
                found[usize::from(cover)] += 1;
                // One pair in a hundred is looked at topic by topic.
                if let Some(common) = common.filter(|_| found[0] % 100 == 0) {
                    assert!(Set::of(&common, &topics) == both, "{left} and {right} are {common}");
                }
            }
        }
        assert!(found.iter().all(|count| *count > 10_000), "{found:?}");
    }

    #[test]
    fn cover_by_several_agrees_with_brute_force() {
        let (sets, topics) = (sets(), small_topics());
        let mut random = fastrand::Rng::with_seed(0x70_71c5);
        let mut found = [0_usize; 2];
        let mut shared = 0;
        for _ in 0..40_000 {
            let (wanted, wanted_set) = &sets[random.usize(..sets.len())];
            // Half of the rules are parts of what is wanted, or covers would be rare.
            let part = |random: &mut fastrand::Rng| {
                let deeper = if wanted.open { random.usize(..3) } else { 0 };
                let mut segments = wanted.segments.to_vec();
                segments.resize((segments.len() + deeper).min(MAX_SEGMENTS), Segment::Any);
                let open = wanted.open && random.u8(..3) == 0;
                let part = Pattern { segments: segments.into(), open };
                sets.iter().find(|(pattern, _)| *pattern == part)
            };
            let rules: Vec<&(Pattern, Set)> = (0..random.usize(..8))
                .map(|_| {
                    let other = &sets[random.usize(..sets.len())];
                    let part = if random.bool() { part(&mut random) } else { None };
                    part.unwrap_or(other)
                })
                .collect();
            let union = rules.iter().fold(Set([0; 6]), |union, (_, set)| union.with(*set, |a, b| a | b));
            let missing = wanted_set.with(union, |wanted, rules| wanted & !rules);
            let uncovered = wanted.uncovered(rules.iter().map(|(rule, _)| rule));
            assert_eq!(
                uncovered.is_none(),
                missing.is_empty(),
                "{wanted} by {rules:?}",
                rules = spell(&rules)
            );
            if let Some(part) = &uncovered {
                let part = Set::of(part, &topics);
                assert!(part.with(*wanted_set, |part, wanted| part & !wanted).is_empty(), "{wanted}");
                assert!(!part.with(missing, |part, missing| part & missing).is_empty(), "{wanted}");
            }
            shared += usize::from(missing.is_empty() && !rules.iter().any(|(rule, _)| rule.covers(wanted)));
            found[usize::from(missing.is_empty())] += 1;
        }
        assert!(found.iter().all(|count| *count > 1_000) && shared > 50, "{found:?}, {shared}");
    }

    fn spell(rules: &[&(Pattern, Set)]) -> Vec<String> {
        rules.iter().map(|(rule, _)| rule.to_string()).collect()
    }

    #[test]
    fn several_cover_together_what_none_covers_alone() {
        let rules = ["a", "a.+", "a.+.+.#"].map(pattern);
        assert!(pattern("a.#").uncovered(rules.iter()).is_none());
        let gap = pattern("a.#").uncovered(rules.iter().filter(|rule| rule.to_string() != "a.+"));
        assert_eq!(gap.unwrap().to_string(), "a.+");
        // However many letters are spelt out, there is another one.
        let letters = ["a.a", "a.b"].map(pattern);
        assert!(pattern("a.+").uncovered(letters.iter()).is_some());
        assert!(pattern("+.#").covers(&pattern("#")), "there is no topic without a segment");
    }

    #[test]
    fn the_bound_on_bytes_is_part_of_what_a_set_is() {
        let long = "a".repeat(MAX_BYTES - 2);
        let (left, right) = (pattern(&format!("{long}.+")), pattern(&format!("+.{long}")));
        assert!(!left.overlaps(&right), "no topic is as long");
        assert!(left.overlaps(&pattern("#")) && left.overlaps(&pattern(&format!("{long}.b"))));
        // One more segment fits behind it, but not two.
        let open = pattern(&format!("{}.#", &long[1..]));
        let stem = &long[1..];
        assert!(!pattern(stem).covers(&open));
        let both = [stem.to_owned(), format!("{stem}.+")].map(|text| pattern(&text));
        assert!(open.uncovered(both.iter()).is_none());
    }

    #[test]
    fn a_hash_at_full_depth_stands_for_nothing_more() {
        assert!(pattern("a.a.a.a.a").covers(&pattern("a.a.a.a.a.#")));
        assert!(!pattern("a.a").covers(&pattern("a.a.#")));
    }
}
