//! Limit ranges and resource quotas of a namespace.

use serde_json::Value;

use crate::{
    admission::asked,
    defaults::complete,
    json::{entries, list, list_mut, map, text},
    kinds::Kind,
    quantity::Quantity,
    refusal::Refusal,
    store::World,
};

fn limits_of_containers<'w>(world: &'w World, namespace: &'w str) -> impl Iterator<Item = &'w Value> {
    let ranges = world.list("limitranges", namespace);
    ranges.flat_map(|(_, range)| list(range, "/spec/limits")).filter(|limit| limit["type"] == "Container")
}

/// Gives containers the limits and requests that their namespace has for those that name none.
pub(crate) fn defaults(world: &World, pod: &mut Value) {
    let namespace = text(pod, "/metadata/namespace").to_owned();
    for limit in limits_of_containers(world, &namespace) {
        for containers in ["/spec/containers", "/spec/initContainers"] {
            for container in list_mut(pod, containers).into_iter().flatten() {
                for (from, to) in [("/default", "/resources/limits"), ("/defaultRequest", "/resources/requests")] {
                    for (name, value) in entries(limit, from) {
                        map(container, to).entry(name.clone()).or_insert_with(|| value.clone());
                    }
                }
            }
        }
    }
    complete(pod);
}

/// Refuses a pod whose containers are outside of the limits of the namespace.
pub(crate) fn within_limits(world: &World, kind: &Kind, pod: &Value) -> Result<(), Refusal> {
    let amount = |value: &Value| value.as_str().and_then(Quantity::parse);
    for limit in limits_of_containers(world, text(pod, "/metadata/namespace")) {
        for container in list(pod, "/spec/containers") {
            for (name, most) in entries(limit, "/max") {
                let found = &container["resources"]["limits"][name];
                let why = match (amount(found), amount(most)) {
                    (Some(found), Some(most)) if found <= most => continue,
                    (Some(found), Some(most)) => format!(
                        "maximum {name} usage per Container is {}, but limit is {}",
                        most.canonical(),
                        found.canonical()
                    ),
                    _ => format!(
                        "maximum {name} usage per Container is {}.  No limit is specified",
                        text(limit, &format!("/max/{name}"))
                    ),
                };
                return Err(Refusal::forbidden(kind, text(pod, "/metadata/name"), &why));
            }
        }
    }
    Ok(())
}

/// What an object adds to a name of a quota.
fn adds(kind: &Kind, object: &Value, name: &str) -> Option<Quantity> {
    let count = match kind.group {
        "" => format!("count/{}", kind.resource),
        group => format!("count/{}.{group}", kind.resource),
    };
    let is_short = matches!(
        kind.resource,
        "pods" | "services" | "secrets" | "configmaps" | "persistentvolumeclaims" | "resourcequotas"
    );
    if name == count || (is_short && name == kind.resource) {
        return Some(Quantity::count(1));
    }
    match kind.resource {
        "pods" => {
            let (part, resource) = match name.split_once('.') {
                Some((part @ ("limits" | "requests"), resource)) => (part, resource),
                _ if matches!(name, "cpu" | "memory" | "ephemeral-storage") => ("requests", name),
                _ => return None,
            };
            asked(object, part, resource)
        }
        "persistentvolumeclaims" if name == "requests.storage" => {
            Quantity::parse(text(object, "/spec/resources/requests/storage"))
        }
        _ => None,
    }
}

/// Whether objects of a kind can add to a name at all.
fn concerns(name: &str, kind: &Kind) -> bool {
    match name.strip_prefix("count/") {
        Some(rest) => rest.split('.').next() == Some(kind.resource),
        None if name == "requests.storage" => kind.resource == "persistentvolumeclaims",
        None => name == kind.resource || kind.resource == "pods",
    }
}

/// Whether an object counts: pods that are over do not.
fn counts(kind: &Kind, object: &Value) -> bool {
    kind.resource != "pods" || !matches!(text(object, "/status/phase"), "Succeeded" | "Failed")
}

/// How much of a name of a quota is used.
pub(crate) fn used(world: &World, namespace: &str, name: &str) -> Quantity {
    let kinds = crate::kinds::KINDS.iter().filter(|kind| kind.namespaced && concerns(name, kind));
    let amounts = kinds.flat_map(|kind| {
        let objects = world.list(kind.resource, namespace).filter(|(_, object)| counts(kind, object));
        objects.filter_map(|(_, object)| adds(kind, object, name))
    });
    amounts.fold(Quantity::ZERO, Quantity::plus)
}

/// Refuses an object for which a quota has nothing left.
pub(crate) fn within_quota(world: &World, kind: &Kind, object: &Value) -> Result<(), Refusal> {
    let (namespace, own) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    if namespace.is_empty() {
        return Ok(());
    }
    for (key, quota) in world.list("resourcequotas", namespace) {
        let mut unnamed = Vec::new();
        let mut exceeded: Vec<[String; 3]> = Vec::new();
        for (name, hard) in entries(quota, "/spec/hard") {
            let Some(hard) = hard.as_str().and_then(Quantity::parse) else { continue };
            let Some(added) = adds(kind, object, name) else {
                let (part, resource) = name.split_once('.').unwrap_or(("requests", name));
                let is_compute = matches!(resource, "cpu" | "memory") && matches!(part, "limits" | "requests");
                if kind.resource == "pods" && is_compute {
                    unnamed.push(name.clone());
                }
                continue;
            };
            let used = used(world, namespace, name);
            if used.plus(added) > hard {
                exceeded.push(
                    [(name, added), (name, used), (name, hard)]
                        .map(|(name, amount)| format!("{name}={}", amount.canonical())),
                );
            }
        }
        if !unnamed.is_empty() {
            let container = list(object, "/spec/containers").first().map_or("", |found| text(found, "/name"));
            let must: Vec<String> = unnamed.iter().map(|name| format!("{name} for: {container}")).collect();
            let why = format!("failed quota: {}: must specify {}", key.name, must.join("; "));
            return Err(Refusal::forbidden(kind, own, &why));
        }
        if !exceeded.is_empty() {
            let all = |part: usize| exceeded.iter().map(|found| found[part].as_str()).collect::<Vec<_>>().join(",");
            let why =
                format!("exceeded quota: {}, requested: {}, used: {}, limited: {}", key.name, all(0), all(1), all(2));
            return Err(Refusal::forbidden(kind, own, &why));
        }
    }
    Ok(())
}
