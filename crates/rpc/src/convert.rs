//! Between wire and domain, where a conversion is needed in more than one role.

use mi_kernel::{
    Actor, Error, EventId, OfficeId, Result, Time,
    event::{Category, Event},
    isolation::{IsolationCheck, IsolationState},
};
use mi_proto::v1;
use prost_types::{ListValue, Struct, Timestamp, Value, value::Kind};
use serde_json::{Map, Value as Json};

/// A time for the wire.
pub fn timestamp(time: Time) -> Timestamp {
    Timestamp { seconds: time.timestamp(), nanos: time.timestamp_subsec_nanos().try_into().unwrap_or_default() }
}

/// A time of a request.
///
/// # Errors
/// `Invalid`, naming the field, when it is out of range.
pub fn time(field: &'static str, timestamp: &Timestamp) -> Result<Time> {
    // google.protobuf.Timestamp; beyond these years its text forms do not sort either.
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let nanos = u32::try_from(timestamp.nanos).ok().filter(|_| YEARS.contains(&timestamp.seconds));
    nanos
        .and_then(|nanos| Time::from_timestamp(timestamp.seconds, nanos))
        .ok_or_else(|| Error::invalid(field, "is not a time between the years 1 and 9999"))
}

/// Who a caller is, for WhoAmI and between roles.
pub fn principal(actor: &Actor) -> v1::Principal {
    match actor {
        Actor::Operator { account_id, api_key_id, administrator } => v1::Principal {
            kind: if *administrator { v1::PrincipalKind::Administrator } else { v1::PrincipalKind::Operator }.into(),
            account_id: account_id.to_string(),
            api_key_id: api_key_id.to_string(),
            ..Default::default()
        },
        Actor::Agent(agent) => v1::Principal {
            kind: v1::PrincipalKind::Agent.into(),
            office_id: agent.office_id.to_string(),
            agent_id: agent.agent_id.to_string(),
            agent: agent.name.clone(),
            ..Default::default()
        },
        Actor::Anonymous | Actor::Service { .. } => v1::Principal::default(),
    }
}

/// The reverse of [`principal`], for what another role resolved.
///
/// # Errors
/// `Internal` when the role sent nonsense.
pub fn actor(principal: &v1::Principal) -> Result<Actor> {
    use mi_kernel::{AccountId, AgentActor, AgentId, ApiKeyId};
    let operator = |administrator| {
        Ok(Actor::Operator {
            account_id: AccountId::parse(&principal.account_id)?,
            api_key_id: ApiKeyId::parse(&principal.api_key_id)?,
            administrator,
        })
    };
    match principal.kind() {
        v1::PrincipalKind::Administrator => operator(true),
        v1::PrincipalKind::Operator => operator(false),
        v1::PrincipalKind::Agent => Ok(Actor::Agent(AgentActor {
            office_id: OfficeId::parse(&principal.office_id)?,
            agent_id: AgentId::parse(&principal.agent_id)?,
            name: principal.agent.clone(),
        })),
        v1::PrincipalKind::Unspecified => Err(Error::internal("a role sent a principal of no kind")),
    }
}

/// An event for the wire.
pub fn event_to_wire(event: Event) -> v1::ActivityEvent {
    v1::ActivityEvent {
        id: event.id.to_string(),
        office_id: event.office_id.to_string(),
        agent: event.agent,
        category: event.category.as_str().to_owned(),
        r#type: event.kind,
        summary: event.summary,
        time: Some(timestamp(event.time)),
        metadata: Some(json_to_struct(event.metadata)),
        trace_id: event.trace_id,
        // Its place in a feed is the feed's to say.
        ..Default::default()
    }
}

/// An event from the wire.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn event_from_wire(event: v1::ActivityEvent) -> Result<Event> {
    let category = category("category", &event.category)?;
    let at = event.time.ok_or_else(|| Error::invalid("time", "is required"))?;
    Ok(Event {
        id: EventId::parse(&event.id)?,
        office_id: OfficeId::parse(&event.office_id)?,
        agent: event.agent,
        category,
        kind: event.r#type,
        summary: event.summary,
        time: time("time", &at)?,
        metadata: Json::Object(event.metadata.map(struct_to_json).unwrap_or_default()),
        trace_id: event.trace_id,
    })
}

/// What a probe found, for the wire.
pub fn isolation_check(check: IsolationCheck) -> v1::IsolationCheck {
    let state = match check.state {
        IsolationState::Holds => v1::IsolationState::Holds,
        IsolationState::Hole => v1::IsolationState::Hole,
        IsolationState::Absent => v1::IsolationState::Absent,
    };
    v1::IsolationCheck { layer: check.layer.to_owned(), probe: check.probe, state: state.into(), detail: check.detail }
}

/// A category by its name on the wire.
///
/// # Errors
/// `Invalid`, naming the field and the categories there are.
pub fn category(field: &'static str, name: &str) -> Result<Category> {
    name.parse().map_err(|_| {
        let known = Category::ALL.iter().map(|category| category.as_str()).collect::<Vec<_>>().join(", ");
        Error::invalid(field, format!("has no {name:?}; the categories are {known}"))
    })
}

/// A JSON object as a protobuf Struct; anything but an object becomes an empty one.
pub fn json_to_struct(json: Json) -> Struct {
    match json {
        Json::Object(map) => {
            Struct { fields: map.into_iter().map(|(key, value)| (key, json_to_value(value))).collect() }
        }
        _ => Struct::default(),
    }
}

fn json_to_value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => Kind::StringValue(value),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(json_to_value).collect() }),
        object @ Json::Object(_) => Kind::StructValue(json_to_struct(object)),
    };
    Value { kind: Some(kind) }
}

/// A protobuf Struct as a JSON object. Whole numbers come out as integers, as they went in.
pub fn struct_to_json(value: Struct) -> Map<String, Json> {
    value.fields.into_iter().map(|(key, value)| (key, value_to_json(value))).collect()
}

fn value_to_json(value: Value) -> Json {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        // Doubles hold integers exactly up to 2^53.
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 => {
            Json::from(value as i64)
        }
        Some(Kind::NumberValue(value)) => Json::from(value),
        Some(Kind::StringValue(value)) => Json::String(value),
        Some(Kind::ListValue(list)) => Json::Array(list.values.into_iter().map(value_to_json).collect()),
        Some(Kind::StructValue(value)) => Json::Object(struct_to_json(value)),
    }
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock};

    use super::*;

    #[test]
    fn an_event_survives_the_wire() {
        let event = Event::lifecycle(OfficeId::new(), "analyst", "agent.hired", "hired", SystemClock.now())
            .with(serde_json::json!({"tier": "opus", "generation": 3, "ratio": 0.5, "list": [null, true, {"a": "b"}]}))
            .traced("4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(event_from_wire(event_to_wire(event.clone())).expect("own event"), event);
    }
}
