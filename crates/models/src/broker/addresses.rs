//! Addresses that are inside: of this machine, of its network, of the cloud's own services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// What an address of the catalogue names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// An address of this machine, as a number.
    Loopback,
    /// Another address that is inside.
    Inside,
    /// A name, or an address that is outside.
    Outside,
}

/// What a URL names, before anything is looked up.
pub(super) fn named(url: &Url) -> Named {
    let of = |address: IpAddr| match address {
        address if address.is_loopback() => Named::Loopback,
        address if is_inside(address) => Named::Inside,
        _ => Named::Outside,
    };
    match url.host() {
        Some(Host::Ipv4(address)) => of(address.into()),
        Some(Host::Ipv6(address)) => of(address.into()),
        Some(Host::Domain(_)) => Named::Outside,
        None => Named::Inside,
    }
}

/// Looks names up, and refuses those that lead inside.
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(outside(found)?)
        })
    }
}

/// All of these, unless one is inside: a name that leads to both is somebody's trick.
fn outside(found: Vec<SocketAddr>) -> Result<Addrs, std::io::Error> {
    if found.iter().any(|address| is_inside(address.ip())) {
        return Err(std::io::Error::other("the name leads to an address inside the network"));
    }
    Ok(Box::new(found.into_iter()))
}

fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_inside_4(address),
        IpAddr::V6(address) => is_inside_6(address),
    }
}

fn is_inside_4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Shared by carriers, set apart for protocols, and for benchmarks.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
}

fn is_inside_6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // Addresses of the old kind in the new one, however they are written.
    let embedded = address.to_ipv4().or_else(|| {
        let [_, _, _, _, _, _, high, low] = address.segments();
        let [w, x] = high.to_be_bytes();
        let [y, z] = low.to_be_bytes();
        (a == 0x64 && b == 0xff9b).then_some(Ipv4Addr::new(w, x, y, z))
    });
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || (a == 0x2001 && b == 0xdb8)
        // 6to4 hides an address of the old kind.
        || a == 0x2002
        || embedded.is_some_and(is_inside_4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_is_known() {
        for (address, inside) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("172.16.0.1", true),
            ("192.168.1.1", true),
            ("169.254.169.254", true),
            ("100.64.0.1", true),
            ("0.0.0.0", true),
            ("255.255.255.255", true),
            ("::1", true),
            ("::", true),
            ("fe80::1", true),
            ("fd00::1", true),
            ("::ffff:10.0.0.1", true),
            ("::ffff:169.254.169.254", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("2002:a9fe:a9fe::1", true),
            ("140.82.112.3", false),
            ("172.32.0.1", false),
            ("2606:4700::1", false),
            ("::ffff:140.82.112.3", false),
        ] {
            assert_eq!(is_inside(address.parse().expect("an address")), inside, "{address}");
        }
    }

    #[test]
    fn a_name_that_leads_inside_is_refused_whole() {
        let address = |text: &str| format!("{text}:0").parse::<SocketAddr>().expect("an address");
        assert_eq!(outside(vec![address("140.82.112.3")]).expect("outside").count(), 1);
        for inside in ["127.0.0.1", "10.0.0.1", "169.254.169.254"] {
            assert!(outside(vec![address("140.82.112.3"), address(inside)]).is_err(), "{inside}");
        }
    }

    #[test]
    fn only_the_catalogue_names_this_machine() {
        for (url, what) in [
            ("http://127.0.0.1:7", Named::Loopback),
            // A name leads where somebody else says.
            ("http://localhost:7", Named::Outside),
            ("http://[::1]:7", Named::Loopback),
            ("http://10.0.0.1", Named::Inside),
            ("http://169.254.169.254", Named::Inside),
            ("http://[::ffff:10.0.0.1]", Named::Inside),
            ("https://api.github.com", Named::Outside),
            ("https://localhost.example", Named::Outside),
        ] {
            assert_eq!(named(&url.parse().expect("a URL")), what, "{url}");
        }
    }
}
