//! What would keep a platform from starting or working on this machine: looked at, and left as it is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mi_base::files;
use mi_kernel::secret::Secret;
use mi_store::examine::Examined;
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statvfs::statvfs,
    unistd::{AccessFlags, access, geteuid},
};

use crate::objects;

/// With less room than this nothing but deletions is served for sure.
const TOO_FULL: u64 = 64 << 20;
/// With less room than this it is time to look after it.
const NEARLY_FULL: u64 = 1 << 30;
/// What is slower than this makes every change of the platform slow.
const SLOW: Duration = Duration::from_millis(200);

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, less well than it could.
    Warning,
    /// It does not work.
    Problem,
}

/// Something that was looked at.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What, in a word or two.
    pub what: &'static str,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when there is nothing to do.
    pub fix: String,
}

impl Finding {
    /// All is well.
    pub fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Ok, detail: detail.into(), fix: String::new() }
    }

    /// It could be better.
    pub fn warning(what: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Warning, detail: detail.into(), fix: fix.into() }
    }

    /// It does not work.
    pub fn problem(what: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Problem, detail: detail.into(), fix: fix.into() }
    }
}

/// What a platform would be started with here.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Where its API would listen.
    pub listen: SocketAddr,
    /// Where its metrics would be.
    pub metrics_listen: SocketAddr,
    /// Its database; none: SQLite in the data directory.
    pub database: Option<Secret>,
    /// Its object storage; none: a directory in the data directory.
    pub object_store: Option<String>,
    /// Its master key; none: in the data directory.
    pub master_key_file: Option<PathBuf>,
    /// Whether the master key is given in the environment instead.
    pub master_key_given: bool,
}

/// Looks at all of it. `scratch` is an empty directory for the probe of the sandbox. Answers, besides, whether a platform
/// runs on the data directory.
pub async fn examine(machine: &Machine, scratch: &Path) -> (Vec<Finding>, bool) {
    let (lock, is_running) = lock(&machine.data_dir);
    let mut findings = vec![
        data_dir(&machine.data_dir),
        lock,
        disk(&machine.data_dir),
        write(&machine.data_dir),
        master_key(machine),
        sandbox(scratch),
        port("listen", "--listen", machine.listen, is_running),
        port("metrics", "--metrics-listen", machine.metrics_listen, is_running),
    ];
    findings.push(database(machine.database.as_ref()).await);
    findings.push(object_store(machine.object_store.as_deref()).await);
    (findings, is_running)
}

/// The path, or the nearest directory above it that is there.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn data_dir(path: &Path) -> Finding {
    let (what, shown) = ("data directory", path.display());
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = nearest(path);
            return match access(above, AccessFlags::W_OK | AccessFlags::X_OK) {
                Ok(()) => Finding::ok(what, format!("{shown} is not there yet; the first start makes it")),
                Err(error) => Finding::problem(
                    what,
                    format!("{shown} cannot be made in {}: {error}", above.display()),
                    "name another one with --data-dir, or start as a user who may write there",
                ),
            };
        }
        Err(error) => {
            return Finding::problem(what, format!("{shown}: {error}"), "name another one with --data-dir");
        }
    };
    let mode = found.mode() & 0o777;
    if !found.is_dir() {
        return Finding::problem(what, format!("{shown} is no directory"), "name another one with --data-dir");
    }
    if let Err(error) = access(path, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK) {
        let fix = format!("start as user {}, to whom it belongs, or chown it", found.uid());
        return Finding::problem(what, format!("{shown} cannot be used: {error}"), fix);
    }
    if found.uid() != geteuid().as_raw() {
        let fix = format!("start as that user, or `chown -R {} {shown}`", geteuid());
        return Finding::warning(what, format!("{shown} belongs to user {}", found.uid()), fix);
    }
    if mode & 0o077 != 0 {
        return Finding::warning(
            what,
            format!("{shown} is open to others (mode {mode:03o})"),
            format!("chmod 700 {shown}"),
        );
    }
    Finding::ok(what, format!("{shown}, mode {mode:03o}"))
}

/// Who has the data directory, and whether anybody has.
fn lock(data_dir: &Path) -> (Finding, bool) {
    let (what, path) = ("platform", data_dir.join("lock"));
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return (Finding::ok(what, "none has run on this data directory"), false);
        }
        Err(error) => {
            let told = format!("{} cannot be read: {error}", path.display());
            return (Finding::problem(what, told, "look at it as the user that runs the platform"), false);
        }
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => (Finding::ok(what, "none runs on this data directory"), false),
        Err(_) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            (Finding::ok(what, format!("process {} runs on this data directory", holder.trim())), true)
        }
    }
}

