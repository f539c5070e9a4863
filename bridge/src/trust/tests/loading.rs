use std::{fs, os::unix::fs::symlink, time::Duration};

use rcgen::{CertificateParams, date_time_ymd};
use tokio::{sync::mpsc, time};

use crate::trust::{
    LoadError, Material, Part, Reload, Role, Store,
    revocation::Order,
    tests::pki::{Authority, Folder, client, mode, server},
};

fn refused(params: &CertificateParams, role: Role) -> LoadError {
    let root = Authority::root("root");
    Material::load(&Folder::new(&root.issue(params), root.pem()).files, role).unwrap_err()
}

#[test]
fn a_whole_generation_is_loaded() {
    let root = Authority::root("root");
    let folder = Folder::new(&root.issue(&server()), root.pem());
    let material = Material::load(&folder.files, Role::Server).unwrap();
    assert_eq!(material.leaf().dns_names(), ["gw.example.com"]);
    assert_eq!(material.anchors().len(), 1);
    assert!(!format!("{material:?}").contains("PRIVATE"));
}

#[test]
fn a_certificate_that_is_not_for_its_role_or_its_time_is_refused() {
    assert!(matches!(refused(&server(), Role::Client), LoadError::Purpose { purpose: "clientAuth", .. }));
    let mut params = server();
    params.extended_key_usages.clear();
    assert!(matches!(refused(&params, Role::Server), LoadError::Purpose { .. }));
    params = server();
    params.not_after = date_time_ymd(2025, 1, 1);
    let error = refused(&params, Role::Server);
    assert!(error.to_string().contains("cert.pem (\"CN=gateway\") expired"), "{error}");
    assert!(error.to_string().ends_with("renew it"), "{error}");
    params = server();
    params.not_before = date_time_ymd(2120, 1, 1);
    assert!(matches!(refused(&params, Role::Server), LoadError::NotYetValid { .. }));
}

