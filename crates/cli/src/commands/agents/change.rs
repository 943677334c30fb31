//! `mi agents promote`, `update` and `fire`, and the wait for an agent to get where it should be.

use std::time::Duration;

use clap::{Args, ValueEnum};
use mi_proto::v1::{Agent, AgentPhase, FireAgentRequest, PromoteAgentRequest, UpdateAgentRequest};
use prost_types::FieldMask;
use tokio::time::Instant;

use super::{AgentArg, get, target};
use crate::{
    answer::ask,
    context::Context,
    failure::Failure,
    input::text_or_file,
    known::{Known, by},
    options::{key_value, provider},
    wait,
};

/// How long to wait for an agent to become ready, or to be gone.
const LIMIT: Duration = Duration::from_secs(300);
/// How long an agent that had failed before may still be shown as failed after a change.
const STALE_FAILURE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    #[command(flatten)]
    agent: AgentArg,
    /// The new model tier [default: as it is]
    #[arg(long, value_name = "TIER", required_unless_present = "provider", add = by(&[Known::Models]))]
    model: Option<String>,
    /// The new provider; the colony needs a key for it [default: the tier's own]
    #[arg(long, value_parser = provider, add = by(&[Known::Providers]))]
    provider: Option<String>,
    /// Wait until the agent runs with them
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    agent: AgentArg,
    /// Skill, in place of all it has; may be repeated
    #[arg(long = "skill", value_name = "SKILL", group = "change")]
    skills: Vec<String>,
    /// Instructions, in place of those it has; @FILE reads them from a file, @- from standard input; @@ begins with an @
    #[arg(long, value_name = "TEXT|@FILE", group = "change")]
    system_prompt: Option<String>,
    /// Program that it runs instead of doing tasks; @FILE reads it from a file, @- from standard input
    #[arg(long, value_name = "LINE|@FILE", group = "change")]
    command: Option<String>,
    /// Environment variable, in place of all it has; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, group = "change")]
    env: Vec<(String, String)>,
    /// Empty a field; may be repeated
    #[arg(long, value_name = "FIELD", group = "change")]
    clear: Vec<Clear>,
    /// Wait until the agent runs with the change
    #[arg(long)]
    wait: bool,
}

/// What can be emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clear {
    Skills,
    SystemPrompt,
    Env,
    Command,
}

