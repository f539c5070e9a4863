//! A root, an intermediate below it, and leaves of every sort.

use std::{fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use crate::trust::Files;

/// An authority and how to sign with it.
pub(in crate::trust) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
    pem: String,
    /// Stands between its leaves and the root.
    between: Option<(CertificateDer<'static>, String)>,
}

impl Authority {
    pub(in crate::trust) fn root(name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), pem: certificate.pem(), params, key, between: None }
    }

    pub(in crate::trust) fn intermediate(&self, name: &str, until: i32) -> Self {
        let (mut params, key) = (authority(name), KeyPair::generate().unwrap());
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        let between = Some((certificate.der().clone(), certificate.pem()));
        Self { der: self.der.clone(), pem: self.pem.clone(), params, key, between }
    }

    pub(in crate::trust) fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// What it signs with.
    pub(in crate::trust) fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The certificate of the authority itself, be it root or intermediate.
    pub(in crate::trust) fn own(&self) -> &CertificateDer<'static> {
        self.between.as_ref().map_or(&self.der, |(der, _)| der)
    }

    /// A root that may sign no lists.
    pub(in crate::trust) fn without_crl_sign(name: &str) -> Self {
        let (mut params, key) = (authority(name), KeyPair::generate().unwrap());
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), pem: certificate.pem(), params, key, between: None }
    }

    /// Another certificate of the same name and key, by `issuer`; it does not let that key sign lists.
    pub(in crate::trust) fn certified_by(&self, issuer: &Self) -> CertificateDer<'static> {
        let mut params = self.params.clone();
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.signed_by(&self.key, &issuer.issuer()).unwrap().der().clone()
    }

    pub(in crate::trust) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(in crate::trust) fn pem(&self) -> &str {
        &self.pem
    }

    pub(in crate::trust) fn issue(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        let mut leaf =
            Leaf { chain: vec![certificate.der().clone()], pem: certificate.pem(), key: key.serialize_pem() };
        if let Some((der, pem)) = &self.between {
            leaf.chain.push(der.clone());
            leaf.pem.push_str(pem);
        }
        leaf
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2124, 1, 1);
    params
}

/// What the certificate number `serial` of a collector says.
pub(in crate::trust) fn numbered(serial: u64) -> CertificateParams {
    let mut params = client();
    params.serial_number = Some(serial.into());
    params
}

/// What a collector's certificate says.
pub(in crate::trust) fn client() -> CertificateParams {
    let mut params = named("collector");
    params.extended_key_usages = vec![Purpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI("spiffe://td/site/a/collector/b".try_into().unwrap())];
    params
}

/// What a gateway's certificate says.
pub(in crate::trust) fn server() -> CertificateParams {
    let mut params = named("gateway");
    params.extended_key_usages = vec![Purpose::ServerAuth];
    params.subject_alt_names = vec![
        SanType::DnsName("gw.example.com".try_into().unwrap()),
        SanType::URI("spiffe://td/gateway/one".try_into().unwrap()),
    ];
    params
}

/// A certificate with its key.
pub(in crate::trust) struct Leaf {
    pub(in crate::trust) chain: Vec<CertificateDer<'static>>,
    pub(in crate::trust) pem: String,
    pub(in crate::trust) key: String,
}

/// A folder with the three files.
pub(in crate::trust) struct Folder {
    pub(in crate::trust) dir: TempDir,
    pub(in crate::trust) files: Files,
}

impl Folder {
    pub(in crate::trust) fn new(leaf: &Leaf, anchors: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let files = Files { cert_file: at("cert.pem"), key_file: at("key.pem"), ca_file: at("ca.pem") };
        let folder = Self { dir, files };
        folder.write(leaf, anchors);
        folder
    }

    pub(in crate::trust) fn write(&self, leaf: &Leaf, anchors: &str) {
        fs::write(&self.files.cert_file, &leaf.pem).unwrap();
        fs::write(&self.files.key_file, &leaf.key).unwrap();
        fs::write(&self.files.ca_file, anchors).unwrap();
        mode(&self.files.key_file, 0o600);
    }
}

pub(in crate::trust) fn mode(path: &PathBuf, mode: u32) {
    use std::os::unix::fs::PermissionsExt;

    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
