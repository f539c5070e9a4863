//! `policy`: tries a policy before it is in force, and tells which line decides.
//!
//! `check`, `diff` and `explain FILE` read files and ask nobody; `explain` without a file asks a gateway about the policy in
//! force, and `diff` asks it who is connected.

use std::{fmt::Write as _, fs, path::Path, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use daemoneye_gateway::{
    identity::PeerId,
    policy::{self, Action, Policy, Question, Subject},
};
use serde_json::{Value, json};

use crate::cli::{
    client::Gateway,
    live,
    output::{Format, cells, list, printable, text_of},
};

/// What may be asked of policies.
#[derive(Debug, Args)]
pub(crate) struct Policies {
    #[command(subcommand)]
    ask: Ask,
}

#[derive(Debug, Subcommand)]
enum Ask {
    /// Reads a policy file and says what is wrong with it, or what is in it.
    Check {
        /// The policy file.
        file: PathBuf,
    },
    /// Says whether somebody may do something, and which line decides; the exit code is 3 if it may not.
    Explain(Explain),
    /// Says what a new policy would change, identity by identity.
    Diff(Diff),
    /// Says whom a policy would cut of those who are connected; nothing is applied.
    Try {
        /// The policy; what the gateway's own file says now, if not said.
        file: Option<PathBuf>,
    },
    /// Puts the gateway's policy file in force; exit code 1 if it is refused or waits for --force.
    Apply {
        /// Even if more than a fifth of the connected are cut; this stands in the audit.
        #[arg(long)]
        force: bool,
    },
    /// Judges a policy beside the one in force, and enforces nothing of it: a file, `off` to end that, `show` for what it
    /// would decide otherwise.
    Shadow {
        /// The policy file, `off` or `show`; a file of such a name is `./off`.
        #[arg(value_name = "FILE|off|show")]
        what: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Explain {
    /// The policy file, if not the one in force at the gateway; who, as site/name; publish, subscribe or call; topic, pattern
    /// or client of the bus.
    #[arg(num_args = 3..=4, required = true, value_names = ["[FILE] IDENTITY", "ACTION", "OBJECT"])]
    words: Vec<String>,
    /// The collector for which it speaks, if not for itself.
    #[arg(long = "as", value_name = "COLLECTOR", default_value = "")]
    collector: String,
    /// The authority that vouches for it, as `match.anchor` would name it; with a file only.
    #[arg(long, value_name = "NAME")]
    anchor: Option<String>,
    /// SHA-256 of its public key; with a file only.
    #[arg(long, value_name = "HEX")]
    spki: Option<String>,
}

#[derive(Debug, Args)]
struct Diff {
    /// The old policy file.
    old: PathBuf,
    /// The new policy file.
    new: PathBuf,
    /// A file of identities, site/name a line; without it those who are connected to the gateway. Roles that ask for an
    /// authority or a key match nobody here.
    #[arg(long, value_name = "FILE")]
    identities: Option<PathBuf>,
}

impl Policies {
    /// Answers.
    ///
    /// # Errors
    ///
    /// A policy cannot be used, a word is wrong, or the gateway does not answer.
    pub(crate) fn run(self, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
        match self.ask {
            Ask::Check { file } => check(&file, format),
            Ask::Diff(diff) => diff.run(gateway, format),
            Ask::Explain(explain) => explain.run(gateway, format),
            Ask::Try { file } => live::dry_run(file.as_deref(), gateway, format),
            Ask::Apply { force } => live::apply(force, gateway, format),
            Ask::Shadow { what } => live::shadow(&what, gateway, format),
        }
    }
}

fn check(file: &Path, format: Format) -> anyhow::Result<ExitCode> {
    let policy = Policy::load(file)?;
    let answer = json!({
        "file": file.display().to_string(),
        "roles": policy.roles(),
        "downlinks": policy.downlink_count(),
    });
    format.show(&answer, |answer| {
        let roles: Vec<_> = list(answer, "roles").filter_map(Value::as_str).collect();
        format!(
            "{} is a policy\n  roles: {}\n  downlinks: {}\n",
            text_of(answer, "file"),
            roles.join(", "),
            policy.downlink_count()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

impl Explain {
    fn run(&self, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
        let answer = match self.words.as_slice() {
            [identity, action, object] => self.ask(gateway, identity, action, object)?,
            [file, identity, action, object] => self.look(Path::new(file), identity, action, object)?,
            _ => bail!("write [FILE] IDENTITY publish|subscribe|call OBJECT"),
        };
        format.show(&answer, told)?;
        let allowed = answer.get("allowed").and_then(Value::as_bool) == Some(true);
        Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(3) })
    }

    /// Looks into a file.
    fn look(&self, file: &Path, identity: &str, action: &str, object: &str) -> anyhow::Result<Value> {
        let policy = Policy::load(file)?;
        let mut subject = Subject::named(identity_of(identity)?);
        if let Some(anchor) = &self.anchor {
            subject = subject.vouched_by(anchor);
        }
        if let Some(spki) = &self.spki {
            let key = policy::pin(spki).context("--spki must be 64 hexadecimal digits")?;
            subject = subject.with_key(key);
        }
        let question =
            Question { subject: &subject, collector: &self.collector, action: action.parse()?, object };
        Ok(serde_json::to_value(policy.explain(&question))?)
    }

    /// Asks the gateway.
    fn ask(&self, gateway: &Gateway, identity: &str, action: &str, object: &str) -> anyhow::Result<Value> {
        if self.anchor.is_some() || self.spki.is_some() {
            bail!(
                "--anchor and --spki go with a policy file; the gateway knows the certificates of the connected"
            );
        }
        let action: Action = action.parse()?;
        gateway.get(&format!(
            "policy/explain?identity={}&verb={action}&topic={}&collector={}",
            encoded(&identity_of(identity)?.to_string()),
            encoded(object),
            encoded(&self.collector)
        ))
    }
}

impl Diff {
    fn run(&self, gateway: &Gateway, format: Format) -> anyhow::Result<ExitCode> {
        let (old, new) = (Policy::load(&self.old)?, Policy::load(&self.new)?);
        let identities = match &self.identities {
            Some(file) => {
                let text = fs::read_to_string(file)
                    .with_context(|| format!("could not read the identities in {}", file.display()))?;
                identities(&text)?
            }
            None => connected(&gateway.get("collectors")?)?,
        };
        let subjects: Vec<_> = identities.into_iter().map(Subject::named).collect();
        let changes = old.changes(&new, &subjects);
        let answer = json!({ "identities": subjects.len(), "changes": changes });
        format.show(&answer, |_| {
            let mut text: String =
                changes.iter().map(|change| printable_lines(&change.to_string())).collect();
            let cut = changes.iter().filter(|change| change.cut).count();
            // A string can always be written to.
            let _written =
                writeln!(text, "{} of {} change, {cut} would be cut", changes.len(), subjects.len());
            text
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Identities, one a line; what follows a `#` is passed over.
fn identities(text: &str) -> anyhow::Result<Vec<PeerId>> {
    let line = |line: &'_ str| line.split('#').next().unwrap_or_default().trim().to_owned();
    text.lines().map(line).filter(|line| !line.is_empty()).map(|line| identity_of(&line)).collect()
}

/// Those who are connected, each once.
fn connected(collectors: &Value) -> anyhow::Result<Vec<PeerId>> {
    let mut identities: Vec<PeerId> =
        list(collectors, "live").map(|live| identity_of(text_of(live, "peer"))).collect::<Result<_, _>>()?;
    identities.sort();
    identities.dedup();
    Ok(identities)
}

fn identity_of(text: &str) -> anyhow::Result<PeerId> {
    text.parse()
        .with_context(|| format!("`{}` is not site/name, such as site-a/procmond-1", text.escape_debug()))
}

/// An explanation in words, wherever it comes from.
fn told(answer: &Value) -> String {
    let allowed = answer.get("allowed").and_then(Value::as_bool) == Some(true);
    let [identity, collector, action, object, hint] =
        ["identity", "collector", "action", "object", "hint"].map(|key| printable(text_of(answer, key)));
    let word = if allowed { "allowed" } else { "denied" };
    let who = if collector.is_empty() { identity } else { format!("{identity} as {collector}") };
    let mut lines = vec![format!("{word}: {who}, {action} `{object}`")];
    for rule in list(answer, "rules") {
        let line = rule.get("line").and_then(Value::as_u64).unwrap_or_default();
        let cells: Vec<String> =
            cells(rule, &["role", "key", "rule", "builtin"]).iter().map(|cell| printable(cell)).collect();
        if let [role, key, rule, builtin] = cells.as_slice() {
            let from = if builtin.is_empty() { String::new() } else { format!(" (built in: {builtin})") };
            lines.push(format!("  line {line}: role `{role}`, {key} `{rule}`{from}"));
        }
    }
    let roles: Vec<_> = list(answer, "roles").filter_map(Value::as_str).map(printable).collect();
    lines.push(format!("  roles: {}", if roles.is_empty() { "none".to_owned() } else { roles.join(", ") }));
    if !hint.is_empty() {
        lines.push(format!("  hint: {hint}"));
    }
    lines.join("\n") + "\n"
}

fn printable_lines(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}

/// A value of a query (RFC 3986, 2.1).
fn encoded(text: &str) -> String {
    let octet = |octet: u8| {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.') {
            char::from(octet).to_string()
        } else {
            format!("%{octet:02X}")
        }
    };
    text.bytes().map(octet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "[[role]]\nname = \"p\"\nuse = [\"procmond\"]\n[[role]]\nname = \"x\"\nmatch = { identity = \"*\" }\npublish = [\"a\"]\n";

    fn explained(words: &[&str]) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        fs::write(&file, POLICY).unwrap();
        let ask = Explain { words: Vec::new(), collector: String::new(), anchor: None, spki: None };
        ask.look(&file, words[0], words[1], words[2]).unwrap()
    }

    #[test]
    fn an_explanation_names_role_and_line() {
        let text = told(&explained(&["site-a/procmond-1", "publish", "events.process.start"]));
        assert_eq!(
            text,
            "allowed: site-a/procmond-1, publish `events.process.start`\n  \
             line 3: role `p`, publish `events.process.#` (built in: procmond)\n  roles: p, x\n"
        );
        let text = told(&explained(&["site-a/other", "subscribe", "events.#"]));
        assert!(
            text.starts_with("denied: site-a/other, subscribe `events.#`\n  roles: x\n  hint: "),
            "{text}"
        );
        let hostile = told(&explained(&["site-a/other", "publish", "\u{1b}[2J"]));
        assert!(!hostile.contains('\u{1b}'), "{hostile}");
    }

    #[test]
    fn a_wrong_word_is_named_with_a_remedy() {
        assert!(identity_of("procmond").unwrap_err().to_string().contains("site/name"));
        assert!("hear".parse::<Action>().unwrap_err().to_string().contains("publish, subscribe or call"));
    }

    #[test]
    fn identities_are_read_a_line_each_and_of_the_connected_each_once() {
        let ids = identities("# fleet\nsite-a/x\n\n site-b/y # comment\n").unwrap();
        assert_eq!(ids.iter().map(ToString::to_string).collect::<Vec<_>>(), ["site-a/x", "site-b/y"]);
        assert!(identities("nobody").is_err());
        let live = json!({"live": [{"peer": "a/x"}, {"peer": "a/x"}, {"peer": "a/b"}]});
        assert_eq!(connected(&live).unwrap().len(), 2);
    }

    #[test]
    fn a_pattern_survives_its_way_through_a_query() {
        assert_eq!(encoded("events.+.#"), "events.%2B.%23");
        assert_eq!(encoded("site-a/x&y=ä"), "site-a%2Fx%26y%3D%C3%A4");
    }
}