fn disk(data_dir: &Path) -> Finding {
    let (what, path) = ("disk", nearest(data_dir));
    let disk = match statvfs(path) {
        Ok(disk) => disk,
        Err(error) => return Finding::problem(what, format!("{}: {error}", path.display()), "mount it again"),
    };
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    let all = disk.blocks().saturating_mul(disk.fragment_size());
    let detail = format!("{} MiB of {} MiB are free", free >> 20, all >> 20);
    let fix = "delete files, backups or agents, or give it a larger disk";
    match free {
        _ if disk.files() > 0 && disk.files_available() == 0 => Finding::problem(what, "no inode is free", fix),
        ..TOO_FULL => Finding::problem(what, detail, fix),
        TOO_FULL..NEARLY_FULL => Finding::warning(what, detail, fix),
        NEARLY_FULL.. => Finding::ok(what, detail),
    }
}

/// Writes a file to the data directory, reads it and removes it.
fn write(data_dir: &Path) -> Finding {
    let what = "disk write";
    if !data_dir.is_dir() {
        return Finding::ok(what, "not tried: there is no data directory yet");
    }
    let path = data_dir.join(format!(".doctor-{}", std::process::id()));
    let started = Instant::now();
    let tried = written(&path);
    let taken = started.elapsed();
    let removed = fs::remove_file(&path);
    match tried.and(removed) {
        Ok(()) if taken > SLOW => {
            let detail = format!("{} ms for a file of 4 KiB that is there for good", taken.as_millis());
            Finding::warning(what, detail, "use a disk that is not slow to write; a network file system often is")
        }
        Ok(()) => Finding::ok(what, format!("{} ms for a file of 4 KiB that is there for good", taken.as_millis())),
        Err(error) => Finding::problem(what, error.to_string(), "make room, or make the disk writable again"),
    }
}

fn written(path: &Path) -> io::Result<()> {
    let content = [b'x'; 4096];
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&content)?;
    file.sync_all()?;
    let mut read = Vec::new();
    File::open(path)?.read_to_end(&mut read)?;
    match read == content {
        true => Ok(()),
        false => Err(io::Error::other("what was read back is not what was written")),
    }
}

