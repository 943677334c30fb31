//! What is done for a request, and what is answered.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    delete::{Deleted, Deletion},
    json::{has, list, number, set, text},
    kinds::Kind,
    list,
    patch::{self, patched, rescale, scale_of},
    refusal::{Cause, Refusal},
    route::{Asked, Query},
    select::{Selector, selects},
    store::{Key, World},
    write::Writer,
};

/// An answer that is no watch.
pub(crate) enum Answer {
    /// A status and an object.
    Object(u16, Value),
    /// A text, such as a log.
    Text(String),
}

/// A request with everything that came with it.
pub(crate) struct Call<'c> {
    /// What is asked for.
    pub(crate) asked: &'c Asked,
    /// The parameters.
    pub(crate) query: &'c Query,
    /// What the body is.
    pub(crate) content_type: &'c str,
    /// The body.
    pub(crate) body: &'c [u8],
    /// Who writes.
    pub(crate) by: Writer,
}

impl Call<'_> {
    fn key(&self) -> Key {
        Key::new(self.asked.kind.resource, &self.asked.namespace, &self.asked.name)
    }

    fn value(&self) -> Result<Value, Refusal> {
        if self.content_type.contains("protobuf") || self.content_type.contains("cbor") {
            let why = "the body of the request was in an unknown format - accepted media types include: \
                application/json, application/yaml";
            return Err(Refusal::new(415, "UnsupportedMediaType", why));
        }
        patch::read(self.body)
    }

    fn deletion(&self) -> Result<Deletion, Refusal> {
        let mut options = if self.body.is_empty() { json!({}) } else { self.value()? };
        // Options may come as parameters as well.
        for name in ["propagationPolicy", "orphanDependents", "gracePeriodSeconds"] {
            let given = self.query.text(name);
            if !given.is_empty() {
                options[name] = serde_json::from_str(given).unwrap_or_else(|_| given.into());
            }
        }
        let mut deletion = Deletion::parse(&options)?;
        deletion.dry_run |= self.by.dry_run;
        Ok(deletion)
    }
}

/// Does what is asked for.
pub(crate) fn answer(
    world: &mut World,
    call: &Call<'_>,
    stale: Option<u64>,
    lose_page: bool,
) -> Result<Answer, Refusal> {
    let (asked, key) = (call.asked, call.key());
    let kind = asked.kind;
    let dry = call.query.text("dryRun");
    if !matches!(dry, "" | "All") {
        let cause = Cause::unsupported("dryRun", &json!([dry]), &["All"]);
        return Err(Refusal::invalid_options("CreateOptions.meta.k8s.io", "", &[cause]));
    }
    if kind.namespaced && asked.namespace.is_empty() && !matches!(asked.verb, "list" | "watch") {
        return Err(Refusal::no_such_path());
    }
    match (asked.verb, asked.subresource.as_str()) {
        ("get", "log") => log(world, &key, call.query).map(Answer::Text),
        ("get", "scale") => found(world, &key).map(|object| Answer::Object(200, scale_of(&object))),
        ("get", _) => get(world, &key, call.query),
        ("list", _) => list::list(world, asked, call.query, stale, lose_page).map(|list| Answer::Object(200, list)),
        ("create", "eviction") => evict(world, &key, &call.value()?),
        ("create", _) => {
            let created = world.create(kind, &asked.namespace, call.value()?, &call.by)?;
            Ok(Answer::Object(201, (*created).clone()))
        }
        ("update", "scale") => rescale(world, &key, &call.value()?, &call.by).map(|scale| Answer::Object(200, scale)),
        ("update", _) => {
            let updated = world.update(&key, call.value()?, &call.by)?;
            Ok(Answer::Object(200, (*updated).clone()))
        }
        ("patch", "scale") => {
            let old = scale_of(&*found(world, &key)?);
            let scale = patched(kind, old, call.content_type, call.body)?;
            rescale(world, &key, &scale, &call.by).map(|scale| Answer::Object(200, scale))
        }
        ("patch", _) => {
            let (object, is_new) = patch::patch(world, &key, call.content_type, call.body, &call.by)?;
            Ok(Answer::Object(if is_new { 201 } else { 200 }, (*object).clone()))
        }
        ("delete", _) => delete(world, &key, &call.deletion()?),
        ("deletecollection", _) => delete_all(world, call),
        _ => Err(Refusal::no_such_path()),
    }
}

fn found(world: &World, key: &Key) -> Result<Arc<Value>, Refusal> {
    world.get(key).cloned().ok_or_else(|| Refusal::not_found(key.kind(), &key.name))
}

fn get(world: &World, key: &Key, query: &Query) -> Result<Answer, Refusal> {
    if let Some(version) = query.number("resourceVersion")?
        && version > world.version()
    {
        return Err(Refusal::too_large(version, world.version()));
    }
    found(world, key).map(|object| Answer::Object(200, (*object).clone()))
}

fn delete(world: &mut World, key: &Key, how: &Deletion) -> Result<Answer, Refusal> {
    let kind = key.kind();
    match world.delete(key, how)? {
        Deleted::Going(object) => Ok(Answer::Object(200, (*object).clone())),
        Deleted::Gone(object) if kind.returns_deleted => Ok(Answer::Object(200, (*object).clone())),
        Deleted::Gone(object) => {
            let mut details = json!({"name": key.name, "kind": kind.resource, "uid": object["metadata"]["uid"]});
            if !kind.group.is_empty() {
                details["group"] = kind.group.into();
            }
            Ok(Answer::Object(200, success(details)))
        }
    }
}

fn success(details: Value) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if details != json!({}) {
        status["details"] = details;
    }
    status
}

