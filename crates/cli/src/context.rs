//! What every client command works with: the connection, the output, the settings.

use std::{env, path::Path, sync::Arc};

use mi_client::{AgentKey, Client, Credential, KeyRing};
use uuid::Uuid;

use crate::{config::Settings, failure::Failure, options::Global, output::Output};

/// An agent's key, in its identity directory.
pub(crate) const KEY_FILE: &str = "identity.key";

/// What every client command works with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) out: Output,
    pub(crate) settings: Settings,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let settings = Settings::load(global)?;
        let ca = settings.ca_file.as_deref().map(|file| {
            std::fs::read_to_string(file)
                .map_err(|error| Failure::io(format!("{} cannot be read", file.display()), &error))
        });
        let ca = ca.transpose()?.or_else(|| variable("MI_CA_PEM"));
        let credential = match settings.api_key.clone() {
            Some(key) => Credential::ApiKey(key),
            None => agent()?.unwrap_or(Credential::None),
        };
        let client = Client::connect_trusting(&settings.endpoint, ca.as_deref(), credential)?;
        Ok(Self { client, out: Output::new(global), settings })
    }
}

/// A variable of the environment; an empty one is how shells unset it for a single command.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The agent whose environment this is: inside its workspace a command without an API key is the agent's own.
fn agent() -> Result<Option<Credential>, Failure> {
    let (Some(id), Some(dir)) = (variable("MI_AGENT_ID"), variable("MI_IDENTITY_DIR")) else {
        return Ok(None);
    };
    let agent_id = id.parse().map_err(|_| Failure::new("MI_AGENT_ID is no UUID"))?;
    let key = AgentKey::load(&Path::new(&dir).join(KEY_FILE))?;
    Ok(key.map(|key| Credential::Agent { agent_id, key: Arc::new(KeyRing::new(key)) }))
}

/// The text as an id, when it is a whole one.
pub(crate) fn full_id(text: &str) -> Option<String> {
    match Uuid::try_parse(text) {
        Ok(id) if text.len() == 36 => Some(id.to_string()),
        _ => None,
    }
}
