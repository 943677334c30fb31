//! What the platform tells an agent through its environment.

use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

use mi_kernel::{AgentId, secret::Secret};

use crate::error::AgentError;

/// What the platform tells an agent.
#[derive(Debug)]
pub struct AgentConfig {
    /// `MI_ENDPOINT`: where the platform listens.
    pub endpoint: String,
    /// `MI_CA_PEM`: the CA that vouches for it; none: the public ones.
    pub ca: Option<String>,
    /// `MI_OFFICE_ID`: the agent's office.
    pub office_id: String,
    /// `MI_AGENT_ID`: the agent.
    pub agent_id: AgentId,
    /// `MI_AGENT_NAME`: its name.
    pub agent_name: String,
    /// `MI_GENERATION`: what this instance was started for.
    pub generation: i64,
    /// `MI_INSTANCE_ID`: this instance.
    pub instance_id: String,
    /// The single-use token that vouches for the agent's key.
    pub enrol_token: EnrolToken,
    /// `MI_IDENTITY_DIR`: where the key lives; no other agent can read it.
    pub identity_dir: PathBuf,
    /// `MI_NEW_IDENTITY=1`: the key there is dead, make another.
    pub new_identity: bool,
    /// `MI_RELAY_PORT`: where on loopback its programs find the relay; 0: on any free port.
    pub relay_port: u16,
    /// `MI_HEALTH_LISTEN`: where probes ask whether it is alive and ready; none: nowhere.
    pub health: Option<SocketAddr>,
    /// `MI_RESTORE=1`: it fills its workspace itself, from the backup that it was hired from.
    pub restore: bool,
    /// What concerns its work.
    pub work: WorkConfig,
}

/// Where the token comes from.
#[derive(Debug)]
pub enum EnrolToken {
    /// `MI_ENROL_TOKEN`: it is this.
    Given(Secret),
    /// `MI_ENROL_TOKEN_FILE`: it is what this file has, now or later.
    File(PathBuf),
}

/// How an agent works.
#[derive(Debug, Clone)]
pub struct WorkConfig {
    /// `MI_WORKSPACE`: where scripts run.
    pub workspace: PathBuf,
    /// `TMPDIR`: where files go that nobody needs afterwards.
    pub temporary: PathBuf,
    /// `MI_SLOTS`: how many tasks it does at once; 2 unless told.
    pub slots: usize,
    /// How long a claim is good without being renewed.
    pub lease: Duration,
    /// `COMMAND_SECONDS`, which the agent's hirer may set: how long a script may take, at most an hour; 10 minutes unless
    /// told.
    pub command_limit: Duration,
    /// `MI_COMMAND`: the program, a line for the shell, that it runs instead of doing tasks; none: it does tasks.
    pub command: Option<String>,
    /// The model that it thinks with; none: it runs scripts only.
    pub model: Option<ModelConfig>,
}

/// A model, and how much of it a task may take.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// `MI_MODEL_API`: `anthropic`, `openai` or `gemini`; without it there is no model.
    pub api: ModelApi,
    /// `MI_MODEL_PROVIDER`: the name under which the platform's proxy knows whoever serves it.
    pub provider: String,
    /// `MI_MODEL_ID`: the provider's name of the model.
    pub id: String,
    /// How many answers of the model a task may take.
    pub steps: u32,
    /// How long it may work on a task.
    pub limit: Duration,
    /// How many tokens a task may take, in and out.
    pub tokens: u64,
}

/// How a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelApi {
    /// The chat completions of OpenAI, which many servers speak.
    OpenAi,
    /// The messages of Anthropic.
    Anthropic,
    /// The contents of Google.
    Gemini,
}

/// Slots of an agent that nobody told how many.
const SLOTS: usize = 2;
/// Long enough for a platform that restarts, short enough for those who wait for the work of a dead agent.
const LEASE: Duration = Duration::from_secs(15);
/// Seconds that a script may take, unless its agent is told otherwise.
const COMMAND_SECONDS: u64 = 600;
/// How long a model may work on one task.
const MODEL_LIMIT: Duration = Duration::from_secs(900);
/// Answers of the model for one task.
const MODEL_STEPS: u32 = 50;
/// Tokens for one task, in and out.
const MODEL_TOKENS: u64 = 200_000;

