//! The platform as a user runs it: the real `mi`, in one process or in four, on SQLite or Postgres.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    Backend, TestDb,
    process::{Process, Ready},
};
use replicas::Service;

mod replicas;

pub use crate::process::binary;

/// Any free port of this machine.
const ANY_PORT: &str = "127.0.0.1:0";
/// The services open schemas of their own in it; this one stays empty.
const UNUSED_SCHEMA: &str = "public";

/// The process that holds all services.
const UP: &str = "up";
/// The process that callers talk to when there are several, and the one that calls models.
const MODELS: &str = "models";
const GATEWAY: &str = "gateway";
/// File names of keys in the data directory.
const INTERNAL_KEY: &str = "internal.key";
const ADMIN_KEY: &str = "admin.key";

/// How the services are spread over processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arrangement {
    /// `mi up`.
    #[default]
    OneProcess,
    /// `mi serve` for each role.
    ProcessPerRole,
    /// This many processes of each role, each role behind one address, as a cluster's services are.
    Replicas(usize),
}

/// How the platform is started.
#[derive(Debug, Default)]
pub struct Builder {
    backend: Backend,
    /// Of this Postgres server; none: of the one that tests share.
    server: Option<String>,
    arrangement: Arrangement,
    args: Vec<String>,
    envs: Vec<(String, String)>,
}

impl Builder {
    /// On this database; SQLite unless told otherwise.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// On a database of the Postgres server at this URL, instead of the server that tests share.
    #[must_use]
    pub fn postgres(mut self, server: impl Into<String>) -> Self {
        (self.backend, self.server) = (Backend::Postgres, Some(server.into()));
        self
    }

    /// Spread like this; one process unless told otherwise.
    #[must_use]
    pub fn arrangement(mut self, arrangement: Arrangement) -> Self {
        self.arrangement = arrangement;
        self
    }

    /// One more argument for every process.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// One more environment variable for every process.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// When the binary is missing or does not get ready; the end of its log is in the text.
    pub async fn start(self) -> Platform {
        self.start_binary(binary()).await
    }

    async fn start_binary(self, binary: PathBuf) -> Platform {
        let db = match (self.backend, &self.server) {
            (Backend::Sqlite, _) => None,
            (Backend::Postgres, None) => Some(TestDb::new(Backend::Postgres, UNUSED_SCHEMA).await),
            (Backend::Postgres, Some(server)) => Some(TestDb::on_server(server, UNUSED_SCHEMA).await),
        };
        let dir = TempDir::with_prefix("mi-platform-").expect("a temporary directory can be made");
        let data_dir = dir.path().join("data");
        fs::create_dir(&data_dir).expect("a directory can be made in a fresh one");
        write_internal_key(&data_dir.join(INTERNAL_KEY));
        let [gateway, office] = own_addresses();
        let mut platform = Platform {
            processes: Vec::new(),
            binary,
            gateway,
            office,
            what: self,
            db,
            data_dir,
            dir,
            edge: None,
            services: Vec::new(),
            started: 0,
            admin_key: String::new(),
        };
        platform.start().await;
        platform
    }
}

/// A platform of its own; killed and removed when dropped.
// The order of the fields is the order of dropping: processes before their database and their files.
#[derive(Debug)]
pub struct Platform {
    /// In the order of their start: each knows the addresses of those before it.
    processes: Vec<Process>,
    binary: PathBuf,
    /// Of several processes, the gateway's: agents are told its address before it runs, and keep it over restarts.
    gateway: SocketAddr,
    /// Of several processes, the office role's: the scheduler is told its address before it runs.
    office: SocketAddr,
    what: Builder,
    db: Option<TestDb>,
    data_dir: PathBuf,
    /// Holds the data directory, ready files and logs.
    dir: TempDir,
    edge: Option<Ready>,
    /// What stands before the replicas of each role.
    services: Vec<Service>,
    /// How many replicas were started so far.
    started: usize,
    admin_key: String,
}

