//! The command line at its top level; each command's own arguments live with the command.

use std::{env, ffi::OsString};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    commands::{
        access::{AccountsCommand, KeysCommand},
        agents::AgentsCommand,
        apply::ApplyArgs,
        backups::BackupsCommand,
        chat::ChatCommand,
        cp::CpArgs,
        credits::CreditsCommand,
        doctor::DoctorArgs,
        files::FilesCommand,
        integrations::{AdminCommand, IntegrationsCommand},
        join::JoinArgs,
        offices::OfficesCommand,
        run::RunArgs,
        tasks::TasksCommand,
        use_colony::UseArgs,
        wait::WaitCommand,
    },
    options::{ColonyArg, Global},
    serve::{ServeArgs, UpArgs},
};

/// Companies of AI agents, on your own machines.
#[derive(Debug, Parser)]
#[command(name = "mi", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Colonies: isolated workspaces with agents of their own (the API calls them offices)
    #[command(subcommand, visible_alias = "offices", aliases = ["colony", "office"])]
    Colonies(OfficesCommand),
    /// Show or choose the colony of commands that name none
    Use(UseArgs),
    /// Agents: AI workers hired into a colony
    #[command(subcommand, alias = "agent")]
    Agents(AgentsCommand),
    /// Tasks: the work that a colony's agents share
    #[command(subcommand, alias = "task")]
    Tasks(TasksCommand),
    /// Run a command in a colony, as a task, and end as it ends
    Run(RunArgs),
    /// Make colonies with their agents, files and tasks what YAML files say; again changes nothing
    Apply(ApplyArgs),
    /// Chat: the colony's group and direct messages with its agents
    #[command(subcommand)]
    Chat(ChatCommand),
    /// Backups of fired agents' workspaces
    #[command(subcommand, alias = "backup")]
    Backups(BackupsCommand),
    /// The drive: files that the agents of a colony share
    #[command(subcommand, alias = "file")]
    Files(FilesCommand),
    /// Wait until an agent, a task or a file is as it should be
    #[command(subcommand)]
    Wait(WaitCommand),
    /// Copy files and directories from an agent's workspace to here, or back
    Cp(CpArgs),
    /// What agents can use outside the platform, and the secrets it takes
    #[command(subcommand, alias = "integration")]
    Integrations(IntegrationsCommand),
    /// What a colony may spend, and the ledger that explains it
    #[command(subcommand, alias = "credit")]
    Credits(CreditsCommand),
    /// The platform itself, for the administrator
    #[command(subcommand)]
    Admin(AdminCommand),
    /// API keys
    #[command(subcommand, alias = "key")]
    Keys(KeysCommand),
    /// Accounts, for the administrator
    #[command(subcommand, alias = "account")]
    Accounts(AccountsCommand),
    /// Make an invite, with whose code one agent that runs elsewhere joins a colony
    Invite(ColonyArg),
    /// Join a colony as an agent that runs here, and stay until this command is ended
    Join(JoinArgs),
    /// Show who the API key belongs to
    Whoami,
    /// Check an API key and store it with the endpoint; without --api-key it is read from standard input
    Login,
    /// Show whether the platform is up, what of it, and what it holds
    Status,
    /// Look for what would keep a platform on this machine, or a client of one, from working
    Doctor(Box<DoctorArgs>),
    /// Start the whole platform in this process
    Up(Box<UpArgs>),
    /// Start one service of the platform
    Serve(Box<ServeArgs>),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
}

/// Reads the command line of this process, and tells which command it is about. Ends the process when the line makes no
/// sense, or asks for help.
pub(crate) fn parse() -> (Cli, clap::Command) {
    let words: Vec<OsString> = env::args_os().collect();
    read(&words).unwrap_or_else(|error| error.exit())
}

fn read(words: &[OsString]) -> Result<(Cli, clap::Command), clap::Error> {
    let mut command = Cli::command();
    let matches = match command.try_get_matches_from_mut(words) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Err(error),
        // What the environment gives shows in clap's usage lines as if the command needed it. The mistake is told as
        // without the environment, when it is the same one.
        Err(error) => match without_environment(Cli::command()).try_get_matches_from(words) {
            Err(plain) if plain.kind() == error.kind() => return Err(plain),
            _ => return Err(error),
        },
    };
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    let (mut command, mut matches) = (&command, &matches);
    while let Some((name, of_it)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else { break };
        (command, matches) = (found, of_it);
    }
    let command = command.clone();
    Ok((cli, command))
}

fn without_environment(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.env(None::<&str>)).mut_subcommands(without_environment)
}

#[cfg(test)]
mod deployed;
#[cfg(test)]
mod tests;
