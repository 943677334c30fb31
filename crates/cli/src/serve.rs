//! `mi up` and `mi serve`: the command lines of the platform itself.

use std::path::{Path, PathBuf};

use clap::Args;
use mi_kernel::secret::Secret;
use mi_server::{PlatformConfig, PlatformOptions, Ready, ServeOptions};

use crate::{
    config::{ConfigFile, Settings},
    failure::Failure,
    options::Global,
};

/// `mi up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Directory of the data [default: ~/.local/share/mi]
    #[arg(long, value_name = "DIR", env = "MI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    options: PlatformOptions,
    /// File to write when it serves: endpoint, metrics endpoint, API key and process id as JSON, mode 0600
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// `mi serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Directory of the data [default: ~/.local/share/mi]
    #[arg(long, value_name = "DIR", env = "MI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    options: PlatformOptions,
    /// File to write when it serves: endpoint, metrics endpoint and process id as JSON, mode 0600
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    role: ServeOptions,
}

fn config(
    mut options: PlatformOptions,
    data_dir: PathBuf,
    ready_file: Option<PathBuf>,
) -> Result<PlatformConfig, Failure> {
    options.read_database().map_err(told)?;
    let master_key = std::env::var("MI_MASTER_KEY").ok().map(Secret::new);
    if master_key.is_some() && options.master_key_file.is_some() {
        return Err(Failure::Usage("two master keys: give --master-key-file or MI_MASTER_KEY, not both".into()));
    }
    Ok(PlatformConfig { data_dir, ready_file, master_key, options })
}

/// What keeps the platform from starting: the sentence, and the causes below it.
fn told(error: mi_kernel::Error) -> Failure {
    Failure::new(error.chain())
}

pub(crate) async fn up(args: UpArgs, global: &Global) -> Result<(), Failure> {
    let settings = Settings::load(global)?;
    let data_dir = match &args.data_dir {
        Some(dir) => dir.clone(),
        None => settings.data_dir()?,
    };
    let data_dir = std::path::absolute(&data_dir).map_err(|error| Failure::io(data_dir.display(), &error))?;
    let config = config(args.options, data_dir.clone(), args.ready_file)?;
    let configure = |ready: &Ready| {
        // A platform serves whether or not a client configuration could be written for it.
        if let Err(failure) = remember(&settings.dir, &data_dir, ready) {
            tracing::warn!(target: "mi::cli", "no configuration for the next command: {failure}");
        }
        Ok(())
    };
    mi_server::up(config, configure).await.map_err(told)
}

/// Writes a configuration that makes the next command work, unless there is one for another platform.
fn remember(dir: &Path, data_dir: &Path, ready: &Ready) -> Result<(), Failure> {
    let before = ConfigFile::load(dir)?;
    let other = before.data_dir.as_deref().is_some_and(|known| known != data_dir);
    let by_hand = before.data_dir.is_none() && (before.endpoint.is_some() || before.api_key.is_some());
    if other || by_hand {
        tracing::info!(target: "mi::cli", "the configuration names another platform and stays; use --endpoint and --api-key");
        return Ok(());
    }
    let after = ConfigFile {
        endpoint: Some(ready.endpoint.clone()),
        api_key: ready.api_key.as_ref().map(|key| key.expose().to_owned()),
        data_dir: Some(data_dir.to_owned()),
        ca_file: before.ca_file.clone(),
        colony: before.colony.clone(),
    };
    if after != before {
        after.save(dir)?;
    }
    Ok(())
}

pub(crate) async fn serve(args: ServeArgs, global: &Global) -> Result<(), Failure> {
    let data_dir = match &args.data_dir {
        Some(dir) => dir.clone(),
        None => Settings::load(global)?.data_dir()?,
    };
    let config = config(args.options, data_dir, args.ready_file)?;
    mi_server::serve(args.role, config, |_| Ok(())).await.map_err(told)
}
