//! What a program of the agent finds around it: the workspace, a directory of its own for as long as it runs, and an
//! environment without what is none of its business.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;
use tokio::process::Command;

use super::Shared;

/// Variables of the agent's own that are none of a program's business.
const WITHHELD: &[&str] =
    &["MI_ENROL_TOKEN", "MI_NEW_IDENTITY", "MI_MODEL_API", "MI_MODEL_ID", "MI_MODEL_URL", "MI_MODEL_KEY"];

/// See the module. The directory goes when this is dropped.
pub(super) struct Surroundings {
    directory: TempDir,
}

impl Surroundings {
    /// Makes the directory, whose name starts like this.
    pub(super) fn new(shared: &Shared, prefix: &str) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(&shared.config.temporary)?;
        let bin = directory.path().join("bin");
        fs::create_dir(&bin)?;
        // Programs use `mi` as its operators do. Within the walls it lies on no path, but it is what runs here.
        symlink(format!("/proc/{}/exe", std::process::id()), bin.join("mi"))?;
        Ok(Self { directory })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A program in the workspace.
    pub(super) fn command(&self, shared: &Shared, program: &str) -> Command {
        let mut path = self.directory.path().join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = bare(program);
        command.current_dir(&shared.config.workspace).env("PATH", path).env("MI_OFFICE_ID", &shared.office_id);
        command
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
        for name in ["MI_ENROL_TOKEN", "MI_MODEL_KEY"] {
            assert!(removed.iter().any(|(removed, _)| *removed == name), "{name} in {removed:?}");
        }
    }
}
