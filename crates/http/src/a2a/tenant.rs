//! Whom a message is for: `OFFICE_ID`, any agent of that office, or `OFFICE_ID/AGENT`, that one.
//!
//! The same stands in the protocol's field `tenant` and in paths.

use tonic::Status;

use super::{PATH, errors};
use crate::rest::template::decode;

/// An office, or an agent of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) office_id: String,
    /// None: whoever of the office takes it.
    pub(super) agent: Option<String>,
}

impl Tenant {
    /// Reads the field.
    pub(super) fn parse(text: &str) -> Result<Self, Status> {
        let (office, agent) = text.split_once('/').map_or((text, None), |(office, agent)| (office, Some(agent)));
        let is_name = |name: &str| !name.is_empty() && !name.contains('/');
        if !is_name(office) || !agent.is_none_or(is_name) {
            return Err(errors::invalid(
                "tenant",
                "must be OFFICE_ID/AGENT, or OFFICE_ID for whichever agent takes it",
            ));
        }
        // Names of agents are kept in lower case.
        Ok(Self { office_id: office.to_owned(), agent: agent.map(str::to_lowercase) })
    }

    pub(super) fn text(&self) -> String {
        match &self.agent {
            Some(agent) => format!("{}/{agent}", self.office_id),
            None => self.office_id.clone(),
        }
    }
}

/// A path below [`PATH`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// As in the field; empty: the request says it.
    pub(super) tenant: String,
    /// What is asked for there, beginning with a slash; empty: whatever JSON-RPC says.
    pub(super) rest: String,
}

impl Place {
    pub(super) fn of(path: &str) -> Option<Self> {
        let rest = path.strip_prefix(PATH)?.trim_end_matches('/');
        let Some(rest) = rest.strip_prefix('/') else {
            return Some(Self { tenant: String::new(), rest: String::new() });
        };
        let (office, rest) = rest.split_once('/').map_or((rest, None), |(office, rest)| (office, Some(rest)));
        // A client may have written the slash as `%2F`.
        let mut tenant = decode(office).filter(|office| !office.is_empty())?;
        let mut rest = rest.map(str::to_owned);
        if !tenant.contains('/')
            && let Some(next) = rest.clone().filter(|rest| !is_operation(rest))
        {
            let (agent, behind) = next.split_once('/').map_or((&*next, None), |(agent, rest)| (agent, Some(rest)));
            tenant = format!("{tenant}/{}", decode(agent)?);
            rest = behind.map(str::to_owned);
        }
        Some(Self { tenant, rest: rest.map(|rest| format!("/{rest}")).unwrap_or_default() })
    }
}

/// Whether this is what an office is asked for, and not the name of an agent of it.
fn is_operation(rest: &str) -> bool {
    let first = rest.split('/').next().unwrap_or_default();
    matches!(first, "tasks" | "extendedAgentCard" | ".well-known") || first.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_an_office_or_an_agent_and_what_is_asked_of_it() {
        for (path, tenant, rest) in [
            ("/a2a", "", ""),
            ("/a2a/", "", ""),
            ("/a2a/o", "o", ""),
            ("/a2a/o/bob", "o/bob", ""),
            ("/a2a/o/bob/", "o/bob", ""),
            ("/a2a/o/bob/message:send", "o/bob", "/message:send"),
            ("/a2a/o%2Fbob/message:send", "o/bob", "/message:send"),
            ("/a2a/o/message:send", "o", "/message:send"),
            ("/a2a/o/tasks/t:cancel", "o", "/tasks/t:cancel"),
            ("/a2a/o/bob/tasks", "o/bob", "/tasks"),
            ("/a2a/o/bob/.well-known/agent-card.json", "o/bob", "/.well-known/agent-card.json"),
            ("/a2a/o/.well-known/agent-card.json", "o", "/.well-known/agent-card.json"),
            ("/a2a/o/bob/extendedAgentCard", "o/bob", "/extendedAgentCard"),
        ] {
            let found = Place::of(path).expect(path);
            assert_eq!((found.tenant.as_str(), found.rest.as_str()), (tenant, rest), "{path}");
        }
        for path in ["/a2a//", "/a2a//bob", "/a2a/%ff", "/a2a/o/%zz", "/other"] {
            assert!(Place::of(path).is_none_or(|place| Tenant::parse(&place.tenant).is_err()), "{path}");
        }
    }

    #[test]
    fn a_tenant_is_an_office_or_an_agent_of_one() {
        let bob = Tenant { office_id: "o".into(), agent: Some("bob".into()) };
        assert_eq!(Tenant::parse("o/Bob").expect("one"), bob);
        assert_eq!(bob.text(), "o/bob");
        assert_eq!(Tenant::parse("o").expect("one").text(), "o");
        for wrong in ["", "/", "o/", "/bob", "o/bob/x"] {
            assert!(Tenant::parse(wrong).is_err(), "{wrong}");
        }
    }
}