impl AgentConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// When a variable is missing or does not parse.
    pub fn from_env() -> Result<Self, AgentError> {
        Self::read(|name| env::var(name).ok())
    }

    fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, AgentError> {
        let required = |name: &'static str| {
            let value = get(name).filter(|value| !value.is_empty());
            value.ok_or(AgentError::Environment { name, problem: "is missing" })
        };
        let wrong = |name, problem| AgentError::Environment { name, problem };
        let number = |name: &'static str, default: u64, most: u64, problem| match get(name) {
            None => Ok(default),
            Some(text) => text.parse().ok().filter(|it| (1..=most).contains(it)).ok_or(wrong(name, problem)),
        };
        Ok(Self {
            endpoint: required("MI_ENDPOINT")?,
            ca: get("MI_CA_PEM").filter(|pem| !pem.is_empty()),
            office_id: required("MI_OFFICE_ID")?,
            agent_id: required("MI_AGENT_ID")?.parse().map_err(|_| wrong("MI_AGENT_ID", "is no UUID"))?,
            agent_name: required("MI_AGENT_NAME")?,
            generation: required("MI_GENERATION")?.parse().map_err(|_| wrong("MI_GENERATION", "is no number"))?,
            instance_id: required("MI_INSTANCE_ID")?,
            enrol_token: match get("MI_ENROL_TOKEN_FILE").filter(|path| !path.is_empty()) {
                Some(path) => EnrolToken::File(path.into()),
                None => EnrolToken::Given(Secret::new(required("MI_ENROL_TOKEN")?)),
            },
            identity_dir: required("MI_IDENTITY_DIR")?.into(),
            new_identity: get("MI_NEW_IDENTITY").as_deref() == Some("1"),
            relay_port: match get("MI_RELAY_PORT") {
                None => 0,
                Some(text) => text.parse().map_err(|_| wrong("MI_RELAY_PORT", "is no port"))?,
            },
            health: match get("MI_HEALTH_LISTEN").filter(|address| !address.is_empty()) {
                None => None,
                Some(text) => Some(
                    text.parse()
                        .map_err(|_| wrong("MI_HEALTH_LISTEN", "is no address with a port, as 0.0.0.0:8086"))?,
                ),
            },
            restore: get("MI_RESTORE").as_deref() == Some("1"),
            work: WorkConfig {
                workspace: get("MI_WORKSPACE").unwrap_or_else(|| ".".into()).into(),
                temporary: get("TMPDIR").unwrap_or_else(|| "/tmp".into()).into(),
                slots: number("MI_SLOTS", SLOTS as u64, 100, "is no number from 1 to 100")? as usize,
                lease: LEASE,
                command_limit: Duration::from_secs(number(
                    "COMMAND_SECONDS",
                    COMMAND_SECONDS,
                    3600,
                    "is no number from 1 to 3600",
                )?),
                command: get("MI_COMMAND").filter(|command| !command.is_empty()),
                model: model(&get)?,
            },
        })
    }
}

