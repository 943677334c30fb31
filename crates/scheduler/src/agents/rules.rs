//! What may be hired, by whom, and how often.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use mi_catalogue::{Catalogue, Tier};
use mi_kernel::{AgentActor, AgentId, Error, Result};
use mi_proto::{
    internal::v1::{GetHireTermsResponse, PauseAgentRequest},
    v1,
};
use mi_rpc::Access;

use super::{Agent, Resources, Spec};
use crate::offices::{HiringRules, Office};

/// Window of the rate limit for hires by agents.
pub(crate) const HIRE_WINDOW: Duration = Duration::from_secs(600);
/// When an office without credits is worth another try: somebody has to grant some.
const CREDITS_RETRY: Duration = Duration::from_secs(60);
const MAX_SKILLS: usize = 64;
const MAX_PROMPT: usize = 64 << 10;
const MAX_COMMAND: usize = 16 << 10;
const MAX_ENV: usize = 100;
const MAX_ENV_BYTES: usize = 32 << 10;
const MAX_PAUSE_MESSAGE: usize = 1024;

/// The spec that a hire asks for, role and defaults filled in. `configured` are the integrations that the office has secrets
/// for.
pub(crate) fn spec_of(
    request: &v1::HireAgentRequest,
    office: &HiringRules,
    catalogue: &Catalogue,
    configured: &[String],
) -> Result<Spec> {
    let role = match request.role.as_str() {
        "" => None,
        name => Some(catalogue.role("role", name)?),
    };
    let role_tier = role.map_or("", |role| role.tier.as_str());
    let tier = match [request.model_tier.as_str(), role_tier].into_iter().find(|tier| !tier.is_empty()) {
        Some(named) => catalogue.tier("model_tier", named)?,
        None => catalogue.tier("default_model_tier", &office.default_model_tier).map_err(|error| {
            // Set while another catalogue was in use: the request is not what is wrong.
            let text = format!("the office's {}; set another one, or name a model_tier", error.message);
            Error::precondition("MODEL_TIER_UNKNOWN", text)
        })?,
    };
    let mut skills: Vec<String> = role.map(|role| role.skills.clone()).unwrap_or_default();
    for skill in self::skills(&request.skills)? {
        if !skills.contains(&skill) {
            skills.push(skill);
        }
    }
    let prompt = match (request.system_prompt.as_str(), role) {
        ("", Some(role)) => role.system_prompt.trim(),
        (given, _) => given,
    };
    let provider = match request.provider.as_str() {
        "" => default_provider(catalogue, tier, &office.default_provider),
        asked => provider(catalogue, tier, asked, configured)?,
    };
    let mut integrations = catalogue.integrations_of(&skills);
    integrations.extend(integration_of(catalogue, &provider));
    Ok(Spec {
        model_tier: tier.name.clone(),
        provider,
        role: request.role.clone(),
        skills,
        system_prompt: system_prompt(prompt)?,
        env: env(&request.env)?,
        resources: resources(request.resources.as_ref())?,
        integrations,
        integrations_revision: 1,
        command: command(&request.command)?,
    })
}

/// The provider of a hire that names none: the office's default where that serves the tier, else the tier's own.
fn default_provider(catalogue: &Catalogue, tier: &Tier, default: &str) -> String {
    let default = catalogue.provider("default_provider", default).ok().map(|provider| provider.name.as_str());
    default.filter(|name| catalogue.served(tier, name).is_some()).unwrap_or(tier.provider()).to_owned()
}

/// The provider that is asked for, if it serves the tier and there is a key for it.
pub(crate) fn provider(catalogue: &Catalogue, tier: &Tier, asked: &str, configured: &[String]) -> Result<String> {
    let provider = catalogue.provider("provider", asked)?;
    let name = &provider.name;
    if catalogue.served(tier, name).is_none() {
        let serve = catalogue.providers_of(tier).join(", ");
        let problem = format!("{name:?} does not serve the tier {:?}; served by {serve}", tier.name);
        return Err(Error::invalid("provider", problem));
    }
    if !provider.works_without_office() && !configured.contains(name) {
        let text = format!(
            "the office has no key for the provider {name:?}; set the secrets of that integration, or leave the provider \
             empty to use a default one"
        );
        return Err(Error::precondition("INTEGRATION_NOT_CONFIGURED", text));
    }
    Ok(name.clone())
}

