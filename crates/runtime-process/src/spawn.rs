//! Starts a child so that it cannot outlive the platform, inherit from it, leave its sandbox, or exceed its limits.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    net::{Ipv4Addr, TcpListener},
    os::fd::{FromRawFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use mi_kernel::{Error, Result};
use mi_runtime::{Launch, Limits, Sandbox};
use nix::libc;
use tokio::{net::unix::pipe, sync::oneshot};
use url::Url;

use super::{
    Program, SandboxMode,
    child::{Child, Process},
    clone::{self, Failure, Plan},
    sandbox::{Group, Isolation, Own, Ports, Seen},
    workspace,
};

/// Memory of an instance that names no limit: private writable memory, as RLIMIT_DATA counts it.
const DEFAULT_MEMORY: u64 = 2 << 30;
/// Largest file of an instance that names no limit.
const DEFAULT_FILE: u64 = 4 << 30;
/// All files of an instance that names no limit.
const DEFAULT_DISK: u64 = 10 << 30;
/// Processes and threads of an instance that names no limit.
const DEFAULT_PIDS: u64 = 512;
const OPEN_FILES: u64 = 1024;

type Job = (Plan, oneshot::Sender<Result<Process, Failure>>);

/// A thread that lives as long as the process and is the parent of all children.
///
/// The kernel kills a child when the *thread* that made it ends (`PR_SET_PDEATHSIG`), and tokio's threads come and go.
pub(super) struct Spawner {
    jobs: std::sync::mpsc::Sender<Job>,
    isolation: Arc<Isolation>,
    program: Arc<OwnedFd>,
    arguments: Vec<CString>,
}

/// An instance that has just begun.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
    pub(super) group: Option<Group>,
    pub(super) disk_bytes: u64,
}

fn opened(program: &Path) -> Result<Arc<OwnedFd>> {
    let opened = fs::File::open(program).map_err(|error| {
        let text = format!("the program of agents, {}, cannot be opened", program.display());
        Error::precondition("PROGRAM", text).caused_by(error)
    })?;
    Ok(Arc::new(OwnedFd::from(opened)))
}

/// The layers that this host gives, tried with this very program.
pub(super) fn probe(root: &Path) -> Result<Sandbox> {
    Isolation::probe(root, &opened(Path::new("/proc/self/exe"))?, &own_process().map_err(Error::internal)?)
}

impl Spawner {
    pub(super) fn start(root: &Path, program: Program, mode: SandboxMode) -> Result<Self> {
        let opened = opened(&program.path)?;
        let arguments = program.arguments.into_iter().map(text).collect::<Result<Vec<_>>>()?;
        let platform = own_process().map_err(Error::internal)?;
        let isolation = Arc::new(Isolation::open(mode, root, &opened, &platform)?);
        let (jobs, todo) = std::sync::mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name("mi-spawner".into());
        thread
            .spawn(move || {
                while let Ok((plan, done)) = todo.recv() {
                    // A caller that is gone drops the process, which kills it.
                    let _ = done.send(clone::start(&plan, &platform));
                }
            })
            .map_err(Error::internal)?;
        Ok(Self { jobs, isolation, program: opened, arguments })
    }

    pub(super) fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    pub(super) async fn spawn(&self, launch: Launch, home: &Path) -> Result<Started> {
        let text = format!("the instance of {:?} could not be started", launch.name);
        let failed = |error: io::Error| Error::unavailable(text.clone()).caused_by(error);
        let limits = Limits {
            disk_bytes: Some(launch.limits.disk_bytes.unwrap_or(DEFAULT_DISK)),
            memory_bytes: Some(launch.limits.memory_bytes.unwrap_or(DEFAULT_MEMORY)),
            pids: Some(launch.limits.pids.unwrap_or(DEFAULT_PIDS)),
            file_bytes: Some(launch.limits.file_bytes.unwrap_or(DEFAULT_FILE)),
            cpu_millis: launch.limits.cpu_millis,
        };
        let group = self.isolation.group(&launch.instance.to_string(), &limits)?;
        let (isolation, program, arguments) = (self.isolation.clone(), self.program.clone(), self.arguments.clone());
        let (home, door) = (home.to_owned(), group.as_ref().map(Group::door).transpose().map_err(failed)?);
        let planned = move || -> Result<Plan> {
            let mut plan = plan(&isolation, program, launch, &limits, &home)?;
            plan.arguments = arguments;
            plan.group = door;
            Ok(plan)
        };
        let plan = tokio::task::spawn_blocking(planned).await.map_err(Error::internal)??;
        let (done, process) = oneshot::channel();
        let gone = || Error::internal("the spawner thread is gone");
        self.jobs.send((plan, done)).map_err(|_| gone())?;
        let process = process.await.map_err(|_| gone())?;
        let process = process.map_err(|failure| Error::unavailable(text.clone()).caused_by(failure))?;
        let (child, stdout, stderr) = Child::new(process).map_err(failed)?;
        Ok(Started { child, stdout, stderr, group, disk_bytes: limits.disk_bytes.unwrap_or(DEFAULT_DISK) })
    }
}

/// This process, as a descriptor that is readable once it is dead.
fn own_process() -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is new and ours.
    unsafe {
        match libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor as libc::c_int)),
        }
    }
}

fn text(text: String) -> Result<CString> {
    CString::new(text).map_err(Error::internal)
}

fn plan(
    isolation: &Isolation,
    program: Arc<OwnedFd>,
    mut launch: Launch,
    limits: &Limits,
    home: &Path,
) -> Result<Plan> {
    let (workspace, identity, temporary) =
        (workspace::workspace(home), workspace::identity(home), workspace::temporary(home));
    let own = Own { workspace: &workspace, identity: &identity, temporary: &temporary };
    let agent = launch.place.agent_id;
    workspace::ready(home, isolation.owner(agent))?;
    let relay = free_port()
        .map_err(|error| Error::unavailable("no port is free for the relay of an agent's programs").caused_by(error))?;
    launch.env.insert("MI_RELAY_PORT".to_owned(), relay.to_string());
    let gateway = launch.env.get("MI_ENDPOINT").and_then(|url| Url::parse(url).ok()?.port_or_known_default());
    let mut plan = isolation.plan(program, Some(&own), agent, Ports { gateway, relay: Some(relay) })?;
    plan.environment = environment(launch.env, &isolation.seen(&own))?;
    let known = [
        (libc::RLIMIT_DATA, limits.memory_bytes),
        (libc::RLIMIT_FSIZE, limits.file_bytes),
        (libc::RLIMIT_NOFILE, Some(OPEN_FILES)),
        (libc::RLIMIT_NPROC, limits.pids.filter(|_| isolation.counts_processes())),
    ];
    plan.limits.extend(known.into_iter().filter_map(|(resource, most)| Some((resource, most?))));
    Ok(plan)
}

/// A port of loopback that nobody listens on. Somebody may by the time the agent does: then it ends, and gets another one.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn environment(given: BTreeMap<String, String>, seen: &Seen) -> Result<Vec<CString>> {
    let mut all = BTreeMap::from([
        ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    all.extend(given);
    let own = [
        ("HOME", &seen.workspace),
        ("MI_WORKSPACE", &seen.workspace),
        ("MI_IDENTITY_DIR", &seen.identity),
        ("TMPDIR", &seen.temporary),
    ];
    all.extend(own.map(|(name, path)| (name.to_owned(), path.display().to_string())));
    all.into_iter().map(|(name, value)| text(format!("{name}={value}"))).collect()
}
