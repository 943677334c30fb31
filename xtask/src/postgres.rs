//! The Postgres server for a run of the tests or benchmarks.

use std::{env, process::Command};

use mi_pgserver::Server;
use nix::unistd::Uid;

use crate::{Result, process};

/// Names the server to test with.
pub(crate) const SETTING: &str = "MI_TEST_POSTGRES";

/// The server that the environment names, or one to be kept as long as it is used: what was given is not ours to stop.
pub(crate) fn given_or_started() -> Result<(Option<Server>, String)> {
    match env::var(SETTING) {
        Ok(url) if !url.is_empty() => Ok((None, url)),
        _ => {
            install()?;
            let server = Server::start().map_err(|error| {
                format!("{error}\n{SETTING} may name a running one, as postgres://USER@HOST:PORT/DATABASE")
            })?;
            let url = server.url();
            Ok((Some(server), url))
        }
    }
}

/// Installs Debian's server when there is none and we may.
fn install() -> Result {
    let may = Uid::effective().is_root() && process::works(Command::new("apt-get").arg("--version"));
    if mi_pgserver::find().is_some() || !may {
        return Ok(());
    }
    process::run(Command::new("apt-get").arg("update"))?;
    let mut install = Command::new("apt-get");
    process::run(install.args(["install", "-y", "postgresql"]).env("DEBIAN_FRONTEND", "noninteractive"))
}
