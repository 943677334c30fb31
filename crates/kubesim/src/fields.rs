//! Sets of fields, as managers own them: the form `fieldsV1` and what can be done by it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::schema::{ListRule, is_atomic_map, key_default, list_rule};

/// The way to a field, in steps as `fieldsV1` writes them: `f:` a name, `k:` an item of a list by its keys, `v:` one by
/// its value.
pub(crate) type Path = Vec<String>;
/// Fields that somebody owns.
pub(crate) type Fields = BTreeSet<Path>;

/// An item of a list has no value of its own, only its fields have.
const ITEM: &Value = &Value::Null;

/// The keys of an item as one step; nothing when it lacks one.
pub(crate) fn key_step(item: &Value, keys: &[&str]) -> Option<String> {
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    let mut found = Map::new();
    for key in sorted {
        let value = item.get(key).cloned().or_else(|| key_default(key).map(Value::from))?;
        found.insert(key.to_owned(), value);
    }
    Some(format!("k:{}", Value::Object(found)))
}

/// The parts of an object that can be owned, each with its value.
pub(crate) fn leaves(object: &Value) -> BTreeMap<Path, &Value> {
    let mut found = BTreeMap::new();
    walk(object, &mut Vec::new(), &mut Vec::new(), &mut found);
    found
}

fn walk<'v>(value: &'v Value, names: &mut Vec<&'v str>, path: &mut Path, found: &mut BTreeMap<Path, &'v Value>) {
    match value {
        Value::Object(map) if !map.is_empty() && !is_atomic_map(names) => {
            for (name, value) in map {
                names.push(name);
                path.push(format!("f:{name}"));
                walk(value, names, path, found);
                path.pop();
                names.pop();
            }
            return;
        }
        Value::Array(items) if !items.is_empty() => match list_rule(names) {
            ListRule::Atomic => {}
            ListRule::Set => {
                for item in items {
                    path.push(format!("v:{item}"));
                    found.insert(path.clone(), ITEM);
                    path.pop();
                }
                return;
            }
            ListRule::Map(keys) => {
                let steps: Option<Vec<String>> = items.iter().map(|item| key_step(item, keys)).collect();
                if let Some(steps) = steps {
                    for (item, step) in items.iter().zip(steps) {
                        path.push(step);
                        found.insert(path.clone(), ITEM);
                        walk(item, names, path, found);
                        path.pop();
                    }
                    return;
                }
            }
        },
        _ => {}
    }
    if !path.is_empty() {
        found.insert(path.clone(), value);
    }
}

/// How one object differs from another.
pub(crate) struct Difference {
    /// Fields that are new or have another value.
    pub(crate) changed: Fields,
    /// Fields that are no longer there.
    pub(crate) removed: Fields,
}

/// Compares what can be owned of two objects.
pub(crate) fn compare(old: &Value, new: &Value) -> Difference {
    let (old, new) = (leaves(old), leaves(new));
    let changed = new.iter().filter(|(path, value)| old.get(*path) != Some(value));
    let removed = old.keys().filter(|path| !new.contains_key(*path));
    Difference { changed: changed.map(|(path, _)| path.clone()).collect(), removed: removed.cloned().collect() }
}

/// Reads `fieldsV1`.
pub(crate) fn from_v1(tree: &Value) -> Fields {
    fn read(tree: &Value, path: &mut Path, found: &mut Fields) {
        let Some(map) = tree.as_object() else { return };
        if map.is_empty() && !path.is_empty() {
            found.insert(path.clone());
        }
        for (step, below) in map {
            if step == "." {
                found.insert(path.clone());
            } else {
                path.push(step.clone());
                read(below, path, found);
                path.pop();
            }
        }
    }
    let mut found = Fields::new();
    read(tree, &mut Vec::new(), &mut found);
    found
}

/// Writes `fieldsV1`.
pub(crate) fn to_v1(fields: &Fields) -> Value {
    let mut tree = Map::new();
    // In order, so that what is above comes before what is below.
    for path in fields {
        let mut at = &mut tree;
        for step in path {
            // Something was owned as a whole and has parts that are owned too.
            let below = at.entry(step.clone()).or_insert_with(|| Value::Object(Map::new()));
            at = match below {
                Value::Object(map) => map,
                _ => unreachable!("the tree is made of maps"),
            };
        }
    }
    for path in fields {
        let mut at = &mut tree;
        for step in path {
            at = match at.get_mut(step) {
                Some(Value::Object(map)) => map,
                _ => unreachable!("it was made above"),
            };
        }
        if !at.is_empty() {
            at.insert(".".to_owned(), Value::Object(Map::new()));
        }
    }
    Value::Object(tree)
}

/// A path as messages show it.
pub(crate) fn shown(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        let (kind, rest) = step.split_at(2);
        match kind {
            "f:" => text.push_str(&format!(".{rest}")),
            "v:" => text.push_str(&format!("[={rest}]")),
            _ => {
                let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                text.push_str(&format!("[{}]", keys.join(",")));
            }
        }
    }
    text
}

/// The place of an item in a list, by a step.
pub(crate) fn position(items: &[Value], step: &str) -> Option<usize> {
    let (kind, rest) = step.split_at(2);
    if kind == "v:" {
        let value: Value = serde_json::from_str(rest).ok()?;
        return items.iter().position(|item| *item == value);
    }
    let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
    items.iter().position(|item| {
        keys.iter().all(|(key, value)| match item.get(key) {
            Some(found) => found == value,
            None => key_default(key).is_some_and(|default| value == default),
        })
    })
}

/// What is at the end of a path.
pub(crate) fn at_mut<'v>(value: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    let mut at = value;
    for step in path {
        at = match at {
            Value::Object(map) => map.get_mut(step.strip_prefix("f:")?)?,
            Value::Array(items) => {
                let place = position(items, step)?;
                items.get_mut(place)?
            }
            _ => return None,
        };
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_have_the_form_of_the_real_server() {
        let pod = json!({
            "metadata": {
                "labels": {"app": "web"},
                "finalizers": ["a/b"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"}],
            },
            "spec": {
                "containers": [{"name": "a", "ports": [{"containerPort": 80}], "args": ["x"], "securityContext": {}}],
                "nodeSelector": {"disk": "ssd"},
            },
        });
        let fields: Fields = leaves(&pod).into_keys().collect();
        let v1 = json!({
            "f:metadata": {
                "f:labels": {"f:app": {}},
                "f:finalizers": {"v:\"a/b\"": {}},
                "f:ownerReferences": {"k:{\"uid\":\"u\"}": {}},
            },
            "f:spec": {
                "f:containers": {
                    "k:{\"name\":\"a\"}": {
                        ".": {},
                        "f:name": {},
                        "f:args": {},
                        "f:securityContext": {},
                        "f:ports": {
                            "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}},
                        },
                    },
                },
                "f:nodeSelector": {},
            },
        });
        assert_eq!(to_v1(&fields), v1);
        assert_eq!(from_v1(&v1), fields);
    }

    #[test]
    fn paths_are_shown_as_in_messages() {
        let path = ["f:spec", "f:containers", "k:{\"name\":\"a\"}", "f:image"].map(str::to_owned);
        assert_eq!(shown(&path), ".spec.containers[name=\"a\"].image");
        let path = ["f:metadata", "f:finalizers", "v:\"a/b\""].map(str::to_owned);
        assert_eq!(shown(&path), ".metadata.finalizers[=\"a/b\"]");
    }
}
