//! Folders that are not as they should be.

use super::*;

#[tokio::test]
async fn a_spool_has_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    let refused = Spool::open(small(directory.path())).err().unwrap();
    assert!(matches!(refused, SpoolError::Locked { .. }), "{refused}");
    open.fill(Class::Telemetry, 5, 5).await;
    open.close().await;
    Open::at(directory.path()).close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_may_look_in() {
    use std::os::unix::fs::PermissionsExt as _;

    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b/spool");
    // An empty one may be closed, whoever made it.
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let open = Open::at(&directory);
    open.fill(Class::Telemetry, 500, 5).await;
    open.spool.reject(Class::Telemetry, vec![(1, 1, String::new())]).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&directory), 0o700);
    let files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 4);
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    open.close().await;

    fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)).unwrap();
    let refused = Spool::open(small(&directory)).err().unwrap();
    assert!(matches!(refused, SpoolError::OpenToOthers { mode: 0o750, .. }), "{refused}");
    assert!(refused.to_string().contains("chmod 700"));
    assert_eq!(mode(&directory), 0o750);
}

#[tokio::test]
async fn a_folder_that_cannot_be_one_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    for directory in [file.clone(), file.join("below")] {
        let refused = Spool::open(small(&directory)).err().unwrap();
        assert!(refused.to_string().contains(directory.to_str().unwrap()), "{refused}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_cannot_be_read_is_named() {
    // A link to itself is read by nobody, root included.
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("spool");
    std::os::unix::fs::symlink(&directory, &directory).unwrap();
    let refused = Spool::open(small(&directory)).err().unwrap();
    assert!(refused.to_string().contains(directory.to_str().unwrap()), "{refused}");
    assert!(matches!(refused, SpoolError::Io { .. }), "{refused}");
}

#[tokio::test]
async fn foreign_files_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let names =
        ["notes.txt", "telemetry-5.seg", "telemetry-00000000000000000000.seg", "ü-00000000000000000001.seg"];
    Open::at(directory.path()).close().await;
    for name in names {
        fs::write(directory.path().join(name), "foreign").unwrap();
    }
    fs::create_dir(directory.path().join("telemetry-00000000000000000009.seg")).unwrap();
    let open = Open::at(directory.path());
    open.fill(Class::Telemetry, 3000, 5).await;
    open.read(Class::Telemetry, 1).await;
    open.close().await;
    for name in names {
        assert_eq!(fs::read_to_string(directory.path().join(name)).unwrap(), "foreign");
    }
}

#[tokio::test]
async fn a_segment_of_another_version_is_refused_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let open = Open::at(directory.path());
    open.fill(Class::Telemetry, 500, 5).await;
    open.close().await;
    let paths = segments(directory.path(), Class::Telemetry);
    for path in [&paths[0], paths.last().unwrap()] {
        let before = fs::read(path).unwrap();
        let mut bytes = before.clone();
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[..60]).to_le_bytes();
        bytes[60..64].copy_from_slice(&crc);
        fs::write(path, &bytes).unwrap();
        let refused = Spool::open(small(directory.path())).err().unwrap();
        assert!(
            matches!(&refused, SpoolError::Version { found: 2, path: named } if named == path),
            "{refused}"
        );
        assert_eq!(fs::read(path).unwrap(), bytes);
        fs::write(path, before).unwrap();
    }
}
