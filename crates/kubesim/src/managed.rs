//! Who owns which field: `metadata.managedFields`.

use mi_kernel::Time;
use serde_json::{Value, json};

use crate::{
    fields::{Fields, compare, from_v1, leaves, to_v1},
    json::{has, list, moment, remove, set, text},
};

/// Fields of metadata that the server alone writes, or that nobody owns.
const UNOWNED: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
    "managedFields",
    "selfLink",
];

/// An entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manager {
    /// The name.
    pub(crate) name: String,
    /// Whether by server-side apply.
    pub(crate) applies: bool,
    /// The version of the API in which the fields are written.
    pub(crate) api_version: String,
    /// The subresource through which it wrote.
    pub(crate) subresource: String,
    /// When it last changed something.
    pub(crate) time: Value,
    /// What it owns.
    pub(crate) fields: Fields,
}

impl Manager {
    /// Whether two entries are of the same writer.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.name, self.applies, &self.api_version, &self.subresource)
            == (&other.name, other.applies, &other.api_version, &other.subresource)
    }

    /// The manager as messages of conflicts name it.
    pub(crate) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applies {
            text.push_str(&format!(" using {} at {}", self.api_version, self.time.as_str().unwrap_or_default()));
        }
        text
    }
}

/// Reads the managers of an object.
pub(crate) fn managers(object: &Value) -> Vec<Manager> {
    let entries = list(object, "/metadata/managedFields").iter();
    entries
        .filter(|entry| has(entry, "/manager"))
        .map(|entry| Manager {
            name: text(entry, "/manager").to_owned(),
            applies: text(entry, "/operation") == "Apply",
            api_version: text(entry, "/apiVersion").to_owned(),
            subresource: text(entry, "/subresource").to_owned(),
            time: entry["time"].clone(),
            fields: from_v1(&entry["fieldsV1"]),
        })
        .collect()
}

/// Writes the managers of an object, those that own nothing aside.
pub(crate) fn write(object: &mut Value, mut managers: Vec<Manager>) {
    managers.retain(|manager| !manager.fields.is_empty());
    managers.sort_by_cached_key(|manager| {
        (!manager.applies, manager.time.as_str().map(str::to_owned), manager.name.clone(), manager.subresource.clone())
    });
    if managers.is_empty() {
        remove(object, "/metadata/managedFields");
        return;
    }
    let entries = managers.iter().map(|manager| {
        let mut entry = json!({
            "manager": manager.name,
            "operation": if manager.applies { "Apply" } else { "Update" },
            "apiVersion": manager.api_version,
            "time": manager.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_v1(&manager.fields),
        });
        if !manager.subresource.is_empty() {
            entry["subresource"] = manager.subresource.clone().into();
        }
        entry
    });
    set(object, "/metadata/managedFields", entries.collect::<Vec<_>>());
}

/// The object without what nobody can own. Of a kind with a status of its own, only the part that is written here.
pub(crate) fn ownable(object: &Value, has_status: bool, subresource: &str) -> Value {
    let mut ownable = object.clone();
    if let Some(map) = ownable.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
        if subresource == "status" {
            map.retain(|name, _| name == "status");
        } else if has_status {
            map.remove("status");
        }
    }
    if let Some(metadata) = ownable.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !UNOWNED.contains(&name.as_str()));
        if metadata.is_empty() {
            remove(&mut ownable, "/metadata");
        }
    }
    ownable
}

/// What a configuration that is applied owns.
pub(crate) fn owned(config: &Value, has_status: bool, subresource: &str) -> Fields {
    leaves(&ownable(config, has_status, subresource)).into_keys().collect()
}

/// Gives a writer that does not apply what it changed, and takes that from everybody else.
pub(crate) fn after_update(old: &Value, new: &mut Value, mut writer: Manager, has_status: bool, now: Time) {
    // A list of one empty entry is how clients start anew.
    let entries = list(new, "/metadata/managedFields");
    let anew = entries.len() == 1 && !has(&entries[0], "/manager");
    let mut managers = if anew { Vec::new() } else { managers(old) };
    let difference =
        compare(&ownable(old, has_status, &writer.subresource), &ownable(new, has_status, &writer.subresource));
    if !difference.changed.is_empty() || !difference.removed.is_empty() {
        for manager in &mut managers {
            let mine = manager.is(&writer);
            manager
                .fields
                .retain(|path| !difference.removed.contains(path) && (mine || !difference.changed.contains(path)));
        }
    }
    if !difference.changed.is_empty() {
        writer.time = moment(now);
        if let Some(known) = managers.iter().position(|manager| manager.is(&writer)) {
            writer.fields = managers.remove(known).fields;
        }
        writer.fields.extend(difference.changed);
        managers.push(writer);
    }
    write(new, managers);
}
