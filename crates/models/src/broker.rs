//! Calls of integrations other than models: `/proxy/NAME/...` becomes a call of the one host that the catalogue names, with
//! a secret that the agent does not see.

mod addresses;

use std::sync::Arc;

use axum::{body::Body, extract::Request, response::Response};
use http::{HeaderName, HeaderValue, Method};
use mi_catalogue::{Broker, Integration};
use mi_kernel::{Actor, AgentActor, Error, Result, secret::Secret};
use mi_rpc::HttpCaller;
use reqwest::{Client, redirect::Policy};

use self::addresses::PublicOnly;
use crate::{
    Limits, allowed, body,
    headers::{self, Direction},
    keys,
    proxy::Proxy,
};

/// Calls the outside for agents.
pub(crate) struct Outside {
    /// Wherever names lead, but not inside.
    public: Client,
    /// Where the catalogue itself names an address of this machine.
    loopback: Client,
}

impl Outside {
    pub(crate) fn new(limits: &Limits) -> Result<Self> {
        let client = || {
            let client = Client::builder().no_proxy().redirect(Policy::none()).referer(false).http1_only();
            client.connect_timeout(limits.connect).read_timeout(limits.silence)
        };
        Ok(Self {
            public: client().dns_resolver(Arc::new(PublicOnly)).build().map_err(Error::internal)?,
            loopback: client().build().map_err(Error::internal)?,
        })
    }

    /// The client for an address of the catalogue.
    fn of(&self, broker: &Broker) -> Result<&Client> {
        let inside = || Error::precondition("INTEGRATION_DISABLED", "the integration's address is inside the network");
        match addresses::named(&broker.base_url) {
            addresses::Named::Loopback => Ok(&self.loopback),
            addresses::Named::Inside => Err(inside()),
            addresses::Named::Outside => Ok(&self.public),
        }
    }
}

impl Proxy {
    /// Answers a call of an integration.
    pub(crate) async fn broker(self: Arc<Self>, request: Request) -> Result<Response> {
        let (parts, http_body) = request.into_parts();
        let caller = parts.extensions.get::<HttpCaller>().cloned();
        let caller = caller.ok_or_else(|| Error::unauthenticated("the call carries no principal"))?;
        let Actor::Agent(agent) = &caller.actor else {
            return Err(Error::denied("only agents call integrations here"));
        };
        let path = parts.uri.path();
        let nowhere = || Error::not_found("path", path.chars().take(200).collect::<String>());
        let (name, rest) = path.strip_prefix("/proxy/").and_then(|rest| rest.split_once('/')).ok_or_else(nowhere)?;
        let catalogue = self.catalogues.current();
        let integration = catalogue.integration("integration", name).map_err(|_| nowhere())?;
        let broker = integration.broker.as_ref().ok_or_else(nowhere)?;
        let spender = self.spenders.get(agent).await?;
        allowed::working(&spender)?;
        if !spender.integrations.contains(&integration.name) {
            let text = format!(
                "the integration {:?} is not enabled for this agent; its operator can enable it",
                integration.name
            );
            return Err(Error::precondition("INTEGRATION_DISABLED", text));
        }
        if !is_plain(rest) || !may(broker, &parts.method, rest) {
            return Err(nowhere());
        }
        let client = self.outside.of(broker)?;
        let slot = self.slots.take(&self.limits, agent, &format!("/proxy/{}", integration.name))?;
        let (name, value) = self.credential(agent, integration, broker).await?;
        let mut passed = headers::all_but_own(&parts.headers, Direction::Out);
        passed.insert(name, value);
        let (bytes, share) = body::read(http_body, agent.office_id, &self.bodies, self.limits.request).await?;
        let request = client.request(parts.method, url(broker, rest, parts.uri.query())).headers(passed).body(bytes);
        let answered = tokio::time::timeout(self.limits.whole_answer, request.send()).await;
        drop(share);
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let text = format!("{:?} cannot be reached", integration.name);
                return Err(Error::unavailable(text).caused_by(error.without_url()));
            }
            Err(_) => {
                let text = format!("{:?} did not answer in time", integration.name);
                return Err(Error::new(mi_kernel::ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", text));
            }
        };
        let (status, answered) = (response.status(), headers::all_but_own(response.headers(), Direction::In));
        // It counts as under way until its end has passed.
        let pieces = futures::stream::unfold(Some((response, slot)), async |open| {
            let (mut response, slot) = open?;
            match response.chunk().await {
                Ok(Some(piece)) => Some((Ok(piece), Some((response, slot)))),
                Ok(None) => None,
                Err(error) => Some((Err(error.without_url()), None)),
            }
        });
        let mut response = Response::new(Body::from_stream(pieces));
        *response.status_mut() = status;
        *response.headers_mut() = answered;
        Ok(response)
    }

