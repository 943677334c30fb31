//! What the platform is started with.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::{
    ArgAction, Args, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser},
};
use mi_base::telemetry::LogFormat;
use mi_http::{CardIssuer, CardKey};
use mi_kernel::{Error, Result, credits, secret::Secret};
use mi_office::Quotas;
use mi_rpc::{ConnectionLimits, tls::KeyFiles};
use mi_runtime_kubernetes::Driver;
use mi_runtime_process::SandboxMode;
use mi_store::DbTarget;
use mi_vault::{EnvKeys, FileKeys, KeyWrapper};

/// The options of `mi up` and `mi serve`.
#[derive(Debug, Clone, Args)]
pub struct PlatformOptions {
    /// Address of the API; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub(crate) listen: SocketAddr,
    /// Certificate chain of the API's listener, PEM; with --tls-key
    #[arg(long, value_name = "FILE", env = "MI_TLS_CERT", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", env = "MI_TLS_KEY", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Serve the API in plaintext also where other machines reach it
    #[arg(long)]
    pub(crate) allow_plaintext: bool,
    /// Origin whose web pages may call the API, such as https://console.example; `*`: all [default: those of this machine];
    /// repeat for more
    #[arg(long, value_name = "ORIGIN", env = "MI_CORS_ORIGINS", value_delimiter = ',')]
    pub(crate) cors_origin: Vec<String>,
    /// URL under which others reach the API, as the cards of agents name it [default: of the address that it listens on]
    #[arg(long, value_name = "URL", env = "MI_PUBLIC_URL")]
    pub(crate) public_url: Option<String>,
    /// Key that the cards of agents are signed with, the base64 of 32 bytes, one for all gateways [default: card.key in the data
    /// directory, made at the first start]
    #[arg(long, value_name = "FILE")]
    pub(crate) card_key_file: Option<PathBuf>,
    /// Address of metrics and liveness; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7401")]
    pub(crate) metrics_listen: SocketAddr,
    /// Seconds for which everything goes on at the end although `/readyz` says no, so that whoever sends callers here sends no
    /// more; a second signal cuts it short
    #[arg(long, value_name = "SECONDS", env = "MI_DRAIN", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=300))]
    pub(crate) drain: u64,
    /// Most connections to the API at the same time [default: 20000, or a third of the files that may be open if that is
    /// less]
    #[arg(long, value_name = "N", env = "MI_MAX_CONNECTIONS", value_parser = count)]
    pub(crate) max_connections: Option<usize>,
    /// Most of them from one address [default: half of all]
    #[arg(long, value_name = "N", env = "MI_MAX_CONNECTIONS_PER_ADDRESS", value_parser = count)]
    pub(crate) max_connections_per_address: Option<usize>,
    /// Database, postgres://... [default: SQLite in the data directory]
    #[arg(long, value_name = "URL", env = "MI_DATABASE", hide_env_values = true, value_parser = secret())]
    pub(crate) database: Option<Secret>,
    /// The same in a file, so that it stands in no environment and on no command line
    #[arg(long, value_name = "FILE", env = "MI_DATABASE_FILE", conflicts_with = "database")]
    pub(crate) database_file: Option<PathBuf>,
    /// Backups, log segments and files, file:///DIR or s3://BUCKET/PREFIX [default: a directory in the data directory]
    #[arg(long, value_name = "URL")]
    pub(crate) object_store: Option<String>,
    /// Most bytes of one file on a colony's drive: a number, or one with KiB, MiB, GiB or TiB
    #[arg(long, value_name = "SIZE", env = "MI_DRIVE_FILE_LIMIT", default_value = "1GiB", value_parser = bytes)]
    pub(crate) drive_file_limit: u64,
    /// Most bytes of all files of a colony together
    #[arg(long, value_name = "SIZE", env = "MI_DRIVE_OFFICE_LIMIT", default_value = "100GiB", value_parser = bytes)]
    pub(crate) drive_office_limit: u64,
    /// Most colonies of an account
    #[arg(long, value_name = "N", env = "MI_MAX_OFFICES", default_value_t = Quotas::default().offices)]
    pub(crate) max_offices: u32,
    /// Most API keys of an account that are not revoked
    #[arg(long, value_name = "N", env = "MI_MAX_API_KEYS", default_value_t = Quotas::default().api_keys)]
    pub(crate) max_api_keys: u32,
    /// Most tasks of a colony that are not finished
    #[arg(long, value_name = "N", env = "MI_MAX_OPEN_TASKS", default_value_t = Quotas::default().open_tasks)]
    pub(crate) max_open_tasks: u32,
    /// Credits that a new colony begins with, such as 10 or 0.5
    #[arg(long, value_name = "CREDITS", env = "MI_OFFICE_CREDITS", default_value = "10", value_parser = credits::read)]
    pub(crate) office_credits: i64,
    /// Credits that the colonies of an account begin with together; the administrator's have no such limit
    #[arg(long, value_name = "CREDITS", env = "MI_ACCOUNT_CREDITS", default_value = "1000", value_parser = credits::read)]
    pub(crate) account_credits: i64,
    /// Whether a colony without credits hires, claims and calls models no more; off: balances are shown and refuse nothing
    #[arg(long, value_name = "ON|OFF", env = "MI_CREDITS", default_value = "on", action = ArgAction::Set, value_parser = one_of(SWITCH))]
    pub(crate) credits: bool,
    /// Where agents run
    #[arg(long, default_value = "process")]
    pub(crate) runtime: RuntimeKind,
    /// How the platform uses the cluster that agents live in, TOML; with --runtime kubernetes
    #[arg(long, value_name = "FILE", env = "MI_KUBERNETES_CONFIG", required_if_eq("runtime", "kubernetes"))]
    pub(crate) kubernetes_config: Option<PathBuf>,
    /// What runs the pods of agents
    #[arg(long, value_name = "DRIVER", env = "MI_KUBERNETES_DRIVER", default_value = "statefulset", value_parser = one_of(DRIVERS))]
    pub(crate) kubernetes_driver: Driver,
    /// Where that cluster is, as for kubectl [default: the one that this process is a pod of, else KUBECONFIG or
    /// ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Whether agents are sandboxed: only start when they are, as far as this kernel can, or not at all
    #[arg(long, value_name = "MODE", env = "MI_SANDBOX", default_value = "auto", value_parser = one_of(SANDBOXES))]
    pub(crate) sandbox: SandboxMode,
    /// How a model server is spoken to that stands for every provider without a key
    #[arg(long, value_name = "API", requires = "model_url")]
    pub(crate) model_api: Option<ModelApi>,
    /// Base URL of that server, such as https://api.openai.com/v1 or https://api.anthropic.com
    #[arg(long, value_name = "URL", requires = "model_api")]
    pub(crate) model_url: Option<String>,
    /// Key that it wants to see, in a file
    #[arg(long, value_name = "FILE", requires = "model_url")]
    pub(crate) model_key_file: Option<PathBuf>,
    /// Models with prices, tiers, roles, skills and integrations; read again when it changes [default: built in]
    #[arg(long, value_name = "FILE")]
    pub(crate) catalogue: Option<PathBuf>,
    /// Master key of the office service, the base64 of 32 bytes in a file of mode 0600; MI_MASTER_KEY, the key itself, can
    /// stand for it [default: master.key in the data directory, made at the first start]
    #[arg(long, value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// OTLP/gRPC collector of traces [default: none]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = one_of(LOG_FORMATS))]
    pub(crate) log_format: LogFormat,
}

