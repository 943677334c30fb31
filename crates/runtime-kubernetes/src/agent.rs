//! What an agent is in a cluster: a set of one pod, with an account that can do nothing, and its secrets.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{
            Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvFromSource, EnvVar, HTTPGetAction,
            PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
            ResourceRequirements, SeccompProfile, Secret, SecretEnvSource, SecretVolumeSource, SecurityContext,
            ServiceAccount, Volume, VolumeMount, VolumeResourceRequirements,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use mi_kernel::secret::Secret as Token;
use mi_runtime::{Launch, Limits};

use crate::{
    labels::{
        AGENT_ID, AGENT_NAME, INSTANCE_ID, KEPT_FOR, agent_name, environment_name, namespace_name, of_agent, token_name,
    },
    office::compute,
    settings::Settings,
};

/// Where the agent works, on its claim.
pub const WORKSPACE_PATH: &str = "/workspace";
/// Where it keeps its key: on the claim too, so that a pod that is made anew is the same agent, but no part of backups.
pub const IDENTITY_PATH: &str = "/identity";
/// Where it finds its enrolment token, as long as there is one.
pub const TOKEN_PATH: &str = "/run/enrolment";
/// The name of the token in its secret, and of the file.
pub const TOKEN_KEY: &str = "enrol-token";
/// The port of the agent's own health endpoint.
pub const HEALTH_PORT: u16 = 8086;
/// The address of the agent's own health endpoint.
const HEALTH_LISTEN: &str = "0.0.0.0:8086";
/// The variable that holds a token where agents are processes.
pub(crate) const TOKEN_VARIABLE: &str = "MI_ENROL_TOKEN";
pub(crate) const CONTAINER: &str = "agent";
pub(crate) const CLAIM: &str = "work";
/// Bytes of `/tmp`.
const TMP: &str = "1Gi";
/// Bytes of a workspace when nobody says.
const USUAL_DISK: u64 = 1 << 30;
/// Readable by owner and group.
pub(crate) const SECRET_MODE: i32 = 0o440;

/// The objects of an agent, in the order in which they are to be applied: the set last, which starts it.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentObjects {
    /// Whom its pod runs as: nobody to the cluster, without a token.
    pub account: ServiceAccount,
    /// The enrolment token of this instance and nothing else. It is deleted once the agent has enrolled.
    pub token: Secret,
    /// The environment of this instance. It may hold keys of integrations, so that it is no part of the set, which more
    /// people can read. Each instance has a secret of its own: a container of the one before that is restarted meanwhile
    /// neither learns what is not for it nor takes itself for the new one.
    pub environment: Secret,
    /// The set.
    pub set: StatefulSet,
}

/// What an agent is made of that is started so.
pub fn agent(settings: &Settings, launch: &Launch, token: &Token) -> AgentObjects {
    let base = base(settings, launch, token);
    let name = agent_name(launch.place.agent_id);
    let set = set(settings, launch, &name, base.metadata);
    AgentObjects { account: base.account, token: base.token, environment: base.environment, set }
}

/// What an agent has whatever runs its pod.
pub(crate) struct Base {
    /// The metadata of what runs it.
    pub(crate) metadata: ObjectMeta,
    /// Whom its pod runs as.
    pub(crate) account: ServiceAccount,
    /// The enrolment token.
    pub(crate) token: Secret,
    /// The environment.
    pub(crate) environment: Secret,
}

