//! `mi files`: the drive of a colony.

mod get;
mod many;
mod path;
mod put;
mod transfer;

use std::cell::Cell;

use clap::{Args, Subcommand};
use mi_proto::v1::{DeleteFileRequest, WatchChangesRequest};

use self::{
    get::GetArgs,
    path::{ConditionArgs, stat},
    put::PutArgs,
};
pub(crate) use self::{
    path::find,
    transfer::{download, sha256_of, upload_bytes, upload_file},
};
use crate::{
    answer::delete,
    context::Context,
    failure::Failure,
    follow::follow,
    known::{Known, by},
    options::ColonyArg,
};

#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    /// List files by path
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show a file without its content
    Stat(PathArg),
    /// Upload files, or a directory with all that is in it; each file is there whole, or not at all
    Put(PutArgs),
    /// Download files, or all that is below a path, and check them
    Get(GetArgs),
    /// Delete a file
    Rm(RmArgs),
    /// Show what happened to files, oldest first
    Changes(ChangesArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// Only paths that start with this, such as reports/
    #[arg(value_name = "PREFIX", default_value = "", add = by(&[Known::Files]))]
    prefix: String,
}

#[derive(Debug, Args)]
pub(crate) struct PathArg {
    #[command(flatten)]
    colony: ColonyArg,
    /// The file's path on the drive
    #[arg(value_name = "PATH", add = by(&[Known::Files]))]
    path: String,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    target: PathArg,
    #[command(flatten)]
    condition: ConditionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ChangesArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// Only what came after this cursor
    #[arg(long, value_name = "CURSOR")]
    after: Option<i64>,
    /// Go on with changes as they happen; without --after, only those
    #[arg(short, long)]
    follow: bool,
}

pub(crate) async fn run(command: FilesCommand, context: &Context) -> Result<(), Failure> {
    let client = &context.client;
    match command {
        FilesCommand::Ls(args) => {
            let office_id = context.colony(&args.colony).await?;
            context.out.list(&client.all_files(&office_id, &args.prefix).await?)
        }
        FilesCommand::Stat(arg) => {
            let office_id = context.colony(&arg.colony).await?;
            context.out.one(&stat(context, &office_id, &arg.path).await?)
        }
        FilesCommand::Put(args) => put::run(args, context).await,
        FilesCommand::Get(args) => get::run(args, context).await,
        FilesCommand::Rm(args) => {
            let (path, ConditionArgs { if_revision, force }) = (args.target.path, args.condition);
            let office_id = context.colony(&args.target.colony).await?;
            let request = DeleteFileRequest { office_id, path: path.clone(), if_revision, force };
            delete("file", async || client.drive().delete_file(request.clone()).await).await?;
            context.out.note(&format!("{path} is deleted"));
            Ok(())
        }
        FilesCommand::Changes(args) => changes(args, context).await,
    }
}

async fn changes(args: ChangesArgs, context: &Context) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    let office_id = context.colony(&args.colony).await?;
    if !args.follow {
        return out.list(&client.all_changes(&office_id, args.after.unwrap_or_default()).await?);
    }
    let seen = Cell::new(args.after);
    let open = async || {
        let request = WatchChangesRequest { office_id: office_id.clone(), after_cursor: seen.get() };
        client.drive().watch_changes(request).await
    };
    follow(out, open, |answer| {
        let Some(change) = answer.change else { return Ok(()) };
        seen.set(Some(change.cursor));
        out.next(&change)
    })
    .await
}
