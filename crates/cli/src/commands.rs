//! The commands that talk to a platform.

pub(crate) mod access;
pub(crate) mod agents;
pub(crate) mod apply;
pub(crate) mod backups;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod cp;
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

use mi_client::{ClientError, retry};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

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

/// Takes the resource out of an answer; a platform that leaves it out is broken.
pub(crate) fn resource<R, T>(answer: Response<R>, field: impl FnOnce(R) -> Option<T>) -> Result<T, Failure> {
    let missing = || ClientError::from(Status::internal("the platform's answer lacks the resource"));
    field(answer.into_inner()).ok_or_else(|| missing().into())
}

/// Deletes a resource of this kind. A try that is told that there is none, after one whose answer was lost, has what it
/// wanted.
async fn delete<T>(kind: &str, mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<(), Failure> {
    let mut tries = 0;
    let deleted = retry(async || {
        tries += 1;
        call().await
    });
    let deleted = deleted.await;
    let is_it = |status: &Status| status.get_details_resource_info().is_some_and(|info| info.resource_type == kind);
    match deleted {
        Err(status) if tries > 1 && status.code() == Code::NotFound && is_it(&status) => Ok(()),
        deleted => Ok(deleted.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    /// Deletes a file with these answers, one a try.
    async fn delete_file(answers: Vec<Result<(), Status>>) -> Result<(), String> {
        let mut answers = answers.into_iter();
        let deleted = delete("file", async || answers.next().expect("no more tries than that"));
        deleted.await.map_err(|failure| failure.message().to_owned())
    }

    fn not_found(kind: &str) -> Result<(), Status> {
        let details = ErrorDetails::with_resource_info(kind, "a", "", "");
        Err(Status::with_error_details(Code::NotFound, format!("{kind} not found"), details))
    }

    #[tokio::test]
    async fn what_is_gone_after_a_lost_answer_was_deleted() {
        let lost = || Err(Status::unavailable("down"));
        assert_eq!(delete_file(vec![Ok(())]).await, Ok(()));
        assert_eq!(delete_file(vec![lost(), Ok(())]).await, Ok(()));
        assert_eq!(delete_file(vec![lost(), not_found("file")]).await, Ok(()));
        assert_eq!(delete_file(vec![lost(), lost(), not_found("file")]).await, Ok(()));
        // It never was there.
        assert_eq!(delete_file(vec![not_found("file")]).await, Err("file not found".into()));
        assert_eq!(delete_file(vec![lost(), not_found("office")]).await, Err("office not found".into()));
        let refused = Err(Status::failed_precondition("at revision 2"));
        assert_eq!(delete_file(vec![lost(), refused]).await, Err("at revision 2".into()));
    }
}
