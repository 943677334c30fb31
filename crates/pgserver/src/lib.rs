//! Dev only: a Postgres server of its own, for tests, benchmarks and project tasks. Knows nothing of the platform and
//! little of other crates, so that `cargo xtask` is built in seconds.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, User, chown},
};
use tempfile::TempDir;

/// The error is a sentence for people.
pub type Result<T = (), E = String> = std::result::Result<T, E>;

/// How long a server may take to accept connections, crash recovery included, and to be gone.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Another process may take the free port first: Postgres cannot be told to find one itself.
const ATTEMPTS: u32 = 10;

/// A server with an empty data directory, stopped and deleted when dropped.
///
/// It is durable, as Postgres is unless told otherwise, and listens on a port of the loopback interface that it keeps.
///
/// # Caveats
/// The kernel stops it when the thread that started it ends: in an async test that is the test's own, not a blocking one.
#[derive(Debug)]
pub struct Server {
    /// None: killed.
    child: Option<Child>,
    port: u16,
    bin: PathBuf,
    /// Who it runs as, if not as who runs this.
    user: Option<(Uid, Gid)>,
    /// Dropped after the server has stopped: fields go after `drop`.
    dir: TempDir,
}

impl Server {
    /// Starts one, from the programs that [`find`] finds.
    ///
    /// # Errors
    /// When there are none, and when the server does not accept connections.
    pub fn start() -> Result<Self> {
        let bin = find().ok_or("no Postgres server found: install one (Debian: `apt-get install postgresql`)")?;
        let dir = tempfile::Builder::new().prefix("mi-postgres-").tempdir();
        let dir = dir.map_err(|error| format!("no temporary directory: {error}"))?;
        let mut server = Self { child: None, port: 0, bin, user: unprivileged()?, dir };
        if let Some((uid, gid)) = server.user {
            let path = server.dir.path();
            chown(path, Some(uid), Some(gid)).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let mut initdb = server.command("initdb");
        initdb.args(["--auth=trust", "-U", "postgres", "--encoding=UTF8", "--locale=C", "-D"]).arg(server.data());
        let made = initdb.output().map_err(|error| format!("initdb cannot be started: {error}"))?;
        if !made.status.success() {
            return Err(format!("initdb: {}\n{}", made.status, String::from_utf8_lossy(&made.stderr).trim_end()));
        }
        let mut attempt = 1;
        loop {
            server.port = free_port()?;
            match server.serve() {
                Ok(()) => return Ok(server),
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    /// Where it listens, with a user who may do everything.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// All that it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// SIGKILL to the server and all its processes: what is on disk is all there is afterwards.
    ///
    /// # Errors
    /// When one of them is still there after seconds.
    pub fn kill9(&mut self) -> Result {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        // First, and waited for: it would start new ones.
        let _ = child.kill();
        let _ = child.wait();
        // Each of them leads a session of its own, so that no process group has them all; the directory does. A new
        // server refuses to start while one of the old is attached to the shared memory.
        let data = self.data();
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            let left = working_in(&data)?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the processes {left:?} of Postgres cannot be killed"));
            }
            for pid in left {
                // One may be gone by itself: they notice when the first one is.
                let _ = kill(pid, Signal::SIGKILL);
            }
            pause();
        }
    }

    /// Starts it again after [`kill9`](Self::kill9), over the same data and on the same port.
    ///
    /// # Errors
    /// When it does not accept connections.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start_again(&mut self) -> Result {
        assert!(self.child.is_none(), "the server runs already");
        self.serve()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        // The user of the server need not be able to enter the folder this runs in.
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Starts the server on its port and waits until it accepts connections.
    fn serve(&mut self) -> Result {
        let log = self.dir.path().join("log");
        let said = self.log().len();
        let file = fs::File::options().create(true).append(true).open(&log);
        let files = file.and_then(|file| Ok((file.try_clone()?, file)));
        let (output, errors) = files.map_err(|error| format!("{}: {error}", log.display()))?;
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.data()).stdout(output).stderr(errors);
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            // Next to the data: the folder of the system may be another server's, or not ours to write.
            format!("unix_socket_directories={}", self.dir.path().display()),
            "max_connections=300".to_owned(),
            "shared_buffers=64MB".to_owned(),
        ] {
            postgres.arg("-c").arg(setting);
        }
        // In a group of its own, or Ctrl-C would stop it under the tests that are about to end.
        postgres.process_group(0);
        die_with_parent(&mut postgres);
        let child = postgres.spawn().map_err(|error| format!("postgres cannot be started: {error}"))?;
        let child = self.child.insert(child);

        let port = self.port.to_string();
        let deadline = Instant::now() + START_LIMIT;
        let failure = loop {
            match child.try_wait() {
                Err(error) => break format!("cannot wait for Postgres: {error}"),
                Ok(Some(status)) => break format!("Postgres ended at once: {status}"),
                Ok(None) => {}
            }
            let mut isready = Command::new(self.bin.join("pg_isready"));
            // Through its own socket, which it opens after the port: on the port another server may answer.
            isready.arg("-q").arg("-h").arg(self.dir.path()).args(["-U", "postgres", "-p", &port]);
            if isready.status().is_ok_and(|status| status.success()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                break format!("Postgres accepts no connections after {} s", START_LIMIT.as_secs());
            }
            pause();
        };
        self.stop();
        Err(format!("{failure}\n{}", self.log().get(said..).unwrap_or_default().trim_end()))
    }

    /// Stops it at once: nobody wants the data, and a shutdown in good order would first write all of it to disk.
    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // A process id is positive and fits; a child that is gone needs no signal.
        let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGQUIT);
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            // An error means that there is nothing left to wait for.
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            pause();
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

#[expect(clippy::disallowed_methods, reason = "there is no runtime to block here")]
fn pause() {
    thread::sleep(POLL);
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(address.map_err(|error| format!("no free port: {error}"))?.port())
}

/// The processes whose working directory this is; those that have ended and were not waited for yet have none.
fn working_in(dir: &Path) -> Result<Vec<Pid>> {
    let entries = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
    let pids = entries.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let works = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir);
        works.then(|| Pid::from_raw(pid))
    });
    Ok(pids.collect())
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

/// The folder with the programs of a server, if this machine has one.
pub fn find() -> Option<PathBuf> {
    // `pg_config` also comes with the client library alone: it may name a folder that holds no server.
    let named = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).output().ok();
    let named = named.filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
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

    #[test]
    fn a_server_that_was_killed_recovers_where_it_was() {
        let mut server = Server::start().expect("starts");
        let (url, data) = (server.url(), server.data());
        assert!(working_in(&data).expect("listed").len() > 1, "one process does not make a server");
        server.kill9().expect("killed");
        assert_eq!(working_in(&data).expect("listed"), []);
        server.start_again().expect("starts again");
        assert_eq!(server.url(), url);
        let log = server.log();
        assert_eq!(log.matches("database system was not properly shut down").count(), 1, "{log}");
        drop(server);
        assert!(!data.exists());
    }
}
