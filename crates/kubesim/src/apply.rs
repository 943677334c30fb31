//! Server-side apply: what a manager applies is merged into the object, it owns it from then on, and what it no longer
//! applies goes away unless somebody else owns it.

use std::cmp::Reverse;

use mi_kernel::Time;
use serde_json::{Map, Value};

use crate::{
    fields::{Fields, Path, at_mut, compare, key_step, position, shown},
    json::{moment, object},
    managed::{Manager, managers, ownable, owned, write},
    refusal::Refusal,
    schema::{ListRule, is_atomic_map, list_rule},
};

/// Merges what a manager applies into an object. What the result lacks against a real one is what a server fills in.
pub(crate) fn apply(
    live: &Value,
    config: &Value,
    mut applier: Manager,
    has_status: bool,
    force: bool,
    now: Time,
) -> Result<Value, Refusal> {
    let subresource = applier.subresource.clone();
    applier.fields = owned(config, has_status, &subresource);
    let wanted = ownable(config, has_status, &subresource);
    let mut merged = live.clone();
    merge(&mut merged, &wanted, &mut Vec::new());

    let mut managers = managers(live);
    let before = managers.iter().position(|manager| manager.is(&applier)).map(|known| managers.remove(known));
    let changed = compare(&ownable(live, false, ""), &ownable(&merged, false, "")).changed;
    let mut conflicts = Vec::new();
    for manager in &managers {
        let of_it = manager.fields.intersection(&changed);
        conflicts.extend(of_it.map(|path| (manager.shown(), shown(path), path.clone())));
    }
    if !conflicts.is_empty() && !force {
        return Err(refuse(&conflicts));
    }
    for manager in &mut managers {
        manager.fields.retain(|path| !conflicts.iter().any(|(_, _, taken)| taken == path));
    }

    if let Some(before) = &before {
        let gone: Fields = before.fields.difference(&applier.fields).cloned().collect();
        prune(&mut merged, gone, &applier.fields, &managers);
    }
    let same = before.as_ref().is_some_and(|before| before.fields == applier.fields);
    let untouched = same && compare(live, &merged).changed.is_empty();
    applier.time = match before {
        Some(before) if untouched => before.time,
        _ => moment(now),
    };
    managers.push(applier);
    write(&mut merged, managers);
    Ok(merged)
}

fn refuse(conflicts: &[(String, String, Path)]) -> Refusal {
    let message = if let [(manager, path, _)] = conflicts {
        format!("Apply failed with 1 conflict: conflict with {manager}: {path}")
    } else {
        let mut names: Vec<&String> = conflicts.iter().map(|(manager, _, _)| manager).collect();
        names.sort();
        names.dedup();
        let mut lines = Vec::new();
        for name in names {
            lines.push(format!("conflicts with {name}:"));
            let paths = conflicts.iter().filter(|(manager, _, _)| manager == name);
            lines.extend(paths.map(|(_, path, _)| format!("- {path}")));
        }
        format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
    };
    conflicts.iter().fold(Refusal::new(409, "Conflict", message), |refusal, (manager, path, _)| {
        refusal.with_cause("FieldManagerConflict", &format!("conflict with {manager}"), path)
    })
}

fn merge<'v>(live: &mut Value, wanted: &'v Value, names: &mut Vec<&'v str>) {
    match (live, wanted) {
        (live @ Value::Object(_), Value::Object(wanted)) if !is_atomic_map(names) => {
            let live = object(live);
            for (name, value) in wanted {
                names.push(name);
                match live.get_mut(name) {
                    Some(found) => merge(found, value, names),
                    None => drop(live.insert(name.clone(), value.clone())),
                }
                names.pop();
            }
        }
        (Value::Array(live), Value::Array(wanted)) => merge_lists(live, wanted, names),
        (live, wanted) => *live = wanted.clone(),
    }
}

/// Items that are in both keep the order in which they are wanted; those that are not wanted stay where they are.
fn merge_lists<'v>(live: &mut Vec<Value>, wanted: &'v [Value], names: &mut Vec<&'v str>) {
    let rule = list_rule(names);
    let step = |item: &Value| match rule {
        ListRule::Atomic => None,
        ListRule::Set => Some(format!("v:{item}")),
        ListRule::Map(keys) => key_step(item, keys),
    };
    let steps: Option<Vec<String>> = wanted.iter().map(step).collect();
    let Some(steps) = steps else {
        *live = wanted.to_vec();
        return;
    };
    let old = std::mem::take(live);
    let mut rest = wanted.iter().zip(&steps).peekable();
    let mut done: Vec<&str> = Vec::new();
    for item in &old {
        let own = step(item);
        let Some(place) = own.as_ref().and_then(|own| steps.iter().position(|step| step == own)) else {
            live.push(item.clone());
            continue;
        };
        while !done.contains(&steps[place].as_str()) {
            let Some((value, step)) = rest.next() else { break };
            live.push(merged_item(&old, value, step, names));
            done.push(step);
        }
    }
    live.extend(rest.map(|(value, step)| merged_item(&old, value, step, names)));
}

