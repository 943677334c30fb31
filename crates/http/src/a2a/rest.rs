//! The protocol as REST: its methods by the paths of their `google.api.http` annotations, below the address of an agent.

use std::sync::LazyLock;

use futures::StreamExt;
use http::{HeaderValue, Method as HttpMethod, header, request::Parts};
use mi_rpc::{HttpResponse, status};
use prost_reflect::{DynamicMessage, Value as Field};
use tonic::{Status, body::Body as HttpBody};

use super::{MAX_BODY, METHODS, VERSION, errors, events, message, operations::Session, sent, value};
use crate::{
    body, json,
    refusal::{self, json_answer, not_for, rest_error, rest_status},
    rest::{
        bind::Asked,
        query::Query,
        routes::{self, Body, Place, Route},
    },
};

/// The media type that clients may name instead of `application/json`.
const MEDIA_TYPE: &str = "application/a2a+json";

static PLACES: LazyLock<Vec<Place>> =
    LazyLock::new(|| routes::places(METHODS.iter().filter_map(|(rpc, method)| Route::of(rpc, method))));

/// Answers a request for a path below the address of an agent.
pub(super) async fn serve(session: Session, tenant: &str, path: &str, parts: &Parts, body: HttpBody) -> HttpResponse {
    let Some((place, values)) = routes::find_in(&PLACES, path) else {
        return refusal::rest(&errors::nothing_there());
    };
    // Clients subscribe with POST as well.
    let as_get = parts.method == HttpMethod::POST && path.ends_with(":subscribe");
    let method = if as_get { &HttpMethod::GET } else { &parts.method };
    let Some(route) = place.route(method) else {
        return not_for(&parts.method, &place.allowed());
    };
    let asked = body::in_time(asked(route, &values, tenant, parts, body)).await;
    let asked = match asked.and_then(|asked| value(&asked)) {
        Ok(asked) => asked,
        Err(refused) => return refusal::rest(&errors::in_words(refused)),
    };
    let (name, output) = (route.rpc.name(), &route.method.output);
    match route.method.server_streams {
        false => {
            let answered = session.unary(name, &asked).await;
            match answered.and_then(|answer| sent(&message(output, answer)?)) {
                Ok(said) => json_answer(said.to_string()),
                Err(refused) => refusal::rest(&refused),
            }
        }
        true => match session.stream(name, &asked).await {
            Ok(answers) => {
                events(answers.map(move |answer| match answer.and_then(|answer| sent(&message(output, answer)?)) {
                    Ok(said) => format!("data: {said}\n\n"),
                    Err(refused) => {
                        let error = rest_error(&refused, rest_status(&refused));
                        format!("event: error\ndata: {error}\n\n")
                    }
                }))
            }
            Err(refused) => refusal::rest(&refused),
        },
    }
}

/// The message that a request stands for.
async fn asked(
    route: &'static Route,
    values: &[String],
    tenant: &str,
    parts: &Parts,
    body: HttpBody,
) -> Result<DynamicMessage, Status> {
    let query = parts.uri.query().unwrap_or_default().split('&');
    // The version may be said here too, and is said in the header as a rule.
    let query: Vec<_> = query.filter(|pair| !pair.to_ascii_lowercase().starts_with(&format!("{VERSION}="))).collect();
    let asked = Asked::new(route, values, Query::parse(Some(&query.join("&")))?)?;
    let text = body::whole(body, MAX_BODY).await?;
    let is_json = |kind: &HeaderValue| {
        let name = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        [MEDIA_TYPE, "application/json"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    let mut message = match &route.body {
        Body::Whole if !text.is_empty() => {
            if !parts.headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
                return Err(errors::content_type("the body must be application/json or application/a2a+json"));
            }
            let read = json::parse(&text).map_err(|error| errors::invalid("body", &format!("is no JSON: {error}")))?;
            json::read_known(&route.method.input, &read).map_err(status)?
        }
        _ => DynamicMessage::new(route.method.input.clone()),
    };
    settle_tenant(&mut message, tenant)?;
    asked.query.bind(&mut message, |field| asked.is_free(field) && field.name() != "tenant")?;
    asked.set_variables(&mut message)?;
    Ok(message)
}

/// Has a request name whom its path names.
pub(super) fn settle_tenant(message: &mut DynamicMessage, tenant: &str) -> Result<(), Status> {
    let said =
        message.get_field_by_name("tenant").and_then(|said| said.as_str().map(str::to_owned)).unwrap_or_default();
    match (said.is_empty(), tenant.is_empty()) {
        (_, true) => Ok(()),
        (true, false) => {
            message.set_field_by_name("tenant", Field::String(tenant.to_owned()));
            Ok(())
        }
        (false, false) if said.eq_ignore_ascii_case(tenant) => Ok(()),
        _ => Err(errors::invalid("tenant", "is somebody else in the request than in its path; leave it out")),
    }
}
