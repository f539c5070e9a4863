//! Extended key usage (RFC 5280, 4.2.1.12): present in the leaf, and not against the anchor.
//!
//! webpki takes a missing extension for every purpose, and does not read an anchor's.

use crate::trust::{
    Finding, RefusalReason, Role,
    profile::{Exhibit, Place, facts::Purposes},
};

impl Purposes {
    const fn suits(self, role: Role) -> bool {
        match role {
            Role::Client => self.client,
            Role::Server => self.server,
        }
    }
}

/// Whether a certificate names purposes and the one that `role` needs is not among them.
pub(in crate::trust) fn leaves_out(role: Role, exhibit: &Exhibit) -> bool {
    exhibit.facts().purposes.is_some_and(|purposes| !purposes.suits(role))
}

/// What is wrong with the purposes of the leaf.
pub(super) fn of_leaf(role: Role, leaf: &Exhibit) -> Option<Finding> {
    let (reason, says) = match leaf.facts().purposes {
        Some(purposes) if purposes.suits(role) => return None,
        Some(_) => (RefusalReason::WrongPurpose, format!("lacks extended key usage {}", role.purpose())),
        None => {
            (RefusalReason::NoPurpose, format!("has no extended key usage, and needs {}", role.purpose()))
        }
    };
    Some(leaf.finding(Place::Leaf, reason, &says))
}

/// What is wrong with the purposes of the anchor: if it has any, it is limited to them.
pub(super) fn of_anchor(role: Role, anchor: &Exhibit) -> Option<Finding> {
    let purposes = anchor.facts().purposes.filter(|purposes| !purposes.any && !purposes.suits(role))?;
    let Purposes { client, server, .. } = purposes;
    let has = match (client, server) {
        (true, _) => "clientAuth",
        (_, true) => "serverAuth",
        _ => "another purpose",
    };
    let says = format!("is limited to {has} by its extended key usage, and {} is needed", role.purpose());
    Some(anchor.finding(Place::Anchor, RefusalReason::CaPurpose, &says))
}
