//! Counts whom anchors that go would take along.

use std::{collections::HashSet, time::SystemTime};

use daemoneye_bridge::trust::{Held, Material, Veto, revocation::Difference};

use crate::{
    identity::PeerId,
    session::{http2::CutReason, leash::Roll},
};

/// Each who stood on an anchor that goes is judged as the sweep will; another path of his may lead elsewhere.
impl Veto for Roll {
    fn ask(&self, next: &Material, difference: &Difference) -> Result<(), Held> {
        let now = SystemTime::now();
        let (touched, connected) = {
            let table = self.lock();
            (table.touched(difference), table.connected())
        };
        // Who expired or was revoked goes whatever becomes of the anchors.
        let is_cut = |reason| matches!(reason, CutReason::Untrusted);
        let cut: HashSet<&PeerId> = touched
            .iter()
            .filter(|(_, bond, _)| bond.cut.is_cut().is_none())
            .filter(|(_, bond, chain)| self.rejudge(bond, chain, next, now).is_err_and(is_cut))
            .map(|(_, bond, _)| bond.peer.id())
            .collect();
        Held::unless_few(cut.len(), connected)
    }
}
