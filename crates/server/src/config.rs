//! What the platform is started with.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use mi_base::telemetry::LogFormat;
use mi_kernel::{Error, Result, secret::Secret};
use mi_office::{DriveLimits, Quotas};
use mi_rpc::{ConnectionLimits, tls::KeyFiles};
use mi_runtime_process::SandboxMode;
use mi_store::DbTarget;
use mi_vault::{EnvKeys, FileKeys, KeyWrapper};

/// Where the master key comes from.
#[derive(Debug, Clone)]
pub enum MasterKeySource {
    /// A file that the first start makes; none: `master.key` in the data directory.
    File(Option<PathBuf>),
    /// The text of `MI_MASTER_KEY`.
    Environment(Secret),
}

/// The model server of the agents.
#[derive(Debug, Clone)]
pub struct ModelFlags {
    /// How it is spoken to.
    pub api: ModelApi,
    /// Its base URL.
    pub url: String,
    /// File with the key that it wants to see.
    pub key_file: Option<PathBuf>,
}

/// How a model server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelApi {
    /// Chat completions.
    OpenAi,
    /// Messages.
    Anthropic,
}

impl ModelApi {
    /// The name in flags and in the environment of agents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }
}

/// What `mi up` and `mi serve` share.
#[derive(Debug, Clone)]
pub struct PlatformConfig {
    /// Databases, objects, agents' directories and the administrator's key. One process at a time.
    pub data_dir: PathBuf,
    /// Where the API (or the role) listens.
    pub listen: SocketAddr,
    /// Certificate and key of the API's listener; none: plaintext.
    pub tls: Option<KeyFiles>,
    /// Serve plaintext on an address that others reach, too.
    pub allow_plaintext: bool,
    /// Where metrics and liveness are served.
    pub metrics_listen: SocketAddr,
    /// Most connections to the API at the same time; none: [`ConnectionLimits`]'s, or as many as the open files allow.
    pub max_connections: Option<usize>,
    /// Most of them from one address; none: half of all.
    pub max_connections_per_address: Option<usize>,
    /// `postgres://...`, which may hold a password; none: SQLite files in the data directory.
    pub database: Option<Secret>,
    /// URL of the object storage; none: a directory in the data directory.
    pub object_store: Option<String>,
    /// How much an office's drive may hold; only the office role needs it.
    pub drive: DriveLimits,
    /// How much an account and an office may have of everything else; only the office role needs it.
    pub quotas: Quotas,
    /// Whether agents are sandboxed.
    pub sandbox: SandboxMode,
    /// File with tiers and roles; none: the built-in one.
    pub catalogue: Option<PathBuf>,
    /// The model server of the agents; none: they run scripts only.
    pub model: Option<ModelFlags>,
    /// The key that everything secret in the database is under; only the office role needs it.
    pub master_key: MasterKeySource,
    /// File to write when it serves.
    pub ready_file: Option<PathBuf>,
    /// OTLP/gRPC collector; none: traces are not exported.
    pub otlp_endpoint: Option<String>,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl PlatformConfig {
    /// The limits on connections to the API, where a process may have so many open files. Each connection is one.
    pub(crate) fn connection_limits(&self, files: u64) -> ConnectionLimits {
        let usual = ConnectionLimits::default();
        // As many for agents, which have a listener of their own beside TLS; the rest is for all else.
        let allowed = usize::try_from(files / 3).unwrap_or(usize::MAX);
        let total = self.max_connections.unwrap_or(usual.total.min(allowed));
        let per_address = self.max_connections_per_address.unwrap_or(total.div_ceil(2));
        ConnectionLimits { total, per_address, ..usual }
    }

    pub(crate) fn master_keys(&self) -> Result<Arc<dyn KeyWrapper>> {
        Ok(match &self.master_key {
            MasterKeySource::Environment(text) => Arc::new(EnvKeys::new(text)?),
            MasterKeySource::File(Some(path)) => Arc::new(FileKeys::new(path)),
            MasterKeySource::File(None) => Arc::new(FileKeys::new(self.data_dir.join("master.key"))),
        })
    }

    /// Where a role's tables are.
    pub(crate) fn database_of(&self, role: RoleName) -> Result<DbTarget> {
        match self.database.as_ref().map(Secret::expose) {
            None => Ok(DbTarget::Sqlite { path: self.data_dir.join(format!("{}.db", role.as_str())) }),
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(DbTarget::Postgres { url: url.to_owned(), schema: role.schema() })
            }
            // Never printed: it may hold a password.
            Some(_) => Err(Error::invalid(
                "database",
                "must be a postgres:// URL; leave it out for SQLite in the data directory",
            )),
        }
    }
}

/// A role of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleName {
    /// The edge.
    Gateway,
    /// Offices, accounts and keys.
    Office,
    /// Agents.
    Scheduler,
    /// Feed and logs.
    Activity,
}

impl RoleName {
    /// The name in flags, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Office => "office",
            Self::Scheduler => "scheduler",
            Self::Activity => "activity",
        }
    }

    fn schema(self) -> &'static str {
        match self {
            Self::Gateway => "mi_gateway",
            Self::Office => "mi_office",
            Self::Scheduler => "mi_scheduler",
            Self::Activity => "mi_activity",
        }
    }
}

/// What `mi serve ROLE` needs besides.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Which role.
    pub role: RoleName,
    /// What all share.
    pub platform: PlatformConfig,
    /// File with the key that all roles share.
    pub internal_key_file: Option<PathBuf>,
    /// CA and own certificate for calls between roles; none: development certificates beside the key.
    pub internal_tls: Option<(PathBuf, KeyFiles)>,
    /// Where the office role listens.
    pub office_url: Option<String>,
    /// Where the scheduler listens.
    pub scheduler_url: Option<String>,
    /// Where the activity role listens.
    pub activity_url: Option<String>,
    /// Where agents reach the gateway.
    pub agent_endpoint: Option<String>,
    /// CA that vouches for that endpoint; none: the public ones.
    pub agent_ca_file: Option<PathBuf>,
    /// Where the administrator's key is kept, created when missing.
    pub admin_key_file: Option<PathBuf>,
}
