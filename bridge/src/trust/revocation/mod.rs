//! Who was revoked: the lists of the issuers, verified once a generation and searched by issuer key and serial number.
//!
//! ```text
//!   file, folder, URL ─► Source ─► Crl (parsed) ─► Lists (each under its issuer's key, the newest of its scope)
//!                                                    │
//!                                  verified path ────┴──► judged link by link; two generations ─► Difference
//! ```
//!
//! webpki's own check takes the first list by the issuer's name, passes over `nextUpdate` and verifies the whole list at
//! each handshake; so it is off, and this stands in its place. A list of an intermediate that nobody has named waits until
//! that intermediate is seen in a verified path, whose key it is then verified with.
//!
//! Kept true: an entry counts only under the key that signed its list (RFC 5280, section 6.3.3); a list that cannot be used
//! whole is not used at all, and whoever offered it is told why.

mod crl;
mod difference;
mod entry;
mod fetch;
mod issuer;
mod lists;
mod load;
mod points;
mod policy;
mod source;
mod waiting;

pub use self::{
    crl::{Crl, CrlError},
    difference::Difference,
    entry::{Number, Revoked},
    fetch::FetchError,
    issuer::{Issuer, KeyHash},
    lists::{ListStatus, ListWord, Lists},
    load::{ListsError, Order},
    policy::{Config, IssuerRule, Need, Rule, RuleError, Stale},
    source::{Source, SourceError},
};
pub(in crate::trust) use self::{fetch::keep, lists::Evidence, points::Points};

#[cfg(test)]
#[cfg(unix)]
mod tests;
