//! Providers, their models with prices, and the tiers that name one of them.

use mi_kernel::secret::Secret;
use serde::Deserialize;
use strum::{EnumString, IntoStaticStr};
use url::Url;

/// How a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum ModelApi {
    /// Messages, as Anthropic serves them.
    Anthropic,
    /// Chat completions, responses and embeddings, as OpenAI and many others serve them.
    OpenAi,
    /// `generateContent`, as Google serves it.
    Gemini,
}

/// Who serves models.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Name to refer to it by, in routes, hires and secrets.
    pub name: String,
    /// Other names that are taken for it.
    pub aliases: Vec<String>,
    /// How it is spoken to.
    pub api: ModelApi,
    /// Where it is. For OpenAI's protocol with the `/v1` of its paths, for the others without a version.
    pub base_url: Url,
    /// The key of the installation, for offices that have none of their own.
    pub key: Option<Secret>,
    /// Whether it is used for offices without a key even though the installation has none: it wants to see none.
    pub open: bool,
}

impl Provider {
    /// Whether it can be used without a key of the office.
    pub fn works_without_office(&self) -> bool {
        self.open || self.key.is_some()
    }
}

/// Micro-credits for a million tokens, by kind. A provider counts each token as one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of the request, as far as no other kind says more.
    pub input: i64,
    /// Of the answer, as far as no other kind says more.
    pub output: i64,
    /// Of the request, where it was found in the provider's cache; none: as input.
    pub cache_read: Option<i64>,
    /// Of the request, where it was put into the provider's cache; none: as input.
    pub cache_write: Option<i64>,
    /// Of the model's thoughts, where they are billed apart; none: as output.
    pub reasoning: Option<i64>,
}

/// A model of a provider.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Who serves it.
    pub provider: String,
    /// The provider's name of it.
    pub id: String,
    /// Most tokens of everything that it is shown at once; none: not known.
    pub context: Option<i64>,
    /// Most tokens that it answers with; 0 for one that answers without tokens, as embeddings do.
    pub max_output: i64,
    /// What it costs.
    pub price: Price,
}

/// A tool that a provider runs on its own servers and bills by call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Who runs it.
    pub provider: String,
    /// What the type of the tool in a request begins with, e.g. `web_search`.
    pub name: String,
    /// Micro-credits a call.
    pub price: i64,
}

/// A model at a provider.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// Who serves it.
    pub provider: String,
    /// The provider's name of it.
    pub model: String,
}

/// A model tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Name to hire by.
    pub name: String,
    /// Its model at each provider that serves it, its own first. Never empty.
    pub served: Vec<Served>,
}

impl Tier {
    /// The provider to use when none is asked for.
    pub fn provider(&self) -> &str {
        &self.served[0].provider
    }

    /// The name of its model at a provider; none: that one does not serve it.
    pub fn model_at(&self, provider: &str) -> Option<&str> {
        self.served.iter().find(|served| served.provider == provider).map(|served| served.model.as_str())
    }
}
