//! What an office allows, and the rules for changing it.

use std::collections::HashSet;

use mi_kernel::{Error, Result};
use mi_proto::{fields, v1};
use serde::{Deserialize, Serialize};

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;
/// The shortest time for which history is kept, in seconds: longer than ids of requests are remembered, and than anybody
/// types by mistake.
const MIN_RETENTION: i64 = 3 * DAY;
const MAX_RETENTION: i64 = 3660 * DAY;
/// The shortest and the longest time without work after which an agent that an agent hired is fired, in seconds.
const MIN_IDLE: i64 = MINUTE;
const MAX_IDLE: i64 = 365 * DAY;
/// Most fields that one update names.
const MAX_FIELDS: usize = 100;

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
    /// Seconds for which finished tasks are kept; 0: for ever.
    pub finished_task_retention_seconds: i64,
    /// Seconds for which changes of the drive are kept; 0: for ever.
    pub drive_change_retention_seconds: i64,
    /// Seconds for which messages are kept; 0: for ever.
    pub message_retention_seconds: i64,
    /// Whether agents may use any model that has a price.
    pub allow_any_model: bool,
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
            finished_task_retention_seconds: 0,
            drive_change_retention_seconds: 0,
            message_retention_seconds: 0,
            allow_any_model: false,
        }
    }
}