/// The part of an agent that is the same for every driver.
pub(crate) fn base(settings: &Settings, launch: &Launch, token: &Token) -> Base {
    let place = launch.place;
    let name = agent_name(place.agent_id);
    let labels = of_agent(settings, place.office_id, place.agent_id);
    let named = |name: String| ObjectMeta {
        name: Some(name),
        namespace: Some(namespace_name(place.office_id)),
        labels: Some(labels.clone()),
        ..ObjectMeta::default()
    };
    // So that those of instances before can be found.
    let of_instance = |name: String| {
        let mut metadata = named(name);
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(INSTANCE_ID.to_owned(), launch.instance.to_string());
        metadata
    };
    let mut kept = of_instance(environment_name(place.agent_id, launch.instance));
    kept.labels.get_or_insert_default().insert(KEPT_FOR.to_owned(), launch.instance.to_string());
    let environment = launch.env.iter().filter(|(name, _)| *name != TOKEN_VARIABLE);
    Base {
        account: ServiceAccount {
            metadata: named(name.clone()),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        token: token_secret(of_instance(token_name(place.agent_id, launch.instance)), TOKEN_KEY, token),
        environment: Secret {
            metadata: kept,
            immutable: Some(true),
            data: Some(environment.map(|(name, value)| (name.clone(), sealed(value))).collect()),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        },
        metadata: ObjectMeta { annotations: Some(annotations(launch)), ..named(name) },
    }
}

/// A secret that holds a token and nothing else.
pub(crate) fn token_secret(metadata: ObjectMeta, key: &str, token: &Token) -> Secret {
    Secret {
        metadata,
        data: Some([(key.to_owned(), sealed(token.expose()))].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

fn sealed(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

/// What people and this crate read of an object.
fn annotations(launch: &Launch) -> BTreeMap<String, String> {
    let read = [(INSTANCE_ID, launch.instance.to_string()), (AGENT_NAME, launch.name.clone())];
    read.map(|(key, value)| (key.to_owned(), value)).into()
}

pub(crate) fn set(settings: &Settings, launch: &Launch, name: &str, metadata: ObjectMeta) -> StatefulSet {
    let place = launch.place;
    let selected = BTreeMap::from([(AGENT_ID.to_owned(), place.agent_id.to_string())]);
    let template =
        PodTemplateSpec { metadata: Some(pod_metadata(settings, launch)), spec: Some(pod(settings, launch, name)) };
    StatefulSet {
        metadata,
        spec: StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(name.to_owned()),
            // In order, a pod that never gets ready would be in the way of the next revision for ever.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            revision_history_limit: Some(1),
            // A workspace goes when its backup is verified, by the platform's own hand.
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            selector: LabelSelector { match_labels: Some(selected), ..LabelSelector::default() },
            template,
            volume_claim_templates: Some(vec![claim(settings, launch)]),
            ..StatefulSetSpec::default()
        },
        ..StatefulSet::default()
    }
}

/// What its pod is known by.
pub(crate) fn pod_metadata(settings: &Settings, launch: &Launch) -> ObjectMeta {
    ObjectMeta {
        labels: Some(of_agent(settings, launch.place.office_id, launch.place.agent_id)),
        // Each start is a revision of its own.
        annotations: Some(annotations(launch)),
        ..ObjectMeta::default()
    }
}

/// The claim of its workspace, as a template.
pub(crate) fn claim(settings: &Settings, launch: &Launch) -> PersistentVolumeClaim {
    let bytes = launch.limits.disk_bytes.or(settings.defaults.disk_bytes).unwrap_or(USUAL_DISK);
    let storage = BTreeMap::from([("storage".to_owned(), Quantity(bytes.to_string()))]);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(CLAIM.to_owned()),
            labels: Some(of_agent(settings, launch.place.office_id, launch.place.agent_id)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(storage),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: settings.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// Its pod.
pub(crate) fn pod(settings: &Settings, launch: &Launch, name: &str) -> PodSpec {
    PodSpec {
        service_account_name: Some(name.to_owned()),
        automount_service_account_token: Some(false),
        // Addresses of services are nobody's business, and would be variables.
        enable_service_links: Some(false),
        restart_policy: Some("Always".to_owned()),
        termination_grace_period_seconds: Some(settings.grace_seconds.into()),
        runtime_class_name: settings.runtime_class.clone(),
        node_selector: (!settings.node_selector.is_empty()).then(|| settings.node_selector.clone()),
        security_context: Some(pod_security(settings)),
        containers: vec![container(settings, launch)],
        volumes: Some(vec![
            Volume {
                name: "enrolment".to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(token_name(launch.place.agent_id, launch.instance)),
                    default_mode: Some(SECRET_MODE),
                    // It is gone once the agent has enrolled: its pod starts without.
                    optional: Some(true),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            },
            Volume {
                name: "tmp".to_owned(),
                empty_dir: Some(EmptyDirVolumeSource {
                    size_limit: Some(Quantity(TMP.to_owned())),
                    ..EmptyDirVolumeSource::default()
                }),
                ..Volume::default()
            },
        ]),
        ..PodSpec::default()
    }
}

pub(crate) fn pod_security(settings: &Settings) -> PodSecurityContext {
    let user = i64::from(settings.user_id);
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(user),
        run_as_group: Some(user),
        fs_group: Some(user),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(seccomp()),
        ..PodSecurityContext::default()
    }
}

pub(crate) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        seccomp_profile: Some(seccomp()),
        ..SecurityContext::default()
    }
}

pub(crate) fn mount(name: &str, path: &str, part: Option<&str>) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        sub_path: part.map(str::to_owned),
        ..VolumeMount::default()
    }
}

/// Variables that are the same for all, as a container has them.
pub(crate) fn variables(known: &[(&str, String)]) -> Vec<EnvVar> {
    let variable = |(name, value): &(&str, String)| EnvVar {
        name: (*name).to_owned(),
        value: Some(value.clone()),
        ..EnvVar::default()
    };
    known.iter().map(variable).collect()
}

/// What an agent may use, as both request and limit.
pub(crate) fn resources(settings: &Settings, limits: &Limits) -> Option<ResourceRequirements> {
    let bounds = compute(&Limits {
        cpu_millis: limits.cpu_millis.or(settings.defaults.cpu_millis),
        memory_bytes: limits.memory_bytes.or(settings.defaults.memory_bytes),
        ..Limits::default()
    });
    (!bounds.is_empty()).then(|| ResourceRequirements {
        limits: Some(bounds.clone()),
        requests: Some(bounds),
        ..ResourceRequirements::default()
    })
}

fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }
}

