//! Bearer tokens: who may ask for a change over the network, and for which.
//!
//! ```text
//!   NAME  ROLE  b3:HASH        # a line of admin.token_file; HASH is the BLAKE3 of the token, in hexadecimal
//! ```
//!
//! A token is 256 random bits, so its hash need not be slow, and whoever reads the file cannot ask in anybody's name.
//!
//! Kept true: the file is read anew whenever a token is shown, so that one that is taken out of it opens nothing from then on;
//! each of its hashes is compared, and each in constant time.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use daemoneye_bridge::settings;
use uuid::Uuid;

/// What somebody may do; the later may do all that the earlier may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Read.
    Viewer,
    /// Reload, try a policy, deny somebody, take a held command back.
    Operator,
    /// Force what would be held back, and send commands to collectors.
    Admin,
}

impl Role {
    /// The word, as the file has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            _ => Err(NoRole),
        }
    }
}

/// Something is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is \"viewer\", \"operator\" or \"admin\"")]
pub struct NoRole;

/// A token that was just made: what its owner keeps, and what the gateway keeps.
#[derive(Debug)]
pub struct Minted {
    /// The token; it is nowhere else.
    pub token: String,
    /// The line for `admin.token_file`.
    pub line: String,
}

impl Minted {
    /// Makes a token.
    ///
    /// # Errors
    ///
    /// [`Complaint::Name`], if `name` is none.
    pub fn mint(name: &str, role: Role) -> Result<Self, Complaint> {
        check_name(name)?;
        // 122 random bits each, from the operating system; three of them are more than the hash holds.
        let random = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()].map(Uuid::into_bytes).concat();
        let token = format!("{PREFIX}{}", blake3::hash(&random).to_hex());
        let line = format!("{name} {role} {HASH}{}", blake3::hash(token.as_bytes()).to_hex());
        Ok(Self { token, line })
    }
}

/// Who shows a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
}

/// The tokens of a file.
#[derive(Debug)]
pub struct Tokens(Vec<(Owner, blake3::Hash)>);

impl Tokens {
    /// Reads a file, which only its owner may read, who is root or our own user. Blocking.
    ///
    /// # Errors
    ///
    /// [`TokenError`] names the file, the line and the remedy.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let fault = |source| TokenError::Read { path: path.to_owned(), source };
        if !fs::metadata(path).map_err(fault)?.is_file() {
            return Err(TokenError::NoFile { path: path.to_owned() });
        }
        if let Some(mode) = settings::exposed(path).map_err(fault)? {
            return Err(TokenError::Exposed { path: path.to_owned(), mode });
        }
        if let Some(owner) = settings::stranger(path).map_err(fault)? {
            return Err(TokenError::Stranger { path: path.to_owned(), owner });
        }
        let mut text = String::new();
        let file = File::open(path).map_err(fault)?;
        file.take(LONGEST_FILE.saturating_add(1)).read_to_string(&mut text).map_err(fault)?;
        if text.len() as u64 > LONGEST_FILE {
            return Err(TokenError::TooLong { path: path.to_owned() });
        }
        Self::parse(&text).map_err(|(line, complaint)| TokenError::Line {
            path: path.to_owned(),
            line,
            complaint,
        })
    }

    fn parse(text: &str) -> Result<Self, (usize, Complaint)> {
        let (mut tokens, mut names) = (Vec::new(), HashSet::new());
        for (number, line) in (1..).zip(text.lines()) {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            let complain = |complaint| (number, complaint);
            let [name, role, hash] = words.as_slice() else {
                if words.is_empty() {
                    continue;
                }
                return Err(complain(Complaint::Form));
            };
            check_name(name).map_err(complain)?;
            if !names.insert(*name) {
                return Err(complain(Complaint::Twice));
            }
            let role = role.parse().map_err(|NoRole| complain(Complaint::Role))?;
            let hash = hash.strip_prefix(HASH).and_then(|hex| blake3::Hash::from_hex(hex).ok());
            let owner = Owner { name: (*name).into(), role };
            tokens.push((owner, hash.ok_or_else(|| complain(Complaint::Hash))?));
        }
        Ok(Self(tokens))
    }

    /// Whose tokens there are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(owner, _)| &*owner.name)
    }

    /// Whose token it is.
    pub(super) fn find(&self, token: &str) -> Option<&Owner> {
        let shown = blake3::hash(token.as_bytes());
        // Equality of these hashes takes the same time wherever they differ, and none is left out.
        let matching = self.0.iter().filter(|(_, hash)| *hash == shown).map(|(owner, _)| owner);
        matching.fold(None, |_, owner| Some(owner))
    }
}

