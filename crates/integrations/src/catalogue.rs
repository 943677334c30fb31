//! The catalogue of integrations, from a file.

use std::collections::BTreeSet;

use mi_kernel::{Error, Result};
use serde::Deserialize;

/// What can be integrated.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// In the order in which they are listed.
    #[serde(rename = "integration")]
    pub integrations: Vec<Integration>,
}

/// Something outside the platform that agents can use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Integration {
    /// Name to refer to it by. A model provider's is the one that model tiers use.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What it takes.
    #[serde(rename = "secret")]
    pub secrets: Vec<SecretSpec>,
}

/// A secret that an integration takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    /// Name to set it by.
    pub name: String,
    /// Environment variable that it becomes.
    pub env: String,
    /// What it is and where to get one.
    pub description: String,
    /// Whether the integration works without it.
    #[serde(default = "required")]
    pub required: bool,
}

fn required() -> bool {
    true
}

impl Catalogue {
    /// The built-in one.
    ///
    /// # Errors
    /// As [`Catalogue::parse`].
    pub fn built_in() -> Result<Self> {
        Self::parse(include_str!("catalogue.toml"))
    }

    /// Reads a catalogue.
    ///
    /// # Errors
    /// `Invalid` when the text does not parse or contradicts itself.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |problem: String| Error::invalid("integrations", problem);
        let catalogue: Self = toml::from_str(text)
            .map_err(|error| invalid(format!("do not parse: {}", error.message())).caused_by(error))?;
        let mut names = BTreeSet::new();
        for Integration { name, secrets, .. } in &catalogue.integrations {
            if !is_name(name, '-') || !names.insert(name) {
                return Err(invalid(format!(
                    "have {name:?}, which is no name of letters, digits and hyphens, or twice"
                )));
            }
            let (mut own, mut envs) = (BTreeSet::new(), BTreeSet::new());
            for spec in secrets {
                let is_env =
                    spec.env.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
                        && !spec.env.is_empty()
                        && !spec.env.starts_with("MI_");
                if !is_name(&spec.name, '_') || !is_env || !own.insert(&spec.name) || !envs.insert(&spec.env) {
                    return Err(invalid(format!("have a bad or doubled secret {:?} of {name:?}", spec.name)));
                }
            }
            if !secrets.iter().any(|spec| spec.required) {
                return Err(invalid(format!("have {name:?}, which requires no secret")));
            }
        }
        Ok(catalogue)
    }

    /// An integration by name.
    ///
    /// # Errors
    /// `Invalid`, listing the integrations there are.
    pub fn integration(&self, field: &'static str, name: &str) -> Result<&Integration> {
        let found = self.integrations.iter().find(|integration| integration.name == name);
        found.ok_or_else(|| unknown(field, self.integrations.iter().map(|integration| &integration.name)))
    }
}

impl Integration {
    /// A secret by name.
    ///
    /// # Errors
    /// `Invalid`, listing the secrets there are.
    pub fn secret(&self, field: &'static str, name: &str) -> Result<&SecretSpec> {
        let found = self.secrets.iter().find(|spec| spec.name == name);
        found.ok_or_else(|| unknown(field, self.secrets.iter().map(|spec| &spec.name)))
    }
}

fn is_name(name: &str, joint: char) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == joint;
    (1..=40).contains(&name.len()) && name.chars().all(plain)
}

fn unknown<'a>(field: &'static str, known: impl Iterator<Item = &'a String>) -> Error {
    let known: Vec<&str> = known.map(String::as_str).collect();
    // What was sent is not repeated: somebody may have put the secret there.
    Error::invalid(field, format!("is unknown; known are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_has_the_providers_of_the_model_tiers_and_the_usual_tools() {
        let catalogue = Catalogue::built_in().expect("good");
        assert!(catalogue.integrations.len() >= 12);
        for (name, secret, env) in [
            ("anthropic", "api_key", "ANTHROPIC_API_KEY"),
            ("openai", "api_key", "OPENAI_API_KEY"),
            ("gemini", "api_key", "GEMINI_API_KEY"),
            ("github", "token", "GITHUB_TOKEN"),
            ("slack", "bot_token", "SLACK_BOT_TOKEN"),
        ] {
            let integration = catalogue.integration("integration", name).expect(name);
            assert_eq!(integration.secret("name", secret).expect(secret).env, env);
        }
        let error = catalogue.integration("integration", "hunter2").expect_err("unknown");
        assert_eq!(error.field, Some("integration"));
        assert!(error.message.contains("anthropic, openai") && !error.message.contains("hunter2"), "{error}");
    }

    #[test]
    fn broken_catalogues_are_refused() {
        let good = "[[integration]]\nname='a'\ndescription='d'\n[[integration.secret]]\nname='key'\nenv='KEY'\ndescription='d'\n";
        assert!(Catalogue::parse(good).is_ok());
        let cases = [
            "nonsense".into(),
            String::new(),
            format!("{good}{good}"),
            good.replace("name='a'", "name='A b'"),
            good.replace("env='KEY'", "env='key'"),
            good.replace("env='KEY'", "env='MI_KEY'"),
            good.replace("name='key'", "name=''"),
            good.replace("env=", "environment="),
            format!("{good}required=false\n"),
            format!("{good}[[integration.secret]]\nname='key'\nenv='OTHER'\ndescription='d'\n"),
            format!("{good}[[integration.secret]]\nname='other'\nenv='KEY'\ndescription='d'\n"),
        ];
        for text in cases {
            assert_eq!(Catalogue::parse(&text).expect_err(&text).field, Some("integrations"));
        }
    }
}
