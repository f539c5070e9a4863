//! Whether a file that holds a secret can be read by more people than need it.

use std::{io, path::Path};

/// The owner of `path`, if that is neither root nor the user of this process: he could write into it whatever its permissions.
/// `None` if all is well, and where files have no such owners. Blocking.
///
/// # Errors
///
/// The file cannot be looked at.
#[cfg(unix)]
pub fn stranger(path: &Path) -> io::Result<Option<u32>> {
    use std::{fs, os::unix::fs::MetadataExt};

    let owner = fs::metadata(path)?.uid();
    // As below.
    let me = fs::metadata("/proc/self").map_or(owner, |own| own.uid());
    Ok((![0, me].contains(&owner)).then_some(owner))
}

/// The permissions of `path`, if others than its owner can read or write it; `None` if all is well, and where a file has no
/// such permissions. Blocking.
///
/// # Errors
///
/// The file cannot be looked at.
#[cfg(unix)]
pub fn exposed(path: &Path) -> io::Result<Option<u32>> {
    use std::{fs, os::unix::fs::MetadataExt};

    let seen = fs::metadata(path)?;
    // The owner of our own entry in /proc is the effective user; elsewhere the stricter answer is taken.
    let me = fs::metadata("/proc/self").map_or_else(|_| seen.uid(), |own| own.uid());
    let mode = seen.mode() & 0o777;
    Ok(is_exposed(mode, seen.uid(), me).then_some(mode))
}

/// The same where files have no such permissions: who may read one is written in access control lists, which are not looked
/// at; `docs/windows.md` says what to set.
///
/// # Errors
///
/// None.
#[cfg(not(unix))]
pub fn exposed(_path: &Path) -> io::Result<Option<u32>> {
    Ok(None)
}

/// Whether more people than needed can read a secret.
///
/// A file of root's that we may read through our group is how Kubernetes (`fsGroup`) and systemd (`LoadCredential`) hand
/// a secret to a process that is not root; nobody but root could give it a stricter mode.
#[cfg(unix)]
const fn is_exposed(mode: u32, owner: u32, me: u32) -> bool {
    let handed_over = owner == 0 && me != 0;
    let allowed = if handed_over { 0o740 } else { 0o700 };
    mode & 0o777 & !allowed != 0
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn a_file_of_ours_is_no_strangers_and_one_of_another_user_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(stranger(file.path()).unwrap(), None);
        if fs::metadata(file.path()).unwrap().uid() == 0 {
            std::os::unix::fs::chown(file.path(), Some(4711), None).unwrap();
            assert_eq!(stranger(file.path()).unwrap(), Some(4711));
        } else {
            // Root's is as good as ours.
            assert_eq!(stranger(Path::new("/")).unwrap(), None);
        }
    }

    #[test]
    fn a_secret_that_others_can_read_is_exposed() {
        assert!(!is_exposed(0o600, 1000, 1000));
        assert!(!is_exposed(0o400, 0, 0));
        assert!(is_exposed(0o640, 1000, 1000));
        assert!(is_exposed(0o644, 0, 1000));
        assert!(is_exposed(0o440, 0, 0));
    }

    #[test]
    fn a_secret_that_root_hands_over_through_a_group_is_not() {
        assert!(!is_exposed(0o440, 0, 1000));
        assert!(is_exposed(0o460, 0, 1000));
        assert!(is_exposed(0o444, 0, 1000));
    }
}
