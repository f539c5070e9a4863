//! Random policies, asked at random: the gateway's verdict, the explanation of it, and a plain model must agree.

use std::{fmt::Write as _, path::Path, sync::Arc};

use daemoneye_bridge::topic::{Pattern, Topic};
use fastrand::Rng;

use crate::{
    identity::PeerId,
    policy::{Action, Cause, Explanation, Metrics, Policy, Question, Rights, Subject},
};

const NAME: &str = "{name}";

const SITE: &str = "{site}";

const RESERVED: &str = "control.collector.lifecycle";

/// A role as it was made up.
#[derive(Debug, Default)]
struct Made {
    identities: Vec<&'static str>,
    sites: Vec<&'static str>,
    speaks_for: Vec<&'static str>,
    /// Allowing and denying rules: publish, subscribe, call.
    allow: [Vec<String>; 3],
    deny: [Vec<String>; 3],
}

const VERBS: [Action; 3] = [Action::Publish, Action::Subscribe, Action::Call];

fn some<'a>(random: &mut Rng, of: &[&'a str], most: usize) -> Vec<&'a str> {
    (0..random.usize(..=most)).map(|_| of[random.usize(..of.len())]).collect()
}

fn pattern(random: &mut Rng) -> String {
    let letters = ["a", "b", "+", NAME, SITE];
    let mut segments: Vec<&str> = (0..random.usize(..=3)).map(|_| letters[random.usize(..5)]).collect();
    if segments.is_empty() || random.u8(..3) == 0 {
        segments.push("#");
    }
    segments.join(".")
}

fn client(random: &mut Rng) -> String {
    ["engine", "engine.*", "*", "{name}.x", "agent", "*.{site}"][random.usize(..6)].to_owned()
}

impl Made {
    fn role(random: &mut Rng) -> Self {
        let names = ["p-1", "p-*", "*", "q-1", "*-1"];
        let mut role = Self {
            identities: some(random, &names, 2),
            sites: some(random, &["s", "t", "*"], 2),
            speaks_for: some(random, &names, 1),
            ..Self::default()
        };
        role.identities.push(names[random.usize(..5)]);
        role.sites.push(["s", "*"][random.usize(..2)]);
        for (verb, (allow, deny)) in role.allow.iter_mut().zip(&mut role.deny).enumerate() {
            let mut next = || if verb == 2 { client(random) } else { pattern(random) };
            allow.extend((0..3).map(|_| next()));
            deny.extend((0..1).map(|_| next()));
            let (allowed, denied) = (random.usize(..=3), random.usize(..4) / 3);
            allow.truncate(allowed);
            deny.truncate(denied);
        }
        if random.u8(..6) == 0 {
            // What `a.#` needs both for.
            role.allow[1].extend(["a".to_owned(), "a.+.#".to_owned()]);
        }
        role
    }

    /// As a policy file has it, a rule a line.
    fn write(&self, text: &mut String, number: usize) {
        let list = |rules: &[String]| {
            let rows: String = rules.iter().flat_map(|rule| ["  \"", rule, "\",\n"]).collect();
            format!("[\n{rows}]")
        };
        writeln!(text, "[[role]]\nname = \"r{number}\"").unwrap();
        writeln!(text, "match = {{ identity = {:?}, site = {:?} }}", self.identities, self.sites).unwrap();
        writeln!(text, "speaks_for = {:?}", self.speaks_for).unwrap();
        for (verb, allow) in VERBS.iter().zip(&self.allow) {
            writeln!(text, "{verb} = {}", list(allow)).unwrap();
        }
        for (verb, deny) in VERBS.iter().zip(&self.deny) {
            writeln!(text, "deny.{verb} = {}", list(deny)).unwrap();
        }
    }

    fn is_of(&self, site: &str, name: &str) -> bool {
        self.identities.iter().any(|glob| fits(glob, name)) && self.sites.iter().any(|glob| fits(glob, site))
    }
}

/// A glob, in the plainest way.
fn fits(glob: &str, name: &str) -> bool {
    match (glob.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => fits(&glob[1..], name) || (!name.is_empty() && fits(glob, &name[1..])),
        (Some(wanted), Some(given)) => wanted == given && fits(&glob[1..], &name[1..]),
        _ => false,
    }
}

/// A pattern, in the plainest way.
fn meets(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern.first(), topic.first()) {
        (Some(&"#"), _) | (None, None) => true,
        (Some(wanted), Some(given)) => {
            (*wanted == "+" || wanted == given) && meets(&pattern[1..], &topic[1..])
        }
        _ => false,
    }
}

fn matches(rule: &str, topic: &str) -> bool {
    meets(&rule.split('.').collect::<Vec<_>>(), &topic.split('.').collect::<Vec<_>>())
}

