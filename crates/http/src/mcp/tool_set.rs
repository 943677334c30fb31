//! The tools as a kind of caller sees them, made once.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use prost_reflect::{FieldDescriptor, Kind as FieldKind, MessageDescriptor};
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde_json::{Map, Value, json};

use super::{
    arguments::{LIST, MAX_BYTES, WAIT},
    files, schema,
    schema::For,
    tools::{Effect, LEFT_OUT, Spec, TOOLS, Way},
    who::Kind,
};
use crate::methods::{self, Method};

/// The field that names the office; an agent need not say which is its own.
pub(crate) const OFFICE: &str = "office_id";

/// A tool that a caller may use.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) spec: &'static Spec,
    /// The RPCs of the tool that the caller may use; at least one.
    pub(crate) calls: Vec<&'static Method>,
    /// The schemas of all arguments.
    pub(crate) arguments: Map<String, Value>,
    /// Names of those without which it does nothing.
    pub(crate) needed: Vec<&'static str>,
}

impl Offer {
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.arguments.contains_key(name)
    }
}

/// All tools that callers of one kind may use.
#[derive(Debug)]
pub(crate) struct ToolSet {
    /// As they are listed.
    pub(crate) tools: Vec<Tool>,
    offers: HashMap<&'static str, Offer>,
}

impl ToolSet {
    /// Those of this kind.
    pub(crate) fn of(kind: Kind) -> &'static Self {
        static SETS: LazyLock<[ToolSet; 3]> =
            LazyLock::new(|| [Kind::Administrator, Kind::Operator, Kind::Agent].map(ToolSet::made));
        let [administrator, operator, agent] = &*SETS;
        match kind {
            Kind::Administrator => administrator,
            Kind::Operator => operator,
            Kind::Agent => agent,
        }
    }

    /// The tool of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Offer> {
        self.offers.get(name)
    }

    fn made(kind: Kind) -> Self {
        let mut set = Self { tools: Vec::new(), offers: HashMap::new() };
        for spec in TOOLS.iter().filter(|spec| kind.may_call(spec.calls[0])) {
            let paths = spec.calls.iter().filter(|path| kind.may_call(path));
            // A test looks for every one of them.
            let calls: Vec<_> =
                paths.map(|path| methods::find(path).expect("tools call RPCs that there are")).collect();
            let (input, needed) = input(spec, &calls, kind);
            let arguments = input["properties"].as_object().cloned().unwrap_or_default();
            let offer = Offer { spec, arguments, needed, calls };
            let tool = Tool::new(spec.name, spec.description, Arc::new(input))
                .with_title(spec.title)
                .with_raw_output_schema(Arc::new(output(&offer)))
                .with_annotations(annotations(spec.effect));
            set.tools.push(tool);
            set.offers.insert(spec.name, offer);
        }
        set
    }
}

fn annotations(effect: Effect) -> ToolAnnotations {
    ToolAnnotations::new()
        .read_only(effect == Effect::Reads)
        .destructive(effect == Effect::Destroys)
        .idempotent(matches!(effect, Effect::Reads | Effect::Changes))
        .open_world(false)
}

/// The message whose fields a call takes: of an upload, the header.
pub(crate) fn asked(method: &Method) -> MessageDescriptor {
    match method.input.get_field_by_name(files::HEADER).map(|header| header.kind()) {
        Some(FieldKind::Message(header)) => header,
        _ => method.input.clone(),
    }
}

