//! The description of REST that programs read: OpenAPI 3.1, out of the table of routes and what the proto files say.

mod comments;
mod schemas;

use std::{io::Write, sync::LazyLock};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Method as HttpMethod, StatusCode, header};
use mi_kernel::{Error, ErrorKind};
use mi_proto::rules;
use mi_rpc::{HttpRequest, HttpResponse, status};
use prost_reflect::{FieldDescriptor, ServiceDescriptor};
use serde_json::{Map, Value, json};
use tonic::body::Body as HttpBody;

use self::{
    comments::{comment, summary},
    schemas::Schemas,
};
use crate::{
    refusal::{self, json_answer},
    rest::{
        self,
        routes::{Body, Form, PLACES, Route},
    },
};

/// Where it is served.
pub(crate) const PATH: &str = "/openapi.json";
/// The caller that needs no credential, by its name in the access rules.
const ANYONE: &str = "CALLER_ANYONE";

/// The text, as it is served and as it is kept in `docs`.
pub(crate) static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// The same, compressed once for all who take it so.
static GZIP: LazyLock<Bytes> = LazyLock::new(|| {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    // Nothing fails that is written to memory.
    let _ = gzip.write_all(TEXT.as_bytes());
    gzip.finish().unwrap_or_default().into()
});

/// The tag of the text: a hash that is the same in every build that has the same text.
static ETAG: LazyLock<HeaderValue> = LazyLock::new(|| {
    // FNV-1a: it has to tell versions apart, and nobody gains by making two alike.
    let hash = TEXT
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // Quotes and digits: always a header value.
    HeaderValue::try_from(format!("\"{hash:016x}\"")).unwrap_or(HeaderValue::from_static("\"\""))
});