fn merged_item<'v>(old: &[Value], wanted: &'v Value, step: &str, names: &mut Vec<&'v str>) -> Value {
    match position(old, step) {
        Some(place) => {
            let mut item = old[place].clone();
            merge(&mut item, wanted, names);
            item
        }
        None => wanted.clone(),
    }
}

/// Removes what a manager no longer applies.
fn prune(merged: &mut Value, gone: Fields, kept: &Fields, others: &[Manager]) {
    let is_owned = |path: &Path| kept.contains(path) || others.iter().any(|other| other.fields.contains(path));
    let is_owned_below = |path: &Path| {
        let below = |fields: &Fields| fields.range(path.clone()..).next().is_some_and(|next| next.starts_with(path));
        below(kept) || others.iter().any(|other| below(&other.fields))
    };
    let mut gone: Vec<Path> = gone.into_iter().collect();
    gone.sort_by_key(|path| Reverse(path.len()));
    for path in gone {
        if is_owned(&path) || is_owned_below(&path) || is_key(&path) {
            continue;
        }
        remove(merged, &path);
        // What held nothing else goes with it.
        let mut above = &path[..path.len() - 1];
        let whole = ["f:metadata".to_owned()];
        while !above.is_empty()
            && above != whole
            && at_mut(merged, above).is_some_and(|left| is_empty(left))
            && !is_owned(&above.to_vec())
        {
            remove(merged, above);
            above = &above[..above.len() - 1];
        }
    }
}

/// Whether this is a field by which an item is known: it goes with the item only.
fn is_key(path: &[String]) -> bool {
    let [.., item, name] = path else { return false };
    let (Some(keys), Some(name)) = (item.strip_prefix("k:"), name.strip_prefix("f:")) else { return false };
    serde_json::from_str::<Map<String, Value>>(keys).is_ok_and(|keys| keys.contains_key(name))
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn remove(value: &mut Value, path: &[String]) {
    let Some((last, above)) = path.split_last() else { return };
    match at_mut(value, above) {
        Some(Value::Object(map)) => drop(map.remove(last.trim_start_matches("f:"))),
        Some(Value::Array(items)) => {
            if let Some(place) = position(items, last) {
                items.remove(place);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock};
    use serde_json::json;

    use super::*;

    fn manager(name: &str) -> Manager {
        Manager {
            name: name.to_owned(),
            applies: true,
            api_version: "v1".to_owned(),
            subresource: String::new(),
            time: Value::Null,
            fields: Fields::new(),
        }
    }

    fn by(name: &str, live: &Value, config: &Value, force: bool) -> Result<Value, Refusal> {
        apply(live, config, manager(name), false, force, SystemClock.now())
    }

    fn without_managers(mut value: Value) -> Value {
        crate::json::remove(&mut value, "/metadata/managedFields");
        value
    }

    #[test]
    fn what_is_no_longer_applied_goes_away_unless_another_owns_it() {
        let first = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "data": {"x": "1"}});
        let live = by("one", &json!({}), &first, false).expect("applied");
        let live =
            by("two", &live, &json!({"metadata": {"labels": {"b": "2"}}}), false).expect("the same value is shared");
        let live = by("one", &live, &json!({"metadata": {}}), false).expect("applied");
        assert_eq!(without_managers(live), json!({"metadata": {"labels": {"b": "2"}}}));
    }

    #[test]
    fn another_ones_field_is_a_conflict_until_it_is_forced() {
        let live = by("one", &json!({}), &json!({"data": {"x": "1", "y": "1"}}), false).expect("applied");
        let refusal = by("two", &live, &json!({"data": {"x": "2"}}), false).expect_err("a conflict");
        assert_eq!(refusal.message, "Apply failed with 1 conflict: conflict with \"one\": .data.x");
        assert_eq!(
            refusal.status()["details"]["causes"],
            json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.x"}])
        );
        let live = by("two", &live, &json!({"data": {"x": "2"}}), true).expect("forced");
        // The first has lost it, so that its next configuration leaves it alone.
        let live = by("one", &live, &json!({"data": {"y": "1"}}), false).expect("applied");
        assert_eq!(without_managers(live), json!({"data": {"x": "2", "y": "1"}, "metadata": {}}));
    }

    #[test]
    fn items_of_lists_are_merged_by_their_keys_and_removed_with_their_owner() {
        let containers = |items: Value| json!({"spec": {"containers": items}});
        let live = containers(json!([{"name": "side", "image": "s"}]));
        let config = containers(json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}]));
        let live = by("one", &live, &config, false).expect("applied");
        assert_eq!(live["spec"]["containers"][0]["name"], "side");
        assert_eq!(live["spec"]["containers"][1]["env"], json!([{"name": "X", "value": "1"}]));
        let live = by("one", &live, &containers(json!([{"name": "a", "image": "2"}])), false).expect("applied");
        let both = json!([{"name": "side", "image": "s"}, {"name": "a", "image": "2"}]);
        assert_eq!(live["spec"]["containers"], both);
        let live = by("one", &live, &json!({"spec": {}}), false).expect("applied");
        assert_eq!(live["spec"]["containers"], json!([{"name": "side", "image": "s"}]));
    }
}