/// Every topic of up to four segments over the letters that the rules spell out and one that they do not. No rule tells
/// the fourth segment from the fifth.
fn topics(site: &str, name: &str) -> Vec<String> {
    let letters = ["a", "b", name, site, "zz"];
    let mut last = vec![String::new()];
    let mut all = Vec::new();
    for _ in 0..4 {
        last = last
            .iter()
            .flat_map(|stem| {
                letters.map(|letter| format!("{stem}{}{letter}", if stem.is_empty() { "" } else { "." }))
            })
            .collect();
        all.extend(last.iter().cloned());
    }
    all
}

/// One question.
#[derive(Debug)]
struct Asked {
    site: &'static str,
    name: &'static str,
    collector: &'static str,
    action: Action,
    object: String,
}

impl Asked {
    fn anything(random: &mut Rng) -> Self {
        let name = ["p-1", "p-2", "q-1", "x"][random.usize(..4)];
        let site = ["s", "t", "u"][random.usize(..3)];
        let collector = ["", "", "p-2", "q-1", "x"][random.usize(..5)];
        let action = VERBS[random.usize(..3)];
        let letters = ["a", "b", name, site, "zz"];
        let object = match action {
            Action::Publish if random.u8(..20) == 0 => RESERVED.to_owned(),
            Action::Publish => {
                let segments: Vec<_> = (0..random.usize(1..5)).map(|_| letters[random.usize(..5)]).collect();
                segments.join(".")
            }
            Action::Subscribe if random.u8(..8) == 0 => "a.#".to_owned(),
            Action::Subscribe => pattern(random).replace(NAME, name).replace(SITE, site),
            Action::Call => {
                let known = ["engine", "engine.main", "agent", "other", ".broker", "collector.s.p-1"];
                let own = [format!("{name}.x"), format!("x.{site}")];
                let all: Vec<String> = known.map(str::to_owned).into_iter().chain(own).collect();
                all[random.usize(..all.len())].clone()
            }
        };
        Self { site, name, collector, action, object }
    }

    /// What the made-up roles say of it.
    fn model(&self, made: &[Made], topics: &[String]) -> bool {
        let roles: Vec<_> = made.iter().filter(|role| role.is_of(self.site, self.name)).collect();
        let own = self.collector.is_empty() || self.collector == self.name;
        let speaks =
            own || roles.iter().flat_map(|role| &role.speaks_for).any(|glob| fits(glob, self.collector));
        // Who hears is the peer itself.
        let name = if own || self.action == Action::Subscribe { self.name } else { self.collector };
        let verb = VERBS.iter().position(|action| *action == self.action).unwrap();
        let spell = |rule: &String| rule.replace(NAME, name).replace(SITE, self.site);
        let listed = |of: fn(&Made) -> &[Vec<String>; 3]| -> Vec<String> {
            roles.iter().flat_map(|role| of(role)[verb].iter().map(spell)).collect()
        };
        let (allow, deny) = (listed(|role| &role.allow), listed(|role| &role.deny));
        let object = self.object.as_str();
        let ruled = |fits: &dyn Fn(&str, &str) -> bool, object: &str| {
            allow.iter().any(|rule| fits(rule, object)) && !deny.iter().any(|rule| fits(rule, object))
        };
        match self.action {
            Action::Publish => speaks && object != RESERVED && ruled(&matches, object),
            Action::Call => {
                speaks
                    && !object.starts_with('.')
                    && !object.starts_with("collector.")
                    && ruled(&fits, object)
            }
            // All topics of the pattern, one by one.
            Action::Subscribe => {
                topics.iter().filter(|topic| matches(object, topic)).all(|topic| ruled(&matches, topic))
            }
        }
    }

    /// What the gateway does.
    fn verdict(&self, policy: &Policy, subject: &Subject, metrics: &Arc<Metrics>) -> bool {
        let Ok(rights) = Rights::of(subject, policy.rules(), 1, metrics) else { return false };
        match self.action {
            Action::Publish => rights.speaker(self.collector).is_ok_and(|mut speaker| {
                let mut permit = speaker.permit();
                let may = speaker.allow(&mut permit, &self.object).is_ok();
                assert_eq!(permit.spend().len(), usize::from(may));
                may
            }),
            Action::Subscribe => {
                let pattern = Pattern::parse(&self.object).unwrap();
                let permit = rights.subscribe(vec![pattern.clone()]);
                permit.is_ok_and(|permit| permit.spend().1 == [pattern])
            }
            Action::Call => rights.call(self.collector, &self.object).is_ok(),
        }
    }
}

