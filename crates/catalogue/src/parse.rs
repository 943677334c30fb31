//! The file, as it is written, and what is wrong with it.

use std::{collections::BTreeSet, path::PathBuf};

use mi_kernel::{Error, Result, secret::Secret};
use serde::Deserialize;
use url::Url;

use crate::{Catalogue, Integration, Model, ModelApi, Provider, Role, Served, Tier, Tool};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "provider", default)]
    providers: Vec<ProviderEntry>,
    #[serde(rename = "model", default)]
    models: Vec<Model>,
    #[serde(rename = "tool", default)]
    tools: Vec<Tool>,
    #[serde(rename = "tier", default)]
    tiers: Vec<TierEntry>,
    #[serde(rename = "role", default)]
    roles: Vec<Role>,
    #[serde(rename = "integration", default)]
    integrations: Vec<Integration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderEntry {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    api: ModelApi,
    base_url: Url,
    key_file: Option<PathBuf>,
    #[serde(default)]
    open: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TierEntry {
    name: String,
    provider: String,
    model: String,
    #[serde(default)]
    also: Vec<Served>,
}

impl Catalogue {
    /// Reads a catalogue.
    ///
    /// # Errors
    /// `Invalid` when the text does not parse or contradicts itself.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| invalid(format!("does not parse: {error}")))?;
        let providers = file.providers.into_iter().map(provider).collect::<Result<Vec<_>>>()?;
        let tiers = file.tiers.into_iter().map(|TierEntry { name, provider, model, also }| Tier {
            name,
            served: std::iter::once(Served { provider, model }).chain(also).collect(),
        });
        let catalogue = Self {
            providers,
            models: file.models,
            tools: file.tools,
            tiers: tiers.collect(),
            roles: file.roles,
            integrations: file.integrations,
            fallback: None,
        };
        catalogue.check()?;
        Ok(catalogue)
    }

    fn check(&self) -> Result<()> {
        let names: Vec<&str> = self.tiers.iter().map(|tier| tier.name.as_str()).collect();
        let distinct: BTreeSet<&str> = names.iter().copied().collect();
        if names.is_empty() || distinct.len() != names.len() || distinct.contains("") {
            return Err(invalid("needs at least one tier, and each name of a tier once"));
        }
        for tier in &self.tiers {
            for Served { provider, model } in &tier.served {
                if self.model(provider, model).is_none() {
                    let name = &tier.name;
                    return Err(invalid(format!("has the tier {name:?} without a price: {provider} has no {model:?}")));
                }
            }
        }
        Ok(())
    }
}

fn provider(entry: ProviderEntry) -> Result<Provider> {
    let ProviderEntry { name, aliases, api, base_url, key_file, open } = entry;
    let key = key_file.map(|file| match std::fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => Ok(Secret::new(text.trim())),
        Ok(_) => Err(invalid(format!("names a key file that is empty: {}", file.display()))),
        Err(error) => {
            Err(invalid(format!("names a key file that cannot be read: {}", file.display())).caused_by(error))
        }
    });
    Ok(Provider { name, aliases, api, base_url, key: key.transpose()?, open })
}

fn invalid(problem: impl std::fmt::Display) -> Error {
    Error::invalid("catalogue", problem)
}
