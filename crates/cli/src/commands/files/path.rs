//! Paths on the drive as the command line takes them, and the files there.

use std::path::PathBuf;

use clap::Args;
use mi_proto::v1::{File, StatFileRequest};

use crate::{answer::ask, context::Context, failure::Failure};

/// What stands for standard input and output.
pub(super) const STANDARD: &str = "-";

/// When a file that is there may be changed.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct ConditionArgs {
    /// Only when the file on the drive is at this revision, which `stat` shows
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) if_revision: i64,
    /// Whatever is there
    #[arg(long)]
    pub(super) force: bool,
}

/// A file as it is on the drive, without its content.
pub(super) async fn stat(context: &Context, office_id: &str, path: &str) -> Result<File, Failure> {
    let request = StatFileRequest { office_id: office_id.to_owned(), path: path.to_owned() };
    ask!(context, drive.stat_file(request).file).await
}

/// The same; none: it is not there.
pub(crate) async fn find(context: &Context, office_id: &str, path: &str) -> Result<Option<File>, Failure> {
    match stat(context, office_id, path).await {
        Err(failure) if failure.is_not_found() => Ok(None),
        found => found.map(Some),
    }
}

/// A word of the command line as a path on the drive.
pub(super) fn text(word: PathBuf) -> Result<String, Failure> {
    let told = |word: &PathBuf| Failure::Usage(format!("{} is no text, and paths on the drive are", word.display()));
    word.into_os_string().into_string().map_err(|word| told(&word.into()))
}
