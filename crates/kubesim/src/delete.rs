//! Deleting objects: preconditions, finalizers, grace, and what becomes of dependents.

use std::sync::Arc;

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::{
    admission,
    json::{has, list, moment, number, set, text},
    refusal::Refusal,
    store::{Key, World},
};

/// What becomes of the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// The finalizer of an object that waits for its dependents to be gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents have to be let go.
pub(crate) const ORPHAN: &str = "orphan";
/// Seconds that a pod has when its spec does not say.
const POD_GRACE_SECONDS: i64 = 30;
/// Namespaces that nobody can delete.
const ETERNAL: &[&str] = &["default", "kube-system", "kube-public"];

/// How to delete.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deletion {
    /// What becomes of dependents; by default what is usual for the kind.
    pub(crate) propagation: Option<Propagation>,
    /// Seconds that a pod gets.
    pub(crate) grace: Option<i64>,
    /// Only the object with this uid.
    pub(crate) uid: String,
    /// Only the object in this version.
    pub(crate) version: String,
    /// Everything but doing it.
    pub(crate) dry_run: bool,
}

impl Deletion {
    /// At once, dependents afterwards.
    pub(crate) fn now() -> Self {
        Self { propagation: Some(Propagation::Background), grace: Some(0), ..Self::default() }
    }

    /// With the usual grace, dependents afterwards.
    pub(crate) fn background() -> Self {
        Self { propagation: Some(Propagation::Background), ..Self::default() }
    }

    /// Reads `DeleteOptions`.
    pub(crate) fn parse(options: &Value) -> Result<Self, Refusal> {
        let propagation = match text(options, "/propagationPolicy") {
            "" if options["orphanDependents"] == true => Some(Propagation::Orphan),
            "" if options["orphanDependents"] == false => Some(Propagation::Background),
            "" => None,
            "Background" => Some(Propagation::Background),
            "Foreground" => Some(Propagation::Foreground),
            "Orphan" => Some(Propagation::Orphan),
            other => {
                let cause = crate::refusal::Cause::unsupported(
                    "propagationPolicy",
                    &json!(other),
                    &["Background", "Foreground", "Orphan"],
                );
                return Err(Refusal::invalid_options("DeleteOptions.meta.k8s.io", "", &[cause]));
            }
        };
        Ok(Self {
            propagation,
            grace: number(options, "/gracePeriodSeconds"),
            uid: text(options, "/preconditions/uid").to_owned(),
            version: text(options, "/preconditions/resourceVersion").to_owned(),
            dry_run: list(options, "/dryRun").iter().any(|value| value == "All"),
        })
    }
}

/// What became of an object that somebody deletes.
pub(crate) enum Deleted {
    /// It is gone; this was it.
    Gone(Arc<Value>),
    /// It is still there, for the sake of a finalizer or of its grace.
    Going(Arc<Value>),
}

impl World {
    /// Deletes an object, or marks it when something has to happen before.
    pub(crate) fn delete(&mut self, key: &Key, how: &Deletion) -> Result<Deleted, Refusal> {
        let kind = key.kind();
        let old = self.get(key).ok_or_else(|| Refusal::not_found(kind, &key.name))?.clone();
        check(&how.uid, text(&old, "/metadata/uid"), "UID")
            .and_then(|()| check(&how.version, text(&old, "/metadata/resourceVersion"), "ResourceVersion"))
            .map_err(|why| Refusal::conflict(kind, &key.name, &why))?;
        if kind.resource == "namespaces" && ETERNAL.contains(&key.name.as_str()) {
            return Err(Refusal::forbidden(kind, &key.name, "this namespace may not be deleted"));
        }
        admission::admit_deletion(self, kind, &old)?;

        let mut new = Value::clone(&old);
        let finalizers = finalizers(kind.resource, &old, how);
        set(&mut new, "/metadata/finalizers", finalizers.clone());
        let is_going = has(&old, "/metadata/deletionTimestamp");
        let grace = grace(kind.resource, &old, how);
        let is_held = kind.resource == "namespaces" && !list(&old, "/spec/finalizers").is_empty();
        if how.dry_run {
            return Ok(Deleted::Gone(old));
        }
        if finalizers.is_empty() && grace == 0 && !is_held {
            let last = self.remove(key);
            return Ok(Deleted::Gone(last.unwrap_or(old)));
        }
        let shorter = number(&old, "/metadata/deletionGracePeriodSeconds").is_none_or(|before| grace < before);
        if !is_going || shorter {
            let end = self.now() + TimeDelta::seconds(grace);
            set(&mut new, "/metadata/deletionTimestamp", moment(end));
            set(&mut new, "/metadata/deletionGracePeriodSeconds", grace);
            if !is_going && kind.generation {
                set(&mut new, "/metadata/generation", number(&old, "/metadata/generation").unwrap_or_default() + 1);
            }
            if kind.resource == "namespaces" {
                set(&mut new, "/status/phase", "Terminating");
            }
        }
        if finalizers.is_empty() {
            crate::json::remove(&mut new, "/metadata/finalizers");
        }
        if new == *old {
            return Ok(Deleted::Going(old));
        }
        Ok(Deleted::Going(self.put(key, new)))
    }
}

fn check(wanted: &str, found: &str, what: &str) -> Result<(), String> {
    if wanted.is_empty() || wanted == found {
        return Ok(());
    }
    Err(format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"))
}

/// The finalizers that a deletion leaves or adds.
fn finalizers(resource: &str, old: &Value, how: &Deletion) -> Vec<Value> {
    let mut found = list(old, "/metadata/finalizers").to_vec();
    // Of old, a job's pods stay unless somebody says otherwise.
    let usual = (resource == "jobs" && !found.iter().any(|name| name == FOREGROUND)).then_some(Propagation::Orphan);
    if let Some(propagation) = how.propagation.or(usual) {
        found.retain(|name| name != FOREGROUND && name != ORPHAN);
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => found.push(FOREGROUND.into()),
            Propagation::Orphan => found.push(ORPHAN.into()),
        }
    }
    found
}

/// How long an object has until it may be removed.
fn grace(resource: &str, old: &Value, how: &Deletion) -> i64 {
    let never_ran = text(old, "/spec/nodeName").is_empty();
    let is_over = matches!(text(old, "/status/phase"), "Succeeded" | "Failed");
    if resource != "pods" || never_ran || is_over {
        return 0;
    }
    let usual = number(old, "/spec/terminationGracePeriodSeconds").unwrap_or(POD_GRACE_SECONDS);
    how.grace.unwrap_or(usual)
}
