//! Strategic merge patches: lists of items with a key are merged by it.

use serde_json::Value;

use crate::{
    json::object,
    schema::{ListRule, list_rule},
};

/// Merges a patch into an object.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    merge_value(target, patch, &mut Vec::new());
}

fn merge_value<'v>(target: &mut Value, patch: &'v Value, names: &mut Vec<&'v str>) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if patch.get("$patch").is_some_and(|directive| directive == "replace") {
        *target = Value::Object(patch.iter().filter(|(name, _)| *name != "$patch").map(owned).collect());
        return;
    }
    let target = object(target);
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|name, _| kept.iter().any(|kept| kept == name));
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let Some(items) = target.get_mut(list).and_then(Value::as_array_mut) {
                let gone = value.as_array().map(Vec::as_slice).unwrap_or_default();
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        // The order that a client wishes is not kept.
        if name.starts_with('$') {
            continue;
        }
        names.push(name);
        match value {
            Value::Null => drop(target.remove(name)),
            Value::Array(items) => {
                let place = target.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(place, items, names);
            }
            value => merge_value(target.entry(name.clone()).or_insert(Value::Null), value, names),
        }
        names.pop();
    }
}

fn owned((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

fn merge_list<'v>(target: &mut Value, patch: &'v [Value], names: &mut Vec<&'v str>) {
    let replace = patch.iter().any(|item| item["$patch"] == "replace");
    let (rule, Some(items)) = (list_rule(names), target.as_array_mut()) else {
        *target = Value::Array(patch.to_vec());
        return;
    };
    match rule {
        _ if replace => *items = patch.iter().filter(|item| item["$patch"] != "replace").cloned().collect(),
        ListRule::Atomic => *items = patch.to_vec(),
        ListRule::Set => {
            for item in patch {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
        }
        // Strategic merges know the first key only.
        ListRule::Map(keys) => {
            for item in patch {
                let known = items.iter().position(|found| found[keys[0]] == item[keys[0]]);
                match known {
                    Some(place) if item["$patch"] == "delete" => drop(items.remove(place)),
                    Some(place) => merge_value(&mut items[place], item, names),
                    None if item["$patch"] == "delete" => {}
                    None => items.push(item.clone()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_merged_by_their_key() {
        let mut set = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "1", "args": ["x", "y"], "tty": true}, {"name": "b", "image": "1"}, {"name": "c"},
        ]}}}});
        let patch = json!({"spec": {"template": {
            "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}},
            "spec": {
                "$setElementOrder/containers": [{"name": "a"}],
                "containers": [
                    {"name": "a", "image": "2", "args": ["z"]}, {"name": "c", "$patch": "delete"}, {"name": "d"},
                ],
            },
        }}});
        merge(&mut set, &patch);
        let merged = json!({"spec": {"template": {
            "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}},
            "spec": {"containers": [
                {"name": "a", "image": "2", "args": ["z"], "tty": true}, {"name": "b", "image": "1"}, {"name": "d"},
            ]},
        }}});
        assert_eq!(set, merged);
    }

    #[test]
    fn directives_delete_and_replace() {
        let mut object = json!({"metadata": {"finalizers": ["a/b", "c/d"], "labels": {"x": "1"}}, "spec": {"a": 1}});
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"], "labels": {"x": null}},
            "spec": {"$patch": "replace", "b": 2},
        });
        merge(&mut object, &patch);
        assert_eq!(object, json!({"metadata": {"finalizers": ["c/d"], "labels": {}}, "spec": {"b": 2}}));
    }
}
