//! Why a request is refused, as the `Status` object that a client gets.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;

/// A refused request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) code: u16,
    reason: &'static str,
    /// What a person reads.
    pub(crate) message: String,
    details: Map<String, Value>,
    metadata: Map<String, Value>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    reason: &'static str,
    field: String,
    message: String,
}

impl Cause {
    /// The field has to be there.
    pub(crate) fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// The field has a value that it may not have.
    pub(crate) fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self { reason: "FieldValueInvalid", field: field.into(), message: format!("Invalid value: {value}: {why}") }
    }

    /// The field may not be set, or not be changed.
    pub(crate) fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {why}") }
    }

    /// The field names something that is not there.
    pub(crate) fn not_found(field: impl Into<String>, value: &str) -> Self {
        Self { reason: "FieldValueNotFound", field: field.into(), message: format!("Not found: {value:?}") }
    }

    /// The value is there twice.
    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueDuplicate", field: field.into(), message: format!("Duplicate value: {value}") }
    }

    /// The value is none of those that there are.
    pub(crate) fn unsupported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", supported.join(", "));
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }

    fn sentence(&self) -> String {
        format!("{}: {}", self.field, self.message)
    }
}

impl Refusal {
    /// One with nothing but what everybody has.
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Map::new(), metadata: Map::new() }
    }

    /// Says which object it is about.
    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.detail("name", name);
        self.detail("group", kind.group);
        self.detail("kind", kind.resource);
        self
    }

    fn detail(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.details.insert(name.to_owned(), value.into());
        }
    }

    /// Adds a cause that is about no field.
    pub(crate) fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let mut cause = json!({"reason": reason, "message": message});
        if !field.is_empty() {
            cause["field"] = field.into();
        }
        match self.details.entry("causes").or_insert_with(|| json!([])) {
            Value::Array(causes) => causes.push(cause),
            _ => unreachable!("causes are a list"),
        }
        self
    }

    /// Says when to try again, in seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.details.insert("retryAfterSeconds".to_owned(), seconds.into());
        self
    }

    /// When to try again, in seconds.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.details.get("retryAfterSeconds").and_then(Value::as_u64)
    }

    /// Gives a token to read on with, if an inconsistent list will do.
    pub(crate) fn with_continue(mut self, token: &str) -> Self {
        self.metadata.insert("continue".to_owned(), token.into());
        self
    }

    /// There is no such object.
    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.qualified())).about(kind, name)
    }

    /// There is no such address.
    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// There is one of that name.
    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", kind.qualified())).about(kind, name)
    }

    /// The object is not what the caller thinks it is.
    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// The version that the caller read is not the newest.
    pub(crate) fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// Fields have values that they may not have.
    pub(crate) fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        let mut refusal = Self::invalid_options(&kind.qualified_kind(), name, causes);
        refusal.detail("group", kind.group);
        refusal.detail("kind", kind.kind);
        refusal
    }

    /// The same about the parameters of a request.
    pub(crate) fn invalid_options(what: &str, name: &str, causes: &[Cause]) -> Self {
        let sentences: Vec<String> = causes.iter().map(Cause::sentence).collect();
        let all = match sentences.as_slice() {
            [only] => only.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let mut refusal = Self::new(422, "Invalid", format!("{what} {name:?} is invalid: {all}"));
        refusal.detail("name", name);
        for cause in causes {
            refusal = refusal.with_cause(cause.reason, &cause.message, &cause.field);
        }
        refusal
    }

    /// The caller may not.
    pub(crate) fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = match name {
            "" => format!("{} is forbidden: {why}", kind.qualified()),
            name => format!("{} {name:?} is forbidden: {why}", kind.qualified()),
        };
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    /// The request makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// The version was forgotten.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The version is not there yet.
    pub(crate) fn too_large(asked: u64, current: u64) -> Self {
        Self::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}, current: {current}"))
            .retry_after(1)
            .with_cause("ResourceVersionTooLarge", "Too large resource version", "")
    }

    /// The server failed, or is too busy, with this status.
    pub(crate) fn server(code: u16) -> Self {
        match code {
            429 => Self::new(
                429,
                "TooManyRequests",
                "the server has received too many requests and has asked us to try again later",
            ),
            503 => Self::new(503, "ServiceUnavailable", "the server is currently unable to handle the request"),
            504 => Self::new(
                504,
                "Timeout",
                "the server was unable to return a response in the time allotted, but may still be processing the request",
            ),
            401 => Self::new(401, "Unauthorized", "Unauthorized"),
            403 => Self::new(403, "Forbidden", "forbidden on demand"),
            404 => Self::no_such_path(),
            409 => Self::new(409, "Conflict", "a conflict on demand"),
            410 => Self::expired("The resourceVersion for the provided list is too old."),
            code => Self::new(code, "InternalError", "Internal error occurred: the simulation fails on demand"),
        }
    }

    /// The object that the client gets.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if !self.details.is_empty() {
            status["details"] = Value::Object(self.details.clone());
        }
        status
    }
}
