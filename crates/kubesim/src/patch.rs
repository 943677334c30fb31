//! Patches by their content types.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    json::set,
    kinds::Kind,
    refusal::Refusal,
    store::{Key, World},
    strategic,
    write::Writer,
};

/// Reads a body that is JSON, or else YAML.
pub(crate) fn read(body: &[u8]) -> Result<Value, Refusal> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    serde_saphyr::from_str(text).map_err(|error| Refusal::bad_request(format!("error decoding the body: {error}")))
}

/// Patches an object; says whether it is new.
pub(crate) fn patch(
    world: &mut World,
    key: &Key,
    content_type: &str,
    body: &[u8],
    by: &Writer,
) -> Result<(Arc<Value>, bool), Refusal> {
    let kind = key.kind();
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    if content_type == "application/apply-patch+yaml" {
        return world.apply(key, read(body)?, by);
    }
    if by.force {
        let cause = crate::refusal::Cause::forbidden("force", "may not be specified for non-apply patch");
        return Err(Refusal::invalid_options("PatchOptions.meta.k8s.io", "", &[cause]));
    }
    let old = world.get(key).ok_or_else(|| Refusal::not_found(kind, &key.name))?;
    let new = patched(kind, Value::clone(old), content_type, body)?;
    Ok((world.update(key, new, by)?, false))
}

/// The value with a patch of any kind but apply.
pub(crate) fn patched(kind: &Kind, old: Value, content_type: &str, body: &[u8]) -> Result<Value, Refusal> {
    let mut new = old;
    match content_type {
        "application/merge-patch+json" => json_patch::merge(&mut new, &read(body)?),
        "application/strategic-merge-patch+json" if !kind.custom => strategic::merge(&mut new, &read(body)?),
        "application/json-patch+json" => {
            let patch: json_patch::Patch = serde_json::from_slice(body)
                .map_err(|error| Refusal::bad_request(format!("error decoding patch: {error}")))?;
            for operation in patch.0 {
                // To the real server what is missing is null, which clients rely on.
                if let json_patch::PatchOperation::Test(test) = &operation
                    && test.value.is_null()
                    && new.pointer(test.path.as_str()).is_none()
                {
                    continue;
                }
                json_patch::patch(&mut new, &[operation]).map_err(|error| {
                    let why = "the server rejected our request due to an error in our request";
                    Refusal::new(422, "Invalid", why).with_cause("UnexpectedServerResponse", &error.to_string(), "")
                })?;
            }
        }
        _ => {
            let accepted = if kind.custom {
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            } else {
                "application/json-patch+json, application/merge-patch+json, \
                    application/strategic-merge-patch+json, application/apply-patch+yaml"
            };
            let why =
                format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
            return Err(Refusal::new(415, "UnsupportedMediaType", why));
        }
    }
    Ok(new)
}

/// The scale of an object, as its subresource shows it.
pub(crate) fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or_default(),
            "selector": crate::select::as_text(&object["spec"]["selector"]),
        },
    })
}

/// Scales an object, as a whole scale says or as a patch of it does.
pub(crate) fn rescale(world: &mut World, key: &Key, scale: &Value, by: &Writer) -> Result<Value, Refusal> {
    let kind = key.kind();
    let old = world.get(key).ok_or_else(|| Refusal::not_found(kind, &key.name))?;
    let Some(replicas) = scale["spec"]["replicas"].as_u64() else {
        let cause = crate::refusal::Cause::invalid(
            "spec.replicas",
            &scale["spec"]["replicas"],
            "must be greater than or equal to 0",
        );
        return Err(Refusal::invalid_options("Scale.autoscaling", &key.name, &[cause]));
    };
    let mut new = Value::clone(old);
    set(&mut new, "/spec/replicas", replicas);
    if let Some(version) = scale["metadata"]["resourceVersion"].as_str() {
        set(&mut new, "/metadata/resourceVersion", version);
    }
    // It is the object that is written, by the way of the subresource.
    let by = Writer { subresource: "scale".to_owned(), ..by.clone() };
    Ok(scale_of(&*world.update(key, new, &by)?))
}
