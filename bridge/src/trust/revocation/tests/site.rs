//! A folder with material and lists, and a look at who is let in.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::pki_types::UnixTime;

use crate::trust::{
    Claim, Finding, LoadError, Material, Plan, Profile, RefusalReason, Role, Store, VerifiedChain,
    revocation::{Config, Lists, ListsError, Need, Order, Rule, Source, Stale},
    tests::pki::{Authority, Folder, Leaf, server},
};

pub(super) struct Site {
    pub(super) folder: Folder,
    pub(super) plan: Plan,
}

impl Site {
    /// Trusts `roots`; lists lie in the folder `crl`.
    pub(super) fn new(roots: &[&Authority], need: Need, stale: Stale) -> Self {
        let anchors: String = roots.iter().map(|root| root.pem()).collect();
        let folder = Folder::new(&roots[0].issue(&server()), &anchors);
        let lists = folder.dir.path().join("crl");
        fs::create_dir(&lists).unwrap();
        let revocation = Config {
            sources: vec![Source::Path(lists)],
            rule: Rule { need, stale },
            directory: folder.dir.path().join("copies"),
            ..Config::default()
        };
        let plan = Plan { revocation, ..Plan::new(folder.files.clone(), Role::Server) };
        Self { folder, plan }
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.dir.path().join("crl").join(name)
    }

    /// Puts a list in place as it should be done: written beside, then renamed.
    pub(super) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let beside = self.folder.dir.path().join("beside");
        fs::write(&beside, bytes).unwrap();
        fs::rename(beside, self.at(name)).unwrap();
    }

    pub(super) fn load(&self) -> Result<Material, LoadError> {
        Material::load_all(&self.plan)
    }

    pub(super) fn load_after(&self, older: &Material, wanted: Order) -> Result<Material, LoadError> {
        Material::load_after(&self.plan, older.lists(), wanted)
    }

    pub(super) fn store(&self) -> Store {
        Store::open_all(self.plan.clone()).unwrap()
    }

    /// The lists alone, loaded at `now`.
    pub(super) fn lists(&self, older: &Lists, wanted: Order, now: SystemTime) -> Result<Lists, ListsError> {
        Lists::load(&self.plan.revocation, self.issuers(), older, wanted, now)
    }

    fn issuers(&self) -> Vec<crate::trust::revocation::Issuer> {
        let anchors = crate::trust::pem::read(&self.plan.files.ca_file).unwrap().certificates;
        anchors.iter().map(|der| crate::trust::revocation::Issuer::parse(der).unwrap()).collect()
    }
}

/// What becomes of a collector that presents `leaf` now.
pub(super) fn present(material: &Material, leaf: &Leaf) -> Result<Arc<VerifiedChain>, RefusalReason> {
    present_at(material, leaf, SystemTime::now())
}

pub(super) fn present_at(
    material: &Material,
    leaf: &Leaf,
    now: SystemTime,
) -> Result<Arc<VerifiedChain>, RefusalReason> {
    judged(material, leaf, now).map(Arc::new).map_err(|finding| finding.reason())
}

/// What is said of a collector that is refused.
pub(super) fn finding(material: &Material, leaf: &Leaf, now: SystemTime) -> String {
    judged(material, leaf, now).unwrap_err().to_string()
}

fn judged(material: &Material, leaf: &Leaf, now: SystemTime) -> Result<VerifiedChain, Finding> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let (leaf, intermediates) = leaf.chain.split_first().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(since.as_secs()));
    let claim = Claim { role: Role::Client, leaf, intermediates, now };
    material.verify(&claim, &Profile::default(), None)
}

pub(super) fn refused(material: &Material, leaf: &Leaf) -> Option<RefusalReason> {
    present(material, leaf).err()
}
