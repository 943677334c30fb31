//! Integrations: what an office's agents can reach outside the platform, and the secrets it takes.
//!
//! Secrets come in and are used; no call answers one.

mod catalogue;
mod data_keys;
mod grpc;
mod part;
mod repo;

use std::sync::Arc;

use mi_kernel::{
    Clock, Error, Result, Time,
    event::{Category, Event},
    secret::Secret,
};
use mi_rpc::Caller;
use mi_store::{Db, FromRow, OfficeConn, outbox};
use mi_tenancy::{Offices, RoleContext, State};
use mi_vault::Place;
use tokio::sync::Notify;

pub use self::{
    catalogue::{Catalogue, Integration, SecretSpec},
    data_keys::{DataKeys, Rotation},
};

/// Longest secret, in bytes. Some are whole JSON files.
const MAX_SECRET: usize = 16 << 10;

/// A secret that an office has.
#[derive(FromRow)]
struct Kept {
    integration: String,
    name: String,
    updated_at: Time,
}

/// An integration, and since when the office has each of its secrets.
pub(crate) struct Configured<'a> {
    pub(crate) integration: &'a Integration,
    pub(crate) updated_at: Vec<Option<Time>>,
}

impl<'a> Configured<'a> {
    fn new(integration: &'a Integration, kept: &[Kept]) -> Self {
        let since = |spec: &SecretSpec| {
            let mut found = kept.iter().filter(|kept| kept.integration == integration.name && kept.name == spec.name);
            found.next().map(|kept| kept.updated_at)
        };
        Self { integration, updated_at: integration.secrets.iter().map(since).collect() }
    }

    /// Whether every secret that is required is there.
    pub(crate) fn complete(&self) -> bool {
        self.integration.secrets.iter().zip(&self.updated_at).all(|(spec, since)| !spec.required || since.is_some())
    }
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
    catalogue: Arc<Catalogue>,
}

impl Integrations {
    /// The integrations of the built-in catalogue.
    ///
    /// # Errors
    /// When the catalogue is none: a fault of the build.
    pub fn new(context: RoleContext, offices: Offices, keys: DataKeys) -> Result<Self> {
        let RoleContext { db, clock, outbox } = context;
        Ok(Self { db, clock, outbox, offices, keys, catalogue: Arc::new(Catalogue::built_in()?) })
    }

    /// Integrations of which the connection's office has every secret that is required, by name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn configured(&self, conn: &mut OfficeConn) -> Result<Vec<String>> {
        let kept = repo::secret_list(conn).await?;
        let all = self.catalogue.integrations.iter().map(|integration| Configured::new(integration, &kept));
        Ok(all.filter(Configured::complete).map(|found| found.integration.name.clone()).collect())
    }

    async fn list(&self, caller: &Caller, office: &str) -> Result<Vec<Configured<'_>>> {
        let (_, office) = self.offices.get(caller, office).await?;
        let kept = repo::secret_list(&mut self.db.office(office.id).read().await?).await?;
        Ok(self.catalogue.integrations.iter().map(|integration| Configured::new(integration, &kept)).collect())
    }

    async fn set(
        &self,
        caller: &Caller,
        [office, integration, name]: [&str; 3],
        value: &Secret,
    ) -> Result<Configured<'_>> {
        let text = value.expose();
        // What it becomes is an environment variable.
        if text.is_empty() || text.len() > MAX_SECRET || text.contains('\0') {
            return Err(Error::invalid("value", format!("must be text of 1 to {MAX_SECRET} bytes without NUL")));
        }
        self.change(caller, [office, integration, name], Change::Set(value)).await
    }

    async fn delete(&self, caller: &Caller, secret: [&str; 3]) -> Result<Configured<'_>> {
        self.change(caller, secret, Change::Delete).await
    }

    async fn change(
        &self,
        caller: &Caller,
        [office, integration, name]: [&str; 3],
        change: Change<'_>,
    ) -> Result<Configured<'_>> {
        let (mut tx, access, office) = self.offices.lock(caller, office).await?;
        let integration = self.catalogue.integration("integration", integration)?;
        let spec = integration.secret("name", name)?;
        if office.state == State::Deleting {
            return Err(State::deleting());
        }
        let now = self.clock.now();
        let (kind, verb) = match change {
            Change::Set(value) => {
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
        Ok(Configured::new(integration, &kept))
    }
}
