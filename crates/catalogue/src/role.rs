//! Role templates.

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