fn container(settings: &Settings, launch: &Launch) -> Container {
    let known = [
        ("MI_WORKSPACE", WORKSPACE_PATH.to_owned()),
        ("MI_IDENTITY_DIR", IDENTITY_PATH.to_owned()),
        ("MI_ENROL_TOKEN_FILE", format!("{TOKEN_PATH}/{TOKEN_KEY}")),
        ("MI_HEALTH_LISTEN", HEALTH_LISTEN.to_owned()),
        ("HOME", WORKSPACE_PATH.to_owned()),
    ];
    Container {
        name: CONTAINER.to_owned(),
        image: Some(settings.image.clone()),
        args: Some(["agent", "run"].map(str::to_owned).to_vec()),
        working_dir: Some(WORKSPACE_PATH.to_owned()),
        env_from: Some(vec![EnvFromSource {
            secret_ref: Some(SecretEnvSource {
                name: environment_name(launch.place.agent_id, launch.instance),
                optional: Some(false),
            }),
            ..EnvFromSource::default()
        }]),
        env: Some(variables(&known)),
        ports: Some(vec![ContainerPort {
            name: Some("health".to_owned()),
            container_port: HEALTH_PORT.into(),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        liveness_probe: Some(probe("/livez", 10, 6)),
        readiness_probe: Some(probe("/readyz", 5, 3)),
        resources: resources(settings, &launch.limits),
        security_context: Some(container_security()),
        volume_mounts: Some(vec![
            mount(CLAIM, WORKSPACE_PATH, Some("workspace")),
            mount(CLAIM, IDENTITY_PATH, Some("identity")),
            VolumeMount { read_only: Some(true), ..mount("enrolment", TOKEN_PATH, None) },
            mount("tmp", "/tmp", None),
        ]),
        ..Container::default()
    }
}

/// Asks the agent's health endpoint every so many seconds; it may fail so often.
fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("health".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}
