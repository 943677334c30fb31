//! Messages as proto3 JSON, through their descriptors.

use mi_proto::rules::POOL;
use prost::Message;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde::{Serialize, Serializer};

use crate::failure::Failure;

/// A message that serialises as proto3 JSON with snake_case names and every field that has a default.
pub(crate) struct Json(DynamicMessage);

impl Json {
    /// Reads the message as what its descriptor says it is.
    pub(crate) fn new<M: Message>(type_name: &str, message: &M) -> Result<Self, Failure> {
        let unknown =
            |error: &dyn std::fmt::Display| Failure::new(format!("{type_name} cannot be shown as JSON: {error}"));
        let descriptor = POOL.get_message_by_name(type_name).ok_or_else(|| unknown(&"no such message"))?;
        let encoded = message.encode_to_vec();
        DynamicMessage::decode(descriptor, encoded.as_slice()).map(Self).map_err(|error| unknown(&error))
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Programs look a field up by its name: one that is there only sometimes is a trap.
        let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
        self.0.serialize_with_options(serializer, &options)
    }
}

#[cfg(test)]
mod tests {
    use mi_proto::v1::{Agent, AgentPhase, AgentStatus, Office, OfficeStatus};
    use prost_types::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_office_as_programs_read_it() {
        let office = Office {
            id: "019aa0b4-7c1e-7d0a-b3a5-000000000001".into(),
            name: "My Colony".into(),
            status: OfficeStatus::Active.into(),
            created_at: Some(Timestamp { seconds: 1_767_225_600, nanos: 0 }),
            updated_at: None,
            account_id: "019aa0b4-7c1e-7d0a-b3a5-000000000002".into(),
        };
        let value = serde_json::to_value(Json::new("mi.v1.Office", &office).expect("known")).expect("serialises");
        let expect = json!({
            "id": "019aa0b4-7c1e-7d0a-b3a5-000000000001",
            "name": "My Colony",
            "status": "OFFICE_STATUS_ACTIVE",
            "created_at": "2026-01-01T00:00:00Z",
            "account_id": "019aa0b4-7c1e-7d0a-b3a5-000000000002",
        });
        assert_eq!(value, expect);
    }

    #[test]
    fn defaults_are_there_and_names_are_snake_case() {
        let agent = Agent {
            name: "analyst".into(),
            public_key: vec![0xff; 3].into(),
            generation: 3,
            status: Some(AgentStatus { phase: AgentPhase::Pending.into(), ..AgentStatus::default() }),
            ..Agent::default()
        };
        let value = serde_json::to_value(Json::new("mi.v1.Agent", &agent).expect("known")).expect("serialises");
        assert_eq!(value["model_tier"], "");
        assert_eq!(value["skills"], json!([]));
        assert_eq!(value["env"], json!({}));
        assert_eq!(value["status"]["ready"], false);
        assert_eq!(value["status"]["observed_generation"], "0");
        assert_eq!(value["generation"], "3");
        assert_eq!(value["public_key"], "////");
    }
}
