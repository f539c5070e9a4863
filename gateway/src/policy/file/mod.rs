//! How a policy file becomes roles and rights of the downlink.
//!
//! Read key by key rather than in one go, so that each complaint names the file, the line, the role and the key, and so that
//! a decision can name the line that made it.

mod error;
mod keys;

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use daemoneye_bridge::topic::is_segment;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

pub use self::error::{Complaint, Owner, PolicyError};
use self::{
    error::{Fault, LONGEST_FILE},
    keys::{Keys, Lines},
};
use crate::policy::{
    builtin::{Builtin, RESERVED},
    downlink::{Downlink, Whom},
    rule::{Bounds, ClientTemplate, Deny, Entry, Glob, Limits, Matching, Role, SameIdentity, Template},
};

/// What a policy file says.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) roles: Vec<Role>,
    pub(super) downlinks: Vec<Downlink>,
}

/// The text of the file at `path`.
pub(super) fn text(path: &Path) -> Result<String, PolicyError> {
    let fault = |source| PolicyError::Read { file: path.to_path_buf(), source };
    // A pipe would be waited for until somebody writes to it.
    if !fs::metadata(path).map_err(fault)?.is_file() {
        return Err(PolicyError::NoFile { file: path.to_path_buf() });
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(fault)?;
    file.take(LONGEST_FILE.saturating_add(1)).read_to_end(&mut text).map_err(fault)?;
    if text.len() as u64 > LONGEST_FILE {
        return Err(PolicyError::TooLong { file: path.to_path_buf() });
    }
    String::from_utf8(text).map_err(|error| fault(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Reads what `text` says; `file` is named in complaints.
pub(super) fn parse(text: &str, file: &Path) -> Result<Contents, PolicyError> {
    let lines = Lines::of(text);
    let document = DeTable::parse(text).map_err(|error| PolicyError::Syntax {
        file: file.to_path_buf(),
        line: error.span().map_or(1, |span| lines.at(span.start)),
        complaint: error.message().to_owned(),
    })?;
    let (mut roles, mut downlinks) = (Vec::new(), Vec::new());
    for (key, value) in document.into_inner() {
        let unknown = |key: Spanned<_>| PolicyError::TopKey {
            file: file.to_path_buf(),
            line: lines.at(key.span().start),
            key: String::from(key.into_inner()),
        };
        let DeValue::Array(tables) = value.into_inner() else { return Err(unknown(key)) };
        let tables = tables.into_iter().enumerate();
        match key.get_ref().as_ref() {
            "downlink" => {
                for (index, table) in tables {
                    downlinks.push(downlink(table, index, &lines).map_err(|fault| fault.at(file))?);
                }
            }
            "role" => {
                for (index, table) in tables {
                    roles.push(role(table, index, &lines).map_err(|fault| fault.at(file))?);
                }
            }
            _ => return Err(unknown(key)),
        }
    }
    unique(&roles).map_err(|fault| fault.at(file))?;
    let roles: Vec<Role> = roles.into_iter().map(|(role, _)| role).collect();
    if !roles.iter().any(Role::allows_something) {
        return Err(PolicyError::AllowsNothing { file: file.to_path_buf() });
    }
    Ok(Contents { roles, downlinks })
}

fn unique(roles: &[(Role, u32)]) -> Result<(), Fault> {
    let mut names = HashSet::new();
    match roles.iter().find(|(role, _)| !names.insert(&role.name)) {
        None => Ok(()),
        Some((role, line)) => {
            let owner = Owner::Role(role.name.clone());
            Err(Fault { owner, line: *line, key: "name", complaint: Complaint::Twice })
        }
    }
}

/// The keys of a role, for whom one was mistyped.
const KEYS: [&str; 15] = [
    "name",
    "use",
    "match",
    "publish",
    "subscribe",
    "call",
    "deny",
    "speaks_for",
    "relays",
    "json",
    "events_per_second",
    "bytes_per_second",
    "max_message",
    "connections",
    "same_identity",
];

/// Reads a role; says its line, too.
fn role<'t>(value: Spanned<DeValue<'t>>, index: usize, lines: &'t Lines) -> Result<(Role, u32), Fault> {
    let mut keys = Keys::new(Owner::Unnamed(index + 1), "role", value, lines)?;
    let (name, line) = keys.required("name")?;
    if !is_segment(&name) || name.len() > 63 {
        return Err(keys.fault_at(line, "name", Complaint::Name));
    }
    keys.owner = Owner::Role(name.clone());
    let used = used(&mut keys)?;
    let mut role = Role {
        matching: matching(&mut keys, &used)?,
        publish: published(&mut keys)?,
        subscribe: keys.entries("subscribe", Template::parse)?,
        call: keys.entries("call", ClientTemplate::parse)?,
        deny: deny(&mut keys)?,
        speaks_for: keys.globs("speaks_for", Glob::parse)?.unwrap_or_default(),
        relays: whom(&mut keys, "relays")?,
        json: json(&mut keys, &used)?,
        bounds: bounds(&mut keys)?,
        name,
    };
    keys.finish(&KEYS)?;
    for (builtin, line) in used {
        take_over(&mut role, builtin, line);
    }
    Ok((role, line))
}

/// The built-in roles that a role takes over, each with the line that says so.
fn used(role: &mut Keys<'_>) -> Result<Vec<(&'static Builtin, u32)>, Fault> {
    let texts = role.texts("use")?.unwrap_or_default();
    let named = |(text, line): keys::Text| {
        let builtin = Builtin::named(&text).map(|builtin| (builtin, line));
        builtin.ok_or_else(|| role.fault_at(line, "use", Complaint::Builtin(text)))
    };
    texts.into_iter().map(named).collect()
}

/// Adds what a built-in role allows, and its bounds where the role states none.
fn take_over(role: &mut Role, builtin: &'static Builtin, line: u32) {
    let entries = |patterns: &[&'static str]| {
        let entry = |text: &&'static str| {
            // Each built-in pattern is proved to be one by a test.
            let value = Template::parse(text).ok()?;
            Some(Entry { value, text: (*text).into(), line, builtin: Some(builtin.name) })
        };
        patterns.iter().filter_map(entry).collect::<Vec<_>>()
    };
    role.publish.extend(entries(builtin.publish));
    role.subscribe.extend(entries(builtin.subscribe));
    let (stated, builtin) = (role.bounds, Builtin::BOUNDS);
    role.bounds = Bounds {
        events_per_second: stated.events_per_second.or(builtin.events_per_second),
        bytes_per_second: stated.bytes_per_second.or(builtin.bytes_per_second),
        max_message: stated.max_message.or(builtin.max_message),
        connections: stated.connections.or(builtin.connections),
        same_identity: stated.same_identity.or(builtin.same_identity),
    };
}

fn matching(role: &mut Keys<'_>, used: &[(&'static Builtin, u32)]) -> Result<Matching, Fault> {
    let own = || used.iter().flat_map(|(builtin, _)| builtin.identities);
    let own: Vec<Glob> = own().filter_map(|name| Glob::parse(name).ok()).collect();
    let any = || vec![Glob::any()];
    let Some(mut keys) = role.table("match")? else {
        return if own.is_empty() {
            Err(role.fault("match", Complaint::Match))
        } else {
            Ok(Matching { identities: own, sites: any(), anchors: None, pins: None })
        };
    };
    let values = |globs: Vec<Entry<Glob>>| globs.into_iter().map(|entry| entry.value).collect::<Vec<_>>();
    let identities = keys.globs("identity", Glob::parse)?.map_or(own, values);
    let sites = keys.globs("site", Glob::parse)?.map_or_else(any, values);
    let anchors = keys.globs("anchor", Glob::parse_anchor)?.map(values);
    let pins = pins(&mut keys)?;
    let empty = identities.is_empty()
        || sites.is_empty()
        || anchors.as_ref().is_some_and(Vec::is_empty)
        || pins.as_ref().is_some_and(Vec::is_empty);
    if empty {
        return Err(keys.fault("match", Complaint::Match));
    }
    keys.finish(&["identity", "site", "anchor", "spki"])?;
    Ok(Matching { identities, sites, anchors, pins })
}

