//! `mi backups`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mi_proto::v1::{Backup, DeleteBackupRequest, DownloadBackupRequest};
use tokio_stream::StreamExt;

use crate::{
    answer::{ask, delete},
    context::{Context, full_id},
    download::{Download, Mode},
    failure::Failure,
    known::{Known, by},
    options::{ColonyArg, colony_and_name},
    resolve,
};

#[derive(Debug, Subcommand)]
pub(crate) enum BackupsCommand {
    /// List the backups of a colony
    #[command(visible_alias = "list")]
    Ls(ColonyArg),
    /// Download a backup, a zstd-compressed tar archive, and check it
    Get(GetArgs),
    /// Delete a backup for good
    Rm(BackupArg),
}

/// A backup of a colony.
#[derive(Debug, Args)]
pub(crate) struct BackupArg {
    #[command(flatten)]
    colony: ColonyArg,
    /// The colony, as with --colony; left out, the same one as there
    #[arg(value_name = "COLONY", add = by(&[Known::Backups, Known::Colonies]))]
    first: Option<String>,
    /// The backup: its id or a unique start of it
    #[arg(value_name = "BACKUP", conflicts_with = "colony", add = by(&[Known::Backups]))]
    second: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    target: BackupArg,
    /// File to write [default: AGENT-BACKUP.tar.zst]
    #[arg(short = 'O', long, value_name = "FILE")]
    output_file: Option<PathBuf>,
}

pub(crate) async fn run(command: BackupsCommand, context: &Context) -> Result<(), Failure> {
    match command {
        BackupsCommand::Ls(arg) => {
            let office_id = context.colony(&arg).await?;
            context.out.list(&context.client.all_backups(&office_id).await?)
        }
        BackupsCommand::Get(args) => {
            let (office_id, backup_id) = target(&args.target, context).await?;
            let request = DownloadBackupRequest { office_id, backup_id };
            download(context, request, args.output_file).await
        }
        BackupsCommand::Rm(arg) => {
            let (office_id, backup_id) = target(&arg, context).await?;
            let request = DeleteBackupRequest { office_id, backup_id: backup_id.clone() };
            delete("backup", async || context.client.agents().delete_backup(request.clone()).await).await?;
            context.out.note(&format!("backup {backup_id} is deleted"));
            Ok(())
        }
    }
}

/// The id of the colony and of the backup.
async fn target(arg: &BackupArg, context: &Context) -> Result<(String, String), Failure> {
    let (colony, backup) = colony_and_name("backup", arg.first.as_deref(), arg.second.as_deref())?;
    let office_id = context.colony_or_default(colony.or(arg.colony.colony.as_deref())).await?;
    let backup_id = backup_id(context, &office_id, backup).await?;
    Ok((office_id, backup_id))
}

/// The id of a backup given by id or by a unique start of it.
pub(crate) async fn backup_id(context: &Context, office_id: &str, given: &str) -> Result<String, Failure> {
    resolve::id("backup", given, context.client.all_backups(office_id), |backup| &backup.id).await
}

async fn download(context: &Context, request: DownloadBackupRequest, file: Option<PathBuf>) -> Result<(), Failure> {
    let mut stream = ask!(context, agents.download_backup(request)).await?;
    let mut first = stream.message().await?;
    let nameless = || Failure::new("the platform sent no description of the backup").hint("try again");
    let backup = first.as_mut().and_then(|first| first.backup.take()).ok_or_else(nameless)?;
    let path = match file {
        Some(path) => path,
        None => default_path(&backup)?,
    };
    let messages = tokio_stream::iter(first.map(Ok)).chain(stream);
    let download = Download::to_file(&path, Mode::Private, backup.size_bytes)?;
    download.take_all(messages, |part| &part.chunk, (backup.size_bytes, &backup.sha256)).await?;
    context.out.note(&format!(
        "{} holds the workspace of {}; unpack it with `tar --zstd -xf`",
        path.display(),
        backup.agent
    ));
    context.out.one(&backup)
}

/// Names come from the platform: one that is no agent name could lead out of the directory.
fn default_path(backup: &Backup) -> Result<PathBuf, Failure> {
    let plain = mi_kernel::text::agent_name("agent", &backup.agent).is_ok() && full_id(&backup.id).is_some();
    match plain {
        true => Ok(PathBuf::from(format!("{}-{}.tar.zst", backup.agent, backup.id))),
        false => Err(Failure::new("the backup's name makes no file name").hint("give one with -O FILE")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_file_name_stays_in_its_directory() {
        let mut backup =
            Backup { id: "019aa0b4-7c1e-7d0a-b3a5-000000000001".into(), agent: "analyst".into(), ..Backup::default() };
        let path = default_path(&backup).expect("plain");
        assert_eq!(path, Path::new("analyst-019aa0b4-7c1e-7d0a-b3a5-000000000001.tar.zst"));
        backup.agent = "../../etc/x".into();
        assert!(default_path(&backup).is_err());
    }
}
