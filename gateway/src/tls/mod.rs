//! Handshakes: mutual TLS, and an account of every refusal.
//!
//! Turns an [`Accepted`](crate::listener::Accepted) connection into a [`Secured`] one, whose chain was verified and whose
//! key was proven to be held. It is a stage of its own so that material can be replaced under running connections, and so
//! that why a stranger was refused is known here and told to nobody but the operator.
//!
//! Kept true: a [`Secured`] connection has a [`VerifiedChain`](daemoneye_bridge::trust::VerifiedChain); each handshake uses
//! the material in force when its greeting arrived.

mod acceptor;
mod material;
mod metrics;
mod refusals;

use std::{path::PathBuf, time::Duration};

use daemoneye_bridge::trust::{Files, Floor};
use serde::Deserialize;

pub use self::{
    acceptor::{Acceptor, Deadlines, Secured},
    metrics::Metrics,
    refusals::{Refusal, Refusals, Stage},
};

/// Settings of TLS; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Where certificate, key and authorities lie.
    pub files: Files,
    /// Lowest version that is spoken.
    pub floor: Floor,
    /// How often the files are looked at.
    pub reload_interval: Duration,
}

/// The section `[tcp.tls_config]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the keys that operators know")]
struct File {
    /// PEM of the gateway's certificate, its intermediates after it. Default: `/etc/daemoneye/tls/tls.crt`.
    cert_file: PathBuf,
    /// PEM of its private key, readable by its owner alone. Default: `/etc/daemoneye/tls/tls.key`.
    key_file: PathBuf,
    /// PEM of the authorities that collectors' certificates lead to. Default: `/etc/daemoneye/tls/ca.crt`.
    ca_file: PathBuf,
    /// Whether collectors must present a certificate. Default, and the only value: `true`.
    verify_client: bool,
    /// Lowest version of TLS: `"1.2"` or `"1.3"`. Default `"1.2"`.
    min_tls_version: Floor,
    /// How often the three files are looked at; SIGHUP looks at once. Default 5 s, 1 s to 1 h.
    #[serde(with = "humantime_serde")]
    reload_interval: Duration,
}

impl Default for File {
    fn default() -> Self {
        let folder = PathBuf::from("/etc/daemoneye/tls");
        Self {
            cert_file: folder.join("tls.crt"),
            key_file: folder.join("tls.key"),
            ca_file: folder.join("ca.crt"),
            verify_client: true,
            min_tls_version: Floor::Tls12,
            reload_interval: Duration::from_secs(5),
        }
    }
}

impl TryFrom<File> for Config {
    type Error = &'static str;

    fn try_from(file: File) -> Result<Self, &'static str> {
        if !file.verify_client {
            return Err("verify_client must be true: mutual TLS is mandatory on the federation port");
        }
        if !(Duration::from_secs(1)..=Duration::from_hours(1)).contains(&file.reload_interval) {
            return Err("reload_interval must be 1 s to 1 h");
        }
        let File { cert_file, key_file, ca_file, min_tls_version, reload_interval, .. } = file;
        Ok(Self { files: Files { cert_file, key_file, ca_file }, floor: min_tls_version, reload_interval })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::try_from(File::default()).expect("the defaults are within their own bounds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_without_client_certificates_or_below_1_2_is_refused() {
        let read = |json: &str| serde_json::from_str::<Config>(json).map_err(|error| error.to_string());
        assert!(read(r#"{"verify_client": false}"#).unwrap_err().contains("mutual TLS is mandatory"));
        assert!(read(r#"{"min_tls_version": "1.1"}"#).unwrap_err().contains("older ones are not spoken"));
        assert_eq!(read(r#"{"min_tls_version": "1.3"}"#).unwrap().floor, Floor::Tls13);
    }
}