fn model(get: &impl Fn(&str) -> Option<String>) -> Result<Option<ModelConfig>, AgentError> {
    let api = match get("MI_MODEL_API").as_deref() {
        None | Some("") => return Ok(None),
        Some("openai") => ModelApi::OpenAi,
        Some("anthropic") => ModelApi::Anthropic,
        Some("gemini") => ModelApi::Gemini,
        Some(_) => {
            let problem = "is not anthropic, openai or gemini";
            return Err(AgentError::Environment { name: "MI_MODEL_API", problem });
        }
    };
    let required = |name: &'static str| {
        get(name).filter(|value| !value.is_empty()).ok_or(AgentError::Environment { name, problem: "is missing" })
    };
    Ok(Some(ModelConfig {
        api,
        provider: required("MI_MODEL_PROVIDER")?,
        id: required("MI_MODEL_ID")?,
        steps: MODEL_STEPS,
        limit: MODEL_LIMIT,
        tokens: MODEL_TOKENS,
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn environment() -> HashMap<&'static str, String> {
        HashMap::from([
            ("MI_ENDPOINT", "http://127.0.0.1:7400".to_owned()),
            ("MI_OFFICE_ID", "019aa0b4-7c1e-7d0a-b3a5-0a1b2c3d4e5f".to_owned()),
            ("MI_AGENT_ID", "019aa0b4-7c1e-7d0a-b3a5-0a1b2c3d4e60".to_owned()),
            ("MI_AGENT_NAME", "analyst".to_owned()),
            ("MI_GENERATION", "7".to_owned()),
            ("MI_INSTANCE_ID", "i-1".to_owned()),
            ("MI_ENROL_TOKEN", "t".to_owned()),
            ("MI_IDENTITY_DIR", "/identity".to_owned()),
        ])
    }

    #[test]
    fn reads_what_the_platform_wrote() {
        let mut variables = environment();
        let config = AgentConfig::read(|name| variables.get(name).cloned()).expect("complete");
        assert_eq!(config.generation, 7);
        assert_eq!(config.agent_id.to_string(), variables["MI_AGENT_ID"]);
        assert!(!config.new_identity);
        variables.insert("MI_NEW_IDENTITY", "1".to_owned());
        assert!(AgentConfig::read(|name| variables.get(name).cloned()).expect("complete").new_identity);
        assert!(!format!("{config:?}").contains("\"t\""));
        assert_eq!((config.work.slots, config.work.command_limit), (2, Duration::from_secs(600)));
    }

    #[test]
    fn reads_what_a_pod_has() {
        let mut variables = environment();
        variables.remove("MI_ENROL_TOKEN");
        for (name, value) in
            [("MI_ENROL_TOKEN_FILE", "/run/t"), ("MI_HEALTH_LISTEN", "0.0.0.0:8086"), ("MI_RESTORE", "1")]
        {
            variables.insert(name, value.to_owned());
        }
        let config = AgentConfig::read(|name| variables.get(name).cloned()).expect("complete");
        assert!(matches!(config.enrol_token, EnrolToken::File(path) if path.as_os_str() == "/run/t"));
        assert_eq!((config.health.map(|address| address.port()), config.restore), (Some(8086), true));
    }

    #[test]
    fn reads_its_model_its_relay_and_its_command() {
        let mut variables = environment();
        let read = |variables: &HashMap<&str, String>| AgentConfig::read(|name| variables.get(name).cloned());
        let plain = read(&variables).expect("complete");
        assert!(plain.work.model.is_none() && plain.work.command.is_none());
        assert_eq!(plain.relay_port, 0);
        variables.extend([("MI_RELAY_PORT", "4711".to_owned()), ("MI_COMMAND", "codex".to_owned())]);
        variables.insert("MI_MODEL_API", "gemini".to_owned());
        variables.insert("MI_MODEL_ID", "gemini-2.5-flash".to_owned());
        let error = read(&variables).expect_err("no provider").to_string();
        assert!(error.contains("MI_MODEL_PROVIDER is missing"), "{error}");
        variables.insert("MI_MODEL_PROVIDER", "gemini".to_owned());
        let config = read(&variables).expect("complete");
        assert_eq!((config.relay_port, config.work.command.as_deref()), (4711, Some("codex")));
        let model = config.work.model.expect("a model");
        assert_eq!((model.api, &*model.provider, &*model.id), (ModelApi::Gemini, "gemini", "gemini-2.5-flash"));
    }

    #[test]
    fn names_what_is_missing_or_wrong() {
        for name in environment().into_keys() {
            let mut variables = environment();
            variables.remove(name);
            let error = AgentConfig::read(|name| variables.get(name).cloned()).expect_err(name);
            assert!(error.to_string().contains(&format!("{name} is missing")), "{error}");
        }
        for (name, problem) in [
            ("MI_AGENT_ID", "is no UUID"),
            ("MI_GENERATION", "is no number"),
            ("MI_SLOTS", "is no number from 1 to 100"),
            ("COMMAND_SECONDS", "is no number from 1 to 3600"),
            ("MI_RELAY_PORT", "is no port"),
            ("MI_HEALTH_LISTEN", "is no address with a port, as 0.0.0.0:8086"),
            ("MI_MODEL_API", "is not anthropic, openai or gemini"),
        ] {
            let mut variables = environment();
            variables.insert(name, "x".to_owned());
            let error = AgentConfig::read(|name| variables.get(name).cloned()).expect_err(name);
            assert!(error.to_string().contains(&format!("{name} {problem}")), "{error}");
        }
    }
}
