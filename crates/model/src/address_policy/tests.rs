//! What the address policy accepts and refuses.

use super::*;

thread_local! {
    /// How often an address was checked by this thread.
    pub(crate) static CHECKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Everything is agreed, so only the hard rules refuse.
fn wide_open() -> AddressPolicy {
    let all = Ranges { pods: nets(&["0.0.0.0/0", "::/0"]), nodes: vec![] };
    AddressPolicy::new(PeerRanges::Agreed(all), OwnRanges::default())
}

#[test]
fn addresses_that_no_backend_may_have_are_refused_whatever_was_agreed() {
    for bad in [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "169.254.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "febf::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "::10.0.0.1",
        "::ffff:169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
    ] {
        let refused = wide_open().check(ip(bad));
        assert!(matches!(refused, Err(PolicyRejection::Forbidden { .. })), "{bad}: {refused:?}");
    }
    for good in
        ["10.0.0.1", "128.0.0.1", "169.253.1.1", "223.255.255.255", "fd00::1", "2001:db8::1", "240.0.0.1"]
    {
        assert_eq!(wide_open().check(ip(good)), Ok(()), "{good}");
    }
}

#[test]
fn own_ranges_are_refused_even_where_they_were_agreed() {
    let own = OwnRanges {
        pods: nets(&["10.1.0.0/16", "fd01::/64"]),
        services: nets(&["10.101.0.0/16"]),
        nodes: nets(&["192.168.1.0/24"]),
    };
    let all = Ranges { pods: nets(&["0.0.0.0/0", "::/0"]), nodes: vec![] };
    let policy = AddressPolicy::new(PeerRanges::Agreed(all), own);
    for (bad, kind) in
        [("10.1.2.3", "pod"), ("fd01::7", "pod"), ("10.101.0.1", "service"), ("192.168.1.9", "node")]
    {
        let refused = policy.check(ip(bad));
        assert!(
            matches!(refused, Err(PolicyRejection::Own { what, .. }) if what == kind),
            "{bad}: {refused:?}"
        );
    }
    assert_eq!(policy.check(ip("10.2.0.1")), Ok(()));
}

#[test]
fn only_agreed_ranges_are_accepted() {
    let agreed = Ranges { pods: nets(&["10.2.0.0/16"]), nodes: nets(&["192.168.2.0/24"]) };
    let policy = AddressPolicy::new(PeerRanges::Agreed(agreed), OwnRanges::default());
    assert_eq!(policy.check(ip("10.2.0.1")), Ok(()));
    assert_eq!(policy.check(ip("192.168.2.1")), Ok(()));
    assert!(matches!(policy.check(ip("10.3.0.1")), Err(PolicyRejection::NotAgreed { .. })));
    assert!(!policy.is_declared());
}

#[test]
fn the_cluster_record_narrows_and_never_widens() {
    let agreed = Ranges { pods: nets(&["10.2.0.0/16"]), nodes: vec![] };
    let policy = AddressPolicy::new(PeerRanges::Agreed(agreed), OwnRanges::default());
    let wider = Ranges { pods: nets(&["10.2.0.0/17", "10.3.0.0/16"]), nodes: vec![] };
    let narrowed = policy.narrowed(Some(&wider));
    assert_eq!(narrowed.check(ip("10.2.0.1")), Ok(()));
    assert!(matches!(narrowed.check(ip("10.2.200.1")), Err(PolicyRejection::NotDeclared { .. })));
    assert!(matches!(narrowed.check(ip("10.3.0.1")), Err(PolicyRejection::NotAgreed { .. })));
    assert_eq!(policy.narrowed(Some(&Ranges::default())).check(ip("10.2.200.1")), Ok(()));
}

#[test]
fn declared_ranges_are_those_of_the_cluster_record_and_none_accepts_nothing() {
    let policy = AddressPolicy::new(PeerRanges::DECLARED, OwnRanges::default());
    assert!(policy.is_declared());
    assert!(matches!(policy.check(ip("10.2.0.1")), Err(PolicyRejection::NoRanges { .. })));
    let declared = Ranges { pods: nets(&["10.2.0.0/16"]), nodes: vec![] };
    assert_eq!(policy.narrowed(Some(&declared)).check(ip("10.2.0.1")), Ok(()));
    assert!(policy.narrowed(Some(&declared)).check(ip("10.3.0.1")).is_err());
}
