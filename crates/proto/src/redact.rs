//! Fields with the option `debug_redact` do not print: `build.rs` makes the `Debug` of their messages.
//!
//! The option is protobuf's own, so that libraries for other languages keep these fields out of their logs too.

use std::fmt;

/// Stands for a secret field: whether it is empty may be told, no more.
pub(crate) struct Redacted(bool);

impl Redacted {
    pub(crate) fn of<T: Default + PartialEq>(value: &T) -> Self {
        Self(*value == T::default())
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "[empty]" } else { "[secret]" })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use prost::Message;
    use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

    use crate::rules::POOL;

    fn secret_fields() -> impl Iterator<Item = FieldDescriptor> {
        own_messages().flat_map(|message| message.fields().collect::<Vec<_>>()).filter(is_secret)
    }

    fn own_messages() -> impl Iterator<Item = MessageDescriptor> {
        POOL.all_messages().filter(|message| message.package_name().starts_with("mi."))
    }

    fn is_secret(field: &FieldDescriptor) -> bool {
        field.options().get_field_by_name("debug_redact").as_deref().and_then(Value::as_bool) == Some(true)
    }

    /// Whether a field of this name holds a secret, by the words that people use for such.
    fn sounds_secret(field: &FieldDescriptor) -> bool {
        let name = field.name();
        // Where a page goes on; hashes and public keys tell nothing.
        let harmless = ["page_token", "next_page_token", "public_key"];
        let words = ["secret", "token", "password", "credential", "private_key", "code", "value", "env"];
        let text = matches!(field.kind(), Kind::String | Kind::Bytes) || field.is_map();
        let is_named =
            |word: &str| name == word || name.starts_with(&format!("{word}_")) || name.ends_with(&format!("_{word}"));
        text && !harmless.contains(&name) && !name.ends_with("_sha256") && words.into_iter().any(is_named)
    }

    #[test]
    fn what_sounds_like_a_secret_is_marked() {
        // Names of environment variables, which are no secrets.
        let known = BTreeSet::from(["mi.v1.AgentIntegration.env", "mi.v1.IntegrationSecret.env"]);
        let entry = |field: &FieldDescriptor| field.parent_message().is_map_entry();
        let fields = own_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
        let unmarked: BTreeSet<String> = fields
            .filter(|field| sounds_secret(field) && !entry(field) && !is_secret(field))
            .map(|field| field.full_name().to_owned())
            .collect();
        assert_eq!(unmarked.iter().map(String::as_str).collect::<BTreeSet<_>>(), known);
    }

    #[test]
    fn an_answer_holds_no_secret_but_what_is_shown_once() {
        let answers = secret_fields().filter(|field| !field.parent_message().name().ends_with("Request"));
        let names: BTreeSet<String> = answers.map(|field| field.full_name().to_owned()).collect();
        let shown = [
            // Told to roles alone, which use it for agents.
            "mi.internal.v1.ResolveSecretsResponse.secrets",
            "mi.v1.Agent.command",
            "mi.v1.Agent.env",
            "mi.v1.CreateAccountResponse.secret",
            "mi.v1.CreateApiKeyResponse.secret",
            "mi.v1.Invite.code",
            // Part of a request, whatever its name.
            "mi.v1.SaveWorkspaceHeader.token",
        ];
        assert_eq!(names, shown.map(str::to_owned).into());
    }

    /// The message with every text in it: `secret` in the fields that must not print, `plain` in the others.
    fn planted(descriptor: &MessageDescriptor, secret: &str, plain: &str) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            let text = if is_secret(&field) { secret } else { plain };
            let value = match field.kind() {
                Kind::String => Value::String(text.to_owned()),
                Kind::Bytes => Value::Bytes(text.to_owned().into_bytes().into()),
                _ if field.is_map() => {
                    Value::Map(HashMap::from([(MapKey::String(text.to_owned()), Value::String(text.to_owned()))]))
                }
                _ => continue,
            };
            let value = if field.is_list() { Value::List(vec![value]) } else { value };
            message.set_field(&field, value);
        }
        message
    }

    #[test]
    fn no_message_prints_a_secret() {
        let expected: BTreeSet<String> =
            secret_fields().map(|field| field.parent_message().full_name().to_owned()).collect();
        let prints = || crate::v1::PRINTS.iter().chain(crate::internal::v1::PRINTS);
        assert_eq!(prints().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>(), expected);
        assert!(expected.contains("mi.v1.SetIntegrationSecretRequest"), "{expected:?}");
        for (name, print) in prints() {
            let descriptor = POOL.get_message_by_name(name).expect("of this pool");
            let message = planted(&descriptor, "hunter2", "visible");
            let printed = print(&message.encode_to_vec()).expect("own encoding");
            assert!(printed.contains("[secret]") && !printed.contains("hunter2"), "{printed}");
            let has_text = descriptor.fields().any(|field| field.kind() == Kind::String && !is_secret(&field));
            assert_eq!(printed.contains("visible"), has_text, "{printed}");
            let empty = print(&[]).expect("an empty message");
            assert!(empty.contains("[empty]"), "{empty}");
        }
        // A message around one prints it by the same rule.
        let agent = crate::v1::Agent { env: [("KEY".into(), "hunter2".into())].into(), ..Default::default() };
        let printed = format!("{:?}", crate::v1::HireAgentResponse { agent: Some(agent) });
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
