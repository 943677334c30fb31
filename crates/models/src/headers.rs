//! Which headers pass, in each direction.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use mi_kernel::{Error, Result};

/// What providers and their SDKs understand, and nothing that says who calls or whom it is for.
fn passes(name: &str) -> bool {
    let exact = [
        "accept",
        "content-type",
        "user-agent",
        "idempotency-key",
        "x-client-request-id",
        "x-goog-api-client",
        "http-referer",
        "x-title",
    ];
    let of_others_account = ["openai-organization", "openai-project", "anthropic-dangerous-direct-browser-access"];
    let families = ["anthropic-", "openai-", "x-stainless-"];
    exact.contains(&name)
        || (families.iter().any(|family| name.starts_with(family)) && !of_others_account.contains(&name))
}

/// The headers for a provider.
///
/// # Errors
/// `Invalid` for what changes prices, and for a body that cannot be looked at.
pub(crate) fn outgoing(headers: &HeaderMap) -> Result<HeaderMap> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity") {
        return Err(Error::invalid("content-encoding", "must be left out: what a request asks for has to be read"));
    }
    let betas = headers.get_all("anthropic-beta").iter().map(|value| value.to_str());
    let betas =
        betas.collect::<Result<Vec<_>, _>>().map_err(|_| Error::invalid("anthropic-beta", "must be plain text"))?;
    if betas.iter().flat_map(|value| value.split(',')).any(|beta| beta.trim().starts_with("context-1m")) {
        let problem = "names context-1m, for which there is no price here; leave it out";
        return Err(Error { reason: "UNPRICED", ..Error::invalid("anthropic-beta", problem) });
    }
    let mut passed = HeaderMap::new();
    for (name, value) in headers {
        if passes(name.as_str()) {
            passed.append(name.clone(), value.clone());
        }
    }
    // Usage has to be read from the answer.
    passed.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    passed.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    Ok(passed)
}

/// The headers of a provider's answer, for the client. `same`: the body is, byte by byte.
pub(crate) fn incoming(headers: &HeaderMap, same: bool) -> HeaderMap {
    let stays = |name: &HeaderName| {
        let name = name.as_str();
        let of_the_connection = matches!(
            name,
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "trailer" | "te"
        );
        // Whose key it was is not the agent's to know.
        let of_the_account =
            matches!(name, "set-cookie" | "openai-organization" | "openai-project" | "anthropic-organization-id");
        let ours = name.starts_with("mi-") || name.starts_with("grpc-");
        of_the_connection || of_the_account || ours || (!same && name == "content-length")
    };
    let mut passed = HeaderMap::new();
    for (name, value) in headers {
        if !stays(name) {
            passed.append(name.clone(), value.clone());
        }
    }
    passed
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the outside.
    Out,
    /// Back to the agent.
    In,
}

/// The headers of a message that is not looked at: all but those of the connection, ours, and whoever's credentials.
pub(crate) fn all_but_own(headers: &HeaderMap, direction: Direction) -> HeaderMap {
    let stays = |name: &HeaderName| {
        let name = name.as_str();
        let of_the_connection = matches!(
            name,
            "connection"
                | "keep-alive"
                | "proxy-connection"
                | "transfer-encoding"
                | "upgrade"
                | "trailer"
                | "te"
                | "expect"
                | "host"
        );
        let credential = match direction {
            Direction::Out => {
                let named = ["authorization", "proxy-authorization", "cookie", "traceparent", "tracestate", "baggage"];
                named.contains(&name)
                    || name == "content-length"
                    // A method in place of the one that was looked at.
                    || name.contains("method-override")
                    || name == "x-http-method"
                    || name == "forwarded"
                    || name.starts_with("x-forwarded-")
            }
            Direction::In => name == "set-cookie",
        };
        of_the_connection || credential || name.starts_with("mi-") || name.starts_with("grpc-")
    };
    let mut passed = HeaderMap::new();
    for (name, value) in headers {
        if !stays(name) {
            passed.append(name.clone(), value.clone());
        }
    }
    passed
}
