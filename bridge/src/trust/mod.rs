//! What both ends trust: their own certificate, the anchors of the other side, and how a chain is judged.
//!
//! ```text
//!   files ─► Material (chain, key, anchors: one generation) ─► Store ─► watch
//!                 │
//!                 ├─► Admission ── a ServerConfig per handshake, with that connection's Recorder
//!                 └─► ClientConfig
//! ```
//!
//! Chains are built and their signatures checked by webpki; what it leaves out is judged in [`chain`](self), in one place
//! for both ends. PEM is read in one file, the rustls settings are chosen in one file.
//!
//! Kept true: a [`Material`] that exists is whole and fits together; a [`VerifiedChain`] that exists was verified; resumption
//! is off on both sides, because it skips the verifier.

pub mod explain;

mod accept;
mod anchor;
mod certificate;
mod chain;
mod diagnose;
mod dial;
mod finding;
mod follow;
mod link;
mod load;
mod material;
mod names;
mod pem;
mod profile;
mod provider;
mod refusal;
pub mod revocation;
mod rights;
mod veto;
mod watch;

pub use accept::{Admission, Presented, Recorder, Terms, Verdict};
pub use anchor::Anchor;
pub use certificate::{Certificate, CertificateError};
pub use chain::{Claim, Judge, Jury, MAX_CHAIN, VerifiedChain};
pub use dial::{finding_of, refusal_of};
pub use finding::{Finding, quoted};
pub use link::{Link, significant};
pub use load::LoadError;
pub use material::{AnchorFile, Files, Material, Part, Plan, Role};
pub use names::{NameError, NamePattern, ServerNames};
pub use profile::Profile;
pub use provider::{Floor, FloorError};
pub use refusal::RefusalReason;
pub use rights::{Rights, RightsError};
pub use veto::{Held, Veto};
pub use watch::{Generation, Reload, Status, Store};

#[cfg(test)]
#[cfg(unix)]
mod tests;
