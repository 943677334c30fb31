//! The scheduler's copy of offices: who owns them, whether they are active, and what they allow.

pub(crate) mod grpc;
pub(crate) mod repo;

use mi_kernel::{AccountId, OfficeId};
use mi_proto::v1;
use mi_store::FromRow;
use serde::{Deserialize, Serialize};

/// An office, as far as agents are concerned.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(crate) struct Office {
    pub(crate) id: OfficeId,
    pub(crate) account_id: AccountId,
    pub(crate) version: i64,
    pub(crate) active: bool,
    /// Whether it is on its way out: all agents are fired, none is hired.
    pub(crate) removing: bool,
    #[sqlx(json)]
    pub(crate) settings: HiringRules,
}

/// The settings that concern hiring and what agents may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HiringRules {
    pub(crate) allow_agent_hiring: bool,
    pub(crate) max_agents: i32,
    pub(crate) max_hire_depth: i32,
    pub(crate) hires_per_10_minutes: i32,
    pub(crate) default_model_tier: String,
    /// Seconds without work after which an agent that an agent hired is fired; 0: never.
    #[serde(default)]
    pub(crate) idle_fire_after_seconds: i64,
    #[serde(default)]
    pub(crate) default_provider: String,
    #[serde(default)]
    pub(crate) allow_any_model: bool,
}

impl From<v1::OfficeSettings> for HiringRules {
    fn from(settings: v1::OfficeSettings) -> Self {
        Self {
            allow_agent_hiring: settings.allow_agent_hiring,
            max_agents: settings.max_agents.unwrap_or_default(),
            max_hire_depth: settings.max_hire_depth.unwrap_or_default(),
            hires_per_10_minutes: settings.hires_per_10_minutes.unwrap_or_default(),
            default_model_tier: settings.default_model_tier,
            idle_fire_after_seconds: settings.idle_fire_after.map_or(0, |after| after.seconds),
            default_provider: settings.default_provider,
            allow_any_model: settings.allow_any_model,
        }
    }
}
