//! Which pages of the web may call.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Method, header};
use mi_kernel::{Error, Result};
use tower::Layer;
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer, MaxAge};
use url::{Host, Url};

/// How long a browser remembers what it was told.
const REMEMBERED: std::time::Duration = std::time::Duration::from_secs(3600);
/// Any page.
const ANY: &str = "*";

/// The origins whose pages may call: those of this machine, and those that are listed. Nothing is ever known of a caller but
/// the credential that its page holds: there are no cookies.
#[derive(Debug, Clone, Default)]
pub struct Origins(Vec<String>);

impl Origins {
    /// The listed ones, besides those of this machine: each as browsers write it, such as `https://console.example:8443`; `*`
    /// stands for all.
    ///
    /// # Errors
    /// `Invalid` for what is no origin.
    pub fn new(listed: &[String]) -> Result<Self> {
        let one = |origin: &String| match origin.as_str() {
            ANY => Ok(ANY.to_owned()),
            text => match Url::parse(text).map(|url| url.origin().ascii_serialization()) {
                Ok(origin) if text.strip_suffix('/').unwrap_or(text).eq_ignore_ascii_case(&origin) => Ok(origin),
                _ => Err(Error::invalid(
                    "cors-origin",
                    format!("`{text}` is no origin: write a scheme, a host and perhaps a port, or `{ANY}`"),
                )),
            },
        };
        listed.iter().map(one).collect::<Result<_>>().map(Self)
    }

    /// Whether pages of this origin may call.
    pub(crate) fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(text) = origin.to_str() else { return false };
        self.0.iter().any(|listed| listed == ANY || listed == text) || is_here(text)
    }

    /// Tells browsers so.
    pub(crate) fn layered<S>(self, service: S) -> Cors<S> {
        let exposed = [
            "accept-ranges",
            "connect-content-encoding",
            "content-disposition",
            "content-range",
            "etag",
            "grpc-encoding",
            "grpc-message",
            "grpc-status",
            "grpc-status-details-bin",
            "mcp-protocol-version",
            "mcp-session-id",
            "retry-after",
            "www-authenticate",
            "x-total-count",
        ];
        let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(move |origin, _| self.allows(origin)))
            .allow_methods(methods)
            // A wildcard would not cover `authorization`, and clients have headers of their own.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(exposed.map(HeaderName::from_static))
            .max_age(MaxAge::exact(REMEMBERED))
            .vary([header::ORIGIN])
            .layer(service)
    }
}

/// Whether it is an origin of this machine.
fn is_here(origin: &str) -> bool {
    match Url::parse(origin).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(origins: &[&str]) -> Result<Origins> {
        Origins::new(&origins.iter().map(|origin| (*origin).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn pages_of_this_machine_and_those_listed_may_call() {
        let origins = listed(&["https://console.example:8443", "HTTPS://Other.example/"]).expect("origins");
        for (origin, may) in [
            ("https://console.example:8443", true),
            ("https://other.example", true),
            ("http://localhost:5173", true),
            ("http://app.localhost", true),
            ("http://127.0.0.1:7400", true),
            ("http://[::1]:3000", true),
            ("https://console.example", false),
            ("http://console.example:8443", false),
            ("https://console.example:8443.evil.example", false),
            ("https://localhost.evil.example", false),
            ("https://evil.example/localhost", false),
            ("http://10.0.0.1", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(origins.allows(&HeaderValue::from_static(origin)), may, "{origin}");
        }
        let any = listed(&["*"]).expect("all");
        assert!(any.allows(&HeaderValue::from_static("https://evil.example")));
        assert!(!Origins::default().allows(&HeaderValue::from_static("https://evil.example")));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in ["console.example", "https://console.example/app", "https://a@b.example", "", "null", "file:///etc"]
        {
            let refused = listed(&[text]).expect_err(text);
            assert!(refused.message.contains(text) && refused.field == Some("cors-origin"), "{refused}");
        }
    }
}
