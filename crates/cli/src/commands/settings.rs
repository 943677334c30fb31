//! `--set k=v`: the fields of a message by their names in the API, in either spelling (`max_agents`, `maxAgents`), read off
//! its descriptor, so that a new setting needs no new code here.

use mi_kernel::credits;
use mi_proto::{fields, rules::POOL, v1::OfficeSettings};
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind};
use prost_types::FieldMask;
use serde_json::{Map, Value};

use crate::{failure::Failure, output::Resource, text::seconds};

/// The settings to write and the mask that names them.
pub(crate) fn parse(pairs: &[(String, String)]) -> Result<(OfficeSettings, FieldMask), Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::new(format!("the settings cannot be sent: {error}"));
    let descriptor = POOL.get_message_by_name(OfficeSettings::TYPE).ok_or_else(|| broken(&"no descriptor"))?;
    let mut object = Map::new();
    for (name, text) in pairs {
        let Some(field) = fields::field(OfficeSettings::TYPE, name) else {
            let known: Vec<String> = descriptor.fields().map(|field| field.name().to_owned()).collect();
            return Err(Failure::Usage(format!("there is no setting {name:?}; known are {}", known.join(", "))));
        };
        let twice = object.insert(field.name().to_owned(), value(&field, text)?).is_some();
        if twice {
            return Err(Failure::Usage(format!("the setting {} is given twice", field.name())));
        }
    }
    let mask = FieldMask { paths: object.keys().cloned().collect() };
    // Values are checked above except for their range, which the message's own reader checks.
    let message = DynamicMessage::deserialize(descriptor, Value::Object(object))
        .map_err(|error| Failure::Usage(error.to_string()))?;
    Ok((message.transcode_to().map_err(|error| broken(&error))?, mask))
}

/// The fields of the mask in which the settings differ.
pub(crate) fn differing(now: &OfficeSettings, wanted: &OfficeSettings, mask: FieldMask) -> Result<FieldMask, Failure> {
    let descriptor = POOL.get_message_by_name(OfficeSettings::TYPE);
    let unreadable = |error: &dyn std::fmt::Display| Failure::new(format!("the settings cannot be compared: {error}"));
    let descriptor = descriptor.ok_or_else(|| unreadable(&"no descriptor"))?;
    let read = |settings: &OfficeSettings| {
        DynamicMessage::decode(descriptor.clone(), settings.encode_to_vec().as_slice())
            .map_err(|error| unreadable(&error))
    };
    let (now, wanted) = (read(now)?, read(wanted)?);
    let differs = |name: &String| now.get_field_by_name(name) != wanted.get_field_by_name(name);
    Ok(FieldMask { paths: mask.paths.into_iter().filter(differs).collect() })
}

/// The value as proto3 JSON has it.
fn value(field: &FieldDescriptor, text: &str) -> Result<Value, Failure> {
    let wants = |what: &str| Failure::Usage(format!("{} must be {what}, not {text:?}", field.name()));
    Ok(match field.kind() {
        _ if field.name() == "model_budget_per_task" => {
            Value::from(credits::read(text).map_err(|problem| Failure::Usage(format!("{} {problem}", field.name())))?)
        }
        Kind::Bool => Value::Bool(text.parse().map_err(|_| wants("true or false"))?),
        Kind::Int32 | Kind::Int64 => Value::from(text.parse::<i64>().map_err(|_| wants("a whole number"))?),
        Kind::Enum(kind) => {
            // VERIFICATION_PEER is `peer` here; the zero value means nothing and cannot be chosen.
            let prefix =
                kind.values().next().and_then(|zero| zero.name().strip_suffix("UNSPECIFIED").map(str::to_owned));
            let prefix = prefix.unwrap_or_default();
            let name = format!("{prefix}{}", text.to_uppercase());
            let choices: Vec<String> =
                kind.values().skip(1).map(|it| it.name().trim_start_matches(&prefix).to_lowercase()).collect();
            match kind.values().skip(1).any(|it| it.name() == name) {
                true => Value::String(name),
                false => return Err(wants(&choices.join(" or "))),
            }
        }
        Kind::Message(message) if message.full_name() == "google.protobuf.Duration" => {
            let seconds = seconds(text).ok_or_else(|| wants("a duration such as 90s, 10m, 2h or 0"))?;
            Value::String(format!("{seconds}s"))
        }
        _ => Value::String(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use mi_proto::v1::Verification;

    use super::*;

    fn set(text: &str) -> Result<(OfficeSettings, FieldMask), String> {
        let pairs: Vec<_> = text
            .split(' ')
            .map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).expect("k=v"))
            .collect();
        parse(&pairs).map_err(|failure| failure.to_string())
    }

    #[test]
    fn every_kind_of_value() {
        let (settings, mask) =
            set("allow_agent_hiring=true max_agents=0 default_model_tier=opus idle_fire_after=10m verification=peer \
             model_budget_per_task=5000.5")
            .expect("valid");
        let expect = OfficeSettings {
            allow_agent_hiring: true,
            max_agents: Some(0),
            default_model_tier: "opus".into(),
            idle_fire_after: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
            verification: Verification::Peer.into(),
            model_budget_per_task: 5_000_500_000,
            ..OfficeSettings::default()
        };
        assert_eq!(settings, expect);
        assert_eq!(mask.paths.len(), 6);
        // The spelling of proto3 JSON names the same fields.
        let (again, mask) = set("allowAgentHiring=true maxAgents=0 defaultModelTier=opus").expect("valid");
        assert_eq!(
            (again.allow_agent_hiring, again.max_agents, again.default_model_tier.as_str()),
            (true, Some(0), "opus")
        );
        assert_eq!(mask.paths, ["allow_agent_hiring", "default_model_tier", "max_agents"]);
        // A default is a value too: the mask is what says it is meant.
        let (settings, mask) = set("allow_agent_hiring=false idle_fire_after=0").expect("valid");
        assert!(!settings.allow_agent_hiring);
        assert_eq!(mask.paths, ["allow_agent_hiring", "idle_fire_after"]);
    }

    #[test]
    fn only_what_differs_is_changed() {
        let (wanted, mask) = set("max_agents=5 allow_agent_hiring=false verification=peer").expect("valid");
        let now = OfficeSettings { max_agents: Some(5), max_hire_depth: Some(2), ..OfficeSettings::default() };
        assert_eq!(differing(&now, &wanted, mask.clone()).expect("read").paths, ["verification"]);
        assert_eq!(differing(&wanted, &wanted, mask).expect("read").paths, [""; 0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, told) in [
            ("nonsense=1", "known are allow_agent_hiring, max_agents"),
            ("maxAgents=1 max_agents=2", "the setting max_agents is given twice"),
            ("max_agents=many", "max_agents must be a whole number, not \"many\""),
            ("allow_agent_hiring=yes", "allow_agent_hiring must be true or false"),
            ("verification=unspecified", "verification must be none or peer"),
            ("model_budget_per_task=much", "model_budget_per_task must be credits like 5 or 0.25, from 0 to"),
            ("idle_fire_after=soon", "idle_fire_after must be a duration"),
            ("idle_fire_after=é", "idle_fire_after must be a duration"),
        ] {
            let error = set(text).expect_err(text);
            assert!(error.contains(told), "{error}");
        }
        assert!(set("max_agents=99999999999").is_err());
    }
}
