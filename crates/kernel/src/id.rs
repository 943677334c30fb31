//! Newtypes over UUIDv7, one for each kind of thing, so that swapped arguments do not compile.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Error;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        #[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(transparent))]
        pub struct $name(pub Uuid);

        impl $name {
            /// Before every other id, where a list begins.
            pub const MIN: Self = Self(Uuid::nil());
            /// After every other id, where a list that goes backwards begins.
            pub const MAX: Self = Self(Uuid::max());

            /// A fresh id: time-ordered, unique.
            #[allow(clippy::new_without_default, reason = "a default would be a different one each time")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Reads the id out of a request.
            ///
            /// # Errors
            /// `Invalid`, naming the field, when it is empty or no UUID.
            pub fn parse(text: &str) -> Result<Self, Error> {
                if text.is_empty() {
                    return Err(Error::invalid($field, "is required"));
                }
                // Only the hyphenated form: one id, one spelling.
                match Uuid::try_parse(text) {
                    Ok(id) if text.len() == 36 => Ok(Self(id)),
                    _ => Err(Error::invalid($field, "must be a UUID such as 019aa0b4-7c1e-7d0a-b3a5-0a1b2c3d4e5f")),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                Self::parse(text)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

id!(
    /// Names an account: what owns offices.
    AccountId, "account_id"
);
id!(
    /// Names an API key, not its secret.
    ApiKeyId, "api_key_id"
);
id!(
    /// Names a call of a model that is paid for.
    CallId, "call_id"
);
id!(
    /// Names an entry of an office's ledger.
    LedgerEntryId, "ledger_entry_id"
);
id!(
    /// Names an office.
    OfficeId, "office_id"
);
id!(
    /// Names an agent for good; its name may be reused after it was fired.
    AgentId, "agent_id"
);
id!(
    /// Names one start of an agent, so that a late report of an old one is told apart.
    InstanceId, "instance_id"
);
id!(
    /// Names a backup.
    BackupId, "backup_id"
);
id!(
    /// Names an invite, not its code.
    InviteId, "invite_id"
);
id!(
    /// Names an event of the activity feed.
    EventId, "event_id"
);
id!(
    /// Names a message of an office's chat.
    MessageId, "message_id"
);

id!(
    /// A task.
    TaskId, "task_id"
);
id!(
    /// One claim of a task.
    LeaseId, "lease_id"
);
id!(
    /// A note on a task.
    NoteId, "note_id"
);

id!(
    /// A command that an operator runs inside an agent.
    ExecId, "exec_id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_the_hyphenated_form() {
        let id = OfficeId::new();
        assert_eq!(OfficeId::parse(&id.to_string()).expect("own form"), id);
        for bad in ["", "x", &id.0.simple().to_string(), &format!("{{{id}}}"), &format!("{id}0")] {
            let error = OfficeId::parse(bad).expect_err(bad);
            assert_eq!(error.field, Some("office_id"));
        }
    }
}