/// The integration that keeps a provider's key; none: it needs none.
pub(crate) fn integration_of(catalogue: &Catalogue, provider: &str) -> Option<String> {
    catalogue.integration("provider", provider).ok().map(|integration| integration.name.clone())
}

/// Names of skills: short words.
pub(crate) fn skills(given: &[String]) -> Result<Vec<String>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = |skill: &String| (1..=64).contains(&skill.len()) && skill.chars().all(plain);
    if given.len() > MAX_SKILLS || !given.iter().all(good) {
        let problem =
            format!("must be at most {MAX_SKILLS} words of 1 to 64 letters, digits, hyphens, dots and underscores");
        return Err(Error::invalid("skills", problem));
    }
    Ok(given.to_vec())
}

/// Instructions: any text of bounded size without NUL, which databases refuse.
pub(crate) fn system_prompt(text: &str) -> Result<String> {
    if text.len() > MAX_PROMPT || text.contains('\0') {
        return Err(Error::invalid(
            "system_prompt",
            format!("must have at most {MAX_PROMPT} bytes and no NUL character"),
        ));
    }
    Ok(text.to_owned())
}

/// What the agent's shell runs: it gets there by the environment, which holds no NUL.
pub(crate) fn command(text: &str) -> Result<String> {
    if text.len() > MAX_COMMAND || text.contains('\0') {
        let problem = format!("must have at most {MAX_COMMAND} bytes and no NUL character");
        return Err(Error::invalid("command", problem));
    }
    Ok(text.to_owned())
}

/// Environment variables of an agent; names of its own platform's are reserved.
pub(crate) fn env(given: &HashMap<String, String>) -> Result<BTreeMap<String, String>> {
    let name_ok = |name: &str| {
        let mut bytes = name.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_uppercase() || b == b'_')
            && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            && !name.starts_with("MI_")
            && !name.starts_with("LD_")
            && name.len() <= 128
    };
    if let Some(name) = given.keys().find(|name| !name_ok(name)) {
        let shown: String = name.chars().take(40).collect();
        let problem = format!("has the name {shown:?}; names are [A-Z_][A-Z0-9_]*, without the prefixes MI_ and LD_");
        return Err(Error::invalid("env", problem));
    }
    let bytes: usize = given.iter().map(|(name, value)| name.len() + value.len()).sum();
    if given.len() > MAX_ENV || bytes > MAX_ENV_BYTES || given.values().any(|value| value.contains('\0')) {
        let problem =
            format!("must have at most {MAX_ENV} variables of {MAX_ENV_BYTES} bytes together and no NUL character");
        return Err(Error::invalid("env", problem));
    }
    Ok(given.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// Bounds of an instance.
pub(crate) fn resources(given: Option<&v1::Resources>) -> Result<Resources> {
    let given = given.copied().unwrap_or_default();
    let least_memory = 32 << 20;
    let memory_ok = given.memory_bytes == 0 || (least_memory..=1 << 50).contains(&given.memory_bytes);
    let others = [given.cpu_millis.into(), given.pids.into(), given.file_bytes, given.disk_bytes];
    if others.iter().any(|limit: &i64| *limit < 0) || !memory_ok {
        let problem = format!("must not be negative, and memory_bytes at least {least_memory} (or 0 for the default)");
        return Err(Error::invalid("resources", problem));
    }
    Ok(Resources {
        cpu_millis: given.cpu_millis,
        memory_bytes: given.memory_bytes,
        pids: given.pids,
        file_bytes: given.file_bytes,
        disk_bytes: given.disk_bytes,
    })
}

/// Whether the office takes anybody at all.
pub(crate) fn office_hires(office: &Office) -> Result<()> {
    active(office, "nobody can be hired")
}

/// Why an agent is paused, as its status tells: a word for programs, and a sentence.
pub(crate) fn pause_reason(request: &PauseAgentRequest) -> Result<String> {
    let word = &request.reason;
    if !(1..=64).contains(&word.len()) || !word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
        return Err(Error::invalid("reason", "must be 1 to 64 capital letters and underscores, e.g. LOOP_DETECTED"));
    }
    let message = request.message.trim();
    if message.is_empty() || message.len() > MAX_PAUSE_MESSAGE || message.chars().any(char::is_control) {
        let problem = format!("must be a sentence of 1 to {MAX_PAUSE_MESSAGE} bytes without control characters");
        return Err(Error::invalid("message", problem));
    }
    Ok(format!("{word}: {message}"))
}

