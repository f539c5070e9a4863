//! Settings of the uplink.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    settings::{ByteSize, positive, positive_size},
    trust::{
        Files, Floor, ServerNames,
        revocation::{self, IssuerRule, Need, Rule, Source, Stale},
    },
    uplink::{Alternative, Gateway, Spread},
};

/// Settings of the uplink; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Where to dial; at least one.
    pub gateways: Vec<Gateway>,
    /// Where a draining gateway may send us besides.
    pub alternatives: Vec<Alternative>,
    /// How one of them is chosen.
    pub spread: Spread,
    /// How long a connection serves before the next is made beside it; zero: for as long as it lasts.
    pub connection_age: Duration,
    /// The same for a connection that is not to the first gateway, with [`Spread::Priority`].
    pub return_after: Duration,
    /// Names that a gateway's certificate may have; none: the dialled name.
    pub server_names: ServerNames,
    /// Own certificate and the authorities of gateways.
    pub files: Files,
    /// Lowest version of TLS.
    pub floor: Floor,
    /// Revocation lists of those who issue gateways' certificates, and what is demanded of them.
    pub revocation: revocation::Config,
    /// How often the files are looked at for a change.
    pub reload: Duration,
    /// Deadline of resolving, connecting and being welcomed.
    pub connect_timeout: Duration,
    /// Longest wait before the first retry.
    pub first_retry: Duration,
    /// Longest wait between retries.
    pub longest_retry: Duration,
    /// Longest wait after a refusal that does not pass by itself.
    pub refused_retry: Duration,
    /// Deadline of the last acknowledgements when a gateway goes away.
    pub drain_timeout: Duration,
    /// Most events of a batch.
    pub batch_events: usize,
    /// Most payload of a batch of more than one event.
    pub batch_bytes: ByteSize,
    /// How long a stream that has just sent a small batch waits for more to send.
    pub linger: Duration,
}

/// The section as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// `host:port` each, at least one.
    gateways: Vec<Gateway>,
    /// `host:port` or `*.domain:port`. A gateway that drains may name others to go to: only those that match are dialled.
    alternatives: Vec<Alternative>,
    /// `random`: any, so that leaves spread over them. `priority`: the first that can be had.
    spread: Spread,
    /// After about this long the next connection is made beside the old one: names are resolved again, and with `random` a
    /// gateway is chosen anew. 0: a connection serves for as long as it lasts.
    #[serde(with = "humantime_serde")]
    connection_age: Duration,
    /// With `priority`: how often a leaf that had to take a later gateway looks whether an earlier one can be had. 0: never.
    #[serde(with = "humantime_serde")]
    return_after: Duration,
    /// DNS names, `*.domain`, addresses or SPIFFE IDs. Empty: the certificate must be for the dialled name.
    server_names: ServerNames,
    /// Own certificate and whom to trust.
    tls_config: TlsFile,
    #[serde(deserialize_with = "positive")]
    connect_timeout: Duration,
    /// The first retry comes after at most this; each further one after at most the double.
    #[serde(deserialize_with = "positive")]
    first_retry: Duration,
    #[serde(deserialize_with = "positive")]
    longest_retry: Duration,
    /// Certificate or protocol refused: somebody has to change something first.
    #[serde(deserialize_with = "positive")]
    refused_retry: Duration,
    #[serde(deserialize_with = "positive")]
    drain_timeout: Duration,
    /// 1 to 4096; a small credit makes batches smaller.
    batch_events: usize,
    /// An event that is larger travels alone.
    #[serde(deserialize_with = "positive_size")]
    batch_bytes: ByteSize,
    /// 0 to 5 ms.
    #[serde(with = "humantime_serde")]
    linger: Duration,
}

/// The subsection `tls_config`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TlsFile {
    cert_file: std::path::PathBuf,
    key_file: std::path::PathBuf,
    ca_file: std::path::PathBuf,
    min_tls_version: Floor,
    /// SIGHUP looks at once. A revocation takes effect so much later.
    #[serde(deserialize_with = "positive")]
    reload_interval: Duration,
    /// Revocation lists: files, folders, or `http://` URLs.
    crl: Vec<Source>,
    /// Whether gateways' certificates must be covered by a list: `"required"`, `"if-present"`, `"short-lived(24h)"`.
    revocation: Need,
    /// What a list does once its next update has passed: `"fail"`, `"warn"`, `"grace(6h)"`.
    stale_crl: Stale,
    /// How often lists are fetched from URLs; 1 min to 7 days.
    #[serde(with = "humantime_serde")]
    crl_refresh: Duration,
    /// Where the last good copy of what was fetched is kept.
    crl_directory: std::path::PathBuf,
    /// What is demanded of single issuers instead.
    issuer: Vec<IssuerRule>,
}

impl TlsFile {
    fn revocation(&self) -> revocation::Config {
        revocation::Config {
            sources: self.crl.clone(),
            rule: Rule { need: self.revocation, stale: self.stale_crl },
            issuers: self.issuer.clone(),
            refresh: self.crl_refresh,
            directory: self.crl_directory.clone(),
        }
    }
}

