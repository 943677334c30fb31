//! The commands that talk to a platform.

pub(crate) mod access;
pub(crate) mod agents;
pub(crate) mod apply;
pub(crate) mod backups;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod files;
pub(crate) mod integrations;
pub(crate) mod join;
pub(crate) mod offices;
pub(crate) mod run;
pub(crate) mod settings;
pub(crate) mod status;
pub(crate) mod tasks;
mod verify;

use mi_client::ClientError;
use tonic::{Response, Status};

use crate::{
    args::{Command, Global},
    context::Context,
    failure::Failure,
};

/// Runs a command against the platform that the settings name.
pub(crate) async fn run(command: Command, global: Global) -> Result<(), Failure> {
    let context = Context::new(&global)?;
    match command {
        Command::Colonies(command) => offices::run(command, &context).await,
        Command::Agents(command) => agents::run(command, &context).await,
        Command::Tasks(command) => tasks::run(command, &context).await,
        Command::Run(args) => run::run(args, &context).await,
        Command::Apply(args) => apply::run(args, &context).await,
        Command::Chat(command) => chat::run(command, &context).await,
        Command::Backups(command) => backups::run(command, &context).await,
        Command::Files(command) => files::run(command, &context).await,
        Command::Integrations(command) => integrations::run(command, &context).await,
        Command::Admin(command) => integrations::admin(command, &context).await,
        Command::Keys(command) => access::keys(command, &context).await,
        Command::Accounts(command) => access::accounts(command, &context).await,
        Command::Invite(colony) => join::invite(colony, &context).await,
        Command::Join(args) => join::join(args, &global, &context).await,
        Command::Whoami => access::whoami(&context).await,
        Command::Login => access::login(&global, &context).await,
        Command::Status => status::run(&context).await,
        Command::Up(_) | Command::Serve(_) | Command::Agent(_) | Command::Completions { .. } => {
            unreachable!("main runs what needs no platform")
        }
    }
}

/// Takes the resource out of an answer; a platform that leaves it out is broken.
fn resource<R, T>(answer: Response<R>, field: impl FnOnce(R) -> Option<T>) -> Result<T, Failure> {
    let missing = || ClientError::from(Status::internal("the platform's answer lacks the resource"));
    field(answer.into_inner()).ok_or_else(|| missing().into())
}
