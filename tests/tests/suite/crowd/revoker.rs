//! An authority that revokes, one certificate after another, in lists as long as they get.

use std::{fs, path::PathBuf};

use daemoneye_tests::world::{TRUST_DOMAIN, World};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
};
use time::{Duration, OffsetDateTime};

/// An authority and its list.
pub(crate) struct Revoker {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// What its next list says: entries are added, so that a hundred thousand are made but once.
    list: CertificateRevocationListParams,
    number: u64,
}

impl Revoker {
    /// One that has revoked so many certificates, which nobody has.
    pub(crate) fn new(entries: u64) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Revoker");
        let pem = params.self_signed(&key).unwrap().pem();
        let now = OffsetDateTime::now_utc();
        let list = CertificateRevocationListParams {
            this_update: now - Duration::minutes(1),
            next_update: now + Duration::days(1),
            crl_number: 0_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: (STRANGERS..STRANGERS + entries).map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Self { issuer: Issuer::new(params, key), pem, list, number: 0 }
    }

    /// The chain and the key of a collector of `site-a`, valid until then.
    pub(crate) fn issue(&self, name: &str, serial: u64, until: OffsetDateTime) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let uri = format!("spiffe://{TRUST_DOMAIN}/site/site-a/collector/{name}");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(serial.into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (OffsetDateTime::now_utc() - Duration::hours(1), until);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Makes `world` trust it, and its first list; returns the anchors of before, and where its lists are looked for.
    pub(crate) fn trusted_by(&mut self, world: &World) -> (String, PathBuf) {
        let place = world.path("tls/revoker.crl");
        let anchors = fs::read_to_string(world.path("tls/anchors.pem")).unwrap();
        fs::write(world.path("tls/anchors.pem"), [anchors.as_str(), &self.pem].concat()).unwrap();
        fs::write(&place, self.next_list()).unwrap();
        let config = fs::read_to_string(world.path("gateway.toml")).unwrap();
        let lists = format!("[tcp.tls_config]\ncrl = [\"{}\"]\n", place.display());
        fs::write(world.path("gateway.toml"), config.replace("[tcp.tls_config]\n", &lists)).unwrap();
        (anchors, place)
    }

    /// Revokes one more.
    pub(crate) fn revoke(&mut self, serial: u64) {
        self.list.revoked_certs.push(entry(serial));
    }

    /// Its next list, as DER.
    pub(crate) fn next_list(&mut self) -> Vec<u8> {
        self.number += 1;
        self.list.crl_number = self.number.into();
        self.list.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

/// Where the serial numbers of those begin whom nobody knows.
const STRANGERS: u64 = 1_000_000;

fn entry(serial: u64) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: serial.into(),
        revocation_time: OffsetDateTime::now_utc() - Duration::minutes(1),
        reason_code: None,
        invalidity_date: None,
    }
}
