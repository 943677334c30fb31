//! What the fuzz targets reach of this crate, which is for nobody else.

use prost_reflect::{DynamicMessage, Value};

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
    let same = |style| {
        let written = json::write(&method.input, &wire, style).ok()?;
        json::read(&method.input, &written).ok()
    };
    Some([Style::Canonical, Style::Plain].into_iter().all(|style| same(style).as_ref() == Some(&message)))
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
        // What is bound is of the kind of its field, else this would not come back the same.
        let wire = prost::Message::encode_to_vec(&message);
        let back = DynamicMessage::decode(method.input.clone(), wire.as_slice()).ok();
        assert_eq!(back.map(Value::Message), Some(Value::Message(message)));
    }
    is_bound
}
