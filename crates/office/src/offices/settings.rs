//! What an office allows, and the rules for changing it.

use std::collections::HashSet;

use mi_kernel::{Error, Result};
use mi_proto::v1;
use serde::{Deserialize, Serialize};

const MINUTE: i64 = 60;
/// Most fields that one update names.
const MAX_FIELDS: usize = 100;
/// Longest `idle_fire_after`, in seconds.
const YEAR: i64 = 366 * 24 * 60 * MINUTE;

/// What an office allows. Stored as JSON; a field added later takes its default in old rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Whether agents may hire.
    pub allow_agent_hiring: bool,
    /// Most agents.
    pub max_agents: i32,
    /// Deepest level of the hiring tree below operators' hires.
    pub max_hire_depth: i32,
    /// Most hires by agents in ten minutes.
    pub hires_per_10_minutes: i32,
    /// Tier of a hire that names none.
    pub default_model_tier: String,
    /// Provider of a hire that names none; empty: the tier's.
    pub default_provider: String,
    /// Seconds without work after which an agent's hire is fired; 0: never.
    pub idle_fire_after_seconds: i64,
    /// Whether completions are verified by a peer.
    pub verify_by_peer: bool,
    /// Most micro-credits a task's models may cost; 0: no limit.
    pub model_budget_per_task: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allow_agent_hiring: false,
            max_agents: 50,
            max_hire_depth: 2,
            hires_per_10_minutes: 3,
            default_model_tier: "sonnet".into(),
            default_provider: String::new(),
            idle_fire_after_seconds: 10 * MINUTE,
            verify_by_peer: false,
            model_budget_per_task: 0,
        }
    }
}

impl Settings {
    /// Takes over the fields that the mask names, and answers these, each once; nothing changes when one of them is wrong.
    ///
    /// # Errors
    /// `Invalid` for a mask without fields or with far too many, an unknown field or a value out of range.
    pub(crate) fn update(&mut self, given: &v1::OfficeSettings, mut mask: Vec<String>) -> Result<Vec<String>> {
        if mask.is_empty() {
            return Err(Error::invalid("update_mask", "must name at least one field of the settings"));
        }
        if mask.len() > MAX_FIELDS {
            return Err(Error::invalid("update_mask", format!("must name at most {MAX_FIELDS} fields")));
        }
        let mut seen = HashSet::new();
        mask.retain(|path| seen.insert(path.clone()));
        let mut next = self.clone();
        for path in &mask {
            match path.as_str() {
                "allow_agent_hiring" => next.allow_agent_hiring = given.allow_agent_hiring,
                "max_agents" => next.max_agents = within("max_agents", given.max_agents, 10_000)?,
                "max_hire_depth" => next.max_hire_depth = within("max_hire_depth", given.max_hire_depth, 16)?,
                "hires_per_10_minutes" => {
                    next.hires_per_10_minutes = within("hires_per_10_minutes", given.hires_per_10_minutes, 1000)?;
                }
                "default_model_tier" => {
                    next.default_model_tier = word("default_model_tier", &given.default_model_tier)?
                }
                "default_provider" if given.default_provider.is_empty() => next.default_provider.clear(),
                "default_provider" => next.default_provider = word("default_provider", &given.default_provider)?,
                "idle_fire_after" => next.idle_fire_after_seconds = idle(given.idle_fire_after.as_ref())?,
                "verification" => next.verify_by_peer = by_peer(given.verification)?,
                "model_budget_per_task" if given.model_budget_per_task < 0 => {
                    return Err(Error::invalid("model_budget_per_task", "must not be negative; 0 means no limit"));
                }
                "model_budget_per_task" => next.model_budget_per_task = given.model_budget_per_task,
                unknown => {
                    let shown: String = unknown.chars().take(80).collect();
                    return Err(Error::invalid(
                        "update_mask",
                        format!("names {shown:?}, which is no field of the settings"),
                    ));
                }
            }
        }
        *self = next;
        Ok(mask)
    }

