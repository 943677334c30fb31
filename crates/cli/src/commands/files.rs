//! `mi files`: the drive of a colony.

use std::{
    cell::Cell,
    future::pending,
    path::{Path, PathBuf},
    pin::pin,
};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use mi_client::{retry, retry_unlimited};
use mi_kernel::receipt::hex;
use mi_proto::v1::{
    self, DeleteFileRequest, DownloadFileRequest, StatFileRequest, UploadFileRequest, UploadHeader,
    WatchChangesRequest, upload_file_request::Part,
};
use ring::digest::{Context as Digest, SHA256};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, stdin},
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Status;
use uuid::Uuid;

use super::{delete, resource};
use crate::{
    complete::{Known, by},
    context::Context,
    download::{Download, Mode},
    failure::Failure,
    follow::follow,
    options::ColonyArg,
    wait::bytes_bar,
};

/// Bytes of one message; the platform takes twice as many.
const CHUNK: usize = 512 << 10;
/// Messages on their way.
const CHUNKS: usize = 4;
/// Standard input can be read once. When it is shorter than this, it is sent again like a file.
const KEPT: usize = 4 << 20;
/// What stands for standard input and output.
const STANDARD: &str = "-";

#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    /// List files by path
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show a file without its content
    Stat(PathArg),
    /// Upload a file; it is there whole, or not at all
    Put(PutArgs),
    /// Download a file and check it
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

/// When a file that is there may be changed.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct ConditionArgs {
    /// Only when the file on the drive is at this revision, which `stat` shows
    #[arg(long, value_name = "N", default_value_t = 0)]
    if_revision: i64,
    /// Whatever is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// File to read; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where it goes on the drive [default: the file's name]
    #[arg(value_name = "PATH", add = by(&[Known::Files]))]
    path: Option<String>,
    #[command(flatten)]
    condition: ConditionArgs,
    /// Its media type
    #[arg(long, value_name = "TYPE", default_value = "")]
    content_type: String,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    target: PathArg,
    /// File to write, `-` for standard output [default: the last part of PATH]
    #[arg(short = 'O', long, value_name = "FILE")]
    output_file: Option<PathBuf>,
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
            let request = StatFileRequest { office_id: context.colony(&arg.colony).await?, path: arg.path };
            let answer = retry(async || client.drive().stat_file(request.clone()).await).await?;
            context.out.one(&resource(answer, |answer| answer.file)?)
        }
        FilesCommand::Put(args) => put(args, context).await,
        FilesCommand::Get(args) => {
            let office_id = context.colony(&args.target.colony).await?;
            get(context, office_id, args.target.path, args.output_file).await
        }
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

async fn get(context: &Context, office_id: String, path: String, to: Option<PathBuf>) -> Result<(), Failure> {
    let to = to.unwrap_or_else(|| last_part(&path));
    let stdout = to.as_os_str() == STANDARD;
    let file = download(context, office_id, path, |file| match stdout {
        true => Ok(Download::to_stdout()),
        false => Download::to_file(&to, Mode::Plain, file.size),
    });
    let file = file.await?;
    match stdout {
        true => Ok(()),
        false => context.out.one(&file),
    }
}

/// Downloads a file, to where `to` says.
pub(crate) async fn download<'a>(
    context: &Context,
    office_id: String,
    path: String,
    to: impl FnOnce(&v1::File) -> Result<Download<'a>, Failure>,
) -> Result<v1::File, Failure> {
    let request = DownloadFileRequest { office_id, path, offset: 0, length: 0 };
    let mut stream = retry(async || context.client.drive().download_file(request.clone()).await).await?.into_inner();
    let mut first = stream.message().await?;
    let nameless = || Failure::new("the platform sent no description of the file").hint("try again");
    let file = first.as_mut().and_then(|first| first.file.take()).ok_or_else(nameless)?;
    let messages = tokio_stream::iter(first.map(Ok)).chain(stream);
    to(&file)?.take_all(messages, |part| &part.chunk, (file.size, &file.sha256)).await?;
    Ok(file)
}

/// The name that a file gets here.
fn last_part(path: &str) -> PathBuf {
    PathBuf::from(path.rsplit('/').next().unwrap_or(path))
}

async fn put(args: PutArgs, context: &Context) -> Result<(), Failure> {
    let office_id = context.colony(&args.colony).await?;
    let standard = args.file.as_os_str() == STANDARD;
    let path = match args.path {
        Some(path) => path,
        None if standard => return Err(Failure::Usage("what is it to be called? give a PATH after `-`".into())),
        None => default_path(&args.file)?,
    };
    let header = UploadHeader {
        office_id,
        path,
        content_type: args.content_type,
        if_revision: args.condition.if_revision,
        force: args.condition.force,
        // What is sent again is put there once.
        request_id: Uuid::new_v4().to_string(),
    };
    let file = match standard {
        true => upload_stdin(context, header).await?,
        false => upload_file(context, header, &args.file).await?,
    };
    context.out.one(&file)
}