fn check_name(name: &str) -> Result<(), Complaint> {
    let sound =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    let sound = (1..=63).contains(&name.len()) && name.bytes().all(sound);
    if sound { Ok(()) } else { Err(Complaint::Name) }
}

/// Begins every token, so that one that lies about is known for what it is.
const PREFIX: &str = "daemoneye_";

/// Begins every hash, so that another kind can follow one day.
const HASH: &str = "b3:";

/// Most bytes of a file: some six hundred tokens.
const LONGEST_FILE: u64 = 64 << 10;

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Complaint {
    /// Not three words.
    #[error("a line is `NAME ROLE b3:HASH`, as `daemoneye-cli token new` prints it")]
    Form,
    /// Not a hash.
    #[error("a hash is `b3:` and 64 hexadecimal digits, as `daemoneye-cli token new` prints it")]
    Hash,
    /// Not a name.
    #[error("a name is 1 to 63 of a-z, 0-9, `-`, `_` and `.`")]
    Name,
    /// Not a role.
    #[error("a role is `viewer`, `operator` or `admin`")]
    Role,
    /// A name that stands there already.
    #[error("another line has this name; the audit could not tell them apart")]
    Twice,
}

/// Why the tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Others can read it.
    #[error("admin.token_file {} can be read by others (mode {mode:04o}): chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A line that cannot be used.
    #[error("admin.token_file {}, line {line}: {complaint}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: usize,
        /// What is wrong.
        complaint: Complaint,
    },
    /// A folder, a pipe or a device.
    #[error("admin.token_file {} is no regular file; name one", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("could not read admin.token_file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is another user's, who could add to it.
    #[error(
        "admin.token_file {} belongs to user {owner}, who could add tokens to it: give it to root or to the gateway's user with chown",
        path.display()
    )]
    Stranger {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// It is longer than a file of tokens can be.
    #[error("admin.token_file {} is longer than {LONGEST_FILE} bytes: is it the right file?", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_found_by_its_hash_and_no_other_is() {
        let (anna, bot) =
            (Minted::mint("anna", Role::Admin).unwrap(), Minted::mint("bot", Role::Viewer).unwrap());
        assert_ne!(anna.token, bot.token);
        assert!(!anna.line.contains(&anna.token) && anna.token.len() == PREFIX.len() + 64);
        let text = format!("# who may what\n{}\n\n{} # reads\n", anna.line, bot.line);
        let tokens = Tokens::parse(&text).unwrap();
        let owner = tokens.find(&anna.token).unwrap();
        assert_eq!((&*owner.name, owner.role), ("anna", Role::Admin));
        assert_eq!(tokens.find(&bot.token).unwrap().role, Role::Viewer);
        let hash = anna.line.split_once(HASH).unwrap().1;
        for other in ["", "anna", hash, &anna.token[1..]] {
            assert_eq!(tokens.find(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_is_refused_with_its_line_and_one_that_others_can_read_at_all() {
        let line = Minted::mint("anna", Role::Operator).unwrap().line;
        for (second, complaint) in [
            ("anna admin", Complaint::Form),
            ("Anna admin b3:00", Complaint::Name),
            ("bot root b3:00", Complaint::Role),
            ("bot viewer b3:00", Complaint::Hash),
            ("bot viewer plain", Complaint::Hash),
            (&line, Complaint::Twice),
        ] {
            assert_eq!(Tokens::parse(&format!("{line}\n{second}")).unwrap_err(), (2, complaint), "{second}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, &line).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Tokens::load(&path).unwrap_err();
        assert!(error.to_string().contains("(mode 0644): chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Tokens::load(&path).unwrap();
        assert!(matches!(Tokens::load(folder.path()), Err(TokenError::NoFile { .. })));
        // Only root can give a file away.
        if std::os::unix::fs::chown(&path, Some(4711), None).is_ok() {
            let error = Tokens::load(&path).unwrap_err();
            assert!(error.to_string().contains("belongs to user 4711"), "{error}");
        }
    }
}
