//! What a caller says with a tool, before anything is called.

use std::time::Duration;

use mi_kernel::Error;
use serde_json::{Map, Value, json};
use tonic::Status;

use super::{
    tool_set::{OFFICE, Offer},
    tools::DEFAULTS,
    who::Who,
};

/// A number that has bounds of ours.
#[derive(Debug)]
pub(crate) struct Bounded {
    pub(crate) name: &'static str,
    pub(crate) least: u64,
    pub(crate) most: u64,
    pub(crate) usual: u64,
}

/// Most items of a page.
pub(crate) const LIST_MAX: u64 = 50;
/// How many items a page has.
pub(crate) const LIST: Bounded = Bounded { name: "page_size", least: 1, most: LIST_MAX, usual: 20 };
/// How large an answer may get, in bytes. Beyond that its texts are cut, the longest first.
pub(crate) const MAX_BYTES: Bounded = Bounded { name: "max_bytes", least: 1_000, most: 1_000_000, usual: 32_000 };
/// For how long a tool waits, in seconds: less than clients wait for an answer, which is a minute in most.
pub(crate) const WAIT_SECONDS: Bounded = Bounded { name: "wait_seconds", least: 1, most: 3600, usual: 50 };
const WAIT_NAME: &str = "wait";

/// A name, and what makes its schema.
type Argument = (&'static str, fn() -> Value);

/// The arguments of tools that can wait.
pub(crate) const WAIT: [Argument; 2] = [
    (
        WAIT_NAME,
        || json!({"type": "boolean", "description": "Answer when the task is finished, or when wait_seconds are over."}),
    ),
    (WAIT_SECONDS.name, || {
        WAIT_SECONDS.schema("How long wait is at most; ask for progress if your client gives up earlier.")
    }),
];

impl Bounded {
    pub(crate) fn schema(&self, description: &str) -> Value {
        let (least, most, usual) = (self.least, self.most, self.usual);
        json!({"type": "integer", "minimum": least, "maximum": most, "default": usual, "description": description})
    }

    /// What was said under this name; else what is usual.
    fn read(&self, name: &str, said: Option<&Value>) -> Result<u64, Status> {
        let number = said.map_or(Some(self.usual), |said| whole(said).and_then(|number| number.try_into().ok()));
        let number = number.filter(|number| (self.least..=self.most).contains(number));
        number.ok_or_else(|| invalid(format!("`{name}` must be a whole number from {} to {}", self.least, self.most)))
    }
}

/// A whole number, which some write as 5.0, or as text.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let number = number.as_f64()?;
            (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64)
        }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Whether a value is of the kind that a schema of ours has; what else it must be, the API says.
fn fits(schema: &Value, value: &Value) -> bool {
    match schema["type"].as_str() {
        Some("string") => value.is_string() && schema["enum"].as_array().is_none_or(|names| names.contains(value)),
        Some("integer") => whole(value).is_some_and(|number| {
            let bound = |name: &str| schema[name].as_i64();
            bound("minimum").is_none_or(|least| least <= number) && bound("maximum").is_none_or(|most| number <= most)
        }),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.as_array().is_some_and(|items| items.iter().all(|item| fits(&schema["items"], item))),
        Some("object") => value.is_object(),
        _ => true,
    }
}

/// The same in words.
fn must_be(schema: &Value) -> String {
    match (schema["type"].as_str().unwrap_or_default(), schema["enum"].as_array(), schema["minimum"].as_i64()) {
        (_, Some(names), _) => {
            let names: Vec<_> = names.iter().filter_map(Value::as_str).collect();
            format!("one of {}", names.join(", "))
        }
        ("integer", _, Some(least)) => format!("a whole number from {least} to {}", schema["maximum"]),
        ("integer", ..) => "a whole number".to_owned(),
        ("string", ..) => "a text".to_owned(),
        ("boolean", ..) => "true or false".to_owned(),
        ("array", ..) => format!("a list, each item of which is {}", must_be(&schema["items"])),
        (kind, ..) => format!("of type {kind}"),
    }
}

/// Something is wrong with what the caller said.
pub(crate) fn invalid(text: String) -> Status {
    mi_rpc::status(Error::new(mi_kernel::ErrorKind::Invalid, "INVALID_ARGUMENT", text))
}

/// The arguments of one call, all of which the tool takes.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// Fields of requests, and what else the tool takes.
    pub(crate) fields: Map<String, Value>,
    /// Largest answer, in bytes.
    pub(crate) max_bytes: usize,
    /// How long to wait for a task; none: not at all.
    pub(crate) wait: Option<Duration>,
}

