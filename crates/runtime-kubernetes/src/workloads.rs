//! What runs the pods of agents: sets, or sandboxes. The one place that knows which.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use mi_kernel::{Error, OfficeId, Result, secret::Secret as Token};
use mi_runtime::{Launch, Place};
use serde_json::{Value, json};

use crate::{
    MANAGER,
    agent::{Base, base, set},
    cache::{Cache, TableOf},
    calls::{apply, call, call_gone, code},
    labels::{APPLIED, agent_name, namespace_name},
    sandbox::{SANDBOX_KIND, SANDBOX_VERSION, sandbox_of},
    settings::{Driver, Settings},
    views::{Workload, applied},
};

const TABLE: TableOf<Workload> = |seen| &mut seen.workloads;

/// Whichever of the two.
#[derive(Clone)]
pub(crate) enum Workloads {
    Sets(Client),
    Sandboxes(Client, ApiResource),
}

impl Workloads {
    pub(crate) fn new(client: Client, driver: Driver) -> Self {
        match driver {
            Driver::StatefulSet => Self::Sets(client),
            Driver::Sandbox => {
                let (group, version) = SANDBOX_VERSION.split_once('/').unwrap_or_default();
                let kind = GroupVersionKind::gvk(group, version, SANDBOX_KIND);
                Self::Sandboxes(client, ApiResource::from_gvk_with_plural(&kind, "sandboxes"))
            }
        }
    }

    fn sets(client: &Client, office: OfficeId) -> Api<StatefulSet> {
        Api::namespaced(client.clone(), &namespace_name(office))
    }

    fn sandboxes(client: &Client, kind: &ApiResource, office: OfficeId) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), &namespace_name(office), kind)
    }

    /// What is applied for an instance besides.
    pub(crate) fn base(settings: &Settings, launch: &Launch, token: &Token) -> Base {
        base(settings, launch, token)
    }

    /// Applies what runs an instance's pod.
    pub(crate) async fn start(&self, settings: &Settings, cache: &Cache, launch: &Launch, base: Base) -> Result<()> {
        let (place, name) = (launch.place, agent_name(launch.place.agent_id));
        let mut metadata = base.metadata;
        let annotate = |metadata: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, spec: &Value| {
            metadata.annotations.get_or_insert_default().insert(APPLIED.to_owned(), applied(spec));
        };
        match self {
            Self::Sets(client) => {
                let mut set = set(settings, launch, &name, metadata);
                let spec = serde_json::to_value(&set.spec).map_err(Error::internal)?;
                annotate(&mut set.metadata, &spec);
                let api = Self::sets(client, place.office_id);
                let written = match call(attempt(&api, &name, &set)).await? {
                    Some(written) => written,
                    None => {
                        // Most of a set cannot be changed. Its pod is gone by now, and its claim stays.
                        call_gone(api.delete(&name, &DeleteParams::orphan())).await?;
                        call(apply(&api, &name, &set)).await?
                    }
                };
                cache.wrote(TABLE, place, &written.metadata, Workload::of_set(&written, None));
            }
            Self::Sandboxes(client, kind) => {
                let spec = sandbox_of(settings, launch);
                annotate(&mut metadata, &spec);
                let object = json!({
                    "apiVersion": SANDBOX_VERSION, "kind": SANDBOX_KIND, "metadata": metadata, "spec": spec,
                });
                let object: DynamicObject = serde_json::from_value(object).map_err(Error::internal)?;
                let api = Self::sandboxes(client, kind, place.office_id);
                let written = call(apply(&api, &name, &object)).await?;
                cache.wrote(TABLE, place, &written.metadata, Workload::of_sandbox(&written, None));
            }
        }
        Ok(())
    }

    /// Asks for no pod.
    pub(crate) async fn stop(&self, cache: &Cache, place: Place) -> Result<()> {
        let name = agent_name(place.agent_id);
        let options = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let found = match self {
            Self::Sets(client) => {
                let api = Self::sets(client, place.office_id);
                let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
                let written = call_gone(api.patch(&name, &options, &none)).await?;
                written.map(|set| (set.metadata.clone(), Workload::of_set(&set, None)))
            }
            Self::Sandboxes(client, kind) => {
                let api = Self::sandboxes(client, kind, place.office_id);
                let none = Patch::Merge(json!({"spec": {"operatingMode": "Suspended"}}));
                let written = call_gone(api.patch(&name, &options, &none)).await?;
                written.map(|sandbox| (sandbox.metadata.clone(), Workload::of_sandbox(&sandbox, None)))
            }
        };
        match found {
            Some((metadata, workload)) => cache.wrote(TABLE, place, &metadata, workload),
            None => cache.gone(TABLE, place, &name),
        }
        Ok(())
    }

    /// Deletes it.
    pub(crate) async fn delete(&self, cache: &Cache, place: Place, name: &str) -> Result<()> {
        let options = DeleteParams::background();
        let found = match self {
            Self::Sets(client) => {
                call_gone(Self::sets(client, place.office_id).delete(name, &options)).await?.map(drop)
            }
            Self::Sandboxes(client, kind) => {
                call_gone(Self::sandboxes(client, kind, place.office_id).delete(name, &options)).await?.map(drop)
            }
        };
        if found.is_none() {
            cache.gone(TABLE, place, name);
        }
        Ok(())
    }
}

/// Applies a set; none: what is to be changed cannot be changed.
async fn attempt(api: &Api<StatefulSet>, name: &str, set: &StatefulSet) -> Result<Option<StatefulSet>, kube::Error> {
    match apply(api, name, set).await {
        Err(error)
            if code(&error) == Some(422) && error.to_string().contains("orbidden: updates to statefulset spec") =>
        {
            Ok(None)
        }
        answer => answer.map(Some),
    }
}
