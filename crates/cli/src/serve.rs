//! `mi up` and `mi serve`: the command lines of the platform itself.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use mi_base::telemetry;
use mi_kernel::secret::Secret;
use mi_server::{
    DriveLimits, KeyFiles, MasterKeySource, ModelFlags, PlatformConfig, Quotas, Ready, RoleName, SandboxMode,
    ServeConfig,
};

use crate::{
    config::{ConfigFile, Settings},
    failure::Failure,
    options::Global,
    text::bytes,
};

/// `mi up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    platform: PlatformArgs,
    /// File to write when it serves: endpoint, metrics endpoint, API key and process id as JSON, mode 0600
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// `mi serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Which service
    role: Role,
    #[command(flatten)]
    platform: PlatformArgs,
    /// File to write when it serves: endpoint, metrics endpoint and process id as JSON, mode 0600
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Key that all services of a platform share, in a file that only they can read
    #[arg(long, value_name = "FILE")]
    internal_key_file: Option<PathBuf>,
    /// CA that vouches for the services, PEM [default: development certificates beside the internal key]
    #[arg(long, value_name = "FILE", requires = "internal_tls_cert", requires = "internal_tls_key")]
    internal_tls_ca: Option<PathBuf>,
    /// Certificate of this service, for SERVICE.mi.internal, PEM
    #[arg(long, value_name = "FILE", requires = "internal_tls_ca")]
    internal_tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "internal_tls_ca")]
    internal_tls_key: Option<PathBuf>,
    /// Where the office service listens
    #[arg(long, value_name = "URL")]
    office_url: Option<String>,
    /// Where the scheduler listens
    #[arg(long, value_name = "URL")]
    scheduler_url: Option<String>,
    /// Where the activity service listens
    #[arg(long, value_name = "URL")]
    activity_url: Option<String>,
    /// Where agents reach the gateway
    #[arg(long, value_name = "URL")]
    agent_endpoint: Option<String>,
    /// CA that vouches for that endpoint, PEM [default: the public ones]
    #[arg(long, value_name = "FILE")]
    agent_ca_file: Option<PathBuf>,
    /// The administrator's API key, in a file
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
}

