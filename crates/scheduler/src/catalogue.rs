//! Model tiers and role templates, from a file.

use std::{collections::BTreeSet, fs, path::Path};

use mi_kernel::{Error, Result};
use serde::Deserialize;

/// What can be hired.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Model tiers, in the order in which they are listed.
    #[serde(rename = "tier")]
    pub tiers: Vec<Tier>,
    /// Role templates.
    #[serde(rename = "role", default)]
    pub roles: Vec<Role>,
}

/// A model tier.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Name to hire by.
    pub name: String,
    /// The provider of its model.
    pub provider: String,
    /// The provider's name of the model.
    pub model_id: String,
    /// Micro-credits for a million input tokens.
    pub input_price: i64,
    /// Micro-credits for a million output tokens.
    pub output_price: i64,
}

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

impl Catalogue {
    /// The catalogue in a file, or the built-in one.
    ///
    /// # Errors
    /// `Invalid` when the file cannot be read, does not parse, or contradicts itself.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let text = match file {
            None => include_str!("catalogue.toml").to_owned(),
            Some(file) => fs::read_to_string(file).map_err(|error| {
                Error::invalid("catalogue", format!("cannot be read: {}", file.display())).caused_by(error)
            })?,
        };
        Self::parse(&text)
    }

    /// Reads a catalogue.
    ///
    /// # Errors
    /// `Invalid` when the text does not parse or contradicts itself.
    pub fn parse(text: &str) -> Result<Self> {
        let catalogue: Self = toml::from_str(text).map_err(|error| {
            Error::invalid("catalogue", format!("does not parse: {}", error.message())).caused_by(error)
        })?;
        let tiers: Vec<&str> = catalogue.tiers.iter().map(|tier| tier.name.as_str()).collect();
        let roles: Vec<&str> = catalogue.roles.iter().map(|role| role.name.as_str()).collect();
        if tiers.is_empty() || !all_names(&tiers) || !all_names(&roles) {
            return Err(Error::invalid("catalogue", "needs at least one tier, and each name of a tier or role once"));
        }
        if catalogue.tiers.iter().any(|tier| tier.input_price < 0 || tier.output_price < 0) {
            return Err(Error::invalid("catalogue", "has a negative price"));
        }
        if let Some(role) =
            catalogue.roles.iter().find(|role| !role.tier.is_empty() && !tiers.contains(&role.tier.as_str()))
        {
            return Err(Error::invalid("catalogue", format!("has the role {:?} with an unknown tier", role.name)));
        }
        Ok(catalogue)
    }

    /// A tier by name.
    ///
    /// # Errors
    /// `Invalid`, listing the tiers there are.
    pub fn tier(&self, field: &'static str, name: &str) -> Result<&Tier> {
        self.tiers
            .iter()
            .find(|tier| tier.name == name)
            .ok_or_else(|| unknown(field, name, self.tiers.iter().map(|t| &t.name)))
    }

    /// A role by name.
    ///
    /// # Errors
    /// `Invalid`, listing the roles there are.
    pub fn role(&self, field: &'static str, name: &str) -> Result<&Role> {
        self.roles
            .iter()
            .find(|role| role.name == name)
            .ok_or_else(|| unknown(field, name, self.roles.iter().map(|r| &r.name)))
    }
}

/// Whether all of them can be chosen: none is empty, none is there twice.
fn all_names(names: &[&str]) -> bool {
    let distinct: BTreeSet<&str> = names.iter().copied().collect();
    distinct.len() == names.len() && !distinct.contains("")
}

fn unknown<'a>(field: &'static str, name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let shown: String = name.chars().take(40).collect();
    let known: Vec<&str> = known.map(String::as_str).collect();
    Error::invalid(field, format!("{shown:?} is unknown; known are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_has_what_the_specification_names() {
        let catalogue = Catalogue::load(None).expect("built in");
        for tier in ["sonnet", "opus", "haiku", "gpt-5.5", "gemini-2.5-flash"] {
            assert!(catalogue.tier("model_tier", tier).is_ok(), "{tier}");
        }
        for role in ["leader", "engineer", "research-analyst", "reviewer"] {
            assert!(catalogue.role("role", role).is_ok(), "{role}");
        }
        let error = catalogue.tier("model_tier", "nope").expect_err("unknown");
        assert_eq!(error.field, Some("model_tier"));
        assert!(error.message.contains("sonnet, opus, haiku, gpt-5.5, gemini-2.5-flash"), "{error}");
    }

    #[test]
    fn broken_catalogues_are_refused() {
        let tier = "[[tier]]\nname='a'\nprovider='p'\nmodel_id='m'\ninput_price=1\noutput_price=1\n";
        let role = "[[role]]\nname='r'\ndescription='d'\nsystem_prompt='s'\n";
        let cases = [
            String::new(),
            "nonsense".into(),
            format!("{tier}{tier}"),
            tier.replace("input_price=1", "input_price=-1"),
            tier.replace("'a'", "''"),
            format!("{tier}{role}tier='b'\n"),
            format!("{tier}{role}{role}"),
            format!("{tier}{}", role.replace("'r'", "''")),
            tier.replace("name", "nam"),
        ];
        for text in cases {
            assert_eq!(Catalogue::parse(&text).expect_err(&text).field, Some("catalogue"));
        }
    }
}
