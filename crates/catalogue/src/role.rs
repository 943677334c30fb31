//! Role templates, and the skills that they and hires name.

use serde::Deserialize;

/// A role template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Name to hire by.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Tier it brings; empty: the office's default.
    #[serde(default)]
    pub tier: String,
    /// Skills it brings.
    #[serde(default)]
    pub skills: Vec<String>,
    /// Instructions it brings.
    pub system_prompt: String,
}

/// Something that an agent is hired for. An integration is one, too: its name enables it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skill {
    /// Name to hire by.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Integrations that it takes, which a hire with it enables.
    #[serde(default)]
    pub integrations: Vec<String>,
}