/// Answers a request for it, which needs no credential: it says nothing that the source does not.
pub(crate) fn serve(request: &HttpRequest) -> HttpResponse {
    if !matches!(*request.method(), HttpMethod::GET | HttpMethod::HEAD) {
        let text = format!("{} is not for this path, where there are GET, HEAD", request.method());
        let mut response = refusal::rest(&status(Error::new(ErrorKind::Invalid, "METHOD_NOT_ALLOWED", text)));
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let known = request.headers().get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    let mut response = match known.any(|tag| tag == "*" || ETAG.as_bytes() == tag.as_bytes()) {
        true => {
            let mut response = HttpResponse::new(HttpBody::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        // Neither is copied: anybody may ask, as often as he likes.
        false if accepts_gzip(request) => {
            let mut response = json_answer(GZIP.clone());
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
        false => json_answer(Bytes::from_static(TEXT.as_bytes())),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response.headers_mut().insert(header::ETAG, ETAG.clone());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if request.method() == HttpMethod::HEAD { rest::without_body(response) } else { response }
}

fn accepts_gzip(request: &HttpRequest) -> bool {
    let accepted = request.headers().get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|name| name.trim() == "gzip")
}

fn document() -> Value {
    let routes = || PLACES.iter().flat_map(|place| &place.routes);
    let mut schemas = Schemas::default();
    for route in routes() {
        match &route.body {
            Body::Whole if !route.method.client_streams => schemas.send(&route.method.input),
            Body::Field(field) => field.kind().as_message().into_iter().for_each(|message| schemas.send(message)),
            Body::Whole | Body::None => {}
        }
    }
    let mut paths = Map::new();
    for place in PLACES.iter() {
        let item =
            place.routes.iter().map(|route| (route.http.as_str().to_ascii_lowercase(), operation(route, &mut schemas)));
        let item: Map<String, Value> = item.collect();
        let path = place.routes.first().map(|route| route.template.plain()).unwrap_or_default();
        paths.insert(path, item.into());
    }
    let mut services: Vec<ServiceDescriptor> = routes().map(|route| route.rpc.parent_service().clone()).collect();
    services.sort_by(|a, b| a.name().cmp(b.name()));
    services.dedup();
    let tags = services.iter().map(|service| {
        let text = comment(&service.parent_file(), service.path()).unwrap_or_default();
        json!({"name": service.name(), "description": text})
    });
    let tags: Vec<_> = tags.collect();
    let mut components = schemas.finish();
    components.insert("Error".to_owned(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "mi",
            "version": "v1",
            "summary": "Offices of agents that work on tasks",
            "description": "Fields are in snake_case; either spelling, `office_id` or `officeId`, is read. Whole numbers of 64 \
                bits are strings, times are RFC 3339, durations are seconds such as `30s`. In a query a list is a parameter \
                that is repeated, or one with commas, and a value of an enum may be written short (`statuses=queued`). A \
                slash within a file's path may be written `%2F`. Creating calls take `request_id`: the same one again \
                answers what the first one made. `x-server-timeout` is how long a client waits, in seconds.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This platform"}],
        "security": [{"bearer": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key (`mi_...`), or a token that an agent signed for itself.",
            }},
            "schemas": components,
        },
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let rpc = &route.rpc;
    let text = comment(&rpc.parent_file(), rpc.path()).unwrap_or_default();
    let mut operation = json!({
        "operationId": rpc.name(),
        "tags": [rpc.parent_service().name()],
        "summary": summary(text),
        "description": text,
        "parameters": parameters(route, schemas),
        "responses": responses(route, schemas),
    });
    if let Some(body) = request_body(route, schemas) {
        operation["requestBody"] = body;
    }
    let rule = rules::rule(&route.method.path);
    if rule.is_some_and(|rule| rule.callers.iter().any(|caller| caller.as_str_name() == ANYONE)) {
        operation["security"] = json!([]);
    }
    operation
}

fn parameters(route: &Route, schemas: &mut Schemas) -> Value {
    let one = |place: &str, field: &FieldDescriptor, schemas: &mut Schemas| {
        let mut schema = schemas.field(field);
        let text = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let mut parameter = json!({"name": field.name(), "in": place, "schema": schema});
        if let Some(text) = text {
            parameter["description"] = text;
        }
        if place == "path" {
            parameter["required"] = true.into();
        }
        parameter
    };
    let mut all: Vec<_> = route.variables.iter().map(|field| one("path", field, schemas)).collect();
    let input = route.input();
    let free = input.fields().filter(|field| route.is_free(field) && !field.is_map());
    all.extend(free.map(|field| one("query", &field, schemas)));
    let mut header = |name: &str, text: &str| {
        all.push(json!({"name": name, "in": "header", "description": text, "schema": {"type": "string"}}));
    };
    match &route.form {
        Form::Events(Some(_)) => {
            header("Last-Event-ID", "The id of the event that was seen last: the stream goes on after it.")
        }
        Form::Download { .. } => {
            header("Range", "`bytes=0-99`, `bytes=100-` or `bytes=-100`, where `accept-ranges` allows it.");
            header("If-Range", "The `etag` of what is there already; of anything else all is sent.");
            header("If-None-Match", "The `etag` of what is there already, which is then not sent again.");
            header("If-Match", "The only `etag` that is wanted.");
        }
        Form::Unary | Form::Upload { .. } if input.get_field_by_name("if_revision").is_some() => {
            header("If-Match", "The `etag` that was read: the same as `if_revision`.");
            header("If-None-Match", "`*`: only where there is nothing yet.");
        }
        Form::Events(None) | Form::Unary | Form::Upload { .. } => {}
    }
    all.into()
}

fn request_body(route: &Route, schemas: &mut Schemas) -> Option<Value> {
    if matches!(route.form, Form::Upload { .. }) {
        let bytes = json!({"schema": {"type": "string", "format": "binary"}});
        return Some(json!({"required": true, "content": {"application/octet-stream": bytes, "*/*": bytes}}));
    }
    let schema = match &route.body {
        Body::None => return None,
        Body::Whole => schemas.object(&route.method.input, |field| !route.variables.contains(field)),
        Body::Field(field) => schemas.message(field.kind().as_message()?),
    };
    Some(json!({"required": false, "content": {"application/json": {"schema": schema}}}))
}

fn responses(route: &Route, schemas: &mut Schemas) -> Value {
    let message = match route.response.as_ref().and_then(|field| field.kind().as_message().cloned()) {
        Some(message) => message,
        None => route.method.output.clone(),
    };
    let mut responses = Map::new();
    match &route.form {
        Form::Unary | Form::Upload { .. } => {
            let mut schema = schemas.message(&message);
            if route.response.is_some() && route.method.output.fields().any(|field| field.is_list()) {
                schema = json!({"anyOf": [schema, schemas.message(&route.method.output)]});
            }
            responses.insert(
                "200".to_owned(),
                json!({"description": "Done.", "content": {"application/json": {"schema": schema}}}),
            );
        }
        Form::Events(_) => {
            let schema = schemas.message(&message);
            let content = json!({"text/event-stream": {"schema": schema}, "application/x-ndjson": {"schema": schema}});
            let text = "A stream. With `accept: text/event-stream`, events whose data is one of these; else one of these a line. \
                        An error ends it: the event `error`, or a line with `error` alone.";
            responses.insert("200".to_owned(), json!({"description": text, "content": content}));
        }
        Form::Download { .. } => {
            let content = json!({"*/*": {"schema": {"type": "string", "format": "binary"}}});
            for (code, text) in [("200", "The bytes."), ("206", "A part of the bytes, as `content-range` says.")] {
                responses.insert(code.to_owned(), json!({"description": text, "content": content}));
            }
            responses.insert("304".to_owned(), json!({"description": "It is as `if-none-match` says."}));
        }
    }
    let refused = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}});
    let text = "Refused: the request is wrong, or it cannot be done now.";
    responses.insert("4XX".to_owned(), json!({"description": text, "content": refused}));
    responses.insert("5XX".to_owned(), json!({"description": "A fault of the platform.", "content": refused}));
    responses.into()
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "Why something was refused, as `google.rpc.Status` has it.",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "required": ["code", "status", "message", "details"],
            "properties": {
                "code": {"type": "integer", "description": "The status of HTTP."},
                "status": {"type": "string", "description": "The code of gRPC, such as `NOT_FOUND`."},
                "message": {"type": "string", "description": "A sentence for people."},
                "details": {
                    "type": "array",
                    "description": "Messages of `google.rpc`: always an `ErrorInfo` with a `reason` for programs, and such as \
                        `BadRequest` with the field that is wrong.",
                    "items": {
                        "type": "object",
                        "required": ["@type"],
                        "properties": {
                            "@type": {"type": "string"},
                            "reason": {"type": "string", "description": "Of `ErrorInfo`."},
                        },
                        "additionalProperties": true,
                    },
                },
            },
        }},
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn what_is_referred_to_is_there_and_everything_says_what_it_is() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").expect("a schema");
            assert!(document["components"]["schemas"][name].is_object(), "{reference}");
        }
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("methods") {
                let id = operation["operationId"].as_str().expect("an id");
                assert!(ids.insert(id.to_owned()), "{id} is there twice");
                for text in [&operation["summary"], &operation["description"]] {
                    assert!(text.as_str().is_some_and(|text| text.len() > 5), "{method} {path}");
                }
                for parameter in operation["parameters"].as_array().expect("parameters") {
                    assert!(parameter["description"].is_string(), "{id} {}", parameter["name"]);
                }
            }
        }
        let schemas = document["components"]["schemas"].as_object().expect("schemas");
        for (name, schema) in schemas.iter().filter(|(name, _)| !name.starts_with("google.")) {
            assert!(schema["description"].is_string(), "{name}");
        }
    }

    #[test]
    fn an_operation_says_what_it_takes_and_answers() {
        let document = document();
        let list = &document["paths"]["/v1/offices/{office_id}/tasks"]["get"];
        assert_eq!(list["operationId"], "ListTasks");
        let names: Vec<_> =
            list["parameters"].as_array().expect("some").iter().map(|one| (&one["name"], &one["in"])).collect();
        let text = |text: &str| Value::from(text);
        let expected = [
            ("office_id", "path"),
            ("statuses", "query"),
            ("assigned_agent", "query"),
            ("parent_id", "query"),
            ("page_size", "query"),
            ("page_token", "query"),
            ("context_id", "query"),
            ("order_by", "query"),
            ("updated_after", "query"),
        ]
        .map(|(name, place)| (text(name), text(place)));
        assert_eq!(names, expected.iter().map(|(name, place)| (name, place)).collect::<Vec<_>>());
        let create = &document["paths"]["/v1/offices/{office_id}/tasks"]["post"];
        let properties = &create["requestBody"]["content"]["application/json"]["schema"]["properties"];
        assert!(properties["title"].is_object() && properties["office_id"].is_null(), "{properties}");
        let task = json!({"$ref": "#/components/schemas/Task"});
        assert_eq!(create["responses"]["200"]["content"]["application/json"]["schema"], task);
        assert_eq!(document["paths"]["/v1/offices:join"]["post"]["security"], json!([]));
        assert_eq!(document["components"]["schemas"]["File"]["properties"]["size"]["format"], "int64");
        assert!(
            document["components"]["schemas"]["Task"]["required"]
                .as_array()
                .is_some_and(|all| all.contains(&text("id")))
        );
        // It may be sent, so that what it always has when it is answered may be left out.
        assert_eq!(document["components"]["schemas"]["OfficeSettings"]["required"], Value::Null);
    }
}