    /// The header that shows the secret.
    async fn credential(
        &self,
        agent: &AgentActor,
        integration: &Integration,
        broker: &Broker,
    ) -> Result<(HeaderName, HeaderValue)> {
        let secrets = self.keys.secrets(agent.office_id, &integration.name).await?;
        let mut value = broker.value.clone();
        for spec in &integration.secrets {
            let place = format!("{{{}}}", spec.name);
            if value.contains(&place) {
                let secret =
                    secrets.get(&spec.name).map(Secret::expose).map(str::trim).filter(|secret| !secret.is_empty());
                let secret = secret.ok_or_else(|| {
                    let text =
                        format!("{:?} has no secret {:?}; the colony's owner sets it", integration.name, spec.name);
                    Error::precondition("INTEGRATION_NOT_CONFIGURED", text)
                })?;
                value = value.replace(&place, secret);
            }
        }
        let name = HeaderName::try_from(&broker.header).map_err(Error::internal)?;
        Ok((name, keys::shown(&value)?))
    }
}

/// Whether each part of a path is a name as it stands: none is empty, goes up, or hides a separator.
fn is_plain(path: &str) -> bool {
    let hides = |part: &str| {
        let lower = part.to_ascii_lowercase();
        ["%2f", "%5c", "%2e", "%00", "%25", "\\", ";"].iter().any(|hidden| lower.contains(hidden))
    };
    path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !hides(part))
}

/// Whether the catalogue lets a path be called.
fn may(broker: &Broker, method: &Method, path: &str) -> bool {
    broker.allow.iter().any(|allowed| {
        allowed.methods.iter().any(|known| known.eq_ignore_ascii_case(method.as_str())) && fits(&allowed.path, path)
    })
}

fn fits(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.trim_start_matches('/').split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (Some("**"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(name), Some(part)) if name == part => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

fn url(broker: &Broker, path: &str, query: Option<&str>) -> String {
    let base = broker.base_url.as_str().trim_end_matches('/');
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{base}/{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_whole_segments() {
        for (pattern, path, fit) in [
            ("/user", "user", true),
            ("/user", "users", false),
            ("/user", "user/keys", false),
            ("/repos/**", "repos/a/b", true),
            ("/repos/**", "repos", false),
            ("/search/*", "search/code", true),
            ("/search/*", "search/code/x", false),
            ("/a/*/b", "a/x/b", true),
            ("/a/*/b", "a/x/c", false),
        ] {
            assert_eq!(fits(pattern, path), fit, "{pattern} {path}");
        }
    }

    #[test]
    fn a_path_hides_nothing() {
        for good in ["user", "repos/a/b-c.d", "search/a%20b"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in [
            "",
            "a//b",
            "a/../b",
            "./a",
            "a/..",
            "a%2fb",
            "a%2Fb",
            "a/%2e%2e/b",
            "a%5cb",
            "a\\b",
            "a/",
            "a%252f",
            "a;b",
        ] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
