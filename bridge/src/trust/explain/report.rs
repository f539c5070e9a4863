//! What is told: plain data, for people and for programs.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use humantime_serde::re::humantime;
use serde::Serialize;

use crate::trust::{
    Certificate, Finding, RefusalReason, VerifiedChain,
    explain::Case,
    profile::{self, Exhibit, Place},
    quoted,
};

/// The verdict over a chain, and what is to be said of each of its links.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The moment that it was judged for, as RFC 3339 has it.
    pub at: String,
    /// The extended key usage that was asked for.
    pub purpose: &'static str,
    /// Set if it would be accepted.
    pub accepted: Option<Accepted>,
    /// Set if it would be refused.
    pub refused: Option<Refused>,
    /// The links as names connect them, the leaf first; then what belongs to no path.
    pub steps: Vec<Step>,
    /// Anchors that could not be read.
    pub unreadable_anchors: usize,
}

/// What is known of a chain that holds.
#[derive(Clone, Debug, Serialize)]
pub struct Accepted {
    /// Subject of the authority that it leads to.
    pub anchor: String,
    /// When the first certificate of the path expires.
    pub not_after: String,
    /// The names of the leaf.
    pub names: Vec<String>,
}

/// Why a chain does not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    /// The stable code.
    pub reason: RefusalReason,
    /// What exactly is wrong.
    pub detail: String,
    /// What to do about it.
    pub hint: &'static str,
}

/// One certificate.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// `leaf`, `intermediate`, `anchor`, or `unrelated`.
    pub place: &'static str,
    /// Whom it is of.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// Serial number, in hexadecimal.
    pub serial: String,
    /// Begin of validity.
    pub not_before: String,
    /// End of validity.
    pub not_after: String,
    /// What its key is.
    pub key: String,
    /// SHA-256 of its key, in hexadecimal.
    pub spki_sha256: String,
    /// Whether the next key signed it; `None` for an anchor, and where there is no next.
    pub signed: Option<Signed>,
    /// Rules that it breaks.
    pub breaches: Vec<Breach>,
}

/// Whether a key signed a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signed {
    /// It did not.
    Forged,
    /// The algorithm is not accepted.
    Unsupported,
    /// It did.
    Verified,
}

/// A rule that a certificate breaks.
#[derive(Clone, Debug, Serialize)]
pub struct Breach {
    /// What `docs/chain.md` calls the rule.
    pub rule: &'static str,
    /// Where the rule is written.
    pub source: &'static str,
    /// What it is refused for.
    pub reason: RefusalReason,
    /// What exactly is wrong.
    pub detail: String,
}

impl Explanation {
    pub(super) fn new(
        case: &Case<'_>,
        verdict: Result<VerifiedChain, Finding>,
        steps: Vec<Step>,
        unreadable_anchors: usize,
    ) -> Self {
        let (accepted, refused) = match verdict {
            Ok(chain) => (Some(Accepted::of(&chain)), None),
            Err(finding) => (None, Some(Refused::of(&finding))),
        };
        Self {
            at: rfc3339(case.at),
            purpose: case.role.purpose(),
            accepted,
            refused,
            steps,
            unreadable_anchors,
        }
    }

    /// Whether a handshake would accept it.
    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        self.accepted.is_some()
    }
}

impl Accepted {
    fn of(chain: &VerifiedChain) -> Self {
        Self {
            anchor: chain.anchor().certificate().subject().to_owned(),
            not_after: rfc3339(chain.not_after()),
            names: chain.leaf().all_names().map(str::to_owned).collect(),
        }
    }
}

impl Refused {
    fn of(finding: &Finding) -> Self {
        let reason = finding.reason();
        Self { reason, detail: finding.detail().to_owned(), hint: reason.hint() }
    }
}

impl Step {
    pub(super) fn of(
        place: Option<Place>,
        exhibit: &Exhibit,
        at: SystemTime,
        signed: Option<Signed>,
    ) -> Self {
        let certificate = exhibit.certificate();
        let rules = place.into_iter().flat_map(|place| exhibit.broken(place));
        let breaches = rules.map(|(rule, finding)| Breach {
            rule: rule.name,
            source: rule.source,
            reason: rule.reason,
            detail: finding.detail().to_owned(),
        });
        Self {
            place: place.map_or("unrelated", Place::as_str),
            subject: certificate.subject().to_owned(),
            issuer: certificate.issuer().to_owned(),
            serial: certificate.serial().to_owned(),
            not_before: rfc3339(certificate.not_before()),
            not_after: rfc3339(certificate.not_after()),
            key: exhibit.facts().key().to_string(),
            spki_sha256: certificate.spki_hex(),
            signed,
            breaches: out_of_time(place, certificate, at).into_iter().chain(breaches).collect(),
        }
    }
}

fn out_of_time(place: Option<Place>, certificate: &Certificate, at: SystemTime) -> Option<Breach> {
    let place = place?;
    let (reason, what) = if certificate.not_after() < at {
        let reason = match place {
            Place::Anchor => RefusalReason::AnchorExpired,
            Place::Intermediate => RefusalReason::IntermediateExpired,
            Place::Leaf => RefusalReason::CertificateExpired,
        };
        (reason, "has expired")
    } else if at < certificate.not_before() {
        (profile::not_yet_valid(place), "is not valid yet")
    } else {
        return None;
    };
    let detail = format!("{} {} {what}", place.as_str(), quoted(certificate.subject()));
    Some(Breach { rule: "validity", source: "4.1.2.5", reason, detail })
}

/// A moment as RFC 3339 has it, in whole seconds; what that cannot say is said as the last it can.
fn rfc3339(moment: SystemTime) -> String {
    let last =
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(LAST)).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(moment.min(last)).to_string()
}

/// The last second of the year 9999.
const LAST: u64 = 253_402_300_799;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(f, "{step}")?;
        }
        if self.unreadable_anchors > 0 {
            writeln!(f, "{} of the anchors could not be read", self.unreadable_anchors)?;
        }
        match (&self.accepted, &self.refused) {
            (Some(accepted), _) => {
                let anchor = quoted(&accepted.anchor);
                writeln!(f, "accepted: leads to {anchor}, until {}", accepted.not_after)
            }
            (None, Some(refused)) => {
                writeln!(f, "refused: {}\n  {}\n  hint: {}", refused.reason, refused.detail, refused.hint)
            }
            (None, None) => writeln!(f, "not judged"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.place, quoted(&self.subject))?;
        writeln!(f, "  issuer   {}", quoted(&self.issuer))?;
        writeln!(f, "  serial   {}", quoted(&self.serial))?;
        writeln!(f, "  validity {} to {}", self.not_before, self.not_after)?;
        writeln!(f, "  key      {}", quoted(&self.key))?;
        if let Some(signed) = self.signed {
            let answer = match signed {
                Signed::Forged => "no: not with the key of the next",
                Signed::Unsupported => "no: with an algorithm that is not accepted",
                Signed::Verified => "yes, with the key of the next",
            };
            writeln!(f, "  signed   {answer}")?;
        }
        for breach in &self.breaches {
            writeln!(f, "  BROKEN   {} ({}): {}", breach.rule, breach.source, breach.detail)?;
        }
        Ok(())
    }
}
