//! Creating and changing objects: what every write goes through, whoever asks for it.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    admission, apply, defaults, immutable,
    json::{copy, entries, flag, has, list, list_mut, moment, number, object, remove, set, text, without_nulls},
    kinds::Kind,
    managed::{self, Manager},
    names,
    refusal::{Cause, Refusal},
    rules,
    store::{Key, World},
};

/// Characters of generated names, as the real server has them.
const NAME_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED_CHARACTERS: usize = 5;
/// What a generated name may have before it.
const MOST_GENERATED_BASE: usize = 58;

/// Who writes, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writer {
    /// The field manager.
    pub(crate) name: String,
    /// The subresource, empty for the object itself.
    pub(crate) subresource: String,
    /// Everything but keeping it.
    pub(crate) dry_run: bool,
    /// For server-side apply: takes fields from others.
    pub(crate) force: bool,
}

impl Writer {
    /// A controller of this server.
    pub(crate) fn controller(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// A controller that writes status.
    pub(crate) fn status(name: &str) -> Self {
        Self { subresource: "status".to_owned(), ..Self::controller(name) }
    }

    fn manager(&self, kind: &Kind, applies: bool) -> Manager {
        Manager {
            name: self.name.clone(),
            applies,
            api_version: kind.api_version(),
            subresource: self.subresource.clone(),
            time: Value::Null,
            fields: Default::default(),
        }
    }
}

/// The random end of a generated name.
pub(crate) fn suffix() -> String {
    let bytes = *uuid::Uuid::new_v4().as_bytes();
    let characters = bytes.iter().take(GENERATED_CHARACTERS);
    characters.map(|byte| char::from(NAME_CHARACTERS[usize::from(*byte) % NAME_CHARACTERS.len()])).collect()
}

/// Refuses an object of another kind than the address is for.
fn check_type(kind: &Kind, body: &Value) -> Result<(), Refusal> {
    if !body.is_object() {
        return Err(Refusal::bad_request("the object provided is unrecognized (must be of type object)"));
    }
    let (version, name) = (text(body, "/apiVersion"), text(body, "/kind"));
    let (right, right_name) = (kind.api_version(), kind.kind);
    if (!version.is_empty() && version != right) || (!name.is_empty() && name != right_name) {
        let found = format!("{name} in version {version:?}");
        return Err(Refusal::bad_request(format!(
            "{found} cannot be handled as a {right_name}: the provided type does not match the expected type {right}, Kind={right_name}"
        )));
    }
    check_texts(kind, body)
}

/// Refuses maps of texts with something else in them, which a real server cannot even read.
fn check_texts(kind: &Kind, body: &Value) -> Result<(), Refusal> {
    let data: &[&str] = match kind.resource {
        "configmaps" | "secrets" => &["/data", "/stringData"],
        _ => &[],
    };
    for pointer in ["/metadata/labels", "/metadata/annotations"].iter().chain(data) {
        if let Some((_, value)) = entries(body, pointer).find(|(_, value)| !value.is_string() && !value.is_null()) {
            let what = match value {
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                Value::Array(_) => "array",
                _ => "object",
            };
            let (version, kind) = (kind.version, kind.kind);
            let field = pointer[1..].replace('/', ".");
            return Err(Refusal::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: json: cannot unmarshal {what} into Go \
                    struct field {kind}.{field} of type string"
            )));
        }
    }
    Ok(())
}

/// Puts the namespace of the address into an object, or refuses another one.
fn check_namespace(namespace: &str, body: &mut Value) -> Result<(), Refusal> {
    let found = text(body, "/metadata/namespace");
    if !found.is_empty() && found != namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(why));
    }
    if namespace.is_empty() {
        remove(body, "/metadata/namespace");
    } else {
        set(body, "/metadata/namespace", namespace);
    }
    Ok(())
}

/// Empty lists and maps of metadata are absent.
fn tidy(object: &mut Value) {
    let metadata = crate::json::map(object, "/metadata");
    for name in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let is_empty = metadata.get(name).is_some_and(|value| match value {
            Value::Object(map) => map.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        });
        if is_empty {
            metadata.remove(name);
        }
    }
}

