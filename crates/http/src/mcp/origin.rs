//! Which web pages may use the server. A browser says of whom a request is; who is no browser says nothing.

use http::{header, request::Parts, uri::Authority};
use url::{Host, Url};

use crate::Origins;

/// Whether the page that sends a request may do so: one of those origins, or of the address that it calls.
pub(crate) fn may(origins: &Origins, parts: &Parts) -> bool {
    let host = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let host = host.or_else(|| parts.uri.authority().map(Authority::as_str));
    let mut shown = parts.headers.get_all(header::ORIGIN).iter();
    shown.all(|origin| origins.allows(origin) || origin.to_str().is_ok_and(|origin| is_same(origin, host)))
}

/// Whether an origin is the host that is called, by its address: a name may lead here that somebody else has given to it.
fn is_same(origin: &str, host: Option<&str>) -> bool {
    let is_address =
        matches!(Url::parse(origin).ok().as_ref().and_then(Url::host), Some(Host::Ipv4(_) | Host::Ipv6(_)));
    is_address && host.is_some() && origin.split_once("://").map(|(_, authority)| authority) == host
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_page_is_of_a_listed_origin_or_of_the_address_that_it_calls() {
        let origins = Origins::new(&["https://app.example".to_owned()]).expect("an origin");
        for (shown, allowed) in [
            (&[][..], true),
            (&["http://localhost:3000"], true),
            (&["https://app.example"], true),
            (&["http://10.1.2.3:7777"], true),
            (&["http://10.1.2.3:7778"], false),
            (&["https://evil.example"], false),
            // A name of somebody's own that leads here.
            (&["http://mi.example"], false),
            (&["null"], false),
            (&["http://localhost:3000", "https://evil.example"], false),
        ] {
            for host in ["10.1.2.3:7777", "mi.example"] {
                let mut request = Request::builder().header("host", host);
                for origin in shown {
                    request = request.header("origin", *origin);
                }
                let (parts, ()) = request.body(()).expect("a request").into_parts();
                let is_address = host.starts_with("10.") || shown != ["http://10.1.2.3:7777"];
                assert_eq!(may(&origins, &parts), allowed && is_address, "{shown:?} of {host}");
            }
        }
    }
}