fn pins(keys: &mut Keys<'_>) -> Result<Option<Vec<[u8; 32]>>, Fault> {
    let Some(texts) = keys.texts("spki")? else { return Ok(None) };
    let pin = |(text, line): keys::Text| {
        pin(&text).ok_or_else(|| keys.fault_at(line, "spki", Complaint::Pin(text)))
    };
    texts.into_iter().map(pin).collect::<Result<_, _>>().map(Some)
}

/// Reads the SHA-256 of a public key in hexadecimal; `None` if it is not 64 digits.
#[must_use]
pub fn pin(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| (high << 4) | low).collect::<Vec<_>>().try_into().ok()
}

fn published(role: &mut Keys<'_>) -> Result<Vec<Entry<Template>>, Fault> {
    let published = role.entries("publish", Template::parse)?;
    if let Some(entry) = published.iter().find(|entry| *entry.text == *RESERVED) {
        return Err(role.fault_at(entry.line, "publish", Complaint::Reserved));
    }
    Ok(published)
}

fn deny(role: &mut Keys<'_>) -> Result<Deny, Fault> {
    let Some(mut keys) = role.table("deny")? else { return Ok(Deny::default()) };
    let deny = Deny {
        publish: keys.entries("publish", Template::parse)?,
        subscribe: keys.entries("subscribe", Template::parse)?,
        call: keys.entries("call", ClientTemplate::parse)?,
    };
    keys.finish(&["publish", "subscribe", "call"])?;
    Ok(deny)
}