impl World {
    /// Creates an object.
    pub(crate) fn create(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        body: Value,
        by: &Writer,
    ) -> Result<Arc<Value>, Refusal> {
        let mut object = self.named(kind, namespace, body)?;
        defaults::fill(kind, &mut object);
        let now = self.now();
        managed::after_update(&json!({}), &mut object, by.manager(kind, false), kind.status, now);
        self.add(kind, namespace, object, by)
    }

    /// Applies a configuration to an object, which is created when it is not there.
    pub(crate) fn apply(&mut self, key: &Key, mut config: Value, by: &Writer) -> Result<(Arc<Value>, bool), Refusal> {
        let kind = key.kind();
        if by.name.is_empty() {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(Refusal::invalid_options("PatchOptions.meta.k8s.io", "", &[cause]));
        }
        check_type(kind, &config)?;
        for (pointer, what) in [("/kind", "Kind"), ("/apiVersion", "apiVersion")] {
            if !has(&config, pointer) {
                return Err(Refusal::bad_request(format!("Object '{what}' is missing in the applied configuration")));
            }
        }
        if has(&config, "/metadata/managedFields") {
            return Err(Refusal::bad_request("metadata.managedFields must be nil"));
        }
        without_nulls(&mut config);
        check_name(&key.name, &config)?;
        check_namespace(&key.namespace, &mut config)?;
        set(&mut config, "/metadata/name", key.name.clone());
        defaults::quantities(kind, &mut config);
        let now = self.now();
        let manager = by.manager(kind, true);
        match self.get(key).cloned() {
            Some(live) => {
                self.check_version(key, &live, &config)?;
                let merged = apply::apply(&live, &config, manager, kind.status, by.force, now)?;
                Ok((self.replace(key, &live, merged, by)?, false))
            }
            None if !by.subresource.is_empty() => Err(Refusal::not_found(kind, &key.name)),
            None => {
                let uid = text(&config, "/metadata/uid");
                if !uid.is_empty() {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                    );
                    return Err(Refusal::conflict(kind, &key.name, &why));
                }
                let mut fresh = json!({"apiVersion": kind.api_version(), "kind": kind.kind});
                // Nobody owns a name, so that nobody's configuration brings it along.
                set(&mut fresh, "/metadata/name", key.name.clone());
                let merged = apply::apply(&fresh, &config, manager, kind.status, by.force, now)?;
                let mut object = self.named(kind, &key.namespace, merged)?;
                defaults::fill(kind, &mut object);
                Ok((self.add(kind, &key.namespace, object, by)?, true))
            }
        }
    }

    /// Replaces an object by what a client sent, or by what a patch made of it.
    pub(crate) fn update(&mut self, key: &Key, mut new: Value, by: &Writer) -> Result<Arc<Value>, Refusal> {
        let kind = key.kind();
        check_type(kind, &new)?;
        without_nulls(&mut new);
        check_name(&key.name, &new)?;
        check_namespace(&key.namespace, &mut new)?;
        let old = self.get(key).ok_or_else(|| Refusal::not_found(kind, &key.name))?.clone();
        let is_unconditional = text(&new, "/metadata/resourceVersion").is_empty();
        if is_unconditional && (kind.custom || matches!(kind.resource, "leases" | "poddisruptionbudgets")) {
            let why = "must be specified for an update";
            let cause = Cause::invalid("metadata.resourceVersion", &json!(0), why);
            return Err(Refusal::invalid(kind, &key.name, &[cause]));
        }
        self.check_version(key, &old, &new)?;
        set(&mut new, "/apiVersion", kind.api_version());
        set(&mut new, "/kind", kind.kind);
        restore(kind, &old, &mut new, &by.subresource);
        tidy(&mut new);
        defaults::fill(kind, &mut new);
        let now = self.now();
        managed::after_update(&old, &mut new, by.manager(kind, false), kind.status, now);
        self.replace(key, &old, new, by)
    }

    /// Changes an object as a controller does, which knows the newest version. Nothing happens when it is not there.
    pub(crate) fn edit(&mut self, key: &Key, by: &Writer, change: impl FnOnce(&mut Value)) {
        let Some(old) = self.get(key) else { return };
        let mut new = Value::clone(old);
        change(&mut new);
        if new == **old {
            return;
        }
        // Tried again after the next change: a refusal of a webhook is not the end.
        if self.update(key, new, by).is_err() {
            self.block(key);
        }
    }

    fn named(&mut self, kind: &Kind, namespace: &str, mut body: Value) -> Result<Value, Refusal> {
        check_type(kind, &body)?;
        without_nulls(&mut body);
        check_namespace(namespace, &mut body)?;
        if has(&body, "/metadata/resourceVersion") {
            return Err(Refusal::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        set(&mut body, "/apiVersion", kind.api_version());
        set(&mut body, "/kind", kind.kind);
        let base = text(&body, "/metadata/generateName");
        if text(&body, "/metadata/name").is_empty() && !base.is_empty() {
            let cut = base.char_indices().nth(MOST_GENERATED_BASE).map_or(base.len(), |(place, _)| place);
            let name = format!("{}{}", &base[..cut], suffix());
            set(&mut body, "/metadata/name", name);
        }
        let now = moment(self.now());
        set(&mut body, "/metadata/uid", uuid::Uuid::new_v4().to_string());
        set(&mut body, "/metadata/creationTimestamp", now);
        for pointer in ["/metadata/deletionTimestamp", "/metadata/deletionGracePeriodSeconds", "/metadata/generation"] {
            remove(&mut body, pointer);
        }
        if kind.generation {
            set(&mut body, "/metadata/generation", 1);
        }
        if kind.status {
            remove(&mut body, "/status");
        }
        tidy(&mut body);
        Ok(body)
    }

    fn add(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        by: &Writer,
    ) -> Result<Arc<Value>, Refusal> {
        let name = text(&object, "/metadata/name").to_owned();
        self.check_namespace_takes(kind, namespace, &name)?;
        admission::admit_new(self, kind, &mut object)?;
        let mut causes = names::metadata(kind, &object);
        causes.extend(rules::check(kind, &object));
        if !causes.is_empty() {
            return Err(Refusal::invalid(kind, &name, &causes));
        }
        let key = Key::new(kind.resource, namespace, &name);
        if self.get(&key).is_some() {
            return Err(Refusal::already_exists(kind, &name));
        }
        admission::limits(self, kind, &object)?;
        if by.dry_run {
            return Ok(Arc::new(object));
        }
        let created = self.put(&key, object);
        if kind.resource == "namespaces" {
            admission::furnish(self, &name);
        }
        Ok(created)
    }

    fn check_namespace_takes(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), Refusal> {
        if !kind.namespaced {
            return Ok(());
        }
        let all = Kind::of("namespaces").expect("a kind");
        let found = self.find("namespaces", "", namespace).ok_or_else(|| Refusal::not_found(all, namespace))?;
        if has(found, "/metadata/deletionTimestamp") {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            return Err(Refusal::forbidden(kind, name, &why).with_cause(
                "NamespaceTerminating",
                &format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            ));
        }
        Ok(())
    }

    fn check_version(&self, key: &Key, old: &Value, new: &Value) -> Result<(), Refusal> {
        let kind = key.kind();
        let (uid, found) = (text(new, "/metadata/uid"), text(old, "/metadata/uid"));
        if !uid.is_empty() && uid != found {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
            return Err(Refusal::conflict(kind, &key.name, &why));
        }
        let version = text(new, "/metadata/resourceVersion");
        if !version.is_empty() && version != text(old, "/metadata/resourceVersion") {
            return Err(Refusal::modified(kind, &key.name));
        }
        Ok(())
    }

    fn replace(&mut self, key: &Key, old: &Arc<Value>, mut new: Value, by: &Writer) -> Result<Arc<Value>, Refusal> {
        let kind = key.kind();
        restore(kind, old, &mut new, &by.subresource);
        tidy(&mut new);
        defaults::fill(kind, &mut new);
        if without_times(&new) == without_times(old) {
            return Ok(old.clone());
        }
        if kind.generation && differs(old, &new) {
            set(&mut new, "/metadata/generation", number(old, "/metadata/generation").unwrap_or_default() + 1);
        }
        admission::admit_change(self, kind, &new, &by.subresource)?;
        let mut causes = names::metadata(kind, &new);
        causes.extend(new_finalizers(old, &new));
        if by.subresource.is_empty() {
            causes.extend(immutable::check(kind, old, &new));
            causes.extend(rules::check(kind, &new));
        }
        if !causes.is_empty() {
            return Err(Refusal::invalid(kind, &key.name, &causes));
        }
        if by.dry_run {
            return Ok(Arc::new(new));
        }
        let is_over = has(&new, "/metadata/deletionTimestamp")
            && list(&new, "/metadata/finalizers").is_empty()
            && list(&new, if kind.resource == "namespaces" { "/spec/finalizers" } else { "/none" }).is_empty()
            && number(&new, "/metadata/deletionGracePeriodSeconds").unwrap_or_default() == 0;
        if is_over {
            let last = Arc::new(new);
            self.remove(key);
            return Ok(last);
        }
        Ok(self.put(key, new))
    }
}

fn check_name(name: &str, body: &Value) -> Result<(), Refusal> {
    let found = text(body, "/metadata/name");
    if !found.is_empty() && found != name {
        let why = format!("the name of the object ({found}) does not match the name on the URL ({name})");
        return Err(Refusal::bad_request(why));
    }
    Ok(())
}

/// What a write of this kind cannot change stays what it was.
fn restore(kind: &Kind, old: &Value, new: &mut Value, subresource: &str) {
    if subresource == "status" {
        let status = new.get("status").cloned();
        let managed = new.pointer("/metadata/managedFields").cloned();
        *new = old.clone();
        match status {
            Some(status) => set(new, "/status", status),
            None => drop(remove(new, "/status")),
        }
        match managed {
            Some(managed) => set(new, "/metadata/managedFields", managed),
            None => drop(remove(new, "/metadata/managedFields")),
        }
        return;
    }
    for pointer in [
        "/metadata/name",
        "/metadata/generateName",
        "/metadata/namespace",
        "/metadata/uid",
        "/metadata/creationTimestamp",
        "/metadata/deletionTimestamp",
        "/metadata/deletionGracePeriodSeconds",
        "/metadata/generation",
        "/metadata/resourceVersion",
    ] {
        copy(new, old, pointer);
    }
    if kind.status {
        copy(new, old, "/status");
    }
    // A claim is bound by the controller, a pod by the scheduler: who applies templates does not undo that.
    if kind.resource == "namespaces" {
        copy(new, old, "/spec/finalizers");
    }
}

/// The object without the times of its managers: a change of those alone is none.
fn without_times(object: &Value) -> Value {
    let mut object = object.clone();
    for entry in list_mut(&mut object, "/metadata/managedFields").into_iter().flatten() {
        remove(entry, "/time");
    }
    object
}

/// Whether what is desired differs: everything but metadata and status.
fn differs(old: &Value, new: &Value) -> bool {
    let desired = |value: &Value| {
        let mut value = value.clone();
        object(&mut value).retain(|name, _| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind"));
        value
    };
    desired(old) != desired(new)
}

fn new_finalizers(old: &Value, new: &Value) -> Option<Cause> {
    if !has(old, "/metadata/deletionTimestamp") {
        return None;
    }
    let known = list(old, "/metadata/finalizers");
    let added: Vec<&str> = list(new, "/metadata/finalizers")
        .iter()
        .filter(|finalizer| !known.contains(finalizer))
        .filter_map(Value::as_str)
        .collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        added.iter().map(|finalizer| format!("{finalizer:?}")).collect::<Vec<_>>().join(", ")
    );
    (!added.is_empty()).then(|| Cause::forbidden("metadata.finalizers", &why))
}

/// Sets a condition, whose time of change stays while its status does.
pub(crate) fn set_condition(object: &mut Value, mut condition: Value, now: &Value) {
    if !object["status"]["conditions"].is_array() {
        set(object, "/status/conditions", json!([]));
    }
    let Some(conditions) = list_mut(object, "/status/conditions") else { return };
    let known = conditions.iter_mut().find(|known| known["type"] == condition["type"]);
    let same = known.as_ref().is_some_and(|known| known["status"] == condition["status"]);
    condition["lastTransitionTime"] = match &known {
        Some(known) if same => known["lastTransitionTime"].clone(),
        _ => now.clone(),
    };
    match known {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

/// Whether the object has a condition of this type that is true.
pub(crate) fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = list(object, "/status/conditions").iter();
    conditions.filter(|found| found["type"] == condition).any(|found| found["status"] == "True")
}

/// Whether this reference makes its object wait for the dependent.
pub(crate) fn blocks(owner: &Value) -> bool {
    flag(owner, "/blockOwnerDeletion")
}
