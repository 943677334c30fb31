//! `mi agent save`: sends the workspace of an agent that is being fired, from where its volume is, until the platform has it.

use std::{
    cell::OnceCell,
    convert::Infallible,
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use mi_client::{Client, Credential, jittered};
use mi_kernel::secret::Secret;
use mi_proto::v1::{SaveWorkspaceHeader, SaveWorkspaceRequest, save_workspace_request::Part};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{
    blocking::blocking,
    error::AgentError,
    logs::complain,
    retry::{BACKOFF, passes},
};

/// Pieces of the archive that wait, each at most [`PIECE`] large.
const PIECES: usize = 8;
const PIECE: usize = 256 << 10;

/// What is saved, and where to.
#[derive(Debug)]
pub struct SaveConfig {
    /// `MI_ENDPOINT`: where the platform listens.
    pub endpoint: String,
    /// `MI_CA_PEM`: the CA that vouches for it; none: the public ones.
    pub ca: Option<String>,
    /// `MI_OFFICE_ID`: the agent's office.
    pub office_id: String,
    /// `MI_AGENT_ID`: the agent.
    pub agent_id: String,
    /// `MI_WORKSPACE`: what is saved.
    pub workspace: PathBuf,
    /// `MI_SAVE_TOKEN_FILE`: the file with the single-use token that vouches for it.
    pub token_file: PathBuf,
}

impl SaveConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn from_env() -> Result<Self, AgentError> {
        let required = |name: &'static str| {
            let value = env::var(name).ok().filter(|value| !value.is_empty());
            value.ok_or(AgentError::Environment { name, problem: "is missing" })
        };
        Ok(Self {
            endpoint: required("MI_ENDPOINT")?,
            ca: env::var("MI_CA_PEM").ok().filter(|pem| !pem.is_empty()),
            office_id: required("MI_OFFICE_ID")?,
            agent_id: required("MI_AGENT_ID")?,
            workspace: required("MI_WORKSPACE")?.into(),
            token_file: required("MI_SAVE_TOKEN_FILE")?.into(),
        })
    }
}

/// Sends the workspace until the platform has it.
///
/// # Errors
/// When it cannot be read, or the platform refuses it for good.
pub async fn save(config: SaveConfig) -> Result<(), AgentError> {
    let client = Client::connect_trusting(&config.endpoint, config.ca.as_deref(), Credential::None)?;
    let mut failures = 0;
    loop {
        let status = match attempt(&config, &client).await? {
            Ok(()) => return Ok(()),
            Err(status) => status,
        };
        if !passes(status.code()) && status.code() != Code::Aborted {
            return Err(AgentError::Save(status.message().to_owned()));
        }
        failures += 1;
        complain(&format!("the workspace was not taken, and is sent again: {}", status.message()));
        tokio::time::sleep(jittered(BACKOFF.after(failures))).await;
    }
}

/// Sends it once; what the platform says.
async fn attempt(config: &SaveConfig, client: &Client) -> Result<Result<(), Status>, AgentError> {
    let token = token(&config.token_file)?;
    let (send, messages) = mpsc::channel(PIECES);
    let header = SaveWorkspaceHeader {
        office_id: config.office_id.clone(),
        agent_id: config.agent_id.clone(),
        token: token.expose().to_owned(),
    };
    // The channel is empty and its receiver is alive: this cannot fail.
    let _ = send.try_send(SaveWorkspaceRequest { part: Some(Part::Header(header)) });
    let (workspace, pieces) = (config.workspace.clone(), Pieces(send.clone()));
    let pack = blocking(move || {
        // What is not there is not empty: something is wrong with the volume.
        fs::read_dir(&workspace).map_err(|error| format!("{}: {error}", workspace.display()))?;
        mi_archive::pack(&workspace, Box::new(pieces)).map_err(|error| error.chain())
    });
    let problem = OnceCell::new();
    let packed = async {
        match pack.await {
            Err(failed) if !send.is_closed() => {
                let _ = problem.set(failed);
                // A stream that ends is a whole archive: this one ends with a message that is none.
                let _ = send.send(SaveWorkspaceRequest { part: None }).await;
            }
            // Done; or whoever stopped taking it says why.
            _ => {}
        }
        drop(send);
        std::future::pending::<Infallible>().await
    };
    let mut agents = client.agents();
    let answer = tokio::select! {
        answer = agents.save_workspace(ReceiverStream::new(messages)) => answer,
        never = packed => match never {},
    };
    match problem.into_inner() {
        Some(problem) => Err(AgentError::Save(problem)),
        None => Ok(answer.map(drop)),
    }
}

fn token(path: &Path) -> Result<Secret, AgentError> {
    let read = fs::read_to_string(path);
    let token =
        read.map_err(|error| AgentError::Save(format!("the token in {} cannot be read: {error}", path.display())))?;
    Ok(Secret::new(token.trim().to_owned()))
}

/// Hands what is packed to the call, which slows the packing down to its own pace.
struct Pieces(mpsc::Sender<SaveWorkspaceRequest>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(&bytes[..bytes.len().min(PIECE)]);
        let written = piece.len();
        let message = SaveWorkspaceRequest { part: Some(Part::Chunk(piece)) };
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the platform stopped taking the archive");
        self.0.blocking_send(message).map_err(gone)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
