//! What is kept in memory of objects: as little as the platform decides by.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        batch::v1::Job,
        core::v1::{Namespace, PersistentVolumeClaim},
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::api::DynamicObject;
use mi_kernel::{BackupId, InstanceId};
use mi_runtime::Saving;
use serde_json::Value;

use crate::{
    Settings,
    labels::{AGENT_NAME, APPLIED, BACKUP_ID, INSTANCE_ID, id_in},
};

/// What runs an agent's pod: a set or a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workload {
    /// The instance that it was applied for.
    pub(crate) instance: Option<InstanceId>,
    /// The agent's name.
    pub(crate) agent: String,
    /// Whether it should have a pod.
    pub(crate) up: bool,
    /// Whether its controller has seen to it that it has none.
    pub(crate) down: bool,
    /// Whether it is being deleted.
    pub(crate) deleting: bool,
    /// Whether somebody changed what the platform applied.
    pub(crate) altered: bool,
    /// Its uid and generation: others with each change of what it should be.
    pub(crate) wish: Option<(String, i64)>,
    /// What its controller says it cannot do.
    pub(crate) trouble: Option<String>,
    /// How large its claim should be, in thousandths of bytes.
    pub(crate) disk: Option<i128>,
}

/// An agent's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimView {
    /// Whether it is being deleted.
    pub(crate) deleting: bool,
    /// Whether it has no volume yet.
    pub(crate) pending: bool,
    /// Whether it names no storage class, and the cluster gave it none.
    pub(crate) classless: bool,
    /// Told apart from all others of its name.
    pub(crate) uid: String,
    /// How large it should be, and how large its volume is, in thousandths of bytes.
    pub(crate) asked: Option<i128>,
    pub(crate) has: Option<i128>,
}

/// A job that sends the archive of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobView {
    /// The backup that it makes.
    pub(crate) backup: Option<BackupId>,
    /// How far it is.
    pub(crate) saving: Saving,
    /// Whether it is being deleted.
    pub(crate) deleting: bool,
}

/// An office's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamespaceView {
    /// Told apart from all others of its name.
    pub(crate) uid: String,
    /// Whether it is being deleted.
    pub(crate) deleting: bool,
}

impl Workload {
    pub(crate) fn of_set(set: &StatefulSet, known: Option<&Self>) -> Self {
        let spec = &set.spec;
        let status = set.status.as_ref();
        let up = spec.replicas.unwrap_or(1) > 0;
        let observed = status.and_then(|status| status.observed_generation) >= set.metadata.generation;
        Self {
            up,
            down: !up && observed && status.is_some_and(|status| status.replicas == 0),
            altered: up && altered(&set.metadata, known, || serde_json::to_value(spec).unwrap_or_default()),
            disk: spec.volume_claim_templates.iter().flatten().find_map(asked),
            ..Self::of(&set.metadata)
        }
    }

    pub(crate) fn of_sandbox(sandbox: &DynamicObject, known: Option<&Self>) -> Self {
        let spec = &sandbox.data["spec"];
        let up = spec["operatingMode"] != "Suspended";
        let condition = |kind: &str| {
            let all = sandbox.data["status"]["conditions"].as_array();
            all.into_iter().flatten().find(|condition| condition["type"] == kind)
        };
        // A condition may be there and say that it is not so, or speak of an older wish.
        let generation = sandbox.metadata.generation.unwrap_or_default();
        let holds = |condition: &Value| {
            condition["status"] == "True"
                && condition["observedGeneration"].as_i64().unwrap_or(generation) >= generation
        };
        let failed =
            condition("Ready").filter(|ready| ready["status"] == "False" && ready["reason"] == "ReconcilerError");
        Self {
            up,
            down: !up && condition("Suspended").is_some_and(holds),
            altered: up && altered(&sandbox.metadata, known, || spec.clone()),
            trouble: failed.and_then(|ready| ready["message"].as_str()).map(str::to_owned),
            disk: sandbox.data["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
                .as_str()
                .and_then(thousandths),
            ..Self::of(&sandbox.metadata)
        }
    }

    fn of(metadata: &ObjectMeta) -> Self {
        let annotations = metadata.annotations.as_ref();
        Self {
            instance: id_in(annotations, INSTANCE_ID),
            agent: annotations.and_then(|all| all.get(AGENT_NAME)).cloned().unwrap_or_default(),
            up: false,
            down: false,
            deleting: metadata.deletion_timestamp.is_some(),
            altered: false,
            wish: wish(metadata),
            trouble: None,
            disk: None,
        }
    }
}

impl ClaimView {
    pub(crate) fn of(claim: &PersistentVolumeClaim) -> Self {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            deleting: claim.metadata.deletion_timestamp.is_some(),
            pending: phase != Some("Bound"),
            classless: claim.spec.as_ref().is_none_or(|spec| spec.storage_class_name.is_none()),
            uid: claim.metadata.uid.clone().unwrap_or_default(),
            asked: asked(claim),
            has: claim.status.as_ref().and_then(|status| storage(status.capacity.as_ref())),
        }
    }
}

/// How much storage a claim asks for, in thousandths of bytes.
fn asked(claim: &PersistentVolumeClaim) -> Option<i128> {
    storage(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref())
}

fn storage(amounts: Option<&BTreeMap<String, Quantity>>) -> Option<i128> {
    amounts?.get("storage").and_then(|amount| thousandths(&amount.0))
}

