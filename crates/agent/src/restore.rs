//! The workspace of an agent that was hired from a backup, where nobody but the agent can reach it: fetched before it works.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use mi_client::{Client, jittered};
use mi_proto::v1::LoadWorkspaceRequest;
use tokio_stream::StreamExt;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tonic::Status;

use crate::{
    blocking::blocking,
    config::AgentConfig,
    error::AgentError,
    logs::complain,
    retry::{BACKOFF, passes},
};

/// File in the identity directory that says that the workspace is there.
const MARKER: &str = "restored";
/// Where in the workspace it is unpacked, since the workspace itself cannot be replaced.
const DRAFT: &str = ".restoring";

/// Fills the workspace from the agent's backup, unless that is done. Whatever an interrupted try left goes first.
pub(crate) async fn restore(config: &AgentConfig, client: &Client) -> Result<(), AgentError> {
    let marker = config.identity_dir.join(MARKER);
    if !config.restore || marker.exists() {
        return Ok(());
    }
    let mut failures = 0;
    loop {
        match attempt(config, client).await {
            Ok(()) => break,
            Err(Failed::Lost(status)) => {
                failures += 1;
                if failures == 1 {
                    complain(&format!("the workspace could not be fetched, and is again: {}", status.message()));
                }
                tokio::time::sleep(jittered(BACKOFF.after(failures))).await;
            }
            Err(Failed::Refused(status)) => return Err(AgentError::Restore(status.message().to_owned())),
            Err(Failed::Disk(error)) => return Err(AgentError::Restore(error.to_string())),
        }
    }
    let written = blocking(move || fs::write(&marker, ""));
    written.await.map_err(|error| AgentError::Restore(error.to_string()))
}

enum Failed {
    /// It may be fetched in a moment.
    Lost(Status),
    Refused(Status),
    Disk(io::Error),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        if passes(status.code()) { Self::Lost(status) } else { Self::Refused(status) }
    }
}

async fn attempt(config: &AgentConfig, client: &Client) -> Result<(), Failed> {
    let request = LoadWorkspaceRequest { office_id: config.office_id.clone(), name: config.agent_name.clone() };
    let mut messages = client.agents().load_workspace(request).await?.into_inner();
    let lost = Arc::new(Mutex::new(None));
    let first = messages.message().await?.and_then(|message| message.backup);
    let Some(_) = first else { return Err(Failed::Lost(Status::unavailable("the answer names no backup"))) };
    let told = lost.clone();
    let pieces = messages.map(move |message| {
        message.map(|message| message.chunk).map_err(|status| {
            let error = io::Error::other(status.message().to_owned());
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
            error
        })
    });
    let reader = SyncIoBridge::new(StreamReader::new(pieces));
    let workspace = config.work.workspace.clone();
    // As nothing in an archive is called.
    let draft = workspace.join(format!("{DRAFT}-{}", config.instance_id));
    let filled = blocking(move || fill(reader, &workspace, &draft)).await;
    let broken = lost.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (filled, broken) {
        (_, Some(status)) => Err(status.into()),
        (filled, None) => filled.map_err(Failed::Disk),
    }
}

/// Unpacks the archive aside, and moves what is in it to its place.
fn fill(archive: impl io::Read + Send + 'static, workspace: &Path, draft: &Path) -> io::Result<()> {
    // The agent never worked here: all that there is is of a try before.
    for entry in fs::read_dir(workspace)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => mi_archive::remove(&entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::create_dir(draft)?;
    mi_archive::unpack(Box::new(archive), draft)?;
    // The archive's root entry brings its own mode.
    fs::set_permissions(draft, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(draft)? {
        let entry = entry?;
        move_to(&entry.path(), &workspace.join(entry.file_name()))?;
    }
    mi_archive::remove(draft)
}

/// A directory that changes its parent has to be writable itself.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(from)?;
    if !found.is_dir() {
        return fs::rename(from, to);
    }
    fs::set_permissions(from, Permissions::from_mode(0o700))?;
    fs::rename(from, to)?;
    fs::set_permissions(to, found.permissions())
}
