//! `mi agents`.

mod change;
mod exec;
mod feed;
pub(crate) mod hire;
mod tree;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};
use mi_client::once;
use mi_proto::v1::{
    Agent, GetAgentRequest, ListModelTiersRequest, ListRolesRequest, RestartAgentRequest, RotateAgentIdentityRequest,
    StartAgentRequest, StopAgentRequest,
};

use crate::{
    answer::{ask, resource},
    context::Context,
    failure::Failure,
    known::{Known, by},
    options::{ColonyArg, colony_and_name},
};

#[derive(Debug, Subcommand)]
pub(crate) enum AgentsCommand {
    /// Hire an agent; its name is unique in the colony: 1 to 40 letters, digits and hyphens
    Hire(hire::HireArgs),
    /// List the agents of a colony
    #[command(alias = "ls")]
    List(ListArgs),
    /// Show one agent
    Get(AgentArg),
    /// Show what an agent printed and said
    Logs(feed::LogsArgs),
    /// Show what happened to an agent and by it
    Activity(feed::ActivityArgs),
    /// Run a command inside an agent, in its workspace; what it prints comes here, and its exit code is this one's
    Exec(exec::ExecArgs),
    /// Change model and provider; the agent restarts with them and keeps its workspace
    Promote(change::PromoteArgs),
    /// Change skills, instructions or environment; the agent restarts with them
    Update(change::UpdateArgs),
    /// Start a stopped or failed agent
    Start(AgentArg),
    /// Stop an agent's compute and keep its workspace
    Stop(AgentArg),
    /// Replace the instance of an agent by a fresh one
    Restart(AgentArg),
    /// Back an agent's workspace up and delete the agent
    Fire(change::FireArgs),
    /// Kill an agent's key at once; it makes itself a new one
    Rotate(AgentArg),
    /// Show every agent of a colony, then each change as it happens
    Watch(ColonyArg),
    /// List the roles to hire by
    Roles,
    /// List the model tiers to hire by
    Models,
    /// Run the agent that the environment describes (MI_AGENT_ID, ...); the platform calls this, not you
    #[command(hide = true)]
    Run,
    /// Send the workspace that the environment describes (MI_WORKSPACE, ...); the platform calls this, not you
    #[command(hide = true)]
    Save,
    /// Write what is at a path to standard output; `mi cp` runs this in an agent, not you
    #[command(hide = true)]
    Pack {
        /// What to write
        path: PathBuf,
    },
    /// Put what comes on standard input at a path; `mi cp` runs this in an agent, not you
    #[command(hide = true)]
    Unpack {
        /// Where it goes
        path: PathBuf,
        /// What it is called in a directory
        name: OsString,
    },
}

/// Which agents to list, and how.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// Show each agent below the one that hired it
    #[arg(long)]
    tree: bool,
}

/// An agent of a colony.
#[derive(Debug, Args)]
pub(crate) struct AgentArg {
    #[command(flatten)]
    colony: ColonyArg,
    /// The colony, as with --colony; left out, the same one as there
    #[arg(value_name = "COLONY", add = by(&[Known::Agents, Known::Colonies]))]
    first: Option<String>,
    /// The agent's name
    #[arg(value_name = "NAME", conflicts_with = "colony", add = by(&[Known::Agents]))]
    second: Option<String>,
}

pub(crate) async fn run(command: AgentsCommand, context: &Context) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    match command {
        AgentsCommand::Hire(args) => hire::run(args, context).await,
        AgentsCommand::List(args) => {
            let office_id = context.colony(&args.colony).await?;
            let agents = client.agents().list(&office_id).await?;
            out.list(&if args.tree && out.is_for_people() { tree::of(agents) } else { agents })
        }
        AgentsCommand::Get(arg) => {
            let (office_id, name) = target(&arg, context).await?;
            out.one(&get(context, &office_id, &name).await?)
        }
        AgentsCommand::Logs(args) => feed::logs(args, context).await,
        AgentsCommand::Activity(args) => feed::activity(args, context).await,
        AgentsCommand::Exec(args) => exec::exec(args, context).await,
        AgentsCommand::Promote(args) => change::promote(args, context).await,
        AgentsCommand::Update(args) => change::update(args, context).await,
        AgentsCommand::Start(arg) => {
            let (office_id, name) = target(&arg, context).await?;
            out.one(&ask!(context, agents.start_agent(StartAgentRequest { office_id, name }).agent).await?)
        }
        AgentsCommand::Stop(arg) => {
            let (office_id, name) = target(&arg, context).await?;
            out.one(&ask!(context, agents.stop_agent(StopAgentRequest { office_id, name }).agent).await?)
        }
        AgentsCommand::Restart(arg) => {
            let (office_id, name) = target(&arg, context).await?;
            let request = RestartAgentRequest { office_id, name };
            // Not tried again: two restarts are not one.
            let answer = once(client.agents().restart_agent(request)).await?;
            out.one(&resource(answer, |answer| answer.agent)?)
        }
        AgentsCommand::Fire(args) => change::fire(args, context).await,
        AgentsCommand::Rotate(arg) => {
            let (office_id, name) = target(&arg, context).await?;
            let request = RotateAgentIdentityRequest { office_id, name };
            // Not tried again: a second rotation would kill the key that the first one made room for.
            let answer = once(client.agents().rotate_agent_identity(request)).await?;
            out.one(&resource(answer, |answer| answer.agent)?)
        }
        AgentsCommand::Watch(arg) => feed::watch(arg, context).await,
        AgentsCommand::Roles => out.list(&ask!(context, agents.list_roles(ListRolesRequest {})).await?.roles),
        AgentsCommand::Models => {
            out.list(&ask!(context, agents.list_model_tiers(ListModelTiersRequest {})).await?.model_tiers)
        }
        AgentsCommand::Run | AgentsCommand::Save | AgentsCommand::Pack { .. } | AgentsCommand::Unpack { .. } => {
            unreachable!("main runs what needs no platform")
        }
    }
}

/// The id of the colony, and the agent's name.
async fn target(arg: &AgentArg, context: &Context) -> Result<(String, String), Failure> {
    let (colony, name) = colony_and_name("agent", arg.first.as_deref(), arg.second.as_deref())?;
    let office_id = context.colony_or_default(colony.or(arg.colony.colony.as_deref())).await?;
    Ok((office_id, name.to_owned()))
}

pub(crate) async fn get(context: &Context, office_id: &str, name: &str) -> Result<Agent, Failure> {
    let request = GetAgentRequest { office_id: office_id.to_owned(), name: name.to_owned() };
    ask!(context, agents.get_agent(request).agent).await
}