/// What `mi up` and `mi serve` share.
#[derive(Debug, Args)]
pub(crate) struct PlatformArgs {
    /// Directory of the data [default: ~/.local/share/mi]
    #[arg(long, value_name = "DIR", env = "MI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the API; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// Certificate chain of the API's listener, PEM; with --tls-key
    #[arg(long, value_name = "FILE", env = "MI_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", env = "MI_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve the API in plaintext also where other machines reach it
    #[arg(long)]
    allow_plaintext: bool,
    /// Address of metrics and liveness; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7401")]
    metrics_listen: SocketAddr,
    /// Most connections to the API at the same time [default: 20000, or a third of the files that may be open if that is
    /// less]
    #[arg(long, value_name = "N", env = "MI_MAX_CONNECTIONS", value_parser = count)]
    max_connections: Option<usize>,
    /// Most of them from one address [default: half of all]
    #[arg(long, value_name = "N", env = "MI_MAX_CONNECTIONS_PER_ADDRESS", value_parser = count)]
    max_connections_per_address: Option<usize>,
    /// Database, postgres://... [default: SQLite in the data directory]
    #[arg(long, value_name = "URL", env = "MI_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// Backups, log segments and files, file:///DIR or s3://BUCKET/PREFIX [default: a directory in the data directory]
    #[arg(long, value_name = "URL")]
    object_store: Option<String>,
    /// Most bytes of one file on a colony's drive: a number, or one with KiB, MiB, GiB or TiB
    #[arg(long, value_name = "SIZE", env = "MI_DRIVE_FILE_LIMIT", default_value = "1GiB", value_parser = bytes)]
    drive_file_limit: u64,
    /// Most bytes of all files of a colony together
    #[arg(long, value_name = "SIZE", env = "MI_DRIVE_OFFICE_LIMIT", default_value = "100GiB", value_parser = bytes)]
    drive_office_limit: u64,
    /// Most colonies of an account
    #[arg(long, value_name = "N", env = "MI_MAX_OFFICES", default_value_t = Quotas::default().offices)]
    max_offices: u32,
    /// Most API keys of an account that are not revoked
    #[arg(long, value_name = "N", env = "MI_MAX_API_KEYS", default_value_t = Quotas::default().api_keys)]
    max_api_keys: u32,
    /// Most tasks of a colony that are not finished
    #[arg(long, value_name = "N", env = "MI_MAX_OPEN_TASKS", default_value_t = Quotas::default().open_tasks)]
    max_open_tasks: u32,
    /// Where agents run
    #[arg(long, default_value = "process")]
    runtime: RuntimeKind,
    /// Whether agents are sandboxed: only start when they are, as far as this kernel can, or not at all
    #[arg(long, value_name = "MODE", env = "MI_SANDBOX", default_value = "auto")]
    sandbox: Sandbox,
    /// How agents speak to their model server; without one they run scripts only
    #[arg(long, value_name = "API", requires = "model_url")]
    model_api: Option<ModelApi>,
    /// Base URL of that server, such as https://api.openai.com/v1 or https://api.anthropic.com. Agents may then connect to
    /// its port
    #[arg(long, value_name = "URL", requires = "model_api")]
    model_url: Option<String>,
    /// Key that it wants to see, in a file. Every agent gets it
    #[arg(long, value_name = "FILE", requires = "model_url")]
    model_key_file: Option<PathBuf>,
    /// Roles and model tiers [default: built in]
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Master key of the office service, the base64 of 32 bytes in a file of mode 0600; MI_MASTER_KEY, the key itself, can
    /// stand for it [default: master.key in the data directory, made at the first start]
    #[arg(long, value_name = "FILE")]
    master_key_file: Option<PathBuf>,
    /// OTLP/gRPC collector of traces [default: none]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// A service of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Takes calls from outside, checks who calls, hands them on.
    Gateway,
    /// Keeps offices, accounts and keys.
    Office,
    /// Keeps agents and gets them where they should be.
    Scheduler,
    /// Keeps logs and the activity feed.
    Activity,
}

/// Where agents run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeKind {
    /// In sandboxed child processes.
    Process,
}

/// Whether agents are sandboxed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sandbox {
    /// Do not start where a layer of the sandbox is missing.
    Required,
    /// Warn of what is missing, and report it.
    Auto,
    /// Agents may do what the user that runs the platform may.
    Off,
}

/// How a model server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModelApi {
    /// Chat completions, as OpenAI and many others serve them.
    Openai,
    /// Messages, as Anthropic serves them.
    Anthropic,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl PlatformArgs {
    fn config(self, data_dir: PathBuf, ready_file: Option<PathBuf>) -> Result<PlatformConfig, Failure> {
        let RuntimeKind::Process = self.runtime;
        let master_key = match (self.master_key_file, std::env::var("MI_MASTER_KEY").map(Secret::new)) {
            (Some(_), Ok(_)) => {
                return Err(Failure::Usage(
                    "two master keys: give --master-key-file or MI_MASTER_KEY, not both".into(),
                ));
            }
            (None, Ok(text)) => MasterKeySource::Environment(text),
            (file, Err(_)) => MasterKeySource::File(file),
        };
        Ok(PlatformConfig {
            master_key,
            data_dir,
            listen: self.listen,
            tls: self.tls_cert.zip(self.tls_key).map(|(cert, key)| KeyFiles { cert, key }),
            allow_plaintext: self.allow_plaintext,
            metrics_listen: self.metrics_listen,
            max_connections: self.max_connections,
            max_connections_per_address: self.max_connections_per_address,
            database: self.database.map(Secret::new),
            object_store: self.object_store,
            drive: DriveLimits { file_bytes: self.drive_file_limit, office_bytes: self.drive_office_limit },
            quotas: Quotas { offices: self.max_offices, api_keys: self.max_api_keys, open_tasks: self.max_open_tasks },
            sandbox: match self.sandbox {
                Sandbox::Required => SandboxMode::Required,
                Sandbox::Auto => SandboxMode::Auto,
                Sandbox::Off => SandboxMode::Off,
            },
            catalogue: self.catalogue,
            model: self.model_api.zip(self.model_url).map(|(api, url)| ModelFlags {
                api: match api {
                    ModelApi::Openai => mi_server::ModelApi::OpenAi,
                    ModelApi::Anthropic => mi_server::ModelApi::Anthropic,
                },
                url,
                key_file: self.model_key_file,
            }),
            ready_file,
            otlp_endpoint: self.otlp_endpoint,
            log_format: match self.log_format {
                LogFormat::Text => telemetry::LogFormat::Text,
                LogFormat::Json => telemetry::LogFormat::Json,
            },
        })
    }
}

