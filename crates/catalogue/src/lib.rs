//! The catalogue: what an installation offers, from one file. Model providers with their models and prices, tiers and roles
//! to hire by, integrations.
//!
//! Every role reads the same file, so that a price means the same to whoever reserves and to whoever shows it.

mod check;
mod integration;
mod lines;
mod model;
mod parse;
mod role;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use mi_kernel::{Error, Result, secret::Secret};
use url::Url;

pub use self::{
    integration::{Allowed, Broker, Integration, SecretSpec},
    model::{Model, ModelApi, Price, Provider, Served, Tier, Tool},
    role::{Role, Skill},
};

/// What an installation offers.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// Model providers, in the order of the file, as are all lists here.
    pub providers: Vec<Provider>,
    /// Models of providers, with prices.
    pub models: Vec<Model>,
    /// Server-side tools of providers that bill by call.
    pub tools: Vec<Tool>,
    /// Model tiers to hire by.
    pub tiers: Vec<Tier>,
    /// Role templates to hire by.
    pub roles: Vec<Role>,
    /// Skills that take integrations, and those that roles name. Hires may name any others.
    pub skills: Vec<Skill>,
    /// What an office can integrate. Every provider has an integration, which keeps its key.
    pub integrations: Vec<Integration>,
    /// The provider that serves every tier whose own provider an office has no key for: the server that the operator
    /// named with `--model-url`.
    pub fallback: Option<String>,
}

impl Catalogue {
    /// The catalogue in a file, or the built-in one.
    ///
    /// # Errors
    /// `Invalid` when the file cannot be read, and as [`Catalogue::parse`].
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let Some(path) = file else { return Self::built_in() };
        Self::parse(&Self::text_of(path)?).map_err(|mut error| {
            error.message.push_str(&format!(" ({})", path.display()));
            error
        })
    }

    /// What is in a file, not much more than may be.
    ///
    /// # Errors
    /// `Invalid` when it cannot be read.
    pub fn text_of(path: &Path) -> Result<String> {
        let mut text = String::new();
        let most = u64::try_from(parse::MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
        match File::open(path).and_then(|file| file.take(most).read_to_string(&mut text)) {
            Ok(_) => Ok(text),
            Err(error) => {
                let problem = format!("cannot be read: {}: {error}", path.display());
                Err(Error::invalid("catalogue", problem).caused_by(error))
            }
        }
    }

    /// The built-in one.
    ///
    /// # Errors
    /// As [`Catalogue::parse`]: a fault of the build.
    pub fn built_in() -> Result<Self> {
        Self::parse(include_str!("catalogue.toml"))
    }

    /// Has a server of the operator's choice stand for the provider that speaks this protocol, and for every provider that
    /// an office has no key for.
    ///
    /// # Errors
    /// `Invalid` when no provider speaks it.
    pub fn with_server(mut self, api: ModelApi, base_url: Url, key: Option<Secret>) -> Result<Self> {
        let speaks = |provider: &&mut Provider| provider.api == api;
        let provider = self.providers.iter_mut().find(speaks);
        let provider =
            provider.ok_or_else(|| Error::invalid("model_api", "is one that no provider of the catalogue speaks"))?;
        provider.base_url = base_url;
        provider.key = key;
        provider.open = true;
        self.fallback = Some(provider.name.clone());
        Ok(self)
    }

    /// A tier by name.
    ///
    /// # Errors
    /// `Invalid`, listing the tiers there are.
    pub fn tier(&self, field: &'static str, name: &str) -> Result<&Tier> {
        let found = self.tiers.iter().find(|tier| tier.name == name);
        found.ok_or_else(|| unknown(field, Some(name), self.tiers.iter().map(|tier| &tier.name)))
    }

    /// A role by name.
    ///
    /// # Errors
    /// `Invalid`, listing the roles there are.
    pub fn role(&self, field: &'static str, name: &str) -> Result<&Role> {
        let found = self.roles.iter().find(|role| role.name == name);
        found.ok_or_else(|| unknown(field, Some(name), self.roles.iter().map(|role| &role.name)))
    }

    /// A provider by its name or an alias.
    ///
    /// # Errors
    /// `Invalid`, listing the providers there are.
    pub fn provider(&self, field: &'static str, name: &str) -> Result<&Provider> {
        let found =
            self.providers.iter().find(|provider| provider.name == name || provider.aliases.iter().any(|a| a == name));
        found.ok_or_else(|| unknown(field, Some(name), self.providers.iter().map(|provider| &provider.name)))
    }

    /// An integration by its name or an alias. What was sent is not repeated in the error: somebody may have put a secret
    /// there.
    ///
    /// # Errors
    /// `Invalid`, listing the integrations there are.
    pub fn integration(&self, field: &'static str, name: &str) -> Result<&Integration> {
        let found =
            self.integrations.iter().find(|known| known.name == name || known.aliases.iter().any(|a| a == name));
        found.ok_or_else(|| unknown(field, None, self.integrations.iter().map(|known| &known.name)))
    }

    /// The integrations that these skills take. A skill that the catalogue does not know takes none.
    pub fn integrations_of(&self, skills: &[String]) -> BTreeSet<String> {
        let names = skills.iter().flat_map(|word| match self.skills.iter().find(|skill| skill.name == *word) {
            Some(skill) => skill.integrations.as_slice(),
            None => std::slice::from_ref(word),
        });
        names.filter_map(|name| self.integration("skills", name).ok()).map(|known| known.name.clone()).collect()
    }

    /// Names of the providers that serve a tier, its own first.
    pub fn providers_of<'a>(&'a self, tier: &'a Tier) -> Vec<&'a str> {
        let mut names: Vec<&str> = tier.served.iter().map(|served| served.provider.as_str()).collect();
        names.extend(self.fallback.as_deref().filter(|fallback| !names.contains(fallback)));
        names
    }

    /// A provider's model by the provider's own name of it.
    pub fn model(&self, provider: &str, id: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.provider == provider && model.id == id)
    }

    /// What a tier's model costs and may answer at a provider: as the catalogue says, or, at the server that stands for
    /// all of them, as at the tier's own provider.
    pub fn served(&self, tier: &Tier, provider: &str) -> Option<&Model> {
        let via = tier.served.iter().find(|served| served.provider == provider);
        let own = || tier.served.first().filter(|_| self.fallback.as_deref() == Some(provider));
        let served = via.or_else(own)?;
        self.model(&served.provider, &served.model)
    }
}

/// A catalogue that all parts of a role share, and that is replaced as a whole when its file changes.
#[derive(Debug, Clone)]
pub struct Catalogues(Arc<RwLock<Arc<Catalogue>>>);

impl Catalogues {
    /// Begins with this one.
    pub fn new(catalogue: Catalogue) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(catalogue))))
    }

    /// The one to go by now. A call keeps to the one that it began with.
    pub fn current(&self) -> Arc<Catalogue> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has another one count from now on.
    pub fn replace(&self, catalogue: Catalogue) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
    }
}

fn unknown<'a>(field: &'static str, name: Option<&str>, known: impl Iterator<Item = &'a String>) -> Error {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let shown = name.map(|name| format!("{:?} ", name.chars().take(40).collect::<String>())).unwrap_or_default();
    Error::invalid(field, format!("{shown}is unknown; known are {}", known.join(", ")))
}
