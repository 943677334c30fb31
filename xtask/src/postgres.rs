//! A Postgres server of its own for a run of the tests or benchmarks.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::Signal,
    unistd::{Gid, Uid, User, chown},
};
use tempfile::TempDir;

use crate::{Result, process};

/// Names the server to test with.
pub(crate) const SETTING: &str = "MI_TEST_POSTGRES";
/// How long a server may take to accept connections, and to stop.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Another process may take the free port first.
const ATTEMPTS: u32 = 3;

/// A running server, stopped and deleted when dropped.
pub(crate) struct Postgres {
    child: Child,
    port: u16,
    /// Dropped after the server has stopped: fields go after `drop`.
    _dir: TempDir,
}

impl Postgres {
    /// The server that the environment names, or one to be kept as long as it is used: what was given is not ours to stop.
    pub(crate) fn given_or_started() -> Result<(Option<Self>, String)> {
        match env::var(SETTING) {
            Ok(url) if !url.is_empty() => Ok((None, url)),
            _ => {
                let server = Self::start()?;
                let url = server.url();
                Ok((Some(server), url))
            }
        }
    }

    /// Starts a server with an empty data directory.
    pub(crate) fn start() -> Result<Self> {
        let bin = binaries()?;
        let user = unprivileged()?;
        let dir = tempfile::Builder::new()
            .prefix("mi-postgres-")
            .tempdir()
            .map_err(|error| format!("no temporary directory: {error}"))?;
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).map_err(|error| format!("{}: {error}", dir.path().display()))?;
        }
        let command = |program: &str| {
            let mut command = Command::new(bin.join(program));
            // The user of the server need not be able to enter the folder this runs in.
            command.current_dir(dir.path()).stdin(Stdio::null());
            if let Some((uid, gid)) = user {
                command.uid(uid.as_raw()).gid(gid.as_raw());
            }
            command
        };

        let mut initdb = command("initdb");
        initdb.args(["--auth=trust", "-U", "postgres", "--encoding=UTF8", "--locale=C", "-D"]);
        process::output(initdb.arg(dir.path().join("data")))?;

        let mut attempt = 1;
        let (child, port) = loop {
            match serve(&command, dir.path()) {
                Ok(started) => break started,
                Err(error) if attempt == ATTEMPTS || process::interrupted() => return Err(error),
                Err(_) => attempt += 1,
            }
        };
        Ok(Self { child, port, _dir: dir })
    }

    /// Where the server listens, with a user who may do everything.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Starts a server on a free port and waits until it accepts connections.
fn serve(command: &impl Fn(&str) -> Command, dir: &Path) -> Result<(Child, u16)> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no free port: {error}"))?
        .port();
    let log = dir.join("log");
    let file = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;

    let mut postgres = command("postgres");
    postgres.arg("-D").arg(dir.join("data"));
    for setting in [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        // Next to the data: the folder of the system may be another server's, or not ours to write.
        format!("unix_socket_directories={}", dir.display()),
        "max_connections=300".to_owned(),
        "shared_buffers=64MB".to_owned(),
    ] {
        postgres.arg("-c").arg(setting);
    }
    postgres.stdout(file).stderr(errors);
    // In a group of its own, or Ctrl-C would stop it under the tests that are about to end.
    postgres.process_group(0);
    die_with_parent(&mut postgres);

    let mut child = process::spawn(&mut postgres)?;
    let mut isready = command("pg_isready");
    isready.args(["-q", "-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]);
    let deadline = Instant::now() + START_LIMIT;
    let failure = loop {
        match child.try_wait() {
            Err(error) => break format!("cannot wait for Postgres: {error}"),
            Ok(Some(status)) => break format!("Postgres ended at once: {status}"),
            Ok(None) => {}
        }
        if process::works(&mut isready) {
            return Ok((child, port));
        }
        if process::interrupted() {
            break "interrupted".to_owned();
        }
        if Instant::now() > deadline {
            break format!("Postgres accepts no connections after {} s", START_LIMIT.as_secs());
        }
        process::pause();
    };
    stop(&mut child);
    let said = fs::read_to_string(&log).unwrap_or_default();
    Err(format!("{failure}\n{}", said.trim_end()))
}

/// Has the kernel stop the server when this process dies without having cleaned up.
fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        let die = || nix::sys::prctl::set_pdeathsig(Signal::SIGQUIT).map_err(Into::into);
        // SAFETY: after the fork it makes one system call and allocates nothing.
        unsafe { command.pre_exec(die) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Stops the server at once: nobody wants the data, and a shutdown in good order would first write all of it to disk.
fn stop(child: &mut Child) {
    let deadline = Instant::now() + STOP_LIMIT;
    process::send(child, Signal::SIGQUIT);
    while Instant::now() < deadline {
        // An error means that there is nothing left to wait for.
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        process::pause();
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The user to run the server as, if it cannot be this one: Postgres refuses root.
fn unprivileged() -> Result<Option<(Uid, Gid)>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    match User::from_name("postgres") {
        Ok(Some(user)) => Ok(Some((user.uid, user.gid))),
        Ok(None) => {
            Err("Postgres does not run as root, and there is no system user `postgres` to run it as".to_owned())
        }
        Err(error) => Err(format!("the system user `postgres` cannot be looked up: {error}")),
    }
}

/// The folder with the programs of a server; installs Debian's when there is none and we may.
fn binaries() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    if Uid::effective().is_root() && process::works(Command::new("apt-get").arg("--version")) {
        process::run(Command::new("apt-get").arg("update"))?;
        let mut install = Command::new("apt-get");
        install.args(["install", "-y", "postgresql"]).env("DEBIAN_FRONTEND", "noninteractive");
        process::run(&mut install)?;
        if let Some(found) = find() {
            return Ok(found);
        }
    }
    Err("no Postgres server found: install one (Debian: `apt-get install postgresql`), \
         or name a running one in MI_TEST_POSTGRES, as postgres://USER@HOST:PORT/DATABASE"
        .to_owned())
}

fn find() -> Option<PathBuf> {
    // `pg_config` also comes with the client library alone: it may name a folder that holds no server.
    let named = process::output(Command::new("pg_config").arg("--bindir")).ok();
    let named = named.map(|text| PathBuf::from(text.trim())).filter(|bin| is_server(bin));
    named.or_else(|| newest(Path::new("/usr/lib/postgresql")))
}

/// The newest server among Debian's folders, one for each major version.
fn newest(versions: &Path) -> Option<PathBuf> {
    fs::read_dir(versions)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| {
            let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin")))
        })
        .filter(|(_, bin)| is_server(bin))
        .max()
        .map(|(_, bin)| bin)
}

fn is_server(bin: &Path) -> bool {
    ["initdb", "postgres", "pg_isready"].iter().all(|program| bin.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_server_is_taken() {
        let dir = tempfile::tempdir().expect("temp dir");
        for (version, programs) in [
            ("9", &["initdb", "postgres", "pg_isready"][..]),
            ("15", &["initdb", "postgres", "pg_isready"]),
            ("17", &["pg_isready"]),
        ] {
            let bin = dir.path().join(version).join("bin");
            fs::create_dir_all(&bin).expect("created");
            for program in programs {
                fs::write(bin.join(program), "").expect("written");
            }
        }
        assert_eq!(newest(dir.path()), Some(dir.path().join("15/bin")));
        assert_eq!(newest(&dir.path().join("none")), None);
    }
}
