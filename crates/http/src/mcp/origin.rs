//! Which web pages may use the server. A browser says of whom a request is; who is no browser says nothing.

use http::{header, request::Parts};
use url::{Host, Url};

/// The origins that are allowed, besides those of this machine.
#[derive(Debug, Default)]
pub(crate) struct Origins(Vec<String>);

impl Origins {
    /// Allows these, such as `https://app.example`; `*` allows all.
    pub(crate) fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// Whether the page that sends a request may do so.
    pub(crate) fn allow(&self, parts: &Parts) -> bool {
        let host = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
        let mut origins = parts.headers.get_all(header::ORIGIN).iter();
        origins.all(|origin| origin.to_str().is_ok_and(|origin| self.allows(origin, host)))
    }

    fn allows(&self, origin: &str, host: Option<&str>) -> bool {
        if self.0.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin)) {
            return true;
        }
        let Ok(url) = Url::parse(origin) else { return false };
        // A name may lead here that somebody else has given to this address, so only addresses are known to be ours.
        let is_ours =
            || host.is_some_and(|host| origin.split_once("://").is_some_and(|(_, authority)| authority == host));
        match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback() || is_ours(),
            Some(Host::Ipv6(address)) => address.is_loopback() || is_ours(),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(origins: &[&str], origin: &str, host: &str) -> bool {
        Origins::new(origins.iter().map(ToString::to_string).collect()).allows(origin, Some(host))
    }

    #[test]
    fn this_machine_and_what_is_listed_are_allowed() {
        for origin in ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:8080", "http://10.1.2.3:7777"] {
            assert!(allows(&[], origin, "10.1.2.3:7777"), "{origin}");
        }
        for origin in ["https://app.example", "HTTPS://App.Example"] {
            assert!(allows(&["https://app.example"], origin, "mi.example"), "{origin}");
        }
        assert!(allows(&["*"], "https://any.example", "mi.example"));
    }

    #[test]
    fn others_are_not() {
        // The last is a name that somebody else made lead to this address.
        for origin in [
            "https://evil.example",
            "null",
            "",
            "http://10.1.2.3:1",
            "http://localhost.evil.example",
            "http://mi.example",
        ] {
            assert!(!allows(&["https://app.example"], origin, "mi.example"), "{origin}");
        }
    }

    #[test]
    fn each_of_several_origins_counts() {
        let request = |origins: &[&str]| {
            let mut request = http::Request::builder().uri("http://mi.example/mcp");
            for origin in origins {
                request = request.header(header::ORIGIN, *origin);
            }
            request.body(()).expect("a request").into_parts().0
        };
        let origins = Origins::default();
        assert!(origins.allow(&request(&[])));
        assert!(origins.allow(&request(&["http://localhost"])));
        assert!(!origins.allow(&request(&["http://localhost", "https://evil.example"])));
    }
}