    /// The settings for the wire.
    pub fn to_wire(&self) -> v1::OfficeSettings {
        let verification = if self.verify_by_peer { v1::Verification::Peer } else { v1::Verification::None };
        v1::OfficeSettings {
            allow_agent_hiring: self.allow_agent_hiring,
            max_agents: Some(self.max_agents),
            max_hire_depth: Some(self.max_hire_depth),
            hires_per_10_minutes: Some(self.hires_per_10_minutes),
            default_model_tier: self.default_model_tier.clone(),
            default_provider: self.default_provider.clone(),
            idle_fire_after: Some(prost_types::Duration { seconds: self.idle_fire_after_seconds, nanos: 0 }),
            verification: verification.into(),
            model_budget_per_task: self.model_budget_per_task,
        }
    }
}

fn within(field: &'static str, value: Option<i32>, most: i32) -> Result<i32> {
    match value {
        Some(value) if (0..=most).contains(&value) => Ok(value),
        Some(_) => Err(Error::invalid(field, format!("must be between 0 and {most}"))),
        None => Err(Error::invalid(field, "is in update_mask but not in settings")),
    }
}

fn word(field: &'static str, text: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return Err(Error::invalid(field, "must be 1 to 64 letters, digits, hyphens, dots and underscores"));
    }
    Ok(text.to_owned())
}

fn idle(value: Option<&prost_types::Duration>) -> Result<i64> {
    match value {
        None => Err(Error::invalid("idle_fire_after", "is in update_mask but not in settings")),
        Some(d) if d.nanos == 0 && (0..=YEAR).contains(&d.seconds) => Ok(d.seconds),
        Some(_) => Err(Error::invalid("idle_fire_after", "must be whole seconds between 0 (never) and 366 days")),
    }
}

fn by_peer(value: i32) -> Result<bool> {
    match v1::Verification::try_from(value) {
        Ok(v1::Verification::None) => Ok(false),
        Ok(v1::Verification::Peer) => Ok(true),
        Ok(v1::Verification::Unspecified) | Err(_) => {
            Err(Error::invalid("verification", "must be VERIFICATION_NONE or VERIFICATION_PEER"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(given: v1::OfficeSettings, mask: &[&str]) -> Result<Settings> {
        let mut settings = Settings::default();
        let mask: Vec<String> = mask.iter().map(ToString::to_string).collect();
        settings.update(&given, mask).map(|_| settings)
    }

    #[test]
    fn only_the_named_fields_change() {
        let given = v1::OfficeSettings {
            allow_agent_hiring: true,
            max_agents: Some(7),
            max_hire_depth: Some(9),
            ..Default::default()
        };
        let expected = Settings { allow_agent_hiring: true, max_agents: 7, ..Settings::default() };
        assert_eq!(update(given, &["allow_agent_hiring", "max_agents"]).expect("valid"), expected);
    }

    #[test]
    fn wrong_values_name_the_field() {
        let given = |max_agents, tier: &str| v1::OfficeSettings {
            max_agents,
            default_model_tier: tier.into(),
            model_budget_per_task: -1,
            ..Default::default()
        };
        for (settings, path, field) in [
            (given(Some(-1), ""), "max_agents", "max_agents"),
            (given(Some(10_001), ""), "max_agents", "max_agents"),
            (given(None, ""), "max_agents", "max_agents"),
            (given(None, "a b"), "default_model_tier", "default_model_tier"),
            (given(None, ""), "model_budget_per_task", "model_budget_per_task"),
            (given(None, ""), "verification", "verification"),
            (given(None, ""), "idle_fire_after", "idle_fire_after"),
            (given(None, ""), "nonsense", "update_mask"),
        ] {
            assert_eq!(update(settings, &[path]).expect_err(path).field, Some(field));
        }
        assert_eq!(update(given(None, ""), &[]).expect_err("empty").field, Some("update_mask"));
        let many = vec!["allow_agent_hiring"; MAX_FIELDS + 1];
        assert_eq!(update(given(None, ""), &many).expect_err("many").field, Some("update_mask"));
    }

    #[test]
    fn the_wire_form_updates_to_itself() {
        let mask = ["max_agents", "max_hire_depth", "idle_fire_after", "verification", "default_model_tier"];
        assert_eq!(update(Settings::default().to_wire(), &mask).expect("own form"), Settings::default());
    }
}