#[test]
fn an_own_certificate_that_the_other_end_would_refuse_is_refused_with_its_reason() {
    use rcgen::KeyUsagePurpose as Usage;

    let changed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = server();
        change(&mut params);
        refused(&params, Role::Server).to_string()
    };
    let error = changed(&|params| params.key_usages = vec![Usage::KeyEncipherment]);
    assert!(
        error.contains("cert.pem would be refused by the other end (key_usage): leaf `CN=gateway` lacks"),
        "{error}"
    );
    assert!(error.ends_with("issue it with key usage digitalSignature and without keyCertSign"), "{error}");
    let error = changed(&|params| params.key_usages = vec![Usage::DigitalSignature, Usage::KeyCertSign]);
    assert!(error.contains("(key_usage)"), "{error}");
    let error = changed(&|params| params.use_authority_key_identifier_extension = false);
    assert!(error.contains("(non_conforming)"), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_that_the_other_end_would_refuse_leaves_the_old_one_in_force() {
    let root = Authority::root("root");
    let folder = Folder::new(&root.issue(&server()), root.pem());
    let store = Store::open(folder.files.clone(), Role::Server).unwrap();
    let before = store.current();
    let mut params = server();
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyAgreement];
    folder.write(&root.issue(&params), root.pem());
    assert!(matches!(store.reload(Order::Forward).await, Err(LoadError::Profile { .. })));
    assert_eq!(store.current(), before);
    assert!(store.status().borrow().refused.as_ref().unwrap().0.contains("(key_usage)"));
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_remedy() {
    let root = Authority::root("root");
    let folder = Folder::new(&root.issue(&server()), root.pem());
    mode(&folder.files.key_file, 0o644);
    let error = Material::load(&folder.files, Role::Server).unwrap_err().to_string();
    assert!(error.contains("(mode 0644): chmod 600 ") && error.ends_with("key.pem"), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let root = Authority::root("root");
    let folder = Folder::new(&root.issue(&server()), root.pem());
    fs::write(&folder.files.key_file, root.issue(&server()).key).unwrap();
    assert!(matches!(Material::load(&folder.files, Role::Server), Err(LoadError::Mismatch { .. })));
}

#[test]
fn files_that_are_missing_empty_broken_or_swapped_are_each_named() {
    let root = Authority::root("root");
    let leaf = root.issue(&server());
    let folder = Folder::new(&leaf, root.pem());
    let load = || Material::load(&folder.files, Role::Server).unwrap_err();
    fs::write(&folder.files.ca_file, "").unwrap();
    assert!(matches!(load(), LoadError::NoCertificate { path } if path == folder.files.ca_file));
    fs::write(&folder.files.ca_file, &leaf.pem).unwrap();
    assert!(matches!(load(), LoadError::NoAuthority { .. }));
    fs::remove_file(&folder.files.ca_file).unwrap();
    assert!(matches!(load(), LoadError::Read { .. }));
    fs::write(&folder.files.key_file, &leaf.pem).unwrap();
    assert!(matches!(load(), LoadError::NoKey { .. }));
    fs::write(&folder.files.key_file, format!("{}{}", leaf.key, leaf.key)).unwrap();
    assert!(matches!(load(), LoadError::ManyKeys { .. }));
    fs::write(&folder.files.cert_file, "-----BEGIN CERTIFICATE-----\nMII\n").unwrap();
    assert!(matches!(load(), LoadError::Malformed { .. } | LoadError::NoCertificate { .. }));
    fs::write(&folder.files.cert_file, leaf.pem.repeat(6)).unwrap();
    assert!(matches!(load(), LoadError::LongChain { count: 6, .. }));
    fs::write(&folder.files.cert_file, vec![b'\n'; 9 << 20]).unwrap();
    assert!(matches!(load(), LoadError::TooLong { .. }));
}

#[tokio::test]
async fn a_reload_changes_keeps_or_refuses_and_the_old_stays() {
    let root = Authority::root("root");
    let folder = Folder::new(&root.issue(&server()), root.pem());
    let store = Store::open(folder.files.clone(), Role::Server).unwrap();
    let first = store.current();
    assert_eq!(store.reload(Order::Forward).await.unwrap(), Reload::Unchanged);

    folder.write(&root.issue(&client()), root.pem());
    store.reload(Order::Forward).await.unwrap_err();
    assert_eq!(store.current(), first);
    let status = store.status().borrow().clone();
    assert!(status.refused.unwrap().0.contains("serverAuth"));
    assert_eq!(status.generation, 1);

    folder.write(&root.issue(&server()), root.pem());
    assert_eq!(
        store.reload(Order::Forward).await.unwrap(),
        Reload::Changed { generation: 2, what: vec![Part::Chain, Part::Key] }
    );
    assert_ne!(store.current(), first);
    assert_eq!(store.status().borrow().generation, 2);
    assert!(store.status().borrow().refused.is_none());
}

#[tokio::test]
async fn a_swapped_link_is_followed() {
    let root = Authority::root("root");
    let (old, new) = (root.issue(&server()), root.issue(&server()));
    let (old, new) = (Folder::new(&old, root.pem()), Folder::new(&new, root.pem()));
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("..data");
    symlink(old.dir.path(), &data).unwrap();
    let mut files = old.files.clone();
    for path in [&mut files.cert_file, &mut files.key_file, &mut files.ca_file] {
        *path = data.join(path.file_name().unwrap());
    }
    let store = Store::open(files, Role::Server).unwrap();
    // As the kubelet does it: a new link, renamed over the old one.
    let next = home.path().join("..next");
    symlink(new.dir.path(), &next).unwrap();
    fs::rename(&next, &data).unwrap();

    let (told, mut outcomes) = mpsc::channel(1);
    let follow = store.follow(Duration::from_millis(100), move |outcome| {
        told.try_send(matches!(outcome, Ok(Reload::Changed { .. }))).unwrap();
    });
    let heard = time::timeout(Duration::from_secs(20), outcomes.recv());
    tokio::select! {
        () = follow => panic!("following never ends"),
        changed = heard => assert_eq!(changed.unwrap(), Some(true)),
    }
    assert_eq!(*store.current(), Material::load(&new.files, Role::Server).unwrap());
}