impl Arguments {
    /// Looks at what was said.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, which names what is unknown, missing or out of bounds.
    pub(crate) fn read(offer: &Offer, who: &Who, said: Option<Map<String, Value>>) -> Result<Self, Status> {
        let mut fields = said.unwrap_or_default();
        if let Some(name) = fields.keys().find(|name| !offer.takes(name)) {
            let known: Vec<_> = offer.arguments.keys().map(String::as_str).collect();
            let name: String = name.chars().take(64).collect();
            return Err(invalid(format!(
                "`{name}` is no argument of {}: it takes {}",
                offer.spec.name,
                known.join(", ")
            )));
        }
        // Many models write null for what they do not mean to say.
        fields.retain(|_, value| !value.is_null());
        let misfit = fields.iter().find(|(name, value)| !fits(&offer.arguments[*name], value));
        if let Some((name, _)) = misfit {
            return Err(invalid(format!("`{name}` must be {}", must_be(&offer.arguments[name]))));
        }
        if let Some(own) = &who.office_id
            && offer.takes(OFFICE)
            && fields.get(OFFICE).is_none_or(|said| said == "")
        {
            fields.insert(OFFICE.to_owned(), own.as_str().into());
        }
        if let Some(name) = offer.needed.iter().find(|name| !fields.contains_key(**name)) {
            let where_from = if *name == OFFICE { "; list_offices has the ids of your offices" } else { "" };
            return Err(invalid(format!("`{name}` is missing{where_from}")));
        }
        for name in ["page_size", "limit"].into_iter().filter(|name| offer.takes(name)) {
            let number = LIST.read(name, fields.get(name))?;
            fields.insert(name.to_owned(), number.into());
        }
        for (name, value) in DEFAULTS.into_iter().filter(|(name, _)| offer.takes(name)) {
            fields.entry(name).or_insert_with(|| value.into());
        }
        let max_bytes = MAX_BYTES.read(MAX_BYTES.name, fields.remove(MAX_BYTES.name).as_ref())?;
        let seconds = WAIT_SECONDS.read(WAIT_SECONDS.name, fields.remove(WAIT_SECONDS.name).as_ref())?;
        let waits = fields.remove(WAIT_NAME) == Some(Value::Bool(true));
        let wait = waits.then(|| Duration::from_secs(seconds));
        // A u64 of at most a million.
        Ok(Self { fields, max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX), wait })
    }

    /// A text among the fields; none: it was not said, or is no text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }

    /// A number that has bounds, under its own name.
    pub(crate) fn number(&self, bounded: &Bounded) -> Result<u64, Status> {
        bounded.read(bounded.name, self.fields.get(bounded.name))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tool_set::ToolSet, *};
    use crate::{byte_path::Caller, mcp::who::Kind};

    fn who(kind: Kind) -> Who {
        let office_id = (kind == Kind::Agent).then(|| "own".to_owned());
        Who { caller: Caller::default(), kind, office_id }
    }

    fn read(kind: Kind, tool: &str, said: Value) -> Result<Arguments, String> {
        let offer = ToolSet::of(kind).find(tool).expect("there is one");
        let Value::Object(said) = said else { panic!("an object") };
        Arguments::read(offer, &who(kind), Some(said)).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn what_was_not_said_is_as_usual() {
        let arguments = read(Kind::Operator, "list_tasks", json!({"office_id": "a", "parent_id": null})).expect("fine");
        assert_eq!(Value::Object(arguments.fields), json!({"office_id": "a", "page_size": 20}));
        assert_eq!((arguments.max_bytes, arguments.wait), (32_000, None));
        let waiting =
            read(Kind::Agent, "get_task", json!({"task_id": "t", "wait": true, "office_id": ""})).expect("fine");
        assert_eq!(Value::Object(waiting.fields), json!({"office_id": "own", "task_id": "t"}));
        assert_eq!(waiting.wait, Some(Duration::from_secs(50)));
        let credits = read(Kind::Operator, "get_credits", json!({"office_id": "a"})).expect("fine");
        assert_eq!(credits.fields["group_by"], "USAGE_GROUP_AGENT");
        let own = read(Kind::Agent, "get_credits", json!({})).expect("fine");
        assert_eq!(Value::Object(own.fields), json!({"office_id": "own"}));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |tool, said| read(Kind::Operator, tool, said).expect_err("refused");
        assert_eq!(
            problem("get_task", json!({"task_id": "t"})),
            "`office_id` is missing; list_offices has the ids of your offices"
        );
        assert_eq!(problem("get_task", json!({"office_id": "a", "task_id": null})), "`task_id` is missing");
        let unknown = "`id` is no argument of get_task: it takes max_bytes, office_id, task_id, wait, wait_seconds";
        assert_eq!(problem("get_task", json!({"id": 1})), unknown);
        for (name, value) in
            [("page_size", json!(51)), ("page_size", json!(0)), ("page_size", json!("many")), ("page_size", json!(1.5))]
        {
            let text = problem("list_agents", json!({"office_id": "a", name: value}));
            assert_eq!(text, "`page_size` must be a whole number from 1 to 50");
        }
        let text = problem("create_task", json!({"office_id": "a", "title": "t", "wait": 5}));
        assert_eq!(text, "`wait` must be true or false");
        for (name, value, must_be) in [
            ("priority", json!("high"), "a whole number"),
            ("priority", json!(1.5), "a whole number"),
            ("title", json!(["t"]), "a text"),
            ("depends_on", json!([1]), "a list, each item of which is a text"),
            ("verification_required", json!("yes"), "true or false"),
        ] {
            let text = problem("create_task", json!({"office_id": "a", "title": "t", name: value}));
            assert_eq!(text, format!("`{name}` must be {must_be}"));
        }
        let text = problem("create_task", json!({"office_id": "a", "title": "t", "kind": "command"}));
        assert!(text.starts_with("`kind` must be one of TASK_KIND_GENERAL, "), "{text}");
        let text = problem("hire_agent", json!({"office_id": "a", "name": "n", "env": []}));
        assert_eq!(text, "`env` must be of type object");
        let text = problem("list_agents", json!({"office_id": "a", "max_bytes": 10_000_000}));
        assert_eq!(text, "`max_bytes` must be a whole number from 1000 to 1000000");
    }

    #[test]
    fn numbers_are_read_however_they_are_written() {
        for value in [json!(7), json!(7.0), json!("7")] {
            let arguments = read(Kind::Agent, "list_agents", json!({"page_size": value})).expect("fine");
            assert_eq!(arguments.fields["page_size"], 7);
        }
    }
}
