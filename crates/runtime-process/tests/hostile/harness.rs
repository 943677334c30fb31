//! A platform with two agents, one of them hostile, and everything around it that it should not reach.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use mi_base::Tasks;
use mi_kernel::{AgentId, InstanceId, OfficeId, SystemClock};
use mi_runtime::{CapturedLine, Launch, Limits, Place, Runtime};
use mi_runtime_process::{ProcessConfig, ProcessRuntime, Program, SandboxMode};
use mi_testkit::until;
use nix::{
    pty::{OpenptyResult, openpty},
    unistd::{Pid, ttyname},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Harness {
    pub(crate) runtime: Arc<ProcessRuntime>,
    pub(crate) place: Place,
    launch: Launch,
    /// Where the platform listens, which alone may be reached.
    pub(crate) platform: SocketAddr,
    root: TempDir,
    lines: mpsc::Receiver<CapturedLine>,
    /// Listeners that nobody should reach, a terminal, and the neighbour.
    _around: ([TcpListener; 6], UnixListener, UnixListener, OpenptyResult, Neighbour),
}

/// A process of the platform's user, with a token in its environment.
struct Neighbour(Child);

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `/bin/sh -c script`.
pub(crate) fn shell(script: &str) -> Program {
    Program { path: "/bin/sh".into(), arguments: ["sh", "-c", script].map(str::to_owned).to_vec() }
}

impl Harness {
    /// With an agent that does the acts of one of the programs of this test.
    pub(crate) async fn of_acts(mode: SandboxMode, program: &str) -> Self {
        let arguments = ["hostile", program, "--exact", "--nocapture", "--test-threads=1"];
        let path = env::current_exe().expect("this test");
        let program = Program { path, arguments: arguments.map(str::to_owned).to_vec() };
        Self::new(mode, program, Limits::default()).await
    }

    /// With an agent that runs a shell script.
    pub(crate) async fn of_script(mode: SandboxMode, script: &str) -> Self {
        Self::new(mode, shell(script), Limits::default()).await
    }

    pub(crate) async fn new(mode: SandboxMode, program: Program, limits: Limits) -> Self {
        let root = tempfile::tempdir().expect("made");
        let (lines_in, lines) = mpsc::channel(1024);
        let mut config = ProcessConfig::new(root.path().join("agents"), mode);
        config.program = program;
        config.disk_interval = Duration::from_millis(50);
        let runtime =
            Arc::new(ProcessRuntime::open(config, lines_in, SystemClock::shared(), &Tasks::new()).expect("opened"));
        let place = Place { office_id: OfficeId::new(), agent_id: AgentId::new() };

        for file in ["scheduler.db", "admin.key", "internal.key"] {
            fs::write(root.path().join(file), "secret").expect("written");
        }
        let other = Place { agent_id: AgentId::new(), ..place };
        runtime.prepare(other, None).await.expect("prepared");
        let neighbours_file = home(root.path(), other).join("workspace/file");
        fs::write(&neighbours_file, "secret").expect("written");
        // It ends with this test, whatever becomes of that.
        let neighbour = Command::new("/bin/cat").stdin(Stdio::piped()).env("MI_ENROL_TOKEN", "secret").spawn();
        let neighbour = Neighbour(neighbour.expect("a process"));

        let listen = |address: &str| TcpListener::bind(address).expect("a free port");
        let tcp =
            ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0", "127.0.0.1:0"].map(listen);
        let address = |number: usize| tcp[number].local_addr().expect("bound");
        let socket = root.path().join("socket");
        let by_path = UnixListener::bind(&socket).expect("bound");
        let hidden = format!("mi-hostile-{}", place.agent_id);
        let by_name = UnixAddr::from_abstract_name(&hidden).and_then(|name| UnixListener::bind_addr(&name));

        let terminal = openpty(None, None).expect("a terminal");
        let terminals_name = ttyname(&terminal.slave).expect("a name").display().to_string();

        let path = |name: &str| root.path().join(name).display().to_string();
        let mut env = BTreeMap::from([("MI_ENDPOINT".to_owned(), format!("http://{}", address(0)))]);
        env.extend(
            [
                ("NEIGHBOUR_FILE", neighbours_file.display().to_string()),
                ("DATABASE", path("scheduler.db")),
                ("ADMIN_KEY", path("admin.key")),
                ("INTERNAL_KEY", path("internal.key")),
                ("OUTSIDE", path("agents/outside")),
                ("PLATFORM_PROCESS", std::process::id().to_string()),
                ("NEIGHBOUR_PROCESS", neighbour.0.id().to_string()),
                ("PLATFORM_ADDRESS", address(0).to_string()),
                ("OTHER_ADDRESS", address(1).to_string()),
                ("NEIGHBOUR_ADDRESS", address(2).to_string()),
                ("METADATA_ADDRESS", address(3).to_string()),
                ("INTERNET_ADDRESS", address(4).to_string()),
                ("RELAY_ADDRESS", address(5).to_string()),
                ("ABSTRACT", hidden),
                ("SOCKET", path("socket")),
                ("TERMINAL", terminals_name),
            ]
            .map(|(name, value)| (format!("HOSTILE_{name}"), value)),
        );
        runtime.prepare(place, None).await.expect("prepared");
        let launch = Launch { place, name: "hostile".into(), instance: InstanceId::new(), env, limits };
        runtime.start(launch.clone()).await.expect("started");
        let (platform, around) = (address(0), (tcp, by_path, by_name.expect("bound"), terminal, neighbour));
        Self { runtime, place, launch, platform, root, lines, _around: around }
    }

    /// Of all agents and everything around them.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        home(self.root.path(), self.place).join("workspace")
    }

    /// The agent's first process, as the platform notes it down.
    pub(crate) fn process(&self) -> Pid {
        let note = fs::read_to_string(home(self.root.path(), self.place).join("pid")).expect("noted");
        Pid::from_raw(note.split_whitespace().next().expect("an id").parse().expect("a number"))
    }

    /// Starts the agent once more.
    pub(crate) async fn again(&mut self) {
        self.launch.instance = InstanceId::new();
        self.runtime.start(self.launch.clone()).await.expect("started");
    }

    /// Waits until the agent has ended by itself: why.
    pub(crate) async fn ended(&self) -> String {
        let ended = async || -> Result<_, String> {
            let instance = self.runtime.observe(self.place.agent_id).ok_or("no instance")?;
            Ok(instance.exit)
        };
        until("the agent has ended", LONG, ended).await
    }

    pub(crate) async fn line(&mut self) -> String {
        let line = tokio::time::timeout(LONG, self.lines.recv()).await.expect("a line in time");
        line.expect("a line").text
    }

    /// All that the agent prints until it ends.
    pub(crate) async fn lines(&mut self) -> Vec<String> {
        self.ended().await;
        // The readers of its output end with it and drop their senders; the runtime's own stays.
        let mut lines = Vec::new();
        while let Ok(Some(line)) = tokio::time::timeout(Duration::from_millis(300), self.lines.recv()).await {
            lines.push(line.text);
        }
        lines
    }

    /// What the acts came to, by their names.
    pub(crate) async fn acts(&mut self) -> BTreeMap<String, String> {
        let lines = self.lines().await;
        let act = |line: &String| {
            // The test harness prints the test's name before the first one.
            let (_, act) = line.split_once("act ")?;
            act.split_once(": ").map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        };
        let acts: BTreeMap<_, _> = lines.iter().filter_map(act).collect();
        assert!(!acts.is_empty(), "{lines:?}");
        acts
    }
}

pub(crate) fn home(root: &Path, place: Place) -> PathBuf {
    root.join("agents").join(place.office_id.to_string()).join(place.agent_id.to_string())
}
