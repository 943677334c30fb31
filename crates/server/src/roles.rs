//! Each role from its configuration: what it keeps, whom it calls, behind its guard.

use std::{path::Path, sync::Arc, time::Duration};

use mi_activity::ActivityConfig;
use mi_base::{Tasks, disk_reserve::DiskReserve};
use mi_catalogue::Catalogues;
use mi_gateway::{Backends, GatewayConfig};
use mi_http::{Doors, Origins};
use mi_kernel::{Clock, Result, secret::Secret};
use mi_models::ModelsConfig;
use mi_office::{CreditRules, DriveLimits, OfficeConfig, Peers, Quotas};
use mi_rpc::{EventSink, Guard, PrincipalKey, Refusals, RoleClient, Transport};
use mi_runtime::Runtime;
use mi_runtime_kubernetes::{KubernetesConfig, KubernetesRuntime, Settings};
use mi_runtime_process::{ProcessConfig, ProcessRuntime};
use mi_scheduler::{AgentEndpoint, SchedulerConfig};
use object_store::ObjectStore;
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::config::{PlatformConfig, RoleName, RuntimeKind};

/// A watch of the cluster that is silent for longer is taken for dead.
const SILENCE: Duration = Duration::from_secs(120);
/// Lines that instances printed and nobody stored yet.
const LINES: usize = 4096;

/// What all roles of one process share.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a PlatformConfig,
    pub(crate) node_id: &'a str,
    pub(crate) key: PrincipalKey,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: &'a Tasks,
    pub(crate) refusals: Refusals,
    /// What is given up for deletions on a full disk.
    pub(crate) reserve: DiskReserve,
    /// What the installation offers, the same for all roles.
    pub(crate) catalogues: Catalogues,
}

impl Parts<'_> {
    /// Takes the reserve of the data directory, if anything is kept there that can be deleted.
    pub(crate) fn reserve_of(config: &PlatformConfig, tasks: &Tasks) -> DiskReserve {
        if config.options.database.is_some() && config.options.object_store.is_some() {
            return DiskReserve::default();
        }
        let reserve = DiskReserve::open(&config.data_dir);
        tasks.spawn("disk-reserve", reserve.clone().keep());
        reserve
    }

    fn guard(&self, role: RoleName, routes: Routes) -> Guard {
        Guard::new(
            role.as_str(),
            routes,
            self.key.clone(),
            self.clock.clone(),
            self.tasks.clone(),
            self.refusals.clone(),
        )
    }

    /// Tells the feed what is refused in this process.
    pub(crate) fn tell_refusals(&self, activity: &Transport) {
        let feed = EventSink::new(RoleClient::new(activity.clone(), "refusals"));
        let deliver = self.refusals.clone().deliver(self.clock.clone(), move |events| feed.clone().append(events));
        self.tasks.spawn("refusals", deliver);
    }

    pub(crate) async fn activity(&self, objects: Arc<dyn ObjectStore>) -> Result<Guard> {
        let config = ActivityConfig::new(self.config.database_of(RoleName::Activity, self.node_id)?, objects);
        let role = mi_activity::build(config, self.clock.clone(), self.tasks).await?;
        Ok(self.guard(RoleName::Activity, role.routes))
    }

    pub(crate) async fn scheduler(
        &self,
        objects: Arc<dyn ObjectStore>,
        office: Transport,
        activity: Transport,
        agent_endpoint: AgentEndpoint,
    ) -> Result<Guard> {
        let (lines_in, lines) = mpsc::channel(LINES);
        let options = &self.config.options;
        let runtime: Arc<dyn Runtime> = match (options.runtime, &options.kubernetes_config) {
            (RuntimeKind::Kubernetes, Some(file)) => {
                let settings = Settings { driver: options.kubernetes_driver, ..Settings::read(file)? };
                let cluster = KubernetesConfig { settings, kubeconfig: options.kubeconfig.clone(), silence: SILENCE };
                Arc::new(KubernetesRuntime::open(cluster, lines_in, self.clock.clone(), self.tasks).await?)
            }
            _ => {
                let agents = ProcessConfig::new(self.config.data_dir.join("agents"), options.sandbox);
                Arc::new(ProcessRuntime::open(agents, lines_in, self.clock.clone(), self.tasks)?)
            }
        };
        let config = SchedulerConfig {
            database: self.config.database_of(RoleName::Scheduler, self.node_id)?,
            objects,
            reserve: self.reserve.clone(),
            runtime,
            lines,
            agent_endpoint,
            catalogues: self.catalogues.clone(),
            holder: self.node_id.to_owned(),
            office,
            activity,
        };
        let routes = mi_scheduler::build(config, self.clock.clone(), self.tasks).await?;
        Ok(self.guard(RoleName::Scheduler, routes))
    }

    /// The role, and the administrator's key.
    pub(crate) async fn office(
        &self,
        objects: Arc<dyn ObjectStore>,
        scheduler: Transport,
        activity: Transport,
        admin_key_file: &Path,
    ) -> Result<(Guard, Secret)> {
        let options = &self.config.options;
        let config = OfficeConfig {
            database: self.config.database_of(RoleName::Office, self.node_id)?,
            master_keys: self.config.master_keys()?,
            objects,
            drive: DriveLimits { file_bytes: options.drive_file_limit, office_bytes: options.drive_office_limit },
            quotas: Quotas {
                offices: options.max_offices,
                api_keys: options.max_api_keys,
                open_tasks: options.max_open_tasks,
            },
            credits: CreditRules {
                metered: options.credits,
                office: options.office_credits,
                account: options.account_credits,
                ..CreditRules::default()
            },
            reserve: self.reserve.clone(),
            catalogues: self.catalogues.clone(),
        };
        let role = mi_office::build(config, Peers { scheduler, activity }, self.clock.clone(), self.tasks).await?;
        let key = role.accounts.ensure_administrator(admin_key_file).await?;
        Ok((self.guard(RoleName::Office, role.routes), key))
    }

    pub(crate) fn models(&self, office: Transport, scheduler: Transport) -> Result<Guard> {
        let catalogues = self.catalogues.clone();
        let config = ModelsConfig { catalogues, office, scheduler, limits: mi_models::Limits::default() };
        let http = mi_models::build(config, self.tasks)?;
        Ok(self.guard(RoleName::Models, Routes::default()).with_http(http))
    }

    /// The gateway, with the doors beside gRPC; `endpoint` is where it is reached.
    pub(crate) fn gateway(&self, backends: Backends, endpoint: &str) -> Result<Doors> {
        let config = GatewayConfig::default();
        let gateway = mi_gateway::build(config, backends, self.clock.clone(), self.refusals.clone(), self.tasks);
        gateway.report_disk(self.reserve.watch(), self.tasks);
        let origins = Origins::new(&self.config.options.cors_origin)?;
        Ok(Doors::new(gateway, origins, self.config.card_issuer(endpoint)?))
    }
}