#[derive(Debug, Args)]
pub(crate) struct FireArgs {
    #[command(flatten)]
    agent: AgentArg,
    /// Delete the workspace even when it cannot be backed up
    #[arg(long)]
    force: bool,
    /// Return as soon as it is recorded
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn promote(args: PromoteArgs, context: &Context) -> Result<(), Failure> {
    let (office_id, name) = target(&args.agent, context).await?;
    let request = PromoteAgentRequest {
        office_id: office_id.clone(),
        name,
        model_tier: args.model.unwrap_or_default(),
        provider: args.provider.unwrap_or_default(),
    };
    finish(context, &office_id, ask!(context, agents.promote_agent(request).agent).await?, args.wait).await
}

pub(crate) async fn update(args: UpdateArgs, context: &Context) -> Result<(), Failure> {
    let mut paths = Vec::new();
    let mut names = |given: bool, clear: Clear, path: &str| {
        if given || args.clear.contains(&clear) {
            paths.push(path.to_owned());
        }
    };
    names(!args.skills.is_empty(), Clear::Skills, "skills");
    names(args.system_prompt.is_some(), Clear::SystemPrompt, "system_prompt");
    names(!args.env.is_empty(), Clear::Env, "env");
    names(args.command.is_some(), Clear::Command, "command");
    let agent = Agent {
        skills: args.skills,
        system_prompt: args.system_prompt.as_deref().map(text_or_file).transpose()?.unwrap_or_default(),
        env: args.env.into_iter().collect(),
        command: args.command.as_deref().map(text_or_file).transpose()?.unwrap_or_default(),
        ..Agent::default()
    };
    let (office_id, name) = target(&args.agent, context).await?;
    let request = UpdateAgentRequest {
        office_id: office_id.clone(),
        name,
        agent: Some(agent),
        update_mask: Some(FieldMask { paths }),
    };
    finish(context, &office_id, ask!(context, agents.update_agent(request).agent).await?, args.wait).await
}

/// Shows the agent, once it has settled if that is to be waited for.
pub(super) async fn finish(context: &Context, office_id: &str, agent: Agent, wait: bool) -> Result<(), Failure> {
    match wait {
        true => context.out.one(&settled(context, office_id, agent).await?),
        false => context.out.one(&agent),
    }
}

pub(crate) async fn fire(args: FireArgs, context: &Context) -> Result<(), Failure> {
    let (office_id, name) = target(&args.agent, context).await?;
    let request = FireAgentRequest { office_id: office_id.clone(), name, force: args.force };
    let agent = ask!(context, agents.fire_agent(request).agent).await?;
    if args.no_wait {
        return context.out.one(&agent);
    }
    let failures = Failures::new(&agent);
    let gone = wait::until(format!("firing {}", agent.name), LIMIT, async || {
        match get(context, &office_id, &agent.name).await {
            // Somebody has hired another under the same name: this one is gone.
            Ok(now) if now.id != agent.id => Ok(Some(())),
            Ok(now) => failures.check(&now).map(|()| None).map_err(|failure| {
                failure.hint("its workspace is kept; `mi agents fire --force` deletes it without a backup")
            }),
            Err(failure) if failure.is_not_found() => Ok(Some(())),
            Err(failure) => Err(failure),
        }
    });
    match gone.await? {
        Some(()) => {
            let kept = if args.force { "" } else { "; its workspace is in `mi backups ls`" };
            context.out.note(&format!("{} is gone{kept}", agent.name));
            Ok(())
        }
        None => Err(Failure::new(format!("{} is still being fired", agent.name)).hint("it goes on by itself")),
    }
}

/// Waits until the agent has reached this generation and, if it is to run at all, runs.
pub(crate) async fn settled(context: &Context, office_id: &str, agent: Agent) -> Result<Agent, Failure> {
    let failures = Failures::new(&agent);
    let reached = wait::until(format!("waiting for {}", agent.name), LIMIT, async || {
        let now = get(context, office_id, &agent.name).await?;
        failures.check(&now)?;
        Ok(is_settled(&now, agent.generation).then_some(now))
    });
    reached.await?.ok_or_else(|| {
        let late = Failure::new(format!("{} did not get there within {} s", agent.name, LIMIT.as_secs()));
        late.hint(format!("it goes on by itself; `mi agents get {office_id} {}` shows where it stands", agent.name))
    })
}

fn is_settled(agent: &Agent, generation: i64) -> bool {
    let Some(status) = &agent.status else { return false };
    let rests = match status.phase() {
        AgentPhase::Running => status.ready,
        AgentPhase::Stopped | AgentPhase::Suspended | AgentPhase::Offline => true,
        _ => false,
    };
    rests && status.observed_generation >= generation
}

/// Tells a failure from one that was there before the change and is not yet overwritten.
struct Failures {
    stale_until: Option<Instant>,
}

impl Failures {
    /// From the agent as the change answered it.
    fn new(before: &Agent) -> Self {
        Self { stale_until: failed(before).map(|_| Instant::now() + STALE_FAILURE) }
    }

    fn check(&self, agent: &Agent) -> Result<(), Failure> {
        match failed(agent) {
            Some(why) if self.stale_until.is_none_or(|until| Instant::now() > until) => {
                let hint = "`mi agents logs` and `mi agents activity` show more; `mi agents start` tries again";
                Err(Failure::new(format!("{} failed: {why}", agent.name)).hint(hint))
            }
            _ => Ok(()),
        }
    }
}

fn failed(agent: &Agent) -> Option<&str> {
    let status = agent.status.as_ref()?;
    (status.phase() == AgentPhase::Failed).then_some(status.message.as_str())
}

#[cfg(test)]
mod tests {
    use mi_proto::v1::AgentStatus;

    use super::*;

    fn agent(phase: AgentPhase, ready: bool, observed_generation: i64) -> Agent {
        Agent {
            status: Some(AgentStatus {
                phase: phase.into(),
                ready,
                observed_generation,
                message: "no room".into(),
                ..AgentStatus::default()
            }),
            ..Agent::default()
        }
    }

    #[test]
    fn settled_is_the_wanted_generation_at_rest() {
        assert!(is_settled(&agent(AgentPhase::Running, true, 2), 2));
        assert!(is_settled(&agent(AgentPhase::Stopped, false, 3), 2));
        assert!(is_settled(&agent(AgentPhase::Offline, false, 2), 2));
        assert!(!is_settled(&agent(AgentPhase::Running, true, 1), 2));
        assert!(!is_settled(&agent(AgentPhase::Running, false, 2), 2));
        assert!(!is_settled(&agent(AgentPhase::Restarting, false, 2), 2));
        assert!(!is_settled(&Agent::default(), 0));
    }

    #[test]
    fn an_old_failure_is_not_the_new_one() {
        let broken = agent(AgentPhase::Failed, false, 1);
        assert!(Failures::new(&broken).check(&broken).is_ok());
        let told = Failures::new(&agent(AgentPhase::Pending, false, 0)).check(&broken).expect_err("new");
        assert!(told.to_string().contains("failed: no room"), "{told}");
    }
}
