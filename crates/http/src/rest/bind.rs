//! A request of REST as the message that it stands for: out of its path, its query and its body.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as HttpMethod, header};
use http_body::Body as _;
use mi_kernel::{Error, ErrorKind};
use mi_rpc::status;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};
use tonic::{Status, body::Body as HttpBody};

use super::{
    download::PART,
    query::{self, Query},
    routes::{Body, Form, Route, message_of},
    template::decode,
};
use crate::{body, byte_path::MAX_MESSAGE, json, refusal::invalid};

/// The field by which partial updates say what they change.
const MASK: &str = "update_mask";

/// What a request says in its head.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) route: &'static Route,
    /// What the variables of the path stand for.
    pub(crate) variables: Vec<(FieldDescriptor, Value)>,
    pub(crate) query: Query,
}

impl Asked {
    /// Reads the variables of a path.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what cannot be decoded, or does not fit its field.
    pub(crate) fn new(route: &'static Route, values: &[String], query: Query) -> Result<Self, Status> {
        let variables = route.variables.iter().zip(values).map(|(field, text)| {
            let text = decode(text).ok_or_else(|| {
                let problem = "has a `%` that is not followed by two hexadecimal digits, or is not UTF-8";
                invalid(field.name(), problem)
            })?;
            Ok((field.clone(), query::value(field, &[&text])?))
        });
        Ok(Self { route, variables: variables.collect::<Result<_, Status>>()?, query })
    }

    /// The message, whose body is read here.
    ///
    /// # Errors
    /// What is wrong with the request, by the name of the field.
    pub(crate) async fn message(&self, headers: &HeaderMap, body: HttpBody) -> Result<DynamicMessage, Status> {
        let input = self.route.input();
        let mut present = Vec::new();
        let mut message = match &self.route.body {
            Body::None => {
                empty(body).await?;
                DynamicMessage::new(input)
            }
            Body::Whole => match text(headers, body).await? {
                text if text.is_empty() => DynamicMessage::new(input),
                text => json::read(&input, &text).map_err(status)?,
            },
            Body::Field(field) => {
                let text = text(headers, body).await?;
                let mut message = DynamicMessage::new(input);
                if let Some(inner) = message_of(field).filter(|_| !text.is_empty()) {
                    message.set_field(field, Value::Message(json::read(&inner, &text).map_err(status)?));
                    present = json::names(&inner, &text);
                }
                message
            }
        };
        self.query.bind(&mut message, |field| self.is_free(field))?;
        self.set_variables(&mut message)?;
        if self.route.http == HttpMethod::PATCH {
            mask(&mut message, present);
        }
        Ok(message)
    }

    /// Whether a field may be in the query: neither path nor body have it.
    pub(crate) fn is_free(&self, field: &FieldDescriptor) -> bool {
        self.route.is_free(field)
    }

    /// Sets what the path says.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when the body says otherwise.
    pub(crate) fn set_variables(&self, message: &mut DynamicMessage) -> Result<(), Status> {
        for (field, value) in &self.variables {
            if message.has_field(field) && *message.get_field(field) != *value {
                return Err(invalid(
                    field.name(),
                    "is something else in the body than in the path; leave it out there",
                ));
            }
            message.set_field(field, value.clone());
        }
        Ok(())
    }
}

impl Route {
    /// Whether a field may be in the query: neither path nor body have it.
    pub(crate) fn is_free(&self, field: &FieldDescriptor) -> bool {
        let is_in_body = match &self.body {
            Body::None => false,
            // An upload's body is bytes.
            Body::Whole => !self.method.client_streams,
            Body::Field(body) => body == field,
        };
        let is_header = matches!(self.form, Form::Download { .. }) && PART.contains(&field.name());
        !is_in_body && !is_header && !self.variables.contains(field)
    }
}

/// Sees to it that there is no body.
pub(crate) async fn empty(body: HttpBody) -> Result<(), Status> {
    if !body.is_end_stream() && !body::whole(body, MAX_MESSAGE).await?.is_empty() {
        return Err(invalid("body", "must be empty: this method takes what it needs from path and query"));
    }
    Ok(())
}

/// The body of a request, which is JSON or nothing.
async fn text(headers: &HeaderMap, body: HttpBody) -> Result<Bytes, Status> {
    encoded(headers)?;
    let unsupported = |text: String| status(Error::new(ErrorKind::Invalid, "UNSUPPORTED_MEDIA_TYPE", text));
    match headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str) {
        None if body.is_end_stream() => Ok(Bytes::new()),
        None => match body::whole(body, MAX_MESSAGE).await? {
            text if text.is_empty() => Ok(text),
            _ => Err(unsupported("the body has no content type; send `content-type: application/json`".to_owned())),
        },
        Some(Ok(given)) if is_json(given) => body::whole(body, MAX_MESSAGE).await,
        Some(given) => {
            let given = given.unwrap_or("one that is not ASCII");
            Err(unsupported(format!("the content type is {given:?}; only `application/json` in UTF-8 is taken here")))
        }
    }
}

/// Bodies are taken as they are: whatever undid a compression took its name off.
pub(crate) fn encoded(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => {
            let text = "the body has a `content-encoding` that is not taken here; send it as it is";
            Err(status(Error::new(ErrorKind::Invalid, "UNSUPPORTED_MEDIA_TYPE", text)))
        }
    }
}

fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/json"));
    let is_utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    is_json && is_utf8
}

/// A partial update that does not say what it changes changes what it has.
fn mask(message: &mut DynamicMessage, mut present: Vec<String>) {
    present.sort_unstable();
    let Some(field) = message.descriptor().get_field_by_name(MASK) else {
        return;
    };
    let Kind::Message(mask) = field.kind() else {
        return;
    };
    if message.has_field(&field) || present.is_empty() {
        return;
    }
    let mut value = DynamicMessage::new(mask);
    value.set_field_by_name("paths", Value::List(present.into_iter().map(Value::String).collect()));
    message.set_field(&field, Value::Message(value));
}
