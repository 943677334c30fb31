//! The commands that talk to a platform.

pub(crate) mod access;
pub(crate) mod agents;
pub(crate) mod apply;
pub(crate) mod backups;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod cp;
pub(crate) mod credits;
pub(crate) mod doctor;
pub(crate) mod files;
pub(crate) mod integrations;
pub(crate) mod join;
pub(crate) mod offices;
pub(crate) mod run;
pub(crate) mod settings;
pub(crate) mod status;
pub(crate) mod tasks;
pub(crate) mod use_colony;
mod verify;
pub(crate) mod wait;

use crate::{args::Command, context::Context, failure::Failure, options::Global};

/// Runs a command against the platform that the settings name.
pub(crate) async fn run(command: Command, global: Global) -> Result<(), Failure> {
    let context = Context::new(&global)?;
    match command {
        Command::Colonies(command) => offices::run(command, &context).await,
        Command::Use(args) => use_colony::run(args, &context).await,
        Command::Agents(command) => agents::run(command, &context).await,
        Command::Tasks(command) => tasks::run(command, &context).await,
        Command::Run(args) => run::run(args, &context).await,
        Command::Apply(args) => apply::run(args, &context).await,
        Command::Chat(command) => chat::run(command, &context).await,
        Command::Backups(command) => backups::run(command, &context).await,
        Command::Wait(command) => wait::run(command, &context).await,
        Command::Cp(args) => cp::run(args, &context).await,
        Command::Files(command) => files::run(command, &context).await,
        Command::Credits(command) => credits::run(command, &context).await,
        Command::Integrations(command) => integrations::run(command, &context).await,
        Command::Admin(command) => integrations::admin(command, &context).await,
        Command::Keys(command) => access::keys(command, &context).await,
        Command::Accounts(command) => access::accounts(command, &context).await,
        Command::Invite(colony) => join::invite(colony, &context).await,
        Command::Join(args) => join::join(args, &global, &context).await,
        Command::Whoami => access::whoami(&context).await,
        Command::Login => access::login(&global, &context).await,
        Command::Status => status::run(&context).await,
        Command::Up(_) | Command::Serve(_) | Command::Doctor(_) | Command::Completions { .. } => {
            unreachable!("main runs what needs no platform")
        }
    }
}