fn master_key(machine: &Machine) -> Finding {
    let what = "master key";
    if machine.master_key_given {
        return Finding::ok(what, "given by MI_MASTER_KEY");
    }
    let usual = machine.data_dir.join("master.key");
    let path = machine.master_key_file.as_ref().unwrap_or(&usual);
    let shown = path.display();
    match fs::metadata(path) {
        Ok(found) if !files::is_private(&found) => {
            let detail = format!("{shown} is open to others (mode {:03o})", found.mode() & 0o777);
            Finding::problem(what, detail, format!("chmod 600 {shown}"))
        }
        Ok(_) => match File::open(path) {
            Ok(_) => Finding::ok(what, format!("{shown}, for its owner alone")),
            Err(error) => Finding::problem(what, format!("{shown}: {error}"), "start as the user to whom it belongs"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match machine.database.is_none() && machine.data_dir.join("office.db").exists() {
                true => {
                    let fix = "put it back: without it no secret in the database can be read";
                    Finding::problem(what, format!("{shown} is missing, and there is a database"), fix)
                }
                false => Finding::ok(what, format!("{shown} is not there yet; the first start makes it")),
            }
        }
        Err(error) => {
            Finding::problem(what, format!("{shown}: {error}"), "look at it as the user that runs the platform")
        }
    }
}

fn sandbox(scratch: &Path) -> Finding {
    let what = "sandbox";
    match mi_runtime_process::probe(scratch) {
        Ok(found) if found.missing.is_empty() => Finding::ok(what, "all layers are in place"),
        Ok(found) => {
            let fix = "SECURITY.md says what each takes; `mi up --sandbox required` does without none";
            Finding::warning(what, format!("there is no {}", found.missing.join("; no ")), fix)
        }
        Err(error) => Finding::problem(what, error.chain(), "let this user start processes"),
    }
}

fn port(what: &'static str, flag: &str, address: SocketAddr, is_running: bool) -> Finding {
    if address.port() == 0 {
        return Finding::ok(what, format!("any free port of {}", address.ip()));
    }
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(what, format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_running => {
            Finding::ok(what, format!("{address} is in use, and a platform runs here"))
        }
        Err(error) => {
            let fix = format!("name another address with {flag}, or end what listens there");
            Finding::problem(what, format!("{address} cannot be listened on: {error}"), fix)
        }
    }
}

async fn database(url: Option<&Secret>) -> Finding {
    let what = "database";
    let fix = "check --database, and that its server runs and lets this user in";
    match mi_store::examine::examine(url.map(Secret::expose)).await {
        Err(error) => Finding::problem(what, error.chain(), fix),
        Ok(Examined { version, latency, lacking }) => {
            let detail = format!("{version}, {:.1} ms", latency.as_secs_f64() * 1000.0);
            match lacking {
                Some(lacking) => {
                    Finding::problem(what, format!("{detail}: {lacking}"), "let its administrator grant that")
                }
                None if latency > SLOW => Finding::warning(what, detail, "run the platform nearer to its database"),
                None => Finding::ok(what, detail),
            }
        }
    }
}

async fn object_store(url: Option<&str>) -> Finding {
    let what = "object store";
    let Some(url) = url else { return Finding::ok(what, "a directory in the data directory") };
    let started = Instant::now();
    match objects::try_out(url).await {
        Ok(()) => {
            let detail = format!("written, read and deleted in {} ms", started.elapsed().as_millis());
            Finding::ok(what, detail)
        }
        Err(error) => {
            let fix = "check --object-store and the AWS_* variables; it takes the rights to write, read and delete";
            Finding::problem(what, error.chain(), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    fn a_data_directory_is_looked_at_and_left_as_it_is() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path().join("new/data");
        assert_eq!(data_dir(&path).verdict, Verdict::Ok);
        assert!(!lock(&path).1 && write(&path).verdict == Verdict::Ok && !path.exists());
        fs::create_dir_all(&path).expect("made");
        set_mode(&path, 0o755);
        let open = data_dir(&path);
        assert!(open.verdict == Verdict::Warning && open.fix.starts_with("chmod 700 "), "{open:?}");
        set_mode(&path, 0o700);
        assert_eq!(data_dir(&path).verdict, Verdict::Ok);
        assert_eq!(write(&path).verdict, Verdict::Ok);
        assert_eq!(fs::read_dir(&path).expect("there").count(), 0, "nothing is left");
        fs::write(root.path().join("file"), "").expect("written");
        assert_eq!(data_dir(&root.path().join("file")).verdict, Verdict::Problem);
    }

    #[tokio::test]
    async fn a_platform_that_runs_is_seen_and_not_disturbed() {
        let root = tempfile::tempdir().expect("directory");
        let held = crate::data_dir::DataDir::open(root.path()).await.expect("free");
        let (found, is_running) = lock(root.path());
        assert!(is_running && found.detail.contains(&std::process::id().to_string()), "{found:?}");
        drop(held);
        assert!(!lock(root.path()).1);
        crate::data_dir::DataDir::open(root.path()).await.expect("free again");
    }

    #[test]
    fn a_port_in_use_is_a_problem_unless_the_platform_uses_it() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = taken.local_addr().expect("bound");
        let verdict = |is_running| port("listen", "--listen", address, is_running).verdict;
        assert_eq!([verdict(false), verdict(true)], [Verdict::Problem, Verdict::Ok]);
        drop(taken);
        assert_eq!(verdict(false), Verdict::Ok);
    }

    #[test]
    fn a_master_key_has_to_be_there_and_private() {
        let root = tempfile::tempdir().expect("directory");
        let address: SocketAddr = ([127, 0, 0, 1], 0).into();
        let mut machine = Machine {
            data_dir: root.path().to_owned(),
            listen: address,
            metrics_listen: address,
            database: None,
            object_store: None,
            master_key_file: None,
            master_key_given: false,
        };
        assert_eq!(master_key(&machine).verdict, Verdict::Ok);
        fs::write(root.path().join("office.db"), "").expect("written");
        assert_eq!(master_key(&machine).verdict, Verdict::Problem);
        let key = root.path().join("master.key");
        fs::write(&key, "key").expect("written");
        set_mode(&key, 0o644);
        assert_eq!(master_key(&machine).fix, format!("chmod 600 {}", key.display()));
        set_mode(&key, 0o600);
        assert_eq!(master_key(&machine).verdict, Verdict::Ok);
        machine.master_key_file = Some(root.path().join("other"));
        machine.master_key_given = true;
        assert_eq!(master_key(&machine).verdict, Verdict::Ok);
    }

    #[tokio::test]
    async fn object_storage_is_tried_out_and_left_empty() {
        let root = tempfile::tempdir().expect("directory");
        let url = format!("file://{}", root.path().display());
        let found = object_store(Some(&url)).await;
        assert_eq!(found.verdict, Verdict::Ok, "{found:?}");
        assert_eq!(fs::read_dir(root.path()).expect("there").count(), 0);
        let missing = object_store(Some(&format!("{url}/missing"))).await;
        assert_eq!(missing.verdict, Verdict::Problem);
        assert!(!root.path().join("missing").exists());
        assert_eq!(object_store(Some("ftp://host/x")).await.verdict, Verdict::Problem);
    }
}
