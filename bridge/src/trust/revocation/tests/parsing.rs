use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, date_time_ymd,
};

use crate::trust::{
    revocation::{
        Crl, CrlError, Issuer, Number,
        tests::forge::{Entry, Forge, extension, point, tlv},
    },
    tests::pki::Authority,
};

fn parsed(forge: &Forge) -> Result<Crl, CrlError> {
    Crl::parse(&forge.by(&Authority::root("root")))
}

fn with(change: impl FnOnce(&mut Forge)) -> Result<Crl, CrlError> {
    let mut forge = Forge::new(7, &[1, 300, 5]);
    change(&mut forge);
    parsed(&forge)
}

#[test]
fn a_list_of_another_tool_is_read() {
    let root = Authority::root("root");
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2026, 2, 1),
        crl_number: 0x1234.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: 77.into(),
            revocation_time: date_time_ymd(2025, 12, 31),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let signed = list.signed_by(&root.issuer()).unwrap();
    let crl = Crl::parse(signed.der()).unwrap();
    assert_eq!((crl.issuer(), crl.number().to_string().as_str()), ("CN=root", "1234"));
    let entry = crl.find(&Number::of(&[77]).unwrap()).unwrap();
    assert_eq!(entry.reason(), "keyCompromise");
    assert_eq!(crl.next_update().duration_since(crl.this_update()).unwrap(), Duration::from_hours(31 * 24));
    assert!(crl.find(&Number::of(&[78]).unwrap()).is_none());
    Crl::verify(signed.der(), &Issuer::parse(root.der()).unwrap()).unwrap();
}

#[test]
fn entries_are_found_whatever_their_order() {
    let crl = with(|_| ()).unwrap();
    for serial in [vec![1], vec![1, 44], vec![0, 5]] {
        assert!(crl.find(&Number::of(&serial).unwrap()).is_some(), "{serial:?}");
    }
    assert_eq!(crl.entries().len(), 3);
    assert_eq!(with(|forge| forge.entries.clear()).unwrap().entries(), []);
}

#[test]
fn each_kind_of_list_that_cannot_be_used_is_refused_with_its_own_reason() {
    let flag = |tag: u8| tlv(tag, &[0xff]);
    let reason = |code: u8| extension(21, false, &tlv(0x0a, &[code]));
    let entry = |extensions| Entry(vec![9], vec![extensions]);
    let cases: Vec<(Result<Crl, CrlError>, CrlError)> = vec![
        (with(|f| f.extensions.push(extension(27, true, &tlv(0x02, &[1])))), CrlError::Delta),
        (with(|f| f.extensions.push(point(&flag(0x84)))), CrlError::Indirect),
        (with(|f| f.extensions.push(point(&tlv(0x83, &[0, 0x60])))), CrlError::Partial),
        (with(|f| f.extensions.push(extension(99, true, &[5, 0]))), CrlError::UnknownExtension),
        (with(|f| f.entries.push(entry(extension(99, true, &[5, 0])))), CrlError::UnknownExtension),
        (with(|f| f.entries.push(entry(extension(29, true, &tlv(0x30, &[]))))), CrlError::Indirect),
        (with(|f| f.entries.push(entry(reason(8)))), CrlError::RemoveFromCrl),
        (with(|f| f.entries.push(Entry(vec![1; 21], vec![]))), CrlError::LongSerial),
        (with(|f| f.number = None), CrlError::NoNumber),
        (with(|f| f.critical_number = true), CrlError::CriticalNumber),
        (with(|f| f.next_update = f.this_update - Duration::from_secs(1)), CrlError::Dates),
    ];
    for (place, (got, wanted)) in cases.into_iter().enumerate() {
        assert_eq!(got.unwrap_err(), wanted, "case {place}");
    }
}

#[test]
fn extensions_that_are_not_critical_and_reasons_that_are_known_do_no_harm() {
    with(|f| f.extensions.push(extension(99, false, &[5, 0]))).unwrap();
    with(|f| f.entries.push(Entry(vec![9], vec![extension(99, false, &[5, 0])]))).unwrap();
    let held =
        with(|f| f.entries.push(Entry(vec![9], vec![extension(21, false, &tlv(0x0a, &[6]))]))).unwrap();
    assert_eq!(held.find(&Number::of(&[9]).unwrap()).unwrap().reason(), "certificateHold");
}

#[test]
fn what_is_cut_off_or_changed_anywhere_is_not_taken() {
    let root = Authority::root("root");
    let issuer = Issuer::parse(root.der()).unwrap();
    let whole = Forge::new(7, &[1, 2, 3]).by(&root);
    Crl::verify(&whole, &issuer).unwrap();
    for length in 0..whole.len() {
        assert!(Crl::parse(&whole[..length]).is_err(), "{length} of {}", whole.len());
    }
    assert_eq!(Crl::parse(&[&*whole, b"x"].concat()).unwrap_err(), CrlError::Malformed);
    for place in 0..whole.len() {
        let mut broken = whole.clone();
        broken[place] ^= 1;
        let taken = Crl::parse(&broken).and_then(|_| Crl::verify(&broken, &issuer));
        assert!(taken.is_err(), "octet {place} was turned and the list still taken");
    }
}

#[test]
fn the_key_decides_and_not_the_name() {
    let (real, twin) = (Authority::root("same"), Authority::root("same"));
    let list = Forge::new(1, &[1]).by(&real);
    Crl::verify(&list, &Issuer::parse(real.der()).unwrap()).unwrap();
    let other = Issuer::parse(twin.der()).unwrap();
    assert!(Crl::parse(&list).unwrap().is_by_name_of(&other));
    assert_eq!(Crl::verify(&list, &other).unwrap_err(), CrlError::Signature);
}

#[test]
fn an_issuer_whose_key_usage_lacks_crl_sign_signs_no_list() {
    let root = Authority::without_crl_sign("root");
    let issuer = Issuer::parse(root.der()).unwrap();
    assert_eq!(Crl::verify(&Forge::new(1, &[]).by(&root), &issuer).unwrap_err(), CrlError::MayNotSign);
}
