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
mod pace;
mod refusals;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use daemoneye_bridge::trust::{
    AnchorFile, Files, Floor, Plan, Profile, Rights, Role,
    revocation::{self, IssuerRule, Need, Rule, Source, Stale},
};
use serde::Deserialize;

pub use self::{
    acceptor::{Acceptor, Deadlines, Offer, Protocol, Secured},
    metrics::Metrics,
    refusals::{Refusal, Refusals, Stage},
};

/// Settings of TLS; every value is usable as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "File")]
pub struct Config {
    /// Where certificate, key and authorities lie.
    pub files: Files,
    /// Authorities that may speak for some sites or trust domains only.
    pub anchors: Vec<AnchorFile>,
    /// What the chain profile leaves to the operator.
    pub profile: Profile,
    /// Lowest version that is spoken.
    pub floor: Floor,
    /// Revocation lists, and what is demanded of them.
    pub revocation: revocation::Config,
    /// How often the files are looked at.
    pub reload_interval: Duration,
}

impl Config {
    /// What the material is loaded from.
    #[must_use]
    pub fn into_plan(self) -> Plan {
        Plan { files: self.files, anchors: self.anchors, role: Role::Server, revocation: self.revocation }
    }
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
    /// PEM of the authorities that collectors' certificates lead to, whatever their site. Empty if each stands in
    /// `anchors`. Default: `/etc/daemoneye/tls/ca.crt`.
    ca_file: PathBuf,
    /// Authorities that may speak for some sites or trust domains only. Default: none.
    anchors: Vec<AnchorsFile>,
    /// How long a collector's certificate may be valid from begin to end. Default: no limit.
    #[serde(with = "humantime_serde")]
    max_leaf_lifetime: Option<Duration>,
    /// Whether collectors must present a certificate. Default, and the only value: `true`.
    verify_client: bool,
    /// Lowest version of TLS: `"1.2"` or `"1.3"`. Default `"1.2"`.
    min_tls_version: Floor,
    /// How often all these files are looked at; SIGHUP looks at once. A revocation takes effect so much later. Default
    /// 100 ms, 50 ms to 1 h.
    #[serde(with = "humantime_serde")]
    reload_interval: Duration,
    /// Revocation lists: files, folders, or `http://` URLs. Default: none.
    crl: Vec<Source>,
    /// Whether certificates must be covered by a list: `"required"`, `"if-present"`, `"short-lived(24h)"`. Default
    /// `"if-present"`.
    revocation: Need,
    /// What a list does once its next update has passed: `"fail"`, `"warn"`, `"grace(6h)"`. Default `"fail"`.
    stale_crl: Stale,
    /// How often lists are fetched from URLs. Default 1 h, 1 min to 7 days.
    #[serde(with = "humantime_serde")]
    crl_refresh: Duration,
    /// Where the last good copy of what was fetched is kept. Default `/var/lib/daemoneye/gateway/crl`.
    crl_directory: PathBuf,
    /// What is demanded of single issuers instead. Default: nothing else.
    issuer: Vec<IssuerRule>,
}

/// The section `[[tcp.tls_config.anchors]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnchorsFile {
    /// How policy and refusals call these authorities.
    name: String,
    /// PEM of the authorities.
    ca_file: PathBuf,
    /// Sites that they may speak for; `*` may stand at the end of one. Default: all.
    #[serde(default)]
    sites: Vec<String>,
    /// SPIFFE trust domains that they may speak for. Default: all.
    #[serde(default)]
    trust_domains: Vec<String>,
}

impl AnchorsFile {
    fn read(self) -> Result<AnchorFile, String> {
        if self.sites.is_empty() && self.trust_domains.is_empty() {
            return Err(format!(
                "anchors {:?} need sites or trust_domains: put others into ca_file",
                self.name
            ));
        }
        let rights = Rights::new(&self.name, &self.sites, &self.trust_domains)
            .map_err(|error| format!("anchors {:?}: {error}", self.name))?;
        Ok(AnchorFile { ca_file: self.ca_file, rights: Arc::new(rights) })
    }
}

impl Default for File {
    fn default() -> Self {
        let folder = PathBuf::from("/etc/daemoneye/tls");
        let revocation::Config { sources, rule, issuers, refresh, directory } = revocation::Config::default();
        Self {
            cert_file: folder.join("tls.crt"),
            key_file: folder.join("tls.key"),
            ca_file: folder.join("ca.crt"),
            anchors: Vec::new(),
            max_leaf_lifetime: None,
            verify_client: true,
            min_tls_version: Floor::Tls12,
            reload_interval: Duration::from_millis(100),
            crl: sources,
            revocation: rule.need,
            stale_crl: rule.stale,
            crl_refresh: refresh,
            crl_directory: directory,
            issuer: issuers,
        }
    }
}