/// Whether agents may act in the office.
pub(crate) fn office_works(office: &Office) -> Result<()> {
    active(office, "its agents have to wait")
}

fn active(office: &Office, consequence: &str) -> Result<()> {
    if office.removing || !office.active {
        let state = if office.removing { "being deleted" } else { "suspended" };
        return Err(Error::precondition("OFFICE_NOT_ACTIVE", format!("the office is {state}; {consequence}")));
    }
    Ok(())
}

/// Whether the office can pay for whom it hires.
pub(crate) fn solvent(terms: &GetHireTermsResponse) -> Result<()> {
    if terms.metered && terms.available <= 0 {
        let text = format!("{} micro-credits are left in the office, so it hires nobody", terms.available);
        return Err(Error::exhausted("OUT_OF_CREDITS", text, CREDITS_RETRY));
    }
    Ok(())
}

/// Whether an agent may hire at all, in the order of the specification: permission, balance, rate, depth.
pub(crate) fn agent_may_hire(
    rules: &HiringRules,
    terms: &GetHireTermsResponse,
    hirer_depth: usize,
    recent_hires: i64,
) -> Result<()> {
    if !rules.allow_agent_hiring {
        return Err(Error::denied("agents of this office may not hire; its owner can set allow_agent_hiring"));
    }
    solvent(terms)?;
    if recent_hires >= i64::from(rules.hires_per_10_minutes) {
        return Err(Error::exhausted(
            "HIRE_RATE",
            format!("agents of this office may hire {} in ten minutes", rules.hires_per_10_minutes),
            HIRE_WINDOW / 10,
        ));
    }
    if i64::try_from(hirer_depth).unwrap_or(i64::MAX) >= i64::from(rules.max_hire_depth) {
        return Err(Error::precondition(
            "MAX_HIRE_DEPTH",
            format!("the hiring tree of this office may be {} deep below an operator's hire", rules.max_hire_depth),
        ));
    }
    Ok(())
}

/// Whether there is room for one more.
pub(crate) fn room(rules: &HiringRules, agents: i64) -> Result<()> {
    if agents >= i64::from(rules.max_agents) {
        let text = format!("the office has {agents} agents, and max_agents is {}", rules.max_agents);
        return Err(Error::exhausted("MAX_AGENTS", text, Duration::from_secs(60)));
    }
    Ok(())
}

/// Whether the caller may do what the RPC's rule allows with this agent. Owners may; agents as themselves or as ancestors,
/// as far as the rule lists them.
pub(crate) fn may_act_on(access: &Access, rule: &[v1::Caller], target: &Agent) -> Result<()> {
    let Some(AgentActor { agent_id, .. }) = access.agent() else {
        return Ok(());
    };
    let is_self = *agent_id == target.id;
    let above = |id: &AgentId| target.lineage.contains(id);
    let allowed = rule.contains(&v1::Caller::Member)
        || (is_self && rule.contains(&v1::Caller::Self_))
        || (above(agent_id) && rule.contains(&v1::Caller::Ancestor));
    if allowed {
        return Ok(());
    }
    Err(Error::denied(format!("an agent may do this only to itself or to agents below it, not to {:?}", target.name)))
}
