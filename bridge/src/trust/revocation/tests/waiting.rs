use std::{path::Path, sync::Arc};

use rcgen::PublicKeyData;

use crate::trust::{
    revocation::{Crl, Issuer, Lists, lists::Listed, tests::forge::Forge, waiting::MOST},
    tests::pki::Authority,
};

/// More authorities than are remembered, with keys that differ in their last octets.
fn authorities(model: &Authority, from: usize) -> impl Iterator<Item = Issuer> {
    let der = model.own().to_vec();
    let key = model.key().der_bytes().to_vec();
    let end = der.windows(key.len()).position(|part| *part == *key).unwrap() + key.len();
    (from..from + MOST + 8).map(move |number| {
        let mut der = der.clone();
        der[end - 8..end].copy_from_slice(&number.to_be_bytes());
        Issuer::parse(&der).unwrap()
    })
}

/// An authority can make as many others below it as it likes, and have peers present them.
#[test]
fn authorities_without_lists_neither_keep_one_with_a_list_out_nor_grow_without_end() {
    let (many, one) = (Authority::root("many"), Authority::root("one"));
    let mut first = Lists::default();
    let der = Forge::new(1, &[5]).by(&one);
    let listed = Listed::new(Arc::new(Crl::parse(&der).unwrap()), Arc::from(Path::new("one.crl")));
    first.waiting.add(listed, &der);
    authorities(&many, 0).for_each(|issuer| first.waiting.meet(issuer));
    let issuer = Issuer::parse(one.own()).unwrap();
    first.waiting.meet(issuer.clone());
    assert!(first.entry(issuer.key(), &[5]).is_some());
    assert_eq!(first.waiting.met().len(), MOST);

    let second = Lists { learned: first.remembered(), ..Lists::default() };
    assert_eq!((second.learned.len(), second.learned.first()), (MOST, Some(&issuer)));
    authorities(&many, 4 * MOST).for_each(|issuer| second.waiting.meet(issuer));
    assert_eq!(second.remembered().len(), MOST);
}
