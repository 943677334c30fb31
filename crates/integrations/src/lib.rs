//! Integrations: what an office's agents can reach outside the platform, the secrets it takes, and which agents use it.
//!
//! Secrets come in and are used; no call from outside answers one.

mod agents;
mod data_keys;
mod grpc;
mod part;
mod repo;
mod resolve;

use std::{collections::BTreeSet, sync::Arc};

use mi_catalogue::{Catalogue, Catalogues, Integration, SecretSpec};
use mi_kernel::{
    Clock, Error, OfficeId, Result, Time,
    event::{Category, Event},
    secret::Secret,
};
use mi_proto::internal::v1::{
    ListEnabledIntegrationsRequest, agent_registry_service_client::AgentRegistryServiceClient,
};
use mi_rpc::{Caller, RoleClient, status::from_status};
use mi_store::{Db, FromRow, OfficeConn, outbox};
use mi_tenancy::{Offices, RoleContext, State};
use mi_vault::Place;
use tokio::sync::Notify;

pub use self::data_keys::{DataKeys, Rotation};

/// Longest secret, in bytes. Some are whole JSON files.
const MAX_SECRET: usize = 16 << 10;

/// A secret that an office has.
#[derive(FromRow)]
struct Kept {
    integration: String,
    name: String,
    updated_at: Time,
}

/// An integration, and what an office has of it.
pub(crate) struct Configured {
    pub(crate) integration: Integration,
    /// Since when the office has each of its secrets.
    pub(crate) updated_at: Vec<Option<Time>>,
    /// Whether the installation has a key for it, so that the office needs none.
    pub(crate) provided: bool,
    /// Whether it is enabled: for the agent that was asked about, else for any.
    pub(crate) enabled: bool,
}

/// How far an integration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A secret is missing.
    Pending,
    /// It can be used.
    Configured,
    /// It can be used, and is.
    Active,
}

impl Configured {
    fn new(catalogue: &Catalogue, integration: &Integration, kept: &[Kept], enabled: &BTreeSet<String>) -> Self {
        let name = &integration.name;
        let since = |spec: &SecretSpec| {
            let mut found = kept.iter().filter(|kept| kept.integration == *name && kept.name == spec.name);
            found.next().map(|kept| kept.updated_at)
        };
        let provider = catalogue.providers.iter().find(|provider| provider.name == *name);
        Self {
            updated_at: integration.secrets.iter().map(since).collect(),
            provided: provider.is_some_and(mi_catalogue::Provider::works_without_office),
            enabled: enabled.contains(name),
            integration: integration.clone(),
        }
    }

    /// The secrets that are required and not there.
    pub(crate) fn missing(&self) -> Vec<&str> {
        let specs = self.integration.secrets.iter().zip(&self.updated_at);
        specs.filter(|(spec, since)| spec.required && since.is_none()).map(|(spec, _)| spec.name.as_str()).collect()
    }

    /// Whether every secret that is required is there.
    pub(crate) fn complete(&self) -> bool {
        self.missing().is_empty()
    }

    pub(crate) fn stage(&self) -> Stage {
        match (self.complete() || self.provided, self.enabled) {
            (false, _) => Stage::Pending,
            (true, false) => Stage::Configured,
            (true, true) => Stage::Active,
        }
    }
}

/// Whether a secret is sent as the value of a header.
fn goes_into_a_header(catalogue: &Catalogue, integration: &Integration, name: &str) -> bool {
    let of_provider = catalogue.providers.iter().any(|provider| provider.name == integration.name);
    let placeholder = format!("{{{name}}}");
    of_provider || integration.broker.as_ref().is_some_and(|broker| broker.value.contains(&placeholder))
}

/// What a change does to a secret.
enum Change<'a> {
    Set(&'a Secret),
    Delete,
}

/// The integrations of all offices.
#[derive(Clone)]
pub struct Integrations {
    db: Db,
    clock: Arc<dyn Clock>,
    outbox: Arc<Notify>,
    offices: Offices,
    keys: DataKeys,
    catalogues: Catalogues,
    registry: AgentRegistryServiceClient<RoleClient>,
}

