//! The job that sends the archive of a workspace to the platform, while no instance of the agent runs.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Container, EmptyDirVolumeSource, PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Secret,
            SecretVolumeSource, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use mi_kernel::{BackupId, InstanceId, secret::Secret as Token};
use mi_runtime::{Limits, Place};

use crate::{
    agent::{
        CONTAINER, SECRET_MODE, TOKEN_PATH, WORKSPACE_PATH, container_security, mount, pod_security, resources,
        token_secret, variables,
    },
    labels::{BACKUP_ID, namespace_name, of_agent, save_name},
    settings::Settings,
};

/// The name of the token in its secret, and of the file.
const TOKEN_KEY: &str = "save-token";
/// Pods that fail before the job does.
const TRIES: i32 = 3;
/// The longest that it may take in all, in seconds: less than its token is good for.
const LIMIT: i64 = 23 * 3600;

/// What is applied for a backup, in this order.
pub(crate) struct SaveObjects {
    /// The token by which the platform takes the archive.
    pub(crate) token: Secret,
    /// Who sends it.
    pub(crate) job: Job,
}

/// What makes a backup of the workspace on this claim. Each try has a name of its own: what is left of the one before is in
/// nobody's way.
pub(crate) fn save(
    settings: &Settings,
    (place, backup): (Place, BackupId),
    claim: &str,
    env: &BTreeMap<String, String>,
    token: &Token,
) -> SaveObjects {
    let name = save_name(place.agent_id, InstanceId::new());
    let mut labels = of_agent(settings, place.office_id, place.agent_id);
    labels.insert(BACKUP_ID.to_owned(), backup.to_string());
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        namespace: Some(namespace_name(place.office_id)),
        labels: Some(labels.clone()),
        ..ObjectMeta::default()
    };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
        spec: Some(pod(settings, place, &name, claim, env)),
    };
    SaveObjects {
        token: token_secret(metadata.clone(), TOKEN_KEY, token),
        job: Job {
            metadata,
            spec: Some(JobSpec {
                backoff_limit: Some(TRIES),
                active_deadline_seconds: Some(LIMIT),
                template,
                ..JobSpec::default()
            }),
            ..Job::default()
        },
    }
}

fn pod(settings: &Settings, place: Place, name: &str, claim: &str, env: &BTreeMap<String, String>) -> PodSpec {
    let mut known: Vec<(&str, String)> = env.iter().map(|(name, value)| (&**name, value.clone())).collect();
    known.extend([
        ("MI_OFFICE_ID", place.office_id.to_string()),
        ("MI_AGENT_ID", place.agent_id.to_string()),
        ("MI_WORKSPACE", WORKSPACE_PATH.to_owned()),
        ("MI_SAVE_TOKEN_FILE", format!("{TOKEN_PATH}/{TOKEN_KEY}")),
    ]);
    let volume = |name: &str| Volume { name: name.to_owned(), ..Volume::default() };
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some("Never".to_owned()),
        runtime_class_name: settings.runtime_class.clone(),
        node_selector: (!settings.node_selector.is_empty()).then(|| settings.node_selector.clone()),
        security_context: Some(pod_security(settings)),
        containers: vec![Container {
            name: CONTAINER.to_owned(),
            image: Some(settings.image.clone()),
            args: Some(["agent", "save"].map(str::to_owned).to_vec()),
            env: Some(variables(&known)),
            resources: resources(settings, &Limits::default()),
            security_context: Some(container_security()),
            volume_mounts: Some(vec![
                mount("work", WORKSPACE_PATH, Some("workspace")),
                VolumeMount { read_only: Some(true), ..mount("token", TOKEN_PATH, None) },
                mount("tmp", "/tmp", None),
            ]),
            ..Container::default()
        }],
        volumes: Some(vec![
            Volume {
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.to_owned(),
                    ..PersistentVolumeClaimVolumeSource::default()
                }),
                ..volume("work")
            },
            Volume {
                secret: Some(SecretVolumeSource {
                    secret_name: Some(name.to_owned()),
                    default_mode: Some(SECRET_MODE),
                    ..SecretVolumeSource::default()
                }),
                ..volume("token")
            },
            Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..volume("tmp") },
        ]),
        ..PodSpec::default()
    }
}