impl TryFrom<File> for Config {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        if !file.verify_client {
            return Err(
                "verify_client must be true: mutual TLS is mandatory on the federation port".to_owned()
            );
        }
        if !(Duration::from_millis(50)..=Duration::from_hours(1)).contains(&file.reload_interval) {
            return Err("reload_interval must be 50 ms to 1 h".to_owned());
        }
        if !(Duration::from_mins(1)..=Duration::from_hours(7 * 24)).contains(&file.crl_refresh) {
            return Err("crl_refresh must be 1 min to 7 days".to_owned());
        }
        if file.max_leaf_lifetime.is_some_and(|longest| longest < Duration::from_mins(1)) {
            return Err("max_leaf_lifetime must be 1 min or more".to_owned());
        }
        if file.ca_file.as_os_str().is_empty() && file.anchors.is_empty() {
            return Err("ca_file may be empty only where anchors stand in its place".to_owned());
        }
        let names: BTreeSet<&str> = file.anchors.iter().map(|anchors| &*anchors.name).collect();
        if names.len() != file.anchors.len() || names.contains("") {
            return Err("each entry of anchors needs a name of its own".to_owned());
        }
        let profile = Profile { max_leaf_lifetime: file.max_leaf_lifetime, ..Profile::default() };
        let anchors = file.anchors.into_iter().map(AnchorsFile::read).collect::<Result<_, _>>()?;
        let File { cert_file, key_file, ca_file, min_tls_version: floor, reload_interval, .. } = file;
        let revocation = revocation::Config {
            sources: file.crl,
            rule: Rule { need: file.revocation, stale: file.stale_crl },
            issuers: file.issuer,
            refresh: file.crl_refresh,
            directory: file.crl_directory,
        };
        let files = Files { cert_file, key_file, ca_file };
        Ok(Self { files, anchors, profile, floor, revocation, reload_interval })
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

    #[test]
    fn what_is_demanded_of_revocation_lists_is_read() {
        let read = |json: &str| serde_json::from_str::<Config>(json).map_err(|error| error.to_string());
        let config = read(
            r#"{"crl": ["/a/crls", "http://pki/a.crl"], "revocation": "required", "stale_crl": "grace(6h)",
                "issuer": [{"issuer_file": "/b.pem", "revocation": "short-lived(24h)"}]}"#,
        );
        let revocation = config.unwrap().revocation;
        assert_eq!(revocation.sources.len(), 2);
        assert_eq!(revocation.rule.stale, Stale::Grace(Duration::from_hours(6)));
        let [issuer] = revocation.issuers.as_slice() else { panic!("one issuer") };
        assert_eq!(
            (issuer.revocation, issuer.stale_crl),
            (Need::ShortLived(Duration::from_hours(24)), Stale::Fail)
        );
        assert!(read(r#"{"crl": ["https://pki/a.crl"]}"#).unwrap_err().contains("no http:// URL"));
        assert!(read(r#"{"revocation": "never"}"#).unwrap_err().contains("if-present"));
        assert!(read(r#"{"crl_refresh": "1s"}"#).unwrap_err().contains("1 min to 7 days"));
    }

    #[test]
    fn anchors_are_limited_and_told_apart() {
        let read = |json: &str| serde_json::from_str::<Config>(json).map_err(|error| error.to_string());
        let corp = r#"{"name": "corp", "ca_file": "/x", "sites": ["site-a", "lab-*"]}"#;
        let config =
            read(&format!(r#"{{"ca_file": "", "anchors": [{corp}], "max_leaf_lifetime": "90d"}}"#)).unwrap();
        let rights = &config.anchors[0].rights;
        assert!(rights.may_name_site("lab-1") && !rights.may_name_site("site-b"));
        assert_eq!(config.profile.max_leaf_lifetime, Some(Duration::from_hours(90 * 24)));
        for (json, complaint) in [
            (format!(r#"{{"anchors": [{corp}, {corp}]}}"#), "a name of its own"),
            (r#"{"ca_file": ""}"#.to_owned(), "only where anchors stand"),
            (r#"{"anchors": [{"name": "all", "ca_file": "/x"}]}"#.to_owned(), "put others into ca_file"),
            (r#"{"anchors": [{"name": "x", "ca_file": "/x", "sites": ["*"]}]}"#.to_owned(), "site \"*\""),
            (r#"{"max_leaf_lifetime": "1s"}"#.to_owned(), "1 min or more"),
        ] {
            let error = read(&json).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