fn json(role: &mut Keys<'_>, used: &[(&'static Builtin, u32)]) -> Result<Vec<Template>, Fault> {
    let parse = |texts: &[&str]| texts.iter().filter_map(|text| Template::parse(text).ok()).collect();
    match role.take("json") {
        None => {
            let own = used.iter().flat_map(|(builtin, _)| builtin.json.iter().copied());
            Ok(parse(&own.collect::<Vec<_>>()))
        }
        Some((DeValue::Boolean(false), _)) => Ok(Vec::new()),
        Some((DeValue::Boolean(true), _)) => Ok(parse(&["#"])),
        Some((DeValue::Array(items), line)) => {
            let template = |item: Spanned<DeValue<'_>>| {
                let DeValue::String(text) = item.into_inner() else {
                    return Err(role.fault_at(line, "json", Complaint::Json));
                };
                let text = text.into_owned();
                Template::parse(&text)
                    .map_err(|error| role.fault_at(line, "json", Complaint::Pattern { text, error }))
            };
            items.into_iter().map(template).collect()
        }
        Some((_, line)) => Err(role.fault_at(line, "json", Complaint::Json)),
    }
}

fn bounds(role: &mut Keys<'_>) -> Result<Bounds, Fault> {
    let max_message = role.bytes("max_message")?;
    if let Some((_, line)) = max_message.filter(|(max, _)| *max > Limits::MOST_MESSAGE) {
        return Err(role.fault_at(line, "max_message", Complaint::Payload));
    }
    Ok(Bounds {
        events_per_second: role.number("events_per_second")?,
        bytes_per_second: role.bytes("bytes_per_second")?.map(|(bytes, _)| bytes),
        max_message: max_message.map(|(bytes, _)| bytes),
        connections: role.number("connections")?,
        same_identity: same_identity(role)?,
    })
}

fn same_identity(role: &mut Keys<'_>) -> Result<Option<SameIdentity>, Fault> {
    const KEY: &str = "same_identity";
    let Some((value, line)) = role.take(KEY) else { return Ok(None) };
    match value.as_str() {
        Some("allow") => Ok(Some(SameIdentity::Allow)),
        Some("newest") => Ok(Some(SameIdentity::Newest)),
        _ => Err(role.fault_at(line, KEY, Complaint::SameIdentity)),
    }
}

fn downlink<'t>(value: Spanned<DeValue<'t>>, index: usize, lines: &'t Lines) -> Result<Downlink, Fault> {
    let mut keys = Keys::new(Owner::Downlink(index + 1), "downlink", value, lines)?;
    let clients = keys.globs("client", Glob::parse_client)?.unwrap_or_default();
    if clients.is_empty() {
        return Err(keys.fault("client", Complaint::Missing));
    }
    let uids = keys.uids()?;
    let (call, send) = (whom(&mut keys, "call")?, whom(&mut keys, "send")?);
    if call.is_empty() && send.is_empty() {
        return Err(keys.fault("call", Complaint::Idle));
    }
    keys.finish(&["client", "uid", "call", "send"])?;
    Ok(Downlink { number: index + 1, clients, uids, call, send })
}

fn whom(keys: &mut Keys<'_>, key: &'static str) -> Result<Vec<Entry<Whom>>, Fault> {
    let texts = keys.texts(key)?.unwrap_or_default();
    let whom = |(text, line): keys::Text| match Whom::parse(&text) {
        Some(value) => Ok(Entry { value, text: text.into(), line, builtin: None }),
        None => Err(keys.fault_at(line, key, Complaint::Whom(text))),
    };
    texts.into_iter().map(whom).collect()
}

#[cfg(test)]
mod tests;