/// Reads a number of connections.
fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "must be a number from 1".to_owned())
}

/// What keeps the platform from starting: the sentence, and the causes below it.
fn told(error: mi_kernel::Error) -> Failure {
    Failure::new(error.chain())
}

pub(crate) async fn up(args: UpArgs, global: &Global) -> Result<(), Failure> {
    let settings = Settings::load(global)?;
    let data_dir = match &args.platform.data_dir {
        Some(dir) => dir.clone(),
        None => settings.data_dir()?,
    };
    let data_dir = std::path::absolute(&data_dir).map_err(|error| Failure::io(data_dir.display(), &error))?;
    let config = args.platform.config(data_dir.clone(), args.ready_file)?;
    let configure = |ready: &Ready| {
        // A platform serves whether or not a client configuration could be written for it.
        if let Err(failure) = remember(&settings.dir, &data_dir, ready) {
            tracing::warn!(target: "mi::cli", "no configuration for the next command: {failure}");
        }
        Ok(())
    };
    mi_server::up(config, configure).await.map_err(told)
}

/// Writes a configuration that makes the next command work, unless there is one for another platform.
fn remember(dir: &Path, data_dir: &Path, ready: &Ready) -> Result<(), Failure> {
    let before = ConfigFile::load(dir)?;
    let other = before.data_dir.as_deref().is_some_and(|known| known != data_dir);
    let by_hand = before.data_dir.is_none() && (before.endpoint.is_some() || before.api_key.is_some());
    if other || by_hand {
        tracing::info!(target: "mi::cli", "the configuration names another platform and stays; use --endpoint and --api-key");
        return Ok(());
    }
    let after = ConfigFile {
        endpoint: Some(ready.endpoint.clone()),
        api_key: ready.api_key.as_ref().map(|key| key.expose().to_owned()),
        data_dir: Some(data_dir.to_owned()),
        ca_file: before.ca_file.clone(),
        colony: before.colony.clone(),
    };
    if after != before {
        after.save(dir)?;
    }
    Ok(())
}

pub(crate) async fn serve(args: ServeArgs, global: &Global) -> Result<(), Failure> {
    let data_dir = match &args.platform.data_dir {
        Some(dir) => dir.clone(),
        None => Settings::load(global)?.data_dir()?,
    };
    let internal = args.internal_tls_ca.zip(args.internal_tls_cert).zip(args.internal_tls_key);
    let config = ServeConfig {
        role: match args.role {
            Role::Gateway => RoleName::Gateway,
            Role::Office => RoleName::Office,
            Role::Scheduler => RoleName::Scheduler,
            Role::Activity => RoleName::Activity,
        },
        platform: args.platform.config(data_dir, args.ready_file)?,
        internal_key_file: args.internal_key_file,
        internal_tls: internal.map(|((ca, cert), key)| (ca, KeyFiles { cert, key })),
        office_url: args.office_url,
        scheduler_url: args.scheduler_url,
        activity_url: args.activity_url,
        agent_endpoint: args.agent_endpoint,
        agent_ca_file: args.agent_ca_file,
        admin_key_file: args.admin_key_file,
    };
    mi_server::serve(config, |_| Ok(())).await.map_err(told)
}