impl Settings {
    /// Takes over the fields that the mask names, and answers these, each once; nothing changes when one of them is wrong.
    ///
    /// # Errors
    /// `Invalid` for a mask without fields or with far too many, an unknown field, a value out of range, and for another
    /// value of a setting that nothing heeds yet.
    pub fn update(&mut self, given: &v1::OfficeSettings, mask: &[String]) -> Result<Vec<String>> {
        if mask.is_empty() {
            return Err(Error::invalid("update_mask", "must name at least one field of the settings"));
        }
        if mask.len() > MAX_FIELDS {
            return Err(Error::invalid("update_mask", format!("must name at most {MAX_FIELDS} fields")));
        }
        let mut paths = mask.iter().map(|path| field_name(path)).collect::<Result<Vec<String>>>()?;
        let mut seen = HashSet::new();
        paths.retain(|path| seen.insert(path.clone()));
        let mut next = self.clone();
        for path in &paths {
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
                "idle_fire_after" => {
                    next.idle_fire_after_seconds = idle_for(given.idle_fire_after.as_ref())?;
                }
                "verification" => next.verify_by_peer = by_peer(given.verification)?,
                "model_budget_per_task" => {
                    if given.model_budget_per_task < 0 {
                        let text = "must be 0 (no limit) or more micro-credits";
                        return Err(Error::invalid("model_budget_per_task", text));
                    }
                    next.model_budget_per_task = given.model_budget_per_task;
                }
                "finished_task_retention" => {
                    next.finished_task_retention_seconds =
                        kept_for("finished_task_retention", given.finished_task_retention.as_ref())?;
                }
                "drive_change_retention" => {
                    next.drive_change_retention_seconds =
                        kept_for("drive_change_retention", given.drive_change_retention.as_ref())?;
                }
                "message_retention" => {
                    next.message_retention_seconds = kept_for("message_retention", given.message_retention.as_ref())?;
                }
                "allow_any_model" => next.allow_any_model = given.allow_any_model,
                other => return Err(unknown(other)),
            }
        }
        *self = next;
        Ok(paths)
    }

    /// Whether nothing is deleted because of its age.
    pub fn keeps_all(&self) -> bool {
        let kept_for =
            [self.finished_task_retention_seconds, self.drive_change_retention_seconds, self.message_retention_seconds];
        kept_for == [0; 3]
    }

    /// What a hire takes that names neither tier nor provider.
    pub fn hire_defaults(&self) -> (&str, &str) {
        (&self.default_model_tier, &self.default_provider)
    }

    /// Whether a hire that names neither tier nor provider gets what these say, now that fields of these names were changed.
    ///
    /// # Errors
    /// `Invalid`, naming the field that has to be another one.
    pub fn check_defaults(&self, changed: &[String], tiers: &[v1::ModelTier]) -> Result<()> {
        let (tier, provider) = self.hire_defaults();
        let Some(tier) = tiers.iter().find(|known| known.name == tier) else {
            let known: Vec<&str> = tiers.iter().map(|tier| tier.name.as_str()).collect();
            let problem = format!("{tier:?} is no model tier of this platform; known are {}", known.join(", "));
            return Err(Error::invalid("default_model_tier", problem));
        };
        if provider.is_empty() || tier.providers.iter().any(|serves| serves == provider) {
            return Ok(());
        }
        let serves = format!("the tier {:?} is served by {}", tier.name, tier.providers.join(", "));
        Err(match changed.iter().any(|path| path == "default_provider") {
            true => Error::invalid("default_provider", format!("cannot be {provider:?}: {serves}, or leave it empty")),
            false => Error::invalid(
                "default_model_tier",
                format!("does not go with the default_provider {provider:?}: {serves}; change both, or empty that one"),
            ),
        })
    }

    /// The settings for the wire.
    pub fn to_wire(&self) -> v1::OfficeSettings {
        let duration = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let verification = if self.verify_by_peer { v1::Verification::Peer } else { v1::Verification::None };
        v1::OfficeSettings {
            allow_agent_hiring: self.allow_agent_hiring,
            max_agents: Some(self.max_agents),
            max_hire_depth: Some(self.max_hire_depth),
            hires_per_10_minutes: Some(self.hires_per_10_minutes),
            default_model_tier: self.default_model_tier.clone(),
            default_provider: self.default_provider.clone(),
            idle_fire_after: duration(self.idle_fire_after_seconds),
            verification: verification.into(),
            model_budget_per_task: self.model_budget_per_task,
            finished_task_retention: duration(self.finished_task_retention_seconds),
            drive_change_retention: duration(self.drive_change_retention_seconds),
            message_retention: duration(self.message_retention_seconds),
            allow_any_model: self.allow_any_model,
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

/// The field's own name, in whichever of its spellings it was given.
fn field_name(path: &str) -> Result<String> {
    let field = fields::field("mi.v1.OfficeSettings", path).ok_or_else(|| unknown(path))?;
    Ok(field.name().to_owned())
}

fn unknown(path: &str) -> Error {
    let shown: String = path.chars().take(80).collect();
    Error::invalid("update_mask", format!("names {shown:?}, which is no field of the settings"))
}

/// How long history is kept, in seconds; 0: for ever.
fn kept_for(field: &'static str, value: Option<&prost_types::Duration>) -> Result<i64> {
    match value {
        None => Ok(0),
        Some(d) if d.nanos == 0 && (d.seconds == 0 || (MIN_RETENTION..=MAX_RETENTION).contains(&d.seconds)) => {
            Ok(d.seconds)
        }
        Some(_) => Err(Error::invalid(field, "must be 0 (keep all) or whole seconds between 3 and 3660 days")),
    }
}

fn idle_for(given: Option<&prost_types::Duration>) -> Result<i64> {
    let whole = given.filter(|given| given.nanos == 0).map(|given| given.seconds);
    let known = whole.filter(|seconds| *seconds == 0 || (MIN_IDLE..=MAX_IDLE).contains(seconds));
    known.ok_or_else(|| {
        let problem = format!("must be whole seconds, {MIN_IDLE} to {MAX_IDLE}, or 0 for never");
        Error::invalid("idle_fire_after", problem)
    })
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
        settings.update(&given, &owned(mask)).map(|_| settings)
    }

    fn owned(mask: &[&str]) -> Vec<String> {
        mask.iter().map(ToString::to_string).collect()
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
            ..Default::default()
        };
        for (settings, path, field) in [
            (given(Some(-1), ""), "max_agents", "max_agents"),
            (given(Some(10_001), ""), "max_agents", "max_agents"),
            (given(None, ""), "max_agents", "max_agents"),
            (given(None, "a b"), "default_model_tier", "default_model_tier"),
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
    fn both_spellings_of_a_field_are_one() {
        let given = v1::OfficeSettings { allow_agent_hiring: true, max_agents: Some(7), ..Default::default() };
        let mut settings = Settings::default();
        let mask = owned(&["maxAgents", "allow_agent_hiring", "allowAgentHiring"]);
        assert_eq!(settings.update(&given, &mask).expect("valid"), ["max_agents", "allow_agent_hiring"]);
        assert_eq!(settings, Settings { allow_agent_hiring: true, max_agents: 7, ..Settings::default() });
    }

    #[test]
    fn agents_may_be_idle_for_whole_seconds_within_reason() {
        let given = |given: Option<(i64, i32)>| v1::OfficeSettings {
            idle_fire_after: given.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }),
            ..Default::default()
        };
        for seconds in [0, 60, 601, 365 * DAY] {
            let set = update(given(Some((seconds, 0))), &["idle_fire_after"]).expect("fine");
            assert_eq!(set, Settings { idle_fire_after_seconds: seconds, ..Settings::default() });
        }
        for wrong in [None, Some((59, 0)), Some((60, 1)), Some((-60, 0)), Some((365 * DAY + 1, 0)), Some((0, 1))] {
            assert_eq!(update(given(wrong), &["idle_fire_after"]).expect_err("wrong").field, Some("idle_fire_after"));
        }
    }

    #[test]
    fn a_task_may_have_a_ceiling() {
        let given = |model_budget_per_task| v1::OfficeSettings { model_budget_per_task, ..Default::default() };
        for ceiling in [0, 1, i64::MAX] {
            let settings = update(given(ceiling), &["model_budget_per_task"]).expect("fine");
            assert_eq!(settings.model_budget_per_task, ceiling);
        }
        let refused = update(given(-1), &["model_budget_per_task"]).expect_err("negative");
        assert_eq!(refused.field, Some("model_budget_per_task"));
    }

    #[test]
    fn defaults_are_such_that_a_hire_works() {
        let tier = |name: &str, provider: &str| v1::ModelTier {
            name: name.into(),
            provider: provider.into(),
            providers: vec![provider.into(), "router".into()],
            ..v1::ModelTier::default()
        };
        let tiers = [tier("sonnet", "anthropic"), tier("gpt", "openai")];
        let check = |tier: &str, provider: &str, changed: &[&str]| {
            let (default_model_tier, default_provider) = (tier.into(), provider.into());
            let settings = Settings { default_model_tier, default_provider, ..Settings::default() };
            settings.check_defaults(&owned(changed), &tiers).map_err(|error| error.field)
        };
        for (tier, provider) in [("sonnet", ""), ("sonnet", "anthropic"), ("gpt", "openai"), ("gpt", "router")] {
            assert_eq!(check(tier, provider, &["default_model_tier", "default_provider"]), Ok(()));
        }
        for (tier, provider, changed, field) in [
            ("zzz", "", "default_model_tier", "default_model_tier"),
            ("sonnet", "zzz", "default_provider", "default_provider"),
            ("sonnet", "openai", "default_provider", "default_provider"),
            // The tier does not go with the provider that was there.
            ("gpt", "anthropic", "default_model_tier", "default_model_tier"),
        ] {
            assert_eq!(check(tier, provider, &[changed]), Err(Some(field)), "{tier} {provider}");
        }
    }

    #[test]
    fn nobody_deletes_by_a_slip() {
        let kept = |value: Option<(i64, i32)>| {
            let message_retention = value.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
            let given = v1::OfficeSettings { message_retention, ..Default::default() };
            update(given, &["message_retention"]).map(|settings| settings.message_retention_seconds)
        };
        for (given, seconds) in
            [(Some((0, 0)), 0), (None, 0), (Some((3 * DAY, 0)), 3 * DAY), (Some((3660 * DAY, 0)), 3660 * DAY)]
        {
            assert_eq!(kept(given).expect("fine"), seconds);
        }
        for given in [(30, 0), (3 * DAY - 1, 0), (3660 * DAY + 1, 0), (3 * DAY, 1), (0, 1), (-1, 0)] {
            assert_eq!(kept(Some(given)).expect_err("a slip").field, Some("message_retention"));
        }
    }

    #[test]
    fn the_wire_form_updates_to_itself() {
        let mask = [
            "max_agents",
            "max_hire_depth",
            "idle_fire_after",
            "verification",
            "default_model_tier",
            "finished_task_retention",
        ];
        assert_eq!(update(Settings::default().to_wire(), &mask).expect("own form"), Settings::default());
    }
}
