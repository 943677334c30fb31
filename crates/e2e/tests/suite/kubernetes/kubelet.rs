//! A node for the API server of tests: the containers of pods are processes, claims are directories, secrets are files.
//!
//! What a pod says of itself is what its process does: an agent's pod runs once there is a process, a job's pod ends with
//! the code of its own.

use std::{collections::HashMap, fs, path::Path, process::Stdio, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use mi_kubesim::{Conduct, Pods, Sim};
use mi_testkit::platform::binary;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};

/// The pause between two looks at the pods.
const PAUSE: Duration = Duration::from_millis(20);

/// The node. Its processes end with it.
pub(super) struct Kubelet {
    task: JoinHandle<()>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Running {
    pod: Value,
    process: Child,
    ending: bool,
}

impl Kubelet {
    /// Runs every pod there is from now on.
    pub(super) fn start(sim: Arc<Sim>) -> Self {
        // Until there is a process.
        sim.conduct(Pods::all(), Conduct::Create);
        let disk = tempfile::tempdir().expect("made");
        Self { task: tokio::spawn(run(sim, disk)) }
    }
}

async fn run(sim: Arc<Sim>, disk: TempDir) {
    let mut running: HashMap<String, Running> = HashMap::new();
    loop {
        let pods: HashMap<String, Value> =
            sim.list("pods", "").into_iter().map(|pod| (text(&pod, "/metadata/uid"), pod)).collect();
        let mut ended = Vec::new();
        for (uid, it) in &mut running {
            let pod = pods.get(uid).filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
            if let (None, false, Some(pid)) = (pod, it.ending, it.process.id()) {
                it.ending = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).is_ok();
            }
            write_secrets(&sim, &it.pod, disk.path());
            if let Some(status) = it.process.try_wait().expect("waited for") {
                sim.conduct(of(&it.pod), Conduct::Finish(status.code().unwrap_or(137)));
                ended.push(uid.clone());
            }
        }
        for uid in ended {
            running.remove(&uid);
        }
        for (uid, pod) in &pods {
            let free = |it: &Running| claim_of(&it.pod) != claim_of(pod);
            let waits = pod["metadata"]["deletionTimestamp"].is_null()
                && matches!(text(pod, "/status/phase").as_str(), "Pending" | "Running");
            if waits && !running.contains_key(uid) && running.values().all(free) && pod["spec"]["nodeName"].is_string()
            {
                write_secrets(&sim, pod, disk.path());
                let Some(process) = spawn(&sim, pod, disk.path()) else { continue };
                running.insert(uid.clone(), Running { pod: pod.clone(), process, ending: false });
                let conduct = if is_job(pod) { Conduct::Unready } else { Conduct::Run };
                sim.conduct(of(pod), conduct);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn of(pod: &Value) -> Pods {
    Pods::all().namespace(&text(pod, "/metadata/namespace")).name(&text(pod, "/metadata/name"))
}

fn is_job(pod: &Value) -> bool {
    text(pod, "/spec/restartPolicy") == "Never"
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn claim_of(pod: &Value) -> String {
    let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
    let claim = volumes.iter().find_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    format!("{}/{}", text(pod, "/metadata/namespace"), claim.expect("a claim"))
}

/// Where a path of the container is.
fn path_of(pod: &Value, disk: &Path, path: &str) -> String {
    let within = match path {
        "/workspace" | "/identity" => format!("claims/{}{path}", claim_of(pod)),
        _ => format!("pods/{}{path}", text(pod, "/metadata/uid")),
    };
    let path = disk.join(within);
    path.to_str().expect("plain").to_owned()
}

fn write_secrets(sim: &Sim, pod: &Value, disk: &Path) {
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().expect("mounts");
    for mount in mounts {
        let directory = path_of(pod, disk, mount["mountPath"].as_str().expect("a path"));
        fs::create_dir_all(&directory).expect("made");
        let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("a volume");
        let Some(secret) = volume["secret"]["secretName"].as_str() else { continue };
        for (name, value) in data_of(sim, pod, secret) {
            let file = Path::new(&directory).join(name);
            if fs::read_to_string(&file).ok().as_ref() != Some(&value) {
                fs::write(file, value).expect("written");
            }
        }
    }
}

fn data_of(sim: &Sim, pod: &Value, secret: &str) -> Vec<(String, String)> {
    let Some(secret) = sim.get("secrets", &text(pod, "/metadata/namespace"), secret) else { return Vec::new() };
    let plain = |(name, value): (&String, &Value)| {
        let bytes = BASE64_STANDARD.decode(value.as_str().expect("text")).expect("base64");
        (name.clone(), String::from_utf8(bytes).expect("text"))
    };
    secret["data"].as_object().expect("data").iter().map(plain).collect()
}

/// Starts the process of a pod; none: something that it needs is not there yet.
fn spawn(sim: &Sim, pod: &Value, disk: &Path) -> Option<Child> {
    let container = &pod["spec"]["containers"][0];
    let mut command = Command::new(binary());
    command.args(container["args"].as_array().expect("arguments").iter().map(|it| it.as_str().expect("text")));
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("TMPDIR", path_of(pod, disk, "/tmp"));
    for from in container["envFrom"].as_array().into_iter().flatten() {
        let known = data_of(sim, pod, from["secretRef"]["name"].as_str().expect("a secret"));
        if known.is_empty() {
            return None;
        }
        command.envs(known);
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let (name, value) = (text(variable, "/name"), text(variable, "/value"));
        let value = match (name.as_str(), value.strip_prefix("/run/enrolment/")) {
            ("MI_HEALTH_LISTEN", _) => "127.0.0.1:0".to_owned(),
            (_, Some(file)) => format!("{}/{file}", path_of(pod, disk, "/run/enrolment")),
            (_, None) if value.starts_with('/') => path_of(pod, disk, &value),
            _ => value,
        };
        command.env(name, value);
    }
    // What every pod is told; and nobody is at this address.
    let server = sim.address();
    command.env("KUBERNETES_SERVICE_HOST", server.ip().to_string());
    command.env("KUBERNETES_SERVICE_PORT", server.port().to_string());
    command.env("ISOLATION_CHECK_POD_ADDRESSES", "127.0.0.1:1");
    let log = Path::new(&path_of(pod, disk, "/tmp")).join("log");
    let log = fs::File::options().create(true).append(true).open(log).expect("a log");
    command.current_dir(path_of(pod, disk, "/workspace")).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a log")).stderr(log).kill_on_drop(true);
    Some(command.spawn().expect("started"))
}
