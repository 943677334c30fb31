//! What a program of the agent finds around it: the workspace, a directory of its own for as long as it runs, and an
//! environment without what is none of its business.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio::{process::Command, runtime::Handle, task::spawn_blocking};

use super::shared::Shared;
use crate::{blocking::blocking, relay::Key};

/// Variables of the agent's own that are none of a program's business.
const WITHHELD: &[&str] =
    &["MI_ENROL_TOKEN", "MI_NEW_IDENTITY", "MI_COMMAND", "MI_MODEL_API", "MI_MODEL_PROVIDER", "MI_MODEL_ID"];

/// The directory and the environment of one run of a program. The directory is removed, and the program's key to the relay
/// is good for nothing, when this is dropped.
pub(super) struct Surroundings {
    path: PathBuf,
    /// None: it is being removed.
    directory: Option<TempDir>,
    key: Key,
}

impl Surroundings {
    /// Makes the directory, whose name starts like this, for a program that runs on behalf of this task.
    pub(super) async fn new(shared: &Shared, prefix: &'static str, task: Option<&str>) -> io::Result<Self> {
        let temporary = shared.config.temporary.clone();
        let directory = blocking(move || -> io::Result<TempDir> {
            let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(temporary)?;
            let bin = directory.path().join("bin");
            fs::create_dir(&bin)?;
            // Programs use `mi` as its operators do. Inside the sandbox it lies on no path, but it is what runs here.
            symlink(format!("/proc/{}/exe", std::process::id()), bin.join("mi"))?;
            Ok(directory)
        });
        let directory = directory.await?;
        let path = directory.path().to_owned();
        Ok(Self { path, directory: Some(directory), key: shared.vendors.key(task) })
    }

    /// The path of the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A program in the workspace.
    pub(super) fn command(&self, shared: &Shared, program: &str) -> Command {
        let mut path = self.path.join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = bare(program);
        command.current_dir(&shared.config.workspace).env("PATH", path).env("MI_OFFICE_ID", &shared.office_id);
        command.envs(shared.vendors.variables(&self.key));
        command
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        let directory = self.directory.take();
        // A program may have left any number of files there.
        if Handle::try_current().is_ok() {
            drop(spawn_blocking(move || drop(directory)));
        }
    }
}

/// A program with the agent's own environment, but for what is withheld.
fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    for name in WITHHELD {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_sees_no_secret_of_the_agent() {
        let command = bare("/bin/true");
        let removed: Vec<_> = command.as_std().get_envs().filter(|(_, value)| value.is_none()).collect();
        assert!(removed.iter().any(|(removed, _)| *removed == "MI_ENROL_TOKEN"), "{removed:?}");
    }
}