/// The schema of the arguments, and which are needed.
fn input(spec: &Spec, calls: &[&'static Method], kind: Kind) -> (JsonObject, Vec<&'static str>) {
    let messages: Vec<_> = calls.iter().map(|call| asked(call)).collect();
    let find = |name: &str| messages.iter().find_map(|message| message.get_field_by_name(name));
    let mut properties = Map::new();
    let mut needed = spec.takes[..spec.needs].to_vec();
    if let Some(office) = find(OFFICE) {
        let mut schema = schema::field(&office, For::Input);
        match kind {
            Kind::Agent => schema["description"] = "Your own office, if you say nothing.".into(),
            _ => needed.insert(0, OFFICE),
        }
        properties.insert(OFFICE.to_owned(), schema);
    }
    for name in spec.takes {
        if let Some(field) = find(name) {
            properties.insert((*name).to_owned(), argument(&field));
        }
    }
    match spec.way {
        Way::Task => properties.extend(WAIT.iter().map(|(name, schema)| ((*name).to_owned(), schema()))),
        Way::WriteFile => properties.extend(files::content()),
        Way::ReadFile | Way::Calls => {}
    }
    if spec.effect == Effect::Reads && spec.way != Way::ReadFile {
        properties
            .insert(MAX_BYTES.name.to_owned(), MAX_BYTES.schema("Longer texts of the answer are cut beyond this."));
    }
    let mut schema = Map::new();
    schema.insert("type".to_owned(), "object".into());
    schema.insert("properties".to_owned(), properties.into());
    schema.insert("additionalProperties".to_owned(), false.into());
    if !needed.is_empty() {
        schema.insert("required".to_owned(), json!(needed));
    }
    (schema, needed)
}

/// The schema of an argument: pages are smaller than those of the API.
fn argument(field: &FieldDescriptor) -> Value {
    match field.name() {
        "page_size" | "limit" => LIST.schema("At most this many."),
        "length" => files::LENGTH.schema("How many bytes."),
        _ => schema::field(field, For::Input),
    }
}

/// The schema of the answer.
fn output(offer: &Offer) -> JsonObject {
    let is_kept = |name: &str| !LEFT_OUT.contains(&name);
    let mut properties = match offer.spec.way {
        Way::ReadFile => files::read_output(),
        _ => offer.calls.iter().flat_map(|call| schema::output(&call.output, &is_kept)).collect(),
    };
    if offer.spec.way == Way::ReadFile
        && let Some(file) = schema::output(&offer.calls[0].output, &is_kept).remove("file")
    {
        properties.insert("file".to_owned(), file);
    }
    if offer.spec.way == Way::Task {
        properties.insert("note".to_owned(), json!({"type": "string"}));
    }
    let mut schema = Map::new();
    schema.insert("type".to_owned(), "object".into());
    schema.insert("properties".to_owned(), properties.into());
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(kind: Kind) -> Vec<&'static str> {
        TOOLS.iter().map(|spec| spec.name).filter(|name| ToolSet::of(kind).find(name).is_some()).collect()
    }

    #[test]
    fn each_kind_of_caller_sees_what_it_may_use() {
        let all: Vec<_> = TOOLS.iter().map(|spec| spec.name).collect();
        assert_eq!(names(Kind::Operator), all);
        assert_eq!(names(Kind::Administrator), all);
        let agents: Vec<_> =
            all.iter().copied().filter(|name| !["list_offices", "create_office"].contains(name)).collect();
        assert_eq!(names(Kind::Agent), agents);
        for kind in Kind::ALL {
            let listed: Vec<_> = ToolSet::of(kind).tools.iter().map(|tool| tool.name.to_string()).collect();
            assert_eq!(listed, names(kind));
        }
        let usage = |kind| ToolSet::of(kind).find("get_credits").expect("all have it").takes("group_by");
        assert_eq!(Kind::ALL.map(usage), [true, true, false], "what was used is for owners");
    }

    #[test]
    fn every_argument_and_every_answer_is_described() {
        for kind in Kind::ALL {
            let set = ToolSet::of(kind);
            for tool in &set.tools {
                let offer = set.find(&tool.name).expect("it is listed");
                let required = tool.input_schema.get("required").cloned().unwrap_or(json!([]));
                assert_eq!(required, json!(offer.needed), "{}", tool.name);
                let properties = tool.input_schema["properties"].as_object().expect("an object");
                assert!(offer.needed.iter().all(|name| properties.contains_key(*name)), "{}", tool.name);
                for (name, schema) in properties {
                    let description = schema["description"].as_str().unwrap_or_default();
                    assert!((8..=300).contains(&description.len()), "{}.{name}: {description:?}", tool.name);
                    assert!(schema["type"].is_string(), "{}.{name}", tool.name);
                }
                let of_spec: Vec<_> = offer.spec.takes.iter().filter(|name| !offer.takes(name)).collect();
                let is_for_owners = offer.spec.name == "get_credits" && kind == Kind::Agent;
                assert!(of_spec.is_empty() || is_for_owners, "{}: there is no {of_spec:?}", tool.name);
                let output = tool.output_schema.as_ref().expect("each has one");
                assert_eq!(output["type"], "object");
                let description = tool.description.as_deref().unwrap_or_default();
                assert!((30..=200).contains(&description.len()), "{}: {}", tool.name, description.len());
            }
        }
    }

    #[test]
    fn an_agent_need_not_say_where_it_is() {
        let needed = |kind| ToolSet::of(kind).find("get_task").expect("all have it").needed.clone();
        assert_eq!(needed(Kind::Operator), ["office_id", "task_id"]);
        assert_eq!(needed(Kind::Agent), ["task_id"]);
    }

    #[test]
    fn what_is_dangerous_says_so() {
        let with = |hint: fn(&ToolAnnotations) -> Option<bool>| {
            let tools = ToolSet::of(Kind::Operator).tools.iter();
            let hinted = tools.filter(|tool| tool.annotations.as_ref().and_then(hint) == Some(true));
            hinted.map(|tool| tool.name.to_string()).collect::<Vec<_>>()
        };
        let destructive = ["fire_agent", "cancel_task", "write_file", "delete_file"];
        assert_eq!(with(|annotations| annotations.destructive_hint), destructive);
        let reading = with(|annotations| annotations.read_only_hint);
        assert!(
            reading.iter().all(|name| ["get_", "list_", "read_", "whoami"].iter().any(|start| name.starts_with(start)))
        );
        assert_eq!(reading.len(), 14);
    }

    #[test]
    fn the_list_is_small_enough_to_be_read_by_a_model() {
        let text = serde_json::to_string(&ToolSet::of(Kind::Operator).tools).expect("it serializes");
        let input: usize = ToolSet::of(Kind::Operator)
            .tools
            .iter()
            .map(|tool| json!([tool.name, tool.description, tool.input_schema]).to_string().len())
            .sum();
        assert!(text.len() < 48 << 10, "{} bytes", text.len());
        assert!(input < 20 << 10, "{input} bytes without the schemas of answers");
        assert!(!text.contains("\"$ref\""));
    }
}
