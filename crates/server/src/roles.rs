//! Each role from its configuration: what it keeps, whom it calls, behind its guard.

use std::{path::Path, sync::Arc};

use mi_activity::ActivityConfig;
use mi_base::Tasks;
use mi_gateway::{Backends, Gateway, GatewayConfig};
use mi_kernel::{Clock, Result, secret::Secret};
use mi_office::{OfficeConfig, Peers};
use mi_rpc::{Guard, PrincipalKey, Transport};
use mi_runtime::process::ProcessRuntime;
use mi_scheduler::SchedulerConfig;
use object_store::ObjectStore;
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::config::{PlatformConfig, RoleName};

/// Lines that computes printed and nobody stored yet.
const LINES: usize = 4096;

/// What all roles of one process share.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a PlatformConfig,
    pub(crate) node_id: &'a str,
    pub(crate) key: PrincipalKey,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: &'a Tasks,
}

impl Parts<'_> {
    fn guard(&self, role: RoleName, routes: Routes) -> Guard {
        Guard::new(role.as_str(), routes, self.key.clone(), self.clock.clone(), self.tasks.shutdown())
    }

    pub(crate) async fn activity(&self, objects: Arc<dyn ObjectStore>) -> Result<Guard> {
        let config = ActivityConfig::new(self.config.database_of(RoleName::Activity)?, objects);
        let role = mi_activity::build(config, self.clock.clone(), self.tasks).await?;
        Ok(self.guard(RoleName::Activity, role.routes))
    }

    pub(crate) async fn scheduler(
        &self,
        objects: Arc<dyn ObjectStore>,
        activity: Transport,
        agent_endpoint: String,
    ) -> Result<Guard> {
        let (lines_in, lines) = mpsc::channel(LINES);
        let agents = self.config.data_dir.join("agents");
        let runtime = ProcessRuntime::open(agents, lines_in, self.clock.clone())?;
        let config = SchedulerConfig {
            database: self.config.database_of(RoleName::Scheduler)?,
            objects,
            runtime: Arc::new(runtime),
            lines,
            agent_endpoint,
            catalogue: self.config.catalogue.clone(),
            holder: self.node_id.to_owned(),
            activity,
        };
        let routes = mi_scheduler::build(config, self.clock.clone(), self.tasks).await?;
        Ok(self.guard(RoleName::Scheduler, routes))
    }

    /// The role, and the administrator's key.
    pub(crate) async fn office(
        &self,
        scheduler: Transport,
        activity: Transport,
        admin_key_file: &Path,
    ) -> Result<(Guard, Secret)> {
        let config = OfficeConfig {
            database: self.config.database_of(RoleName::Office)?,
            master_keys: self.config.master_keys()?,
        };
        let role = mi_office::build(config, Peers { scheduler, activity }, self.clock.clone(), self.tasks).await?;
        let key = role.accounts.ensure_administrator(admin_key_file).await?;
        Ok((self.guard(RoleName::Office, role.routes), key))
    }

    pub(crate) fn gateway(&self, backends: Backends) -> Gateway {
        mi_gateway::build(GatewayConfig::default(), backends, self.clock.clone(), self.tasks)
    }
}