impl JobView {
    pub(crate) fn of(job: &Job) -> Self {
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let holds = |kind: &str| conditions.iter().find(|it| it.type_ == kind && it.status == "True");
        let saving = match (holds("Failed"), holds("Complete")) {
            (Some(failed), _) => {
                let said = failed.message.as_deref().or(failed.reason.as_deref()).unwrap_or("nobody knows why");
                Saving::Failed(format!("the job that sends the workspace failed: {said}"))
            }
            (None, Some(_)) => Saving::Sent,
            (None, None) => Saving::UnderWay(None),
        };
        Self {
            backup: id_in(job.metadata.labels.as_ref(), BACKUP_ID),
            saving,
            deleting: job.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl NamespaceView {
    pub(crate) fn of(namespace: &Namespace) -> Self {
        Self {
            uid: namespace.metadata.uid.clone().unwrap_or_default(),
            deleting: namespace.metadata.deletion_timestamp.is_some(),
        }
    }
}

fn wish(metadata: &ObjectMeta) -> Option<(String, i64)> {
    Some((metadata.uid.clone()?, metadata.generation?))
}

/// What of the specification was applied, for [`altered`] to compare with later, also in another process.
pub(crate) fn applied(spec: &Value) -> String {
    spec.to_string()
}

/// Whether what the platform applied is no longer all there. What others added is no concern of this. Most versions of an
/// object differ in its status alone: what is `known` of one with the same wish still holds.
fn altered(metadata: &ObjectMeta, known: Option<&Workload>, spec: impl FnOnce() -> Value) -> bool {
    let same = known.filter(|known| known.up && known.wish.is_some() && known.wish == wish(metadata));
    if let Some(known) = same {
        return known.altered;
    }
    let applied = metadata.annotations.as_ref().and_then(|all| all.get(APPLIED));
    let applied: Option<Value> = applied.and_then(|text| serde_json::from_str(text).ok());
    applied.is_none_or(|applied| !has(&spec(), &applied))
}

/// Whether a value has everything that another one has; of a list each entry, in whatever order.
fn has(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Object(value), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| value.get(name).is_some_and(|value| has(value, wanted)))
        }
        (Value::Array(values), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| values.iter().any(|value| has(value, wanted)))
        }
        (Value::String(value), Value::String(wanted)) => {
            value == wanted || thousandths(value).is_some_and(|value| Some(value) == thousandths(wanted))
        }
        _ => value == wanted,
    }
}

/// What a quantity is worth, in thousandths: a server writes the same one in another way, such as `1G` for `1000000000`.
fn thousandths(text: &str) -> Option<i128> {
    let end = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale: i128 = match unit {
        "m" => 1,
        "" => 1000,
        "k" => 10_i128.pow(6),
        "M" => 10_i128.pow(9),
        "G" => 10_i128.pow(12),
        "T" => 10_i128.pow(15),
        "P" => 10_i128.pow(18),
        "E" => 10_i128.pow(21),
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        "Ei" => 1000 << 60,
        _ => return None,
    };
    number.parse::<i128>().ok()?.checked_mul(scale)
}

/// Whether an object is this installation's.
pub(crate) fn is_ours(settings: &Settings, metadata: &ObjectMeta) -> bool {
    let installation = metadata.labels.as_ref().and_then(|labels| labels.get(crate::INSTALLATION));
    installation == Some(&settings.installation)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_add_is_not_a_change_of_what_is_ours() {
        let ours = json!({"replicas": 1, "containers": [{"name": "agent", "image": "a"}]});
        for (theirs, same) in [
            (
                json!({"replicas": 1, "x": 2, "containers": [{"name": "proxy"}, {"name": "agent", "image": "a", "y": 1}]}),
                true,
            ),
            (json!({"replicas": 3, "containers": [{"name": "agent", "image": "a"}]}), false),
            (json!({"replicas": 1, "containers": [{"name": "agent", "image": "b"}]}), false),
            (json!({"replicas": 1, "containers": []}), false),
            (json!({"replicas": 1}), false),
        ] {
            assert_eq!(has(&theirs, &ours), same, "{theirs}");
        }
    }

    #[test]
    fn what_was_found_of_a_wish_holds_as_long_as_that_does() {
        let metadata = |uid: &str, generation| ObjectMeta {
            uid: Some(uid.to_owned()),
            generation: Some(generation),
            annotations: Some([(APPLIED.to_owned(), applied(&json!({"replicas": 1})))].into()),
            ..Default::default()
        };
        let found =
            |known: Option<&Workload>, metadata: &ObjectMeta| altered(metadata, known, || json!({"replicas": 3}));
        let made = metadata("one", 1);
        assert!(found(None, &made));
        let known = Workload { up: true, altered: false, ..Workload::of(&made) };
        assert!(!found(Some(&known), &made), "not looked at again");
        for other in [metadata("one", 2), metadata("other", 1), ObjectMeta { generation: None, ..metadata("one", 1) }] {
            assert!(found(Some(&known), &other), "{other:?}");
        }
        // Of what should not run nothing was found.
        assert!(found(Some(&Workload { up: false, ..known }), &made));
    }

    #[test]
    fn the_same_quantity_is_no_change_however_it_is_written() {
        for (one, other, same) in [
            ("1000000000", "1G", true),
            ("1073741824", "1Gi", true),
            ("2", "2000m", true),
            ("1G", "1Gi", false),
            ("500m", "501m", false),
            ("agent", "agents", false),
            ("9223372036854775807", "9223372036854775807", true),
        ] {
            assert_eq!(has(&json!({"x": one}), &json!({"x": other})), same, "{one} {other}");
        }
    }
}