impl Integrations {
    /// The integrations of this catalogue. The registry is the scheduler's: it knows which are enabled for whom.
    pub fn new(
        context: RoleContext,
        offices: Offices,
        keys: DataKeys,
        catalogues: Catalogues,
        registry: AgentRegistryServiceClient<RoleClient>,
    ) -> Self {
        let RoleContext { db, clock, outbox } = context;
        Self { db, clock, outbox, offices, keys, catalogues, registry }
    }

    /// Integrations of which the connection's office has every secret that is required, by name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn configured(&self, conn: &mut OfficeConn) -> Result<Vec<String>> {
        let (catalogue, none) = (self.catalogues.current(), BTreeSet::new());
        let kept = repo::secret_list(conn).await?;
        let all = catalogue.integrations.iter().map(|known| Configured::new(&catalogue, known, &kept, &none));
        Ok(all.filter(Configured::complete).map(|found| found.integration.name).collect())
    }

    async fn list(&self, caller: &Caller, office: &str) -> Result<Vec<Configured>> {
        let (_, office) = self.offices.get(caller, office).await?;
        let enabled = self.enabled(office.id).await?;
        let kept = repo::secret_list(&mut self.db.office(office.id).read().await?).await?;
        let catalogue = self.catalogues.current();
        Ok(catalogue.integrations.iter().map(|known| Configured::new(&catalogue, known, &kept, &enabled)).collect())
    }

    /// What is enabled for any agent of the office.
    async fn enabled(&self, office_id: OfficeId) -> Result<BTreeSet<String>> {
        let request = ListEnabledIntegrationsRequest { office_id: office_id.to_string() };
        let answer = self.registry.clone().list_enabled_integrations(request).await;
        Ok(answer.map_err(|status| from_status(&status))?.into_inner().integrations.into_iter().collect())
    }

    async fn set(&self, caller: &Caller, secret: [&str; 3], value: &Secret) -> Result<Configured> {
        let text = value.expose();
        // What it becomes may be an environment variable.
        if text.is_empty() || text.len() > MAX_SECRET || text.contains('\0') {
            return Err(Error::invalid("value", format!("must be text of 1 to {MAX_SECRET} bytes without NUL")));
        }
        self.change(caller, secret, Change::Set(value)).await
    }

    async fn delete(&self, caller: &Caller, secret: [&str; 3]) -> Result<Configured> {
        self.change(caller, secret, Change::Delete).await
    }

    async fn change(
        &self,
        caller: &Caller,
        [office, integration, name]: [&str; 3],
        change: Change<'_>,
    ) -> Result<Configured> {
        let (mut tx, access, office) = self.offices.lock(caller, office).await?;
        let catalogue = self.catalogues.current();
        let integration = catalogue.integration("integration", integration)?;
        let spec = integration.secret("name", name)?;
        if office.state == State::Deleting {
            return Err(State::deleting());
        }
        let now = self.clock.now();
        let (kind, verb) = match change {
            Change::Set(value) => {
                let plain = value.expose().bytes().all(|byte| (b' '..=b'~').contains(&byte));
                if !plain && goes_into_a_header(&catalogue, integration, &spec.name) {
                    return Err(Error::invalid("value", "must be one line of printable ASCII: it is sent in a header"));
                }
                let place = Place { office_id: office.id, integration: &integration.name, name: &spec.name };
                let sealed = self.keys.get_or_make(&mut tx).await?.seal(place, value);
                repo::secret_put(&mut tx, &integration.name, &spec.name, &sealed, now).await?;
                ("integration.secret_set", "set")
            }
            Change::Delete => {
                if !repo::secret_delete(&mut tx, &integration.name, &spec.name).await? {
                    return Err(Error::not_found("secret", format!("{}/{}", integration.name, spec.name)));
                }
                ("integration.secret_deleted", "deleted")
            }
        };
        let summary = format!("Secret {} of {} {verb}", spec.name, integration.name);
        let event = Event::lifecycle(office.id, "", kind, summary, now)
            .category(Category::Security)
            .with(serde_json::json!({ "integration": integration.name, "name": spec.name }))
            .traced(access.trace_id());
        outbox::push(&mut tx, &event).await?;
        let kept = repo::secret_list(&mut tx).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        // The change is made, whether or not the scheduler can say who uses it.
        let enabled = self.enabled(office.id).await.unwrap_or_default();
        Ok(Configured::new(&catalogue, integration, &kept, &enabled))
    }
}
