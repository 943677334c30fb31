//! Reading and writing fields of objects, which are plain JSON here.

use serde_json::{Map, Value};

use mi_kernel::Time;

/// A moment as Kubernetes writes it.
pub(crate) fn moment(time: Time) -> Value {
    Value::String(time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The text at this place, empty when there is none.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at this place.
pub(crate) fn number(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// Whether `true` is at this place.
pub(crate) fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// The list at this place, empty when there is none.
pub(crate) fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The entries of the map at this place.
pub(crate) fn entries<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = (&'v String, &'v Value)> + use<'v> {
    value.pointer(pointer).and_then(Value::as_object).into_iter().flatten()
}

/// Whether something other than null is at this place.
pub(crate) fn has(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).is_some_and(|found| !found.is_null())
}

/// The map at this place, made where it is missing, as are those on the way there. The places are of this crate's own
/// choice: none of them has an escaped part.
pub(crate) fn map<'v>(value: &'v mut Value, pointer: &str) -> &'v mut Map<String, Value> {
    let mut at = value;
    for part in pointer.split('/').skip(1) {
        at = object(at).entry(part).or_insert(Value::Null);
    }
    object(at)
}

/// This value as a map: what is none becomes an empty one.
pub(crate) fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made one"),
    }
}

/// Writes at this place.
pub(crate) fn set(value: &mut Value, pointer: &str, new: impl Into<Value>) {
    let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
    map(value, parent).insert(name.to_owned(), new.into());
}

/// Writes at this place unless something is there.
pub(crate) fn default(value: &mut Value, pointer: &str, new: impl Into<Value>) {
    if !has(value, pointer) {
        set(value, pointer, new);
    }
}

/// Removes what is at this place.
pub(crate) fn remove(value: &mut Value, pointer: &str) -> Option<Value> {
    let (parent, name) = pointer.rsplit_once('/')?;
    value.pointer_mut(parent)?.as_object_mut()?.remove(name)
}

/// Copies what is at this place of another object, or its absence.
pub(crate) fn copy(to: &mut Value, from: &Value, pointer: &str) {
    match from.pointer(pointer) {
        Some(found) => set(to, pointer, found.clone()),
        None => drop(remove(to, pointer)),
    }
}

/// The list at this place, to be changed.
pub(crate) fn list_mut<'v>(value: &'v mut Value, pointer: &str) -> Option<&'v mut Vec<Value>> {
    value.pointer_mut(pointer)?.as_array_mut()
}

/// Drops nulls from maps, as an API server does that reads into types: null and absent are the same.
pub(crate) fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        _ => {}
    }
}
