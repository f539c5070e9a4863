//! Against real files.

use serde_json::json;

use super::*;

fn filled(entries: u64) -> (tempfile::TempDir, Audit) {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::open(folder.path()).unwrap();
    for number in 0..entries {
        audit.append("cli:anna", Action::DenyAdded, &json!({ "site": number })).unwrap();
    }
    (folder, audit)
}

fn flaw(path: &Path) -> (u64, Flaw) {
    match verify(path) {
        Err(Break::At { line, flaw }) => (line, flaw),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_chain_goes_on_after_a_restart() {
    let (folder, audit) = filled(3);
    let before = audit.head();
    drop(audit);
    let audit = Audit::open(folder.path()).unwrap();
    assert_eq!(audit.head(), before);
    let head = audit.append("gateway", Action::PolicyApplied, &json!({})).unwrap();
    assert_eq!((head.sequence, verify(audit.path()).unwrap().head), (4, head));
    assert_eq!(fs::metadata(audit.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_entry_says_who_did_what_and_when() {
    let (_folder, audit) = filled(1);
    let text = fs::read_to_string(audit.path()).unwrap();
    let entry: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!(entry["sequence"], 1);
    assert_eq!(entry["actor"], "cli:anna");
    assert_eq!(entry["action"], "deny_added");
    assert_eq!(entry["payload"]["site"], 0);
    assert_eq!(entry["previous_hash"], "0".repeat(64));
    assert_eq!(entry["entry_hash"], audit.head().hex());
    assert!(entry["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn whatever_is_edited_is_found_at_its_line() {
    let (_folder, audit) = filled(5);
    let text = fs::read_to_string(audit.path()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let with = |changed: &[String]| fs::write(audit.path(), changed.join("\n") + "\n").unwrap();
    let changed = |place: usize, line: String| {
        let mut all: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        all[place] = line;
        all
    };

    with(&changed(2, lines[2].replace("{\"site\":2}", "{\"site\":7}")));
    assert_eq!(flaw(audit.path()), (3, Flaw::Payload));
    with(&changed(2, lines[2].replace("cli:anna", "cli:eve")));
    assert_eq!(flaw(audit.path()), (3, Flaw::Entry));
    let mut all = changed(0, lines[0].to_owned());
    all.remove(1);
    with(&all);
    assert_eq!(flaw(audit.path()), (2, Flaw::Sequence { expected: 2, found: 3 }));
    with(&changed(3, "no entry".to_owned()));
    assert_eq!(flaw(audit.path()), (4, Flaw::Unreadable));
    // An entry that agrees with itself, in place of one that others follow.
    let (_folder, other) = filled(2);
    let second = fs::read_to_string(other.path()).unwrap().lines().nth(1).unwrap().to_owned();
    with(&changed(1, second));
    assert_eq!(flaw(audit.path()), (2, Flaw::Previous));
}

#[test]
fn what_a_crash_cut_short_is_removed_and_told() {
    let (folder, audit) = filled(2);
    let path = audit.path().to_owned();
    drop(audit);
    let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
    torn.write_all(b"{\"sequence\":3,\"time").unwrap();
    assert_eq!(flaw(&path), (3, Flaw::Torn));
    let audit = Audit::open(folder.path()).unwrap();
    assert_eq!(audit.head().sequence, 3);
    assert_eq!(verify(&path).unwrap().head, audit.head());
    assert!(fs::read_to_string(&path).unwrap().contains("audit_recovered"));
}

#[test]
fn an_entry_that_lacks_nothing_but_its_end_of_line_is_kept() {
    for entries in [1, 3] {
        let (folder, audit) = filled(entries);
        let (path, head) = (audit.path().to_owned(), audit.head());
        drop(audit);
        let length = fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        assert_eq!(verify(&path).unwrap().head, head);
        let audit = Audit::open(folder.path()).unwrap();
        assert_eq!(audit.head(), head);
        audit.append("a", Action::DenyAdded, &json!({})).unwrap();
        assert_eq!(verify(&path).unwrap().head, audit.head());
        assert_eq!(audit.head().sequence, entries + 1);
    }
}

#[test]
fn a_file_that_was_deleted_replaced_or_changed_under_the_gateway_refuses_changes() {
    let append = |audit: &Audit| audit.append("a", Action::DenyAdded, &json!({}));
    let (folder, audit) = filled(2);
    let aside = folder.path().join("aside");
    fs::rename(audit.path(), &aside).unwrap();
    assert!(matches!(append(&audit), Err(AuditError::Replaced { .. })));
    assert!(!audit.path().exists(), "no other is begun");
    fs::copy(&aside, audit.path()).unwrap();
    let refused = append(&audit).unwrap_err();
    assert!(refused.to_string().contains("was deleted or replaced while the gateway ran"), "{refused}");
    fs::rename(&aside, audit.path()).unwrap();
    assert_eq!(append(&audit).unwrap().sequence, 3, "put back, it goes on");

    let length = fs::metadata(audit.path()).unwrap().len();
    let file = OpenOptions::new().append(true).open(audit.path()).unwrap();
    file.set_len(length - 7).unwrap();
    let refused = append(&audit).unwrap_err();
    assert!(matches!(refused, AuditError::Changed { .. }), "{refused}");
    (&file).write_all(b"more than was there").unwrap();
    assert!(matches!(append(&audit), Err(AuditError::Changed { .. })));
}

#[test]
fn a_file_that_does_not_end_in_an_entry_is_not_continued() {
    let (folder, audit) = filled(1);
    fs::write(audit.path(), "something else\n").unwrap();
    drop(audit);
    let refused = Audit::open(folder.path()).unwrap_err();
    assert!(matches!(refused, AuditError::Broken { flaw: Flaw::Unreadable, .. }), "{refused}");
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_the_chain_whole() {
    let (_folder, audit) = filled(2);
    let path = audit.path().to_owned();
    let head = audit.head();
    // A handle that may only read: every write fails, as on a disk that is gone.
    let whole = {
        let mut writer = audit.0.writer.lock().unwrap();
        std::mem::replace(&mut writer.file, File::open(&path).unwrap())
    };
    let refused = audit.append("a", Action::DenyAdded, &json!({})).unwrap_err();
    assert!(matches!(refused, AuditError::Write { .. }), "{refused}");
    assert_eq!(audit.head(), head);
    audit.0.writer.lock().unwrap().file = whole;
    assert_eq!(audit.append("a", Action::DenyAdded, &json!({})).unwrap().sequence, 3);
    assert_eq!(verify(&path).unwrap().head, audit.head());
}

#[test]
fn an_audit_that_cannot_be_written_says_so_until_it_can() {
    let (folder, audit) = filled(2);
    let trouble = audit.trouble();
    audit.tend();
    assert!(trouble.borrow().is_none());
    let aside = folder.path().join("aside");
    fs::rename(audit.path(), &aside).unwrap();
    audit.tend();
    let told = trouble.borrow().clone().unwrap().cause;
    assert!(told.contains(audit.path().to_str().unwrap()) && told.contains("put it back"), "{told}");
    fs::rename(&aside, audit.path()).unwrap();
    audit.tend();
    assert!(trouble.borrow().is_none());
    assert_eq!(audit.head().sequence, 2, "nothing was missed");

    let whole = {
        let mut writer = audit.0.writer.lock().unwrap();
        std::mem::replace(&mut writer.file, File::open(audit.path()).unwrap())
    };
    audit.append("a", Action::DenyAdded, &json!({})).unwrap_err();
    let since = trouble.borrow().clone().unwrap().since;
    audit.tend();
    let told = trouble.borrow().clone().unwrap();
    assert!(told.since == since && told.cause.contains("free space or repair the disk: "), "{told:?}");
    audit.0.writer.lock().unwrap().file = whole;
    audit.tend();
    assert!(trouble.borrow().is_none());
    audit.tend();
    assert_eq!((audit.head().sequence, verify(audit.path()).unwrap().head), (3, audit.head()), "told once");
    let text = fs::read_to_string(audit.path()).unwrap();
    assert!(text.contains("audit_resumed") && text.contains("\"missed\":1"), "{text}");
}

#[test]
fn what_is_too_long_for_an_entry_is_refused() {
    let (_folder, audit) = filled(0);
    let long = "x".repeat(1 << 20);
    let refused = audit.append("a", Action::DenyAdded, &long).unwrap_err();
    assert!(matches!(refused, AuditError::Payload { .. }), "{refused}");
    // The longest that is taken can be read back.
    let most = "\u{1}".repeat(8 << 10);
    audit.append(&"\u{1}".repeat(512), Action::DenyAdded, &most[..8000].to_owned()).unwrap();
    assert_eq!(verify(audit.path()).unwrap().head, audit.head());
}