fn delete_all(world: &mut World, call: &Call<'_>) -> Result<Answer, Refusal> {
    let (asked, query) = (call.asked, call.query);
    if asked.kind.resource == "namespaces" {
        let why = "the server does not allow this method on the requested resource";
        return Err(Refusal::new(405, "MethodNotAllowed", why));
    }
    let how = call.deletion()?;
    let selector = Selector::parse(asked.kind, query.text("labelSelector"), query.text("fieldSelector"))?;
    let objects = world.list(asked.kind.resource, &asked.namespace).filter(|(_, object)| selector.matches(object));
    let keys: Vec<Key> = objects.map(|(key, _)| key.clone()).collect();
    let mut items = Vec::new();
    for key in keys {
        let (Deleted::Gone(object) | Deleted::Going(object)) = world.delete(&key, &how)?;
        items.push(list::item(asked.kind, &object));
    }
    let list = json!({
        "kind": format!("{}List", asked.kind.kind),
        "apiVersion": asked.kind.api_version(),
        "metadata": {"resourceVersion": world.version().to_string()},
        "items": items,
    });
    Ok(Answer::Object(200, list))
}

/// Deletes a pod unless a disruption budget is against it.
fn evict(world: &mut World, key: &Key, eviction: &Value) -> Result<Answer, Refusal> {
    let pod = found(world, key)?;
    let budgets = world.list("poddisruptionbudgets", &key.namespace);
    let budgets: Vec<_> = budgets
        .filter(|(_, budget)| selects(&budget["spec"]["selector"], &pod))
        .map(|(key, budget)| (key.clone(), budget.clone()))
        .collect();
    let is_over = matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed" | "Pending");
    match budgets.as_slice() {
        _ if is_over || has(&pod, "/metadata/deletionTimestamp") => {}
        [] => {}
        [(budget, object)] => {
            let count = |name: &str| number(object, &format!("/status/{name}")).unwrap_or_default();
            if count("disruptionsAllowed") < 1 {
                let why = "Cannot evict pod as it would violate the pod's disruption budget.";
                let cause = format!(
                    "The disruption budget {} needs {} healthy pods and has {} currently",
                    budget.name,
                    count("desiredHealthy"),
                    count("currentHealthy")
                );
                return Err(Refusal::new(429, "TooManyRequests", why).with_cause("DisruptionBudget", &cause, ""));
            }
            world.edit(budget, &Writer::status("kube-apiserver"), |budget| {
                set(budget, "/status/disruptionsAllowed", count("disruptionsAllowed") - 1);
            });
        }
        _ => {
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Refusal::new(500, "InternalError", why));
        }
    }
    let options = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    world.delete(key, &Deletion::parse(&options)?)?;
    let mut status = success(json!({}));
    status["code"] = 201.into();
    Ok(Answer::Object(201, status))
}

fn log(world: &World, key: &Key, query: &Query) -> Result<String, Refusal> {
    let pod = found(world, key)?;
    let names: Vec<&str> = list(&pod, "/spec/containers").iter().map(|container| text(container, "/name")).collect();
    let wanted = query.text("container");
    let container = match (wanted, names.as_slice()) {
        ("", [only]) => *only,
        ("", several) => {
            let why = format!("a container name must be specified for pod {}, choose one of: {several:?}", key.name);
            return Err(Refusal::bad_request(why));
        }
        (wanted, names) if names.contains(&wanted) => wanted,
        (wanted, _) => {
            return Err(Refusal::bad_request(format!("container {wanted} is not valid for pod {}", key.name)));
        }
    };
    let statuses = list(&pod, "/status/containerStatuses").iter();
    let status = statuses.clone().find(|status| text(status, "/name") == container).unwrap_or(&Value::Null);
    let whole = world.logs.get(&(key.namespace.clone(), key.name.clone(), container.to_owned()));
    let text = if query.flag("previous") {
        if !has(status, "/lastState/terminated") {
            let why = format!("previous terminated container {container:?} in pod {:?} not found", key.name);
            return Err(Refusal::bad_request(why));
        }
        whole.map_or("", |(_, previous)| previous)
    } else {
        let reason = text(status, "/state/waiting/reason");
        if status.is_null() || (!reason.is_empty() && reason != "CrashLoopBackOff") {
            let reason = if reason.is_empty() { "ContainerCreating" } else { reason };
            let why = format!("container {container:?} in pod {:?} is waiting to start: {reason}", key.name);
            return Err(Refusal::bad_request(why));
        }
        whole.map_or("", |(current, _)| current)
    };
    let lines: Vec<&str> = text.lines().collect();
    let tail = query.number("tailLines")?.map_or(lines.len(), |tail| usize::try_from(tail).unwrap_or(usize::MAX));
    let mut answer = String::new();
    for line in &lines[lines.len().saturating_sub(tail)..] {
        answer.push_str(line);
        answer.push('\n');
    }
    if let Some(most) = query.number("limitBytes")? {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        answer.truncate(answer.floor_char_boundary(most));
    }
    Ok(answer)
}

/// Who a refusal of RBAC is about.
pub(crate) fn forbidden(asked: &Asked) -> Refusal {
    let kind: &Kind = asked.kind;
    let resource = match asked.subresource.as_str() {
        "" => kind.resource.to_owned(),
        subresource => format!("{}/{subresource}", kind.resource),
    };
    let place = match asked.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!(
        "User \"system:serviceaccount:mi:mi\" cannot {} resource {resource:?} in API group {:?} {place}",
        asked.verb, kind.group
    );
    Refusal::forbidden(kind, &asked.name, &why)
}
