//! Integrations: what agents can reach outside the platform.

use mi_kernel::Result;
use serde::Deserialize;
use url::Url;

use crate::unknown;

/// Something outside the platform that agents can use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Integration {
    /// Name to refer to it by. A model provider's is the provider's.
    pub name: String,
    /// Other names that are taken for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What kind of thing it is, e.g. `model` or `chat`.
    pub category: String,
    /// What it is for.
    pub description: String,
    /// What it takes.
    #[serde(rename = "secret")]
    pub secrets: Vec<SecretSpec>,
    /// How the platform calls it for agents; none: it does not.
    pub broker: Option<Broker>,
}

/// A secret that an integration takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    /// Name to set it by.
    pub name: String,
    /// Environment variable that it is known by.
    pub env: String,
    /// What it is and where to get one.
    pub description: String,
    /// Whether the integration does not work without it.
    #[serde(default = "required")]
    pub required: bool,
    /// Whether agents for which the integration is enabled get it as that variable, because programs that they run want it
    /// there. Never a key of a model provider.
    #[serde(default)]
    pub in_environment: bool,
}

fn required() -> bool {
    true
}

/// How the platform calls an integration for agents, with a secret that they do not see.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Where it is: the one host that is called, and what paths begin with.
    pub base_url: Url,
    /// The header that shows the secret.
    pub header: String,
    /// Its value, with `{NAME}` for the secret of that name.
    pub value: String,
    /// What may be called.
    pub allow: Vec<Allowed>,
}

/// Calls that are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// Methods, e.g. `GET`.
    pub methods: Vec<String>,
    /// Path below the base; `*` for one segment, a last `**` for the rest.
    pub path: String,
}

impl Integration {
    /// A secret by name.
    ///
    /// # Errors
    /// `Invalid`, listing the secrets there are.
    pub fn secret(&self, field: &'static str, name: &str) -> Result<&SecretSpec> {
        let found = self.secrets.iter().find(|spec| spec.name == name);
        found.ok_or_else(|| unknown(field, None, self.secrets.iter().map(|spec| &spec.name)))
    }
}
