//! Lists: whole or in pages, of now or of a version before.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    json::{number, object, text},
    kinds::Kind,
    refusal::{Cause, Refusal},
    route::{Asked, Query},
    select::Selector,
    store::{Key, World},
};

const PAGE_GONE: &str = "The provided continue parameter is too old to display a consistent list result. You can start a \
    new list without the continue parameter, or use the continue token in this response to retrieve the remainder of \
    the results. Continuing with the provided token results in an inconsistent list - objects that were created, \
    modified, or deleted between the time the first chunk was returned and now may show up in the list.";
/// The version of a token whose list need not be consistent.
const INCONSISTENT: i64 = -1;

/// Where a page starts.
struct Page {
    version: i64,
    start: String,
}

impl Page {
    fn parse(token: &str) -> Result<Self, Refusal> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).unwrap_or_default();
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let version = number(&value, "/rv").filter(|_| text(&value, "/v") == "meta.k8s.io/v1");
        let version = version.ok_or_else(|| Refusal::bad_request(format!("continue key is not valid: {token:?}")))?;
        Ok(Self { version, start: text(&value, "/start").to_owned() })
    }

    fn token(&self) -> String {
        let value = json!({"v": "meta.k8s.io/v1", "rv": self.version, "start": self.start});
        BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
    }
}

/// The place of an object in the order of a list.
fn place(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}

/// What a list is read from.
struct Source {
    version: u64,
    objects: BTreeMap<Key, Arc<Value>>,
}

fn now(world: &World, kind: &Kind) -> Source {
    let objects = world.list(kind.resource, "").map(|(key, object)| (key.clone(), object.clone())).collect();
    Source { version: world.version(), objects }
}

fn at(world: &World, kind: &Kind, version: u64) -> Option<Source> {
    Some(Source { version, objects: world.at(kind.resource, version)? })
}

/// Answers a list. Versions that may be any are of the stale one, if there is one.
pub(crate) fn list(
    world: &World,
    asked: &Asked,
    query: &Query,
    stale: Option<u64>,
    lose_page: bool,
) -> Result<Value, Refusal> {
    let kind = asked.kind;
    let selector = Selector::parse(kind, query.text("labelSelector"), query.text("fieldSelector"))?;
    let (limit, version) = (query.number("limit")?, query.number("resourceVersion")?);
    let token = query.text("continue");
    let (source, start, limit) = if token.is_empty() {
        let source = first(world, kind, version, query.text("resourceVersionMatch"), stale)?;
        // A list of any version comes from a cache, which has no pages.
        (source, String::new(), limit.filter(|_| version != Some(0)))
    } else {
        if version.is_some_and(|version| version > 0) {
            let why = "specifying resource version is not allowed when using continue";
            return Err(Refusal::bad_request(why));
        }
        let page = Page::parse(token)?;
        let source = match u64::try_from(page.version) {
            Ok(version) if !lose_page => at(world, kind, version),
            Ok(_) => None,
            Err(_) => Some(now(world, kind)),
        };
        let source = source.ok_or_else(|| {
            let rest = Page { version: INCONSISTENT, start: page.start.clone() };
            Refusal::expired(PAGE_GONE).with_continue(&rest.token())
        })?;
        (source, page.start, limit)
    };
    Ok(page(asked, &selector, source, &start, limit))
}

fn first(
    world: &World,
    kind: &Kind,
    version: Option<u64>,
    matching: &str,
    stale: Option<u64>,
) -> Result<Source, Refusal> {
    let refused = |cause| Err(Refusal::invalid_options("ListOptions.meta.k8s.io", "", &[cause]));
    match (version, matching) {
        (None, "") => Ok(now(world, kind)),
        (None, _) => refused(Cause::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (Some(0), "Exact") => refused(Cause::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        (Some(0), _) => Ok(stale.and_then(|version| at(world, kind, version)).unwrap_or_else(|| now(world, kind))),
        (Some(version), _) if version > world.version() => Err(Refusal::too_large(version, world.version())),
        (Some(version), "Exact") => at(world, kind, version)
            .ok_or_else(|| Refusal::expired("The resourceVersion for the provided list is too old.")),
        (Some(_), "" | "NotOlderThan") => Ok(now(world, kind)),
        (Some(_), other) => {
            refused(Cause::unsupported("resourceVersionMatch", &json!(other), &["Exact", "NotOlderThan", ""]))
        }
    }
}

fn page(asked: &Asked, selector: &Selector, source: Source, start: &str, limit: Option<u64>) -> Value {
    let kind = asked.kind;
    let limit =
        limit.filter(|limit| *limit > 0).map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let (mut items, mut left, mut next) = (Vec::new(), 0_u64, String::new());
    for (key, object) in &source.objects {
        let is_inside = asked.namespace.is_empty() || key.namespace == asked.namespace;
        let is_before = !start.is_empty() && place(key).as_str() < start;
        if !is_inside || is_before || !selector.matches(object) {
            continue;
        }
        if items.len() < limit {
            items.push(item(kind, object));
            continue;
        }
        if left == 0 {
            next = place(key);
        }
        left += 1;
    }
    let mut metadata = json!({"resourceVersion": source.version.to_string()});
    if left > 0 {
        let version = i64::try_from(source.version).unwrap_or(i64::MAX);
        metadata["continue"] = Page { version, start: next }.token().into();
        // Behind a selector nobody has counted.
        if selector.is_empty() {
            metadata["remainingItemCount"] = left.into();
        }
    }
    json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata, "items": items})
}

/// An object in a list, which of the built-in kinds does not say what it is.
pub(crate) fn item(kind: &Kind, found: &Value) -> Value {
    let mut item = found.clone();
    if !kind.custom {
        object(&mut item).remove("kind");
        object(&mut item).remove("apiVersion");
    }
    item
}