/// Uploads a file from here, and again while the platform is away.
pub(crate) async fn upload_file(context: &Context, header: UploadHeader, path: &Path) -> Result<v1::File, Failure> {
    let unreadable = |error| Failure::io(format!("{} cannot be read", path.display()), &error);
    let open = async || {
        let file = File::open(path).await.map_err(unreadable)?;
        let bar = bytes_bar(file.metadata().await.map_err(unreadable)?.len());
        Ok((file, bar))
    };
    retry_unlimited(async || match open().await {
        Ok((file, bar)) => upload(context, header.clone(), file, bar).await,
        Err(failure) => Ok(Err(failure)),
    })
    .await?
}

/// Uploads what is here, and again while the platform is away.
pub(crate) async fn upload_bytes(context: &Context, header: UploadHeader, content: &[u8]) -> Result<v1::File, Failure> {
    retry_unlimited(async || upload(context, header.clone(), content, ProgressBar::hidden()).await).await?
}

async fn upload_stdin(context: &Context, header: UploadHeader) -> Result<v1::File, Failure> {
    let (mut input, mut start) = (stdin(), Vec::new());
    let read = (&mut input).take(KEPT as u64).read_to_end(&mut start).await;
    read.map_err(|error| Failure::io("standard input cannot be read", &error))?;
    match start.len() < KEPT {
        true => upload_bytes(context, header, &start).await,
        false => upload(context, header, start.as_slice().chain(input), ProgressBar::hidden()).await?,
    }
}

/// The name on the drive of a file that is given without one.
fn default_path(file: &Path) -> Result<String, Failure> {
    let name = file.file_name().and_then(|name| name.to_str());
    let nameless = || Failure::Usage(format!("{} has no name to take; give a PATH", file.display()));
    name.map(str::to_owned).ok_or_else(nameless)
}

/// Uploads all that there is to read. What went wrong on this side is inside of what the platform answered.
async fn upload(
    context: &Context,
    header: UploadHeader,
    mut from: impl AsyncRead + Unpin,
    bar: ProgressBar,
) -> Result<Result<v1::File, Failure>, Status> {
    let (sender, messages) = mpsc::channel(CHUNKS);
    let mut client = context.client.drive();
    let mut call = pin!(client.upload_file(ReceiverStream::new(messages)));
    let feed = feed(&sender, header, &mut from, &bar);
    let (answer, sent) = tokio::select! {
        // The platform need not hear all of it to refuse.
        answer = &mut call => (answer, None),
        fed = feed => {
            let sent = match fed {
                Ok(sent) => sent,
                Err(failure) => {
                    // Whoever ends what is sent says that the file is whole.
                    std::mem::forget(sender);
                    return Ok(Err(failure));
                }
            };
            drop(sender);
            (call.await, Some(sent))
        }
    };
    bar.finish_and_clear();
    let file = resource(answer?, |answer| answer.file);
    Ok(file.and_then(|file| match sent.is_some_and(|sent| sent == file.sha256) {
        true => Ok(file),
        false => {
            let message = format!("the drive has something else than was sent, SHA-256 {}", file.sha256);
            Err(Failure::new(message).hint("upload it again with --force"))
        }
    }))
}

/// Sends all of it; answers its checksum.
async fn feed(
    sender: &mpsc::Sender<UploadFileRequest>,
    header: UploadHeader,
    from: &mut (impl AsyncRead + Unpin),
    bar: &ProgressBar,
) -> Result<String, Failure> {
    let send = async |part| {
        if sender.send(UploadFileRequest { part: Some(part) }).await.is_err() {
            // The call is over, and says why.
            pending().await
        }
    };
    send(Part::Header(header)).await;
    let mut hash = Digest::new(&SHA256);
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut limited = (&mut *from).take(CHUNK as u64);
        limited.read_to_end(&mut chunk).await.map_err(|error| Failure::io("the file cannot be read", &error))?;
        if chunk.is_empty() {
            return Ok(hex(hash.finish().as_ref()));
        }
        hash.update(&chunk);
        bar.inc(chunk.len() as u64);
        send(Part::Chunk(chunk.into())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_alike_on_both_sides() {
        assert_eq!(last_part("a/b.txt"), Path::new("b.txt"));
        assert_eq!(last_part("b.txt"), Path::new("b.txt"));
        assert_eq!(default_path(Path::new("/tmp/b.txt")).expect("a name"), "b.txt");
        assert_eq!(default_path(Path::new("/")).expect_err("none").exit_code(), 2);
    }
}
