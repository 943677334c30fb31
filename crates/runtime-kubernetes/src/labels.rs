//! Names and labels. All of them derive from ids: a user's text could be no name, or somebody else's.

use std::{collections::BTreeMap, str::FromStr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mi_kernel::{AgentId, InstanceId, OfficeId};
use mi_runtime::Place;

use crate::settings::Settings;

/// Who made an object, on all of them.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// What its operator calls the installation.
const INSTANCE: &str = "app.kubernetes.io/instance";
/// Which installation of the platform an object belongs to.
pub const INSTALLATION: &str = "mi/installation";
/// The office of an object.
pub const OFFICE_ID: &str = "mi/office-id";
/// The agent of an object.
pub const AGENT_ID: &str = "mi/agent-id";
/// The instance: of a pod an annotation, which changes with each start, of a secret a label.
pub const INSTANCE_ID: &str = "mi/instance-id";
/// The backup that a job makes.
pub(crate) const BACKUP_ID: &str = "mi/backup-id";
/// The instance whose start a secret outlives; what has no such label is of no use once an instance has started.
pub(crate) const KEPT_FOR: &str = "mi/kept-for";
/// An annotation: the agent's name, for people who look.
pub(crate) const AGENT_NAME: &str = "mi/agent-name";
/// An annotation: the specification as the platform applied it.
pub(crate) const APPLIED: &str = "mi/applied";
/// What starts the platform's own labels.
const RESERVED: &[&str] = &["mi/", "app.kubernetes.io/", "pod-security.kubernetes.io/", "kubernetes.io/"];

/// Whether a label or an annotation is the platform's, so that no user may set it.
pub fn is_reserved(key: &str) -> bool {
    RESERVED.iter().any(|start| key.starts_with(start))
}

/// The namespace of an office.
pub fn namespace_name(office: OfficeId) -> String {
    format!("mi-{office}")
}

/// The name of an agent's objects. With the ordinal of a pod and the hash of a revision it is still a label.
pub fn agent_name(agent: AgentId) -> String {
    format!("agent-{agent}")
}

/// The name of the secret with the enrolment token of an instance.
pub fn token_name(agent: AgentId, instance: InstanceId) -> String {
    format!("{}-{instance}-enrolment", agent_name(agent))
}

/// The name of the secret with the environment of an instance.
pub fn environment_name(agent: AgentId, instance: InstanceId) -> String {
    format!("{}-{instance}-environment", agent_name(agent))
}

/// The name of what makes a backup.
pub(crate) fn save_name(agent: AgentId, attempt: InstanceId) -> String {
    format!("save-{}-{}", agent, &attempt.0.simple().to_string()[20..])
}

/// Whose an object is, by its labels.
pub(crate) fn place_of(metadata: &ObjectMeta) -> Option<Place> {
    let labels = metadata.labels.as_ref()?;
    let (office_id, agent_id) = (labels.get(OFFICE_ID)?.parse().ok()?, labels.get(AGENT_ID)?.parse().ok()?);
    // Whoever copies an object elsewhere, with its labels, has not made an agent.
    (metadata.namespace.as_deref() == Some(&*namespace_name(office_id))).then_some(Place { office_id, agent_id })
}

/// An id that an object carries.
pub(crate) fn id_in<T: FromStr>(map: Option<&BTreeMap<String, String>>, key: &str) -> Option<T> {
    map?.get(key)?.parse().ok()
}

pub(crate) fn of_office(settings: &Settings, office: OfficeId) -> BTreeMap<String, String> {
    let labels = [
        (MANAGED_BY, "mi".to_owned()),
        (INSTANCE, settings.instance.clone()),
        (INSTALLATION, settings.installation.clone()),
        (OFFICE_ID, office.to_string()),
    ];
    labels.map(|(key, value)| (key.to_owned(), value)).into()
}

pub(crate) fn of_agent(settings: &Settings, office: OfficeId, agent: AgentId) -> BTreeMap<String, String> {
    let mut labels = of_office(settings, office);
    labels.insert(AGENT_ID.to_owned(), agent.to_string());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_room_for_what_is_put_behind_them() {
        /// Of a label, which the names of pods and revisions are too.
        const MOST: usize = 63;
        /// A hyphen and ten letters of a revision.
        const HASH: usize = 11;
        assert!(agent_name(AgentId::MAX).len() + HASH <= MOST);
        assert!(namespace_name(OfficeId::MAX).len() <= MOST);
    }

    #[test]
    fn the_platforms_labels_are_reserved() {
        for key in [MANAGED_BY, INSTALLATION, OFFICE_ID, AGENT_ID, INSTANCE_ID, "kubernetes.io/metadata.name"] {
            assert!(is_reserved(key), "{key}");
        }
        assert!(!is_reserved("team") && !is_reserved("example.com/mi/x"));
    }
}