impl Platform {
    /// What to start can be told before [`Builder::start`].
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts it again over the same data, after [`kill9`](Self::kill9) or [`stop`](Self::stop).
    ///
    /// The endpoint of one process is another one afterwards; that of several stays.
    ///
    /// # Panics
    /// When it runs already, or does not get ready.
    pub async fn start(&mut self) {
        assert!(self.processes.is_empty(), "the platform runs already");
        match self.what.arrangement {
            Arrangement::OneProcess => {
                self.launch(UP, ANY_PORT, &[]).await;
            }
            Arrangement::ProcessPerRole => self.start_roles().await,
            Arrangement::Replicas(count) => self.start_replicas(count).await,
        }
        let edge = match self.services.last() {
            Some(gateways) => gateways.ready(self.processes.last().expect("a process was started")),
            None => self.processes.last().expect("a process was started").ready.clone(),
        };
        self.admin_key = self.read_admin_key();
        self.edge = Some(edge);
    }

    async fn start_roles(&mut self) {
        let key_file = |name: &str| self.data_dir.join(name).display().to_string();
        let (internal_key, admin_key) = (key_file(INTERNAL_KEY), key_file(ADMIN_KEY));
        let gateway = self.gateway.to_string();

        let mut flags = vec![("--internal-key-file", internal_key)];
        let activity = self.launch("activity", ANY_PORT, &flags).await;
        flags.push(("--activity-url", activity));

        let (office, agents) = (self.office.to_string(), ("--agent-endpoint", format!("http://{gateway}")));
        let to_office = ("--office-url", format!("https://{office}"));
        let own = [flags.clone(), vec![agents, to_office.clone()]].concat();
        let scheduler = self.launch("scheduler", ANY_PORT, &own).await;
        flags.push(("--scheduler-url", scheduler));

        let own = [flags.clone(), vec![("--admin-key-file", admin_key)]].concat();
        self.launch("office", &office, &own).await;
        flags.push(to_office);

        let models = self.launch(MODELS, ANY_PORT, &flags).await;
        flags.push(("--models-url", models));

        self.launch(GATEWAY, &gateway, &flags).await;
    }

    /// Starts one process and returns its endpoint.
    async fn launch(&mut self, name: &'static str, listen: &str, flags: &[(&str, String)]) -> String {
        let process = self.process(name, name, listen, flags).await;
        let endpoint = process.ready.endpoint.clone();
        self.processes.push(process);
        endpoint
    }

    /// Starts one process, whose files have this name.
    async fn process(&self, name: &'static str, files: &str, listen: &str, flags: &[(&str, String)]) -> Process {
        let mut command = Command::new(&self.binary);
        // What the developer has set for a platform of their own is not for this one.
        for (variable, _) in env::vars_os() {
            if variable.to_string_lossy().starts_with("MI_") {
                command.env_remove(variable);
            }
        }
        command.env("MI_CONFIG_DIR", self.config_dir());
        match name {
            UP => command.arg(UP).arg("--data-dir").arg(&self.data_dir),
            role => command.args(["serve", role]).arg("--data-dir").arg(self.data_dir.join(files)),
        };
        command.args(["--listen", listen, "--metrics-listen", ANY_PORT]);
        for (flag, value) in flags {
            command.arg(flag).arg(value);
        }
        // These two have no database.
        if let Some(url) = self.db.as_ref().and_then(TestDb::url).filter(|_| ![GATEWAY, MODELS].contains(&name)) {
            command.args(["--database", url]);
        }
        command.args(&self.what.args).envs(self.what.envs.iter().map(|(name, value)| (name, value)));
        Process::start(name, files, &mut command, self.dir.path()).await
    }

    /// SIGKILL to all processes at once: what is on disk is all there is afterwards.
    pub fn kill9(&mut self) {
        // All are hit before the first is waited for: none may tidy up after another's end.
        self.processes.iter_mut().for_each(Process::signal_kill);
        self.processes.iter_mut().for_each(Process::kill9);
        self.processes.clear();
    }

    /// SIGTERM, the edge first.
    ///
    /// # Panics
    /// When a process does not end within 20 seconds, ends with an error, or had ended before.
    pub async fn stop(&mut self) {
        while let Some(process) = self.processes.pop() {
            process.stop().await;
        }
    }