/// The options of `mi serve ROLE` besides.
#[derive(Debug, Clone, Args)]
pub struct ServeOptions {
    /// Which service
    pub(crate) role: RoleName,
    /// Key that all services of a platform share, in a file that only they can read
    #[arg(long, value_name = "FILE")]
    pub(crate) internal_key_file: Option<PathBuf>,
    /// CA that vouches for the services, PEM [default: development certificates beside the internal key]
    #[arg(long, value_name = "FILE", requires = "internal_tls_cert", requires = "internal_tls_key")]
    pub(crate) internal_tls_ca: Option<PathBuf>,
    /// Certificate of this service, for SERVICE.mi.internal, PEM
    #[arg(long, value_name = "FILE", requires = "internal_tls_ca")]
    pub(crate) internal_tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "internal_tls_ca")]
    pub(crate) internal_tls_key: Option<PathBuf>,
    /// Where the office service listens
    #[arg(long, value_name = "URL")]
    pub(crate) office_url: Option<String>,
    /// Where the scheduler listens
    #[arg(long, value_name = "URL")]
    pub(crate) scheduler_url: Option<String>,
    /// Where the activity service listens
    #[arg(long, value_name = "URL")]
    pub(crate) activity_url: Option<String>,
    /// Where the models service listens [default: agents get no models]
    #[arg(long, value_name = "URL")]
    pub(crate) models_url: Option<String>,
    /// Where agents reach the gateway
    #[arg(long, value_name = "URL")]
    pub(crate) agent_endpoint: Option<String>,
    /// CA that vouches for that endpoint, PEM [default: the public ones]
    #[arg(long, value_name = "FILE")]
    pub(crate) agent_ca_file: Option<PathBuf>,
    /// The administrator's API key, in a file
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_key_file: Option<PathBuf>,
}

