//! Fields of messages by the names that callers write.

use prost_reflect::FieldDescriptor;

use crate::rules::POOL;

/// The field of a message that a caller names, in either of its spellings: that of the .proto file (`max_agents`), or that
/// of proto3 JSON (`maxAgents`). None: there is no such field, or no such message.
pub fn field(message: &str, name: &str) -> Option<FieldDescriptor> {
    let message = POOL.get_message_by_name(message)?;
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_the_field_and_others_none() {
        let found = |name| field("mi.v1.OfficeSettings", name).map(|field| field.name().to_owned());
        for (spelt, name) in [
            ("allowAgentHiring", Some("allow_agent_hiring")),
            ("allow_agent_hiring", Some("allow_agent_hiring")),
            ("hiresPer10Minutes", Some("hires_per_10_minutes")),
            ("verification", Some("verification")),
            ("AllowAgentHiring", None),
            ("allowagenthiring", None),
            ("allow-agent-hiring", None),
            ("", None),
        ] {
            assert_eq!(found(spelt).as_deref(), name, "{spelt:?}");
        }
        assert!(field("mi.v1.Nonsense", "max_agents").is_none());
    }
}