    /// [`stop`](Self::stop) of what runs, nothing after [`kill9`](Self::kill9), and [`start`](Self::start).
    ///
    /// # Panics
    /// When one of them does.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// All that its processes wrote since the first start, one process after the other.
    pub fn log(&self) -> String {
        let names: &[&str] = match self.what.arrangement {
            Arrangement::OneProcess => &[UP],
            Arrangement::ProcessPerRole | Arrangement::Replicas(_) => &replicas::ROLES,
        };
        let numbers: Vec<String> = match self.what.arrangement {
            Arrangement::Replicas(_) => (1..=self.started).map(|number| format!("-{number}")).collect(),
            _ => vec![String::new()],
        };
        let mut all = String::new();
        for (name, number) in names.iter().flat_map(|name| numbers.iter().map(move |number| (name, number))) {
            let log = fs::read(self.dir.path().join(format!("{name}{number}.log"))).unwrap_or_default();
            all.push_str(&String::from_utf8_lossy(&log));
        }
        all
    }

    /// `http://HOST:PORT` of the API.
    pub fn endpoint(&self) -> &str {
        &self.edge().endpoint
    }

    /// `http://HOST:PORT` of the metrics of `mi up`, or of the gateway.
    pub fn metrics_endpoint(&self) -> &str {
        &self.edge().metrics_endpoint
    }

    /// The administrator's API key.
    pub fn admin_key(&self) -> &str {
        &self.admin_key
    }

    /// What `mi up` has for `--data-dir`; of several processes, each has a folder of its own name in it.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// For `MI_CONFIG_DIR` of `mi` commands that talk to it.
    pub fn config_dir(&self) -> PathBuf {
        self.data_dir.join("config")
    }

    /// The process id of `mi up`, or of the gateway.
    ///
    /// # Panics
    /// When it is not running.
    pub fn pid(&self) -> u32 {
        self.processes.last().expect("the platform runs").pid()
    }

    /// The process id of one of several.
    ///
    /// # Panics
    /// When it is not running.
    pub fn pid_of(&self, role: &str) -> u32 {
        let process = self.processes.iter().find(|process| process.name == role);
        process.expect("the role runs in a process of its own").pid()
    }

    /// The URL of its Postgres database; none on SQLite.
    pub fn database_url(&self) -> Option<&str> {
        self.db.as_ref().and_then(TestDb::url)
    }

    fn edge(&self) -> &Ready {
        // Set by the start that every platform begins with.
        self.edge.as_ref().expect("the platform was started")
    }

    /// From a ready file, or the key file of the office service.
    fn read_admin_key(&self) -> String {
        if let Some(key) = self.processes.iter().find_map(|process| process.ready.api_key.clone()) {
            return key;
        }
        let file = self.data_dir.join(ADMIN_KEY);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        text.trim().to_owned()
    }
}

