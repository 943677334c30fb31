//! What the fuzz targets reach of this crate, which is for nobody else.

use prost_reflect::DynamicMessage;

use crate::{
    json::{self, Style},
    methods,
    rest::{query::Query, routes, template},
};

/// JSON as the request of an RPC, if it is one, then to the wire and back in both styles: true when all say the same.
///
/// # Panics
/// When there is no such RPC.
pub fn json(path: &str, text: &[u8]) -> Option<bool> {
    let method = methods::find(path).expect("an RPC");
    let message = json::read(&method.input, text).ok()?;
    let wire = prost::Message::encode_to_vec(&message);
    // Texts are compared as JSON: the order of a map is nobody's, and what is no number is the same as itself.
    let said = |message: &[u8], style| -> Option<serde_json::Value> {
        serde_json::from_slice(&json::write(&method.input, message, style).ok()?).ok()
    };
    let again = |style| {
        let back = json::read(&method.input, said(&wire, style)?.to_string().as_bytes()).ok()?;
        said(&prost::Message::encode_to_vec(&back), Style::Canonical)
    };
    let expected = said(&wire, Style::Canonical);
    Some(expected.is_some() && [Style::Canonical, Style::Plain].into_iter().all(|style| again(style) == expected))
}

/// The RPC at a path of REST with an HTTP method, and what its variables stand for, by name.
pub fn route(method: &http::Method, path: &str) -> Option<(&'static str, Vec<(String, String)>)> {
    let (place, values) = routes::find(path)?;
    let route = place.route(method)?;
    let values: Option<Vec<_>> = values.iter().map(|value| template::decode(value)).collect();
    let names = route.variables.iter().map(|field| field.name().to_owned());
    Some((&route.method.path, names.zip(values?).collect()))
}

/// A query, bound to the request of the RPC at a path: whether it was taken.
pub fn query(path: &str, text: &str) -> bool {
    let Some(method) = methods::find(path) else {
        return false;
    };
    let Ok(query) = Query::parse(Some(text)) else {
        return false;
    };
    let mut message = DynamicMessage::new(method.input.clone());
    let is_bound = query.bind(&mut message, |_| true).is_ok();
    if is_bound {
        // What is bound is of the kind of its field, else it would be nothing that decodes.
        let wire = prost::Message::encode_to_vec(&message);
        assert!(DynamicMessage::decode(method.input.clone(), wire.as_slice()).is_ok());
    }
    is_bound
}
