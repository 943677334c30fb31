//! What an instance is started with.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use mi_catalogue::{Catalogue, Provider};
use mi_kernel::{InstanceId, OfficeId, Result, secret::Secret};
use mi_proto::internal::v1::{GetHireTermsRequest, ResolveSecretsRequest};
use mi_rpc::status::from_status;
use mi_runtime::{Launch, Limits};
use tonic::{Code, Response, Status};

use crate::{Scheduler, agents::Agent};

/// The variable that tells an agent of its model.
pub(crate) const MODEL_ID: &str = "MI_MODEL_ID";
/// How often the office role is asked, and how long the pause in between is, before a start is put off.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

impl Scheduler {
    /// The part of an instance's environment that is the office's to say: secrets of integrations that programs want there,
    /// and the model. Each start asks anew.
    ///
    /// # Errors
    /// `Unavailable` when the office role cannot be asked.
    pub(crate) async fn environment_of(&self, agent: &Agent) -> Result<BTreeMap<String, String>> {
        let catalogue = self.catalogues.current();
        let mut env = self.model_of(agent, &catalogue).await?;
        let enabled = agent.spec.enabled();
        for integration in catalogue.integrations.iter().filter(|integration| enabled.contains(&integration.name)) {
            let shared: Vec<_> = integration.secrets.iter().filter(|spec| spec.in_environment).collect();
            if shared.is_empty() {
                continue;
            }
            let secrets = self.secrets_of(agent.office_id, &integration.name).await?;
            let known = shared.iter().filter_map(|spec| Some((spec.env.clone(), secrets.get(&spec.name)?)));
            env.extend(known.map(|(name, secret)| (name, secret.expose().to_owned())));
        }
        Ok(env)
    }

    /// What tells an agent of its model: that of its own provider if there is a key for it, else that of the operator's
    /// server. Nothing when there is neither, or its tier is one that no longer exists.
    async fn model_of(&self, agent: &Agent, catalogue: &Catalogue) -> Result<BTreeMap<String, String>> {
        let named = |name: &str| catalogue.providers.iter().find(|provider| provider.name == name);
        let Ok(tier) = catalogue.tier("model_tier", &agent.spec.model_tier) else { return Ok(BTreeMap::new()) };
        let own = named(&agent.spec.provider).filter(|own| catalogue.served(tier, &own.name).is_some());
        let provider: Option<&Provider> = match own {
            Some(own) if own.works_without_office() => Some(own),
            Some(own) if self.keys_of(agent.office_id).await?.contains(&own.name) => Some(own),
            _ => catalogue.fallback.as_deref().and_then(named),
        };
        let Some((provider, model)) = provider.and_then(|it| Some((it, catalogue.served(tier, &it.name)?))) else {
            return Ok(BTreeMap::new());
        };
        let api: &'static str = provider.api.into();
        let known = [("MI_MODEL_API", api), ("MI_MODEL_PROVIDER", &provider.name), (MODEL_ID, &model.id)];
        Ok(known.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    /// The integrations that the office has every required secret of, by name.
    async fn keys_of(&self, office_id: OfficeId) -> Result<Vec<String>> {
        let request = GetHireTermsRequest { office_id: office_id.to_string() };
        let ask = || {
            let (mut metering, request) = (self.metering.clone(), request.clone());
            async move { metering.get_hire_terms(request).await }
        };
        Ok(patiently(ask).await?.configured)
    }

    /// The office's secrets of an integration, by name.
    async fn secrets_of(&self, office_id: OfficeId, integration: &str) -> Result<HashMap<String, Secret>> {
        let (office_id, integration) = (office_id.to_string(), integration.to_owned());
        let request = ResolveSecretsRequest { office_id, integration };
        let ask = || {
            let (mut secrets, request) = (self.secrets.clone(), request.clone());
            async move { secrets.resolve_secrets(request).await }
        };
        Ok(patiently(ask).await?.secrets.into_iter().map(|(name, value)| (name, Secret::new(value))).collect())
    }

    /// What tells whoever works for an agent where the platform is.
    pub(crate) fn endpoint_env(&self) -> BTreeMap<String, String> {
        let url = ("MI_ENDPOINT".to_owned(), self.agent_endpoint.url.clone());
        let ca = self.agent_endpoint.ca.clone().map(|ca| ("MI_CA_PEM".to_owned(), ca));
        [url].into_iter().chain(ca).collect()
    }

    /// What starts an instance; `taken` is its environment as far as that is the office's to say.
    pub(crate) fn launch_of(
        &self,
        agent: &Agent,
        instance: InstanceId,
        token: &Secret,
        taken: BTreeMap<String, String>,
    ) -> Launch {
        // What the agent was hired with comes before what its office has.
        let mut env = taken;
        env.extend(agent.spec.env.clone());
        let own = [
            ("MI_OFFICE_ID", agent.office_id.to_string()),
            ("MI_AGENT_ID", agent.id.to_string()),
            ("MI_AGENT_NAME", agent.name.clone()),
            ("MI_GENERATION", agent.generation.to_string()),
            ("MI_INSTANCE_ID", instance.to_string()),
            ("MI_ENROL_TOKEN", token.expose().to_owned()),
            ("MI_SLOTS", slots(agent.spec.resources.cpu_millis).to_string()),
        ];
        env.extend(own.map(|(name, value)| (name.to_owned(), value)));
        env.extend(self.endpoint_env());
        if !agent.spec.command.is_empty() {
            env.insert("MI_COMMAND".to_owned(), agent.spec.command.clone());
        }
        if agent.restore_from.is_some() && self.runtime.cluster().is_some() {
            env.insert("MI_RESTORE".to_owned(), "1".to_owned());
        }
        if agent.public_key.is_none() {
            // Never enrolled, or its key was revoked: whatever key lies there is not to be used.
            env.insert("MI_NEW_IDENTITY".to_owned(), "1".to_owned());
        }
        let positive = |limit: i64| u64::try_from(limit).ok().filter(|limit| *limit > 0);
        Launch {
            place: agent.place(),
            name: agent.name.clone(),
            instance,
            env,
            limits: Limits {
                cpu_millis: positive(agent.spec.resources.cpu_millis.into()),
                memory_bytes: positive(agent.spec.resources.memory_bytes),
                pids: positive(agent.spec.resources.pids.into()),
                file_bytes: positive(agent.spec.resources.file_bytes),
                disk_bytes: positive(agent.spec.resources.disk_bytes),
            },
        }
    }
}

/// Asks the office role, which in a process of its own is there a moment after the scheduler.
async fn patiently<T, F>(call: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    for _ in 1..TRIES {
        match call().await {
            Err(status) if status.code() == Code::Unavailable => tokio::time::sleep(PAUSE).await,
            answer => return answer.map(Response::into_inner).map_err(|status| from_status(&status)),
        }
    }
    call().await.map(Response::into_inner).map_err(|status| from_status(&status))
}

/// How many tasks an agent does at once: one a core, and never just one, so that a long one holds nothing else up.
fn slots(cpu_millis: i32) -> i32 {
    const MOST: i32 = 100;
    (cpu_millis.saturating_add(999) / 1000).clamp(2, MOST)
}
