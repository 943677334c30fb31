//! The file, as it is written.

use std::path::PathBuf;

use mi_kernel::{Error, Result, secret::Secret};
use serde::Deserialize;
use url::Url;

use crate::{
    Catalogue, Integration, Model, ModelApi, Provider, Role, Served, Skill, Tier, Tool,
    check::{Check, check},
    lines::Lines,
};

/// Longest file, in bytes.
pub(crate) const MAX_FILE: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(rename = "provider", default)]
    pub(crate) providers: Vec<ProviderEntry>,
    #[serde(rename = "model", default)]
    pub(crate) models: Vec<Model>,
    #[serde(rename = "tool", default)]
    pub(crate) tools: Vec<Tool>,
    #[serde(rename = "tier", default)]
    pub(crate) tiers: Vec<TierEntry>,
    #[serde(rename = "role", default)]
    pub(crate) roles: Vec<Role>,
    #[serde(rename = "skill", default)]
    pub(crate) skills: Vec<Skill>,
    #[serde(rename = "integration", default)]
    pub(crate) integrations: Vec<Integration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProviderEntry {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    pub(crate) api: ModelApi,
    pub(crate) base_url: Url,
    pub(crate) key_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) open: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TierEntry {
    pub(crate) name: String,
    pub(crate) provider: String,
    pub(crate) model: String,
    #[serde(default)]
    pub(crate) also: Vec<Served>,
}

impl Catalogue {
    /// Reads a catalogue.
    ///
    /// # Errors
    /// `Invalid` when the text is too long, does not parse, or contradicts itself. It says what is wrong in which line:
    /// all that contradicts, or the first thing that does not parse.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_FILE {
            return Err(Error::invalid("catalogue", format!("must have at most {MAX_FILE} bytes")));
        }
        let lines = Lines::read(text)?;
        let file: File = toml::from_str(text).map_err(|error| lines.unparsed(&error))?;
        let mut wrong = Check::new(&lines);
        check(&file, &mut wrong);
        let mut keys = Vec::new();
        for (n, entry) in file.providers.iter().enumerate() {
            keys.push(match entry.key_file.as_ref().map(key_of).transpose() {
                Ok(key) => key,
                Err(problem) => {
                    wrong.note(&format!("provider.{n}.key_file"), problem);
                    None
                }
            });
        }
        wrong.done()?;
        let providers = file.providers.into_iter().zip(keys).map(|(entry, key)| {
            let ProviderEntry { name, aliases, api, base_url, open, .. } = entry;
            Provider { name, aliases, api, base_url, key, open }
        });
        let tiers = file.tiers.into_iter().map(|TierEntry { name, provider, model, also }| Tier {
            name,
            served: std::iter::once(Served { provider, model }).chain(also).collect(),
        });
        Ok(Self {
            providers: providers.collect(),
            models: file.models,
            tools: file.tools,
            tiers: tiers.collect(),
            roles: file.roles,
            skills: file.skills,
            integrations: file.integrations,
            fallback: None,
        })
    }
}

/// The key in a file; it becomes the value of a header.
fn key_of(file: &PathBuf) -> Result<Secret, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    match text.trim() {
        "" => Err(format!("{shown} is empty")),
        key if key.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Secret::new(key)),
        _ => Err(format!("{shown} holds more than one word of printable ASCII: a key is sent as a header")),
    }
}