/// Where agents run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeKind {
    /// In sandboxed child processes.
    Process,
    /// In pods of a cluster.
    Kubernetes,
}

/// How a model server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModelApi {
    /// Chat completions, as OpenAI and many others serve them.
    #[value(name = "openai")]
    OpenAi,
    /// Messages, as Anthropic serves them.
    Anthropic,
}

/// A role of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Takes calls from outside, checks who calls, hands them on.
    Gateway,
    /// Keeps offices, accounts and keys.
    Office,
    /// Keeps agents and gets them where they should be.
    Scheduler,
    /// Keeps logs and the activity feed.
    Activity,
    /// Calls models for agents, with keys that they do not see.
    Models,
}

impl RoleName {
    /// The name in flags, metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Office => "office",
            Self::Scheduler => "scheduler",
            Self::Activity => "activity",
            Self::Models => "models",
        }
    }

    fn schema(self) -> &'static str {
        match self {
            Self::Gateway => "mi_gateway",
            Self::Office => "mi_office",
            Self::Scheduler => "mi_scheduler",
            Self::Activity => "mi_activity",
            // It has no tables.
            Self::Models => "mi_models",
        }
    }
}

/// What an option takes, by name, each with what it is and what is said of it.
type Choices<T> = &'static [(&'static str, T, &'static str)];

const SANDBOXES: Choices<SandboxMode> = &[
    ("required", SandboxMode::Required, "Do not start where a layer of the sandbox is missing"),
    ("auto", SandboxMode::Auto, "Warn of what is missing, and report it"),
    ("off", SandboxMode::Off, "Agents may do what the user that runs the platform may"),
];
const DRIVERS: Choices<Driver> = &[
    ("statefulset", Driver::StatefulSet, "A StatefulSet for each agent, which every cluster has"),
    ("sandbox", Driver::Sandbox, "A Sandbox for each agent, where agent-sandbox is installed"),
];
const SWITCH: Choices<bool> =
    &[("on", true, "a colony that has none left has to wait"), ("off", false, "balances are shown and refuse nothing")];
const LOG_FORMATS: Choices<LogFormat> =
    &[("text", LogFormat::Text, "For people"), ("json", LogFormat::Json, "One JSON object a line")];

/// Reads one of these.
fn one_of<T: Copy + Send + Sync>(choices: Choices<T>) -> impl TypedValueParser<Value = T> {
    let known = choices.iter().map(|(name, _, about)| PossibleValue::new(*name).help(*about));
    PossibleValuesParser::new(known).try_map(move |given| {
        let found = choices.iter().find(|(name, ..)| *name == given);
        found.map(|(_, value, _)| *value).ok_or("it is none of them")
    })
}

/// Reads a number of connections.
fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "must be a number from 1".to_owned())
}

/// Bytes as people give them: a number, or one with a unit.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number of bytes, or one with KiB, MiB, GiB or TiB".to_owned();
    let (number, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)]
        .iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit).map(|number| (number, *shift)))
        .unwrap_or((text, 0));
    let number: u64 = number.trim_end().parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(wrong)
}

fn secret() -> impl TypedValueParser<Value = Secret> {
    StringValueParser::new().map(Secret::new)
}

/// The model server of the agents.
#[derive(Debug, Clone)]
pub(crate) struct ModelFlags {
    /// How it is spoken to.
    pub(crate) api: ModelApi,
    /// Its base URL.
    pub(crate) url: String,
    /// File with the key that it wants to see.
    pub(crate) key_file: Option<PathBuf>,
}

impl PlatformOptions {
    /// Reads the database's URL, where it is given in a file.
    ///
    /// # Errors
    /// `Invalid` when there is no such file, or nothing in it.
    pub fn read_database(&mut self) -> Result<()> {
        let Some(file) = self.database_file.take() else { return Ok(()) };
        let bad = |problem: &str| Error::invalid("database_file", format!("{problem}: {}", file.display()));
        let text = std::fs::read_to_string(&file).map_err(|error| bad("cannot be read").caused_by(error))?;
        match text.trim() {
            "" => Err(bad("holds no postgres:// URL")),
            url => {
                self.database = Some(Secret::new(url));
                Ok(())
            }
        }
    }