/// The lines that an explanation names hold the rules that it names, and those decide so.
fn check_lines(text: &str, asked: &Asked, told: &Explanation) {
    let lines: Vec<&str> = text.lines().collect();
    for rule in &told.rules {
        let line = lines[usize::try_from(rule.line).unwrap() - 1];
        assert!(line.contains(&format!("\"{}\"", rule.rule)), "{asked:?}: {told:?}: {line}");
        assert_eq!(rule.key.starts_with("deny."), told.cause == Cause::Denied, "{told:?}");
        assert!(rule.key.ends_with(asked.action.as_str()), "{told:?}");
        assert!(told.roles.contains(&rule.role), "{told:?}");
    }
    let decided = matches!(told.cause, Cause::Allowed | Cause::Denied);
    assert_eq!(decided, !told.rules.is_empty(), "{told:?}");
    assert_eq!(told.allowed, told.hint.is_empty(), "{told:?}");
}

#[test]
fn ten_thousand_random_questions_have_one_answer() {
    let mut random = Rng::with_seed(6);
    let metrics = Arc::new(Metrics::default());
    // By verb, and whether it is allowed.
    let mut found = [[0_u32; 2]; 3];
    let mut together = 0;
    for _ in 0..500 {
        let made: Vec<Made> = (0..random.usize(1..5)).map(|_| Made::role(&mut random)).collect();
        let mut text = String::new();
        for (number, role) in made.iter().enumerate() {
            role.write(&mut text, number);
        }
        let Ok(policy) = Policy::parse(&text, Path::new("p.toml")) else {
            assert!(made.iter().all(|role| role.allow.iter().all(Vec::is_empty)), "{text}");
            continue;
        };
        for _ in 0..22 {
            let asked = Asked::anything(&mut random);
            let subject = Subject::named(PeerId::new(asked.site, asked.name).unwrap());
            let Asked { collector, action, object, .. } = &asked;
            let question = Question { subject: &subject, collector, action: *action, object };
            let told = policy.explain(&question);
            let verdict = asked.verdict(&policy, &subject, &metrics);
            let topics = topics(asked.site, asked.name);
            assert_eq!(verdict, asked.model(&made, &topics), "{asked:?}\n{told}\n{text}");
            assert_eq!(told.allowed, verdict, "{asked:?}\n{told}\n{text}");
            check_lines(&text, &asked, &told);
            together += usize::from(verdict && told.rules.len() > 1);
            let verb = VERBS.iter().position(|verb| verb == action).unwrap();
            found[verb][usize::from(verdict)] += 1;
        }
    }
    let asked: u32 = found.iter().flatten().sum();
    assert!(asked >= 10_000, "{found:?}");
    assert!(found.iter().flatten().all(|count| *count > 200), "{found:?}");
    assert!(together > 20, "hardly a subscription was allowed by several rules together: {together}");
}

#[test]
fn what_changes_between_random_policies_is_what_topics_say() {
    let mut random = Rng::with_seed(7);
    let subject = Subject::named(PeerId::new("s", "p-1").unwrap());
    let topics: Vec<Topic> = topics("s", "p-1").iter().map(|topic| Topic::parse(topic).unwrap()).collect();
    let mut found = [0_u32; 2];
    for _ in 0..300 {
        let [old, new] = [(); 2].map(|()| {
            let mut text = String::new();
            for number in 0..2 {
                let mut role = Made::role(&mut random);
                role.identities = vec!["*"];
                role.sites = vec!["*"];
                role.allow[0].push("a.b.zz".to_owned());
                role.write(&mut text, number);
            }
            Policy::parse(&text, Path::new("p.toml")).unwrap()
        });
        let changes = old.changes(&new, std::slice::from_ref(&subject));
        let told = |lines: fn(&super::super::Change) -> &[String]| {
            let mut lines = changes.iter().flat_map(lines);
            lines.any(|line| line.starts_with("publish "))
        };
        let may = |policy: &Policy, topic: &Topic| {
            let question = Question {
                subject: &subject,
                collector: "",
                action: Action::Publish,
                object: topic.dotted(),
            };
            policy.explain(&question).allowed
        };
        let gained = topics.iter().any(|topic| may(&new, topic) && !may(&old, topic));
        let lost = topics.iter().any(|topic| may(&old, topic) && !may(&new, topic));
        assert_eq!(told(|change| &change.gains), gained, "{changes:?}\n{}\n{}", old.source(), new.source());
        assert_eq!(told(|change| &change.loses), lost, "{changes:?}\n{}\n{}", old.source(), new.source());
        found[usize::from(gained)] += 1;
    }
    assert!(found.iter().all(|count| *count > 5), "{found:?}");
}
