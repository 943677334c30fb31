//! What the platform tells an agent through its environment.

use std::{env, path::PathBuf};

use mi_kernel::{AgentId, secret::Secret};

use crate::AgentError;

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
    /// `MI_GENERATION`: what this compute was started for.
    pub generation: i64,
    /// `MI_INSTANCE_ID`: this compute.
    pub instance_id: String,
    /// `MI_ENROL_TOKEN`: the single-use token that vouches for the agent's key.
    pub enrol_token: Secret,
    /// `MI_IDENTITY_DIR`: where the key lives; no other agent can read it.
    pub identity_dir: PathBuf,
    /// `MI_NEW_IDENTITY=1`: the key there is dead, make another.
    pub new_identity: bool,
}

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
        Ok(Self {
            endpoint: required("MI_ENDPOINT")?,
            ca: get("MI_CA_PEM").filter(|pem| !pem.is_empty()),
            office_id: required("MI_OFFICE_ID")?,
            agent_id: required("MI_AGENT_ID")?.parse().map_err(|_| wrong("MI_AGENT_ID", "is no UUID"))?,
            agent_name: required("MI_AGENT_NAME")?,
            generation: required("MI_GENERATION")?.parse().map_err(|_| wrong("MI_GENERATION", "is no number"))?,
            instance_id: required("MI_INSTANCE_ID")?,
            enrol_token: Secret::new(required("MI_ENROL_TOKEN")?),
            identity_dir: required("MI_IDENTITY_DIR")?.into(),
            new_identity: get("MI_NEW_IDENTITY").as_deref() == Some("1"),
        })
    }
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
    }

    #[test]
    fn names_what_is_missing_or_wrong() {
        for name in environment().into_keys() {
            let mut variables = environment();
            variables.remove(name);
            let error = AgentConfig::read(|name| variables.get(name).cloned()).expect_err(name);
            assert!(error.to_string().contains(&format!("{name} is missing")), "{error}");
        }
        for (name, problem) in [("MI_AGENT_ID", "is no UUID"), ("MI_GENERATION", "is no number")] {
            let mut variables = environment();
            variables.insert(name, "x".to_owned());
            let error = AgentConfig::read(|name| variables.get(name).cloned()).expect_err(name);
            assert!(error.to_string().contains(&format!("{name} {problem}")), "{error}");
        }
    }
}