impl Default for File {
    fn default() -> Self {
        Self {
            gateways: vec!["127.0.0.1:8443".parse().expect("a built-in address is well-formed")],
            alternatives: Vec::new(),
            spread: Spread::Random,
            connection_age: Duration::from_hours(1),
            return_after: Duration::from_mins(5),
            server_names: ServerNames::default(),
            tls_config: TlsFile::default(),
            connect_timeout: Duration::from_secs(10),
            first_retry: Duration::from_millis(100),
            longest_retry: Duration::from_secs(30),
            refused_retry: Duration::from_mins(1),
            drain_timeout: Duration::from_secs(10),
            batch_events: 256,
            batch_bytes: ByteSize::kib(256),
            linger: Duration::ZERO,
        }
    }
}

/// Where own certificate, key and authorities are if the file does not say.
const FOLDER: &str = if cfg!(windows) { r"C:\ProgramData\DaemonEye\tls" } else { "/etc/daemoneye/tls" };

/// Where copies of fetched lists are if the file does not say.
const LISTS: &str =
    if cfg!(windows) { r"C:\ProgramData\DaemonEye\crl" } else { "/var/lib/daemoneye/leaf/crl" };

impl Default for TlsFile {
    fn default() -> Self {
        let folder = std::path::Path::new(FOLDER);
        Self {
            cert_file: folder.join("client.crt"),
            key_file: folder.join("client.key"),
            ca_file: folder.join("ca.crt"),
            min_tls_version: Floor::default(),
            reload_interval: Duration::from_secs(10),
            crl: Vec::new(),
            revocation: Need::default(),
            stale_crl: Stale::default(),
            crl_refresh: Duration::from_hours(1),
            crl_directory: LISTS.into(),
            issuer: Vec::new(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::from_file(File::default())
    }
}

impl Config {
    /// The defaults, dialling `gateways` with `files`.
    #[must_use]
    pub fn new(gateways: Vec<Gateway>, files: Files) -> Self {
        Self { gateways, files, ..Self::default() }
    }

    fn from_file(file: File) -> Self {
        let tls = file.tls_config;
        Self {
            gateways: file.gateways,
            alternatives: file.alternatives,
            spread: file.spread,
            connection_age: file.connection_age,
            return_after: file.return_after,
            server_names: file.server_names,
            revocation: tls.revocation(),
            files: Files { cert_file: tls.cert_file, key_file: tls.key_file, ca_file: tls.ca_file },
            floor: tls.min_tls_version,
            reload: tls.reload_interval,
            connect_timeout: file.connect_timeout,
            first_retry: file.first_retry,
            longest_retry: file.longest_retry,
            refused_retry: file.refused_retry,
            drain_timeout: file.drain_timeout,
            batch_events: file.batch_events,
            batch_bytes: file.batch_bytes,
            linger: file.linger,
        }
    }
}

impl TryFrom<File> for Config {
    type Error = ConfigError;

    fn try_from(file: File) -> Result<Self, ConfigError> {
        if file.gateways.is_empty() {
            return Err(ConfigError::NoGateway);
        }
        if file.first_retry > file.longest_retry {
            return Err(ConfigError::Retry);
        }
        if !(1..=daemoneye_proto::MAX_BATCH_EVENTS).contains(&file.batch_events) {
            return Err(ConfigError::BatchEvents(file.batch_events));
        }
        if !(Duration::from_mins(1)..=Duration::from_hours(7 * 24)).contains(&file.tls_config.crl_refresh) {
            return Err(ConfigError::Refresh);
        }
        if file.linger > LONGEST_LINGER {
            return Err(ConfigError::Linger);
        }
        Ok(Self::from_file(file))
    }
}

/// Longer would be felt as latency, and nothing is gained.
const LONGEST_LINGER: Duration = Duration::from_millis(5);

/// A setting that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Out of bounds.
    #[error("batch_events = {0} is out of bounds; use 1 to {most}", most = daemoneye_proto::MAX_BATCH_EVENTS)]
    BatchEvents(usize),
    /// Too long.
    #[error("linger is longer than 5ms; use \"0ms\" to \"5ms\"")]
    Linger,
    /// Nowhere to go.
    #[error("gateways is empty; name at least one as \"host:port\"")]
    NoGateway,
    /// Lists would be fetched too often, or hardly ever.
    #[error("tls_config.crl_refresh is out of bounds; use \"1m\" to \"7d\"")]
    Refresh,
    /// Out of order.
    #[error("first_retry is longer than longest_retry; make it at most the same")]
    Retry,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    #[test]
    fn the_empty_section_is_the_default() {
        let empty: Config = settings::parse("", "bridge.toml").unwrap();
        assert_eq!(format!("{empty:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_remedy() {
        let refused = |text: &str| settings::parse::<Config>(text, "bridge.toml").unwrap_err().to_string();
        assert!(refused("gateways = []").contains("name at least one"));
        assert!(refused("gateways = [\"gw\"]").contains("gateways.0 = \"gw\": not a host and a port"));
        assert!(refused("batch_events = 0").contains("use 1 to 4096"));
        assert!(refused("linger = \"1s\"").contains("5ms"));
        assert!(refused("[tls_config]\ncrl_refresh = \"1s\"").contains("use \"1m\" to \"7d\""));
        assert!(refused("[tls_config]\nrevocation = \"never\"").contains("if-present"));
        assert!(refused("[tls_config]\nmin_tls_version = \"1.1\"").contains("tls_config.min_tls_version"));
    }
}