/// Free ports of a loopback address that no other process takes ports of, made of this one's id: they are still free
/// when the roles start, and between their end and their next start. Where the loopback interface has 127.0.0.1 alone,
/// ports of that, which were free a moment ago.
fn own_addresses() -> [SocketAddr; 2] {
    // Process ids have 22 bits at most, so 64.0.0 is added without a carry.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, 64 | high, middle, low);
    let bind = || TcpListener::bind((own, 0)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    // Both are held until both are known, so that they differ.
    let listeners = [bind(), bind()].map(|bound| bound.expect("a port is free"));
    listeners.map(|listener| listener.local_addr().expect("it is bound"))
}

/// The key that `mi serve` wants to find; text, so that it survives editors and Kubernetes secrets.
fn write_internal_key(path: &Path) {
    let key = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let mut file =
        fs::File::options().write(true).create_new(true).mode(0o600).open(path).expect("the key file can be made");
    std::io::Write::write_all(&mut file, key.as_bytes()).expect("the key file can be written");
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Says its arguments and writes the files that `mi` writes.
    const STAND_IN: &str = r#"#!/bin/sh
        echo "args: $*"; echo "extra: $EXTRA"
        [ "$1" = up ] && key='"mi_up"' || key=null
        while [ $# -gt 0 ]; do
            case $1 in
            --ready-file) ready=$2 ;;
            --listen) listen=$2 ;;
            --admin-key-file) echo mi_office > "$2" ;;
            esac
            shift
        done
        trap 'echo stopped; exit 0' TERM
        printf '{"endpoint":"http://%s","metrics_endpoint":"http://m","pid":%d,"api_key":%s}' $listen $$ $key > "$ready.new"
        mv "$ready.new" "$ready"
        while :; do sleep 0.02; done
    "#;

    /// Starts a stand-in for `mi`.
    async fn start(what: Builder) -> (Platform, TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let binary = dir.path().join("mi");
        fs::write(&binary, STAND_IN).expect("written");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o700)).expect("made executable");
        (what.env("EXTRA", "told").arg("--log-format=json").start_binary(binary).await, dir)
    }

    /// The arguments of every start, in the order of the log.
    fn args(platform: &Platform) -> Vec<String> {
        platform.log().lines().filter_map(|line| line.strip_prefix("args: ").map(str::to_owned)).collect()
    }

    #[tokio::test]
    async fn one_process_is_killed_started_and_stopped_over_one_directory() {
        let (mut platform, _dir) = start(Platform::builder()).await;
        let first = platform.pid();
        assert_eq!((platform.admin_key(), platform.metrics_endpoint()), ("mi_up", "http://m"));

        platform.kill9();
        assert!(!platform.log().contains("stopped"), "{}", platform.log());
        platform.restart().await;
        assert_ne!(platform.pid(), first);
        platform.restart().await;
        platform.stop().await;
        assert_eq!(platform.log().matches("stopped").count(), 2);

        let args = args(&platform);
        let data = format!("up --data-dir {} --listen 127.0.0.1:0 ", platform.data_dir().display());
        assert_eq!(args.len(), 3);
        assert!(args.iter().all(|args| args.starts_with(&data) && args.contains(" --log-format=json")), "{args:?}");
        assert!(platform.log().contains("extra: told"));
    }

    #[tokio::test]
    async fn a_process_per_role_know_each_other_and_the_gateway_keeps_its_port() {
        let (mut platform, _dir) = start(Platform::builder().arrangement(Arrangement::ProcessPerRole)).await;
        let endpoint = platform.endpoint().to_owned();
        assert_eq!(platform.admin_key(), "mi_office");

        let args = args(&platform);
        let wanted: [(&str, &[&str]); 5] = [
            ("serve activity ", &[]),
            ("serve scheduler ", &["--activity-url", "--agent-endpoint", "--office-url"]),
            ("serve office ", &["--activity-url", "--scheduler-url", "--admin-key-file"]),
            ("serve models ", &["--activity-url", "--scheduler-url", "--office-url"]),
            ("serve gateway ", &["--activity-url", "--scheduler-url", "--office-url", "--models-url"]),
        ];
        for (args, (start, flags)) in args.iter().zip(wanted) {
            assert!(args.starts_with(start) && args.contains("--internal-key-file "), "{args}");
            let known = [
                "--activity-url",
                "--scheduler-url",
                "--office-url",
                "--models-url",
                "--agent-endpoint",
                "--admin-key-file",
            ];
            for flag in known {
                assert_eq!(args.contains(&format!(" {flag} ")), flags.contains(&flag), "{flag} in {args}");
            }
        }
        assert!(args[1].contains(&format!("--agent-endpoint {endpoint} ")), "{}", args[1]);
        // No other process of this machine has its address.
        let others = cfg!(target_os = "linux") && endpoint.starts_with("http://127.0.0.1:");
        assert!(endpoint.starts_with("http://127.") && !others, "{endpoint}");

        platform.kill9();
        platform.restart().await;
        assert_eq!(platform.endpoint(), endpoint);
        platform.stop().await;
    }

    #[tokio::test]
    async fn on_postgres_all_that_keep_something_get_a_database_that_goes_with_the_platform() {
        let what = Platform::builder().backend(Backend::Postgres).arrangement(Arrangement::ProcessPerRole);
        let (platform, _dir) = start(what).await;
        let url = platform.db.as_ref().and_then(TestDb::url).expect("Postgres");
        let given: Vec<bool> = args(&platform).iter().map(|args| args.contains(&format!("--database {url}"))).collect();
        assert_eq!(given, [true, true, true, false, false]);

        let dir = platform.data_dir().to_owned();
        let pid = nix::unistd::Pid::from_raw(platform.pid().try_into().expect("fits"));
        drop(platform);
        assert!(!dir.exists());
        assert_eq!(nix::sys::signal::kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }
}
