//! Who sends a request, and what they may ask for by the access rules of the RPCs.

use mi_proto::rules;
use serde_json::{Value, json};
use tonic::Status;

use crate::byte_path::{BytePath, Caller};

/// The RPC that says who a caller is.
const WHO_AM_I: &str = "/mi.v1.AccessService/WhoAmI";

/// What kind of caller somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Administrator,
    Operator,
    Agent,
}

impl Kind {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] = [Self::Administrator, Self::Operator, Self::Agent];

    fn of(name: &str) -> Option<Self> {
        match name {
            "PRINCIPAL_KIND_ADMINISTRATOR" => Some(Self::Administrator),
            "PRINCIPAL_KIND_OPERATOR" => Some(Self::Operator),
            "PRINCIPAL_KIND_AGENT" => Some(Self::Agent),
            _ => None,
        }
    }

    /// The kinds of the rules that it may be, in some office.
    fn callers(self) -> &'static [&'static str] {
        match self {
            Self::Administrator => {
                &["CALLER_ADMINISTRATOR", "CALLER_OWNER", "CALLER_OPERATOR", "CALLER_AUTHENTICATED", "CALLER_ANYONE"]
            }
            Self::Operator => &["CALLER_OWNER", "CALLER_OPERATOR", "CALLER_AUTHENTICATED", "CALLER_ANYONE"],
            Self::Agent => {
                &["CALLER_MEMBER", "CALLER_SELF", "CALLER_ANCESTOR", "CALLER_AUTHENTICATED", "CALLER_ANYONE"]
            }
        }
    }

    /// Whether an RPC is for callers of this kind, in an office of theirs.
    pub(crate) fn may_call(self, path: &str) -> bool {
        let named = |names: &[&str]| {
            rules::rule(path)
                .is_some_and(|rule| rule.callers.iter().any(|caller| names.contains(&caller.as_str_name())))
        };
        named(self.callers())
    }
}

/// Somebody who was let in.
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) caller: Caller,
    pub(crate) kind: Kind,
    /// The office of an agent.
    pub(crate) office_id: Option<String>,
}

impl Who {
    /// Asks the platform.
    ///
    /// # Errors
    /// As the platform refuses the caller.
    pub(crate) async fn ask(gateway: &BytePath, caller: Caller) -> Result<Self, Status> {
        let answer = gateway.call(&caller, WHO_AM_I, &json!({})).await?;
        let text = |name: &str| answer["principal"].get(name).and_then(Value::as_str).unwrap_or_default();
        let kind =
            Kind::of(text("kind")).ok_or_else(|| Status::permission_denied("there are no tools for such callers"))?;
        let office_id = (kind == Kind::Agent).then(|| text("office_id").to_owned());
        Ok(Self { caller, kind, office_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_the_rpcs_decide() {
        let may = |path: &str| Kind::ALL.map(|kind| kind.may_call(path));
        assert_eq!(may("/mi.v1.OfficeService/CreateOffice"), [true, true, false]);
        assert_eq!(may("/mi.v1.CreditService/GrantCredits"), [true, false, false]);
        assert_eq!(may("/mi.v1.AgentService/FireAgent"), [true, true, true]);
        assert_eq!(may("/mi.v1.LogService/AppendLogs"), [false, false, true]);
        assert_eq!(may("/mi.v1.Nonsense/Nothing"), [false, false, false]);
    }
}