    /// Certificate and key of the API's listener; none: plaintext.
    pub(crate) fn tls(&self) -> Option<KeyFiles> {
        self.tls_cert.clone().zip(self.tls_key.clone()).map(|(cert, key)| KeyFiles { cert, key })
    }

    pub(crate) fn model(&self) -> Option<ModelFlags> {
        let key_file = self.model_key_file.clone();
        self.model_api.zip(self.model_url.clone()).map(|(api, url)| ModelFlags { api, url, key_file })
    }
}

/// What a process of the platform is started with.
#[derive(Debug, Clone)]
pub struct PlatformConfig {
    /// Databases, objects, agents' directories and the administrator's key. One process at a time.
    pub data_dir: PathBuf,
    /// File to write when it serves.
    pub ready_file: Option<PathBuf>,
    /// The text of `MI_MASTER_KEY`; none: it is in a file.
    pub master_key: Option<Secret>,
    /// All else.
    pub options: PlatformOptions,
}

impl PlatformConfig {
    /// The limits on connections to the API, where a process may have so many open files. Each connection is one.
    pub(crate) fn connection_limits(&self, files: u64) -> ConnectionLimits {
        let usual = ConnectionLimits::default();
        // As many for agents, which have a listener of their own beside TLS; the rest is for all else.
        let allowed = usize::try_from(files / 3).unwrap_or(usize::MAX);
        let total = self.options.max_connections.unwrap_or(usual.total.min(allowed));
        let per_address = self.options.max_connections_per_address.unwrap_or(total.div_ceil(2));
        ConnectionLimits { total, per_address, ..usual }
    }

    pub(crate) fn master_keys(&self) -> Result<Arc<dyn KeyWrapper>> {
        Ok(match (&self.master_key, &self.options.master_key_file) {
            (Some(text), _) => Arc::new(EnvKeys::new(text)?),
            (None, Some(path)) => Arc::new(FileKeys::new(path)),
            (None, None) => Arc::new(FileKeys::new(self.data_dir.join("master.key"))),
        })
    }

    /// Who vouches for the cards of agents; `endpoint` is where the API listens.
    pub(crate) fn card_issuer(&self, endpoint: &str) -> Result<CardIssuer> {
        let own = || self.data_dir.join("card.key");
        let key = CardKey::from_file(&self.options.card_key_file.clone().unwrap_or_else(own))?;
        CardIssuer::new(self.options.public_url.as_deref().unwrap_or(endpoint), key)
    }

    /// Where a role's tables are, for this process.
    pub(crate) fn database_of(&self, role: RoleName, process: &str) -> Result<DbTarget> {
        match self.options.database.as_ref().map(Secret::expose) {
            None => Ok(DbTarget::Sqlite { path: self.data_dir.join(format!("{}.db", role.as_str())) }),
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(DbTarget::Postgres { url: url.to_owned(), schema: role.schema(), process: Some(process.to_owned()) })
            }
            // Never printed: it may hold a password.
            Some(_) => Err(Error::invalid(
                "database",
                "must be a postgres:// URL; leave it out for SQLite in the data directory",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: PlatformOptions,
    }

    #[test]
    fn a_database_is_given_in_a_file() {
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("database");
        let options = || Line::parse_from(["mi", "--database-file", file.to_str().expect("plain")]).options;
        let error = options().read_database().expect_err("no file");
        assert_eq!((error.field, error.message.contains("cannot be read")), (Some("database_file"), true), "{error}");
        std::fs::write(&file, " \n").expect("written");
        assert!(options().read_database().expect_err("nothing").message.contains("holds no"));
        std::fs::write(&file, "postgres://mi:word@host/mi\n").expect("written");
        let mut options = options();
        options.read_database().expect("read");
        assert_eq!(options.database.as_ref().map(Secret::expose), Some("postgres://mi:word@host/mi"));
        let both = ["mi", "--database", "postgres://a", "--database-file", "b"];
        assert!(Line::try_parse_from(both).is_err());
    }

    #[test]
    fn sizes() {
        for (text, given) in [("0", Some(0)), ("1023", Some(1023)), ("2 KiB", Some(2048)), ("1GiB", Some(1 << 30))] {
            assert_eq!(bytes(text).ok(), given);
        }
        for bad in ["", "GiB", "-1", "1.5GiB", "1GB", "9223372036854775808", "16777216TiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
