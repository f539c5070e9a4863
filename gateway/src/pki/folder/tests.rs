//! The folder as its user meets it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use daemoneye_bridge::trust::{self, Material, Role};
use tempfile::TempDir;
use time::Duration;
use x509_parser::{pem::parse_x509_pem, prelude::FromDer, revocation_list::CertificateRevocationList};

use crate::pki::{Folder, FolderError, Kind, Plan, Reason, index::to_hex};

const WEEK: Duration = Duration::days(7);

fn made() -> (TempDir, Folder) {
    let parent = tempfile::tempdir().unwrap();
    let plan = Plan {
        name: "Test".to_owned(),
        trust_domain: "test.internal".to_owned(),
        dns_domain: "collectors.test.internal".to_owned(),
    };
    let folder = Folder::init(&parent.path().join("pki"), &plan, WEEK).unwrap();
    (parent, folder)
}

/// Number of a list, and the serial numbers on it.
fn list(path: &Path) -> (u64, Vec<String>) {
    let der = parse_x509_pem(&fs::read(path).unwrap()).unwrap().1.contents;
    let (_, list) = CertificateRevocationList::from_der(&der).unwrap();
    let number = list.crl_number().unwrap().to_string().parse().unwrap();
    (number, list.iter_revoked_certificates().map(|revoked| to_hex(revoked.raw_serial())).collect())
}

fn load(folder: &Folder, files: &crate::pki::Files, role: Role) -> Result<Material, trust::LoadError> {
    let files = trust::Files {
        cert_file: files.certificate.clone(),
        key_file: files.key.clone(),
        ca_file: folder.anchor(),
    };
    Material::load(&files, role)
}

#[test]
fn what_is_issued_can_be_loaded_by_both_ends_and_keys_are_their_owners() {
    let (_parent, mut folder) = made();
    let server = folder
        .issue_server("gateway", vec!["localhost".to_owned()], vec!["127.0.0.1".parse().unwrap()], WEEK)
        .unwrap();
    let collector = folder.issue_collector("site-a/procmond-1", WEEK).unwrap();
    let server = load(&folder, &server.files, Role::Server).unwrap();
    assert_eq!(server.leaf().dns_names(), ["localhost"]);
    let client = load(&folder, &collector.files, Role::Client).unwrap();
    assert_eq!(client.leaf().uris(), ["spiffe://test.internal/site/site-a/collector/procmond-1"]);
    assert_eq!(client.leaf().serial(), collector.entry.serial);
    for key in [&collector.files.key, &folder.path.join("root.key"), &folder.path.join("issuer.key")] {
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
}

#[test]
fn nothing_is_overwritten() {
    let (parent, mut folder) = made();
    folder.issue_collector("site-a/procmond-1", WEEK).unwrap();
    assert!(matches!(folder.issue_collector("site-a/procmond-1", WEEK), Err(FolderError::Exists { .. })));
    let path = parent.path().join("pki");
    assert!(matches!(Folder::open(&path), Err(FolderError::Busy { .. })));
    drop(folder);
    let plan = Plan { name: String::new(), trust_domain: String::new(), dns_domain: String::new() };
    assert!(matches!(Folder::init(&path, &plan, WEEK), Err(FolderError::NotEmpty { .. })));
    assert!(matches!(Folder::open(parent.path()), Err(FolderError::Read { .. })));
    for wrong in ["procmond", "a/b/c", "../x/y", "a/", "A/b"] {
        let refused = Folder::open(&path).unwrap().issue_collector(wrong, WEEK);
        assert!(matches!(refused, Err(FolderError::Name { .. })), "{wrong}");
    }
}

#[test]
fn a_revoked_certificate_stands_on_the_next_list_of_its_own_issuer() {
    let (parent, mut folder) = made();
    let [of_root, of_issuer] = folder.crls();
    assert_eq!((list(&of_root), list(&of_issuer)), ((1, vec![]), (1, vec![])));
    let first = folder.issue_collector("site-a/procmond-1", WEEK).unwrap().entry;
    let second = folder.renew("site-a/procmond-1", WEEK).unwrap().entry;
    assert_ne!(first.serial, second.serial);
    drop(folder);
    let mut folder = Folder::open(&parent.path().join("pki")).unwrap();
    assert_eq!(folder.revoke(&first.serial, Reason::Superseded, WEEK).unwrap(), 1);
    assert_eq!(list(&of_issuer), (2, vec![first.serial.clone()]));
    assert_eq!(folder.revoke("site-a/procmond-1", Reason::KeyCompromise, WEEK).unwrap(), 1);
    assert_eq!(list(&of_issuer), (3, vec![first.serial, second.serial]));
    assert_eq!(list(&of_root), (3, vec![]));
    let authority = folder.issued().iter().find(|entry| entry.kind == Kind::Authority).unwrap().clone();
    folder.revoke(&authority.serial, Reason::Unspecified, WEEK).unwrap();
    assert_eq!(list(&of_root), (4, vec![authority.serial]));
    let nobody = folder.revoke("site-a/procmond-1", Reason::KeyCompromise, WEEK);
    assert!(matches!(nobody, Err(FolderError::Unknown { .. })));
}

#[test]
fn a_serial_number_that_was_edited_by_hand_is_refused_with_its_line() {
    let (parent, mut folder) = made();
    let serial = folder.issue_collector("site-a/procmond-1", WEEK).unwrap().entry.serial;
    drop(folder);
    let path = parent.path().join("pki");
    let index = fs::read_to_string(path.join("index.json")).unwrap();
    let line = index.lines().position(|line| line.contains(&serial)).unwrap() + 1;
    for wrong in ["", "0", "not hex!", &"ab".repeat(21)] {
        fs::write(path.join("index.json"), index.replace(&serial, wrong)).unwrap();
        let Err(FolderError::Index { source, .. }) = Folder::open(&path) else {
            panic!("{wrong:?} was taken")
        };
        let says = source.to_string();
        assert!(says.starts_with(&format!("serial {wrong:?} must be")), "{says}");
        assert!(says.contains(&format!("at line {line} ")), "{says}");
    }
}

#[test]
fn no_certificate_outlives_its_authority() {
    let (_parent, mut folder) = made();
    let refused = folder.issue_collector("site-a/procmond-1", Duration::days(200));
    assert!(matches!(refused, Err(FolderError::TooLong { .. })), "{refused:?}");
}
