//! A check of the isolation from inside: what an agent tries when its hirer asks for it, and says in its log.
//!
//! `mi colonies verify` hires a throw-away agent with these variables. Whatever runs an agent, this is what its programs
//! could do there.

use std::{
    env, fs, io, iter,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

use mi_client::Client;
use mi_proto::v1::EnrolAgentRequest;
use serde_json::json;
use tonic::Code;

use crate::{
    blocking::blocking,
    config::{AgentConfig, EnrolToken},
    logs::Log,
};

/// The variable that asks for the check.
pub const ASK: &str = "ISOLATION_CHECK";
/// Files that the agent must not read, one path after the other, separated by colons.
pub const PATHS: &str = "ISOLATION_CHECK_PATHS";
/// Addresses of the hirer's machine that it must not reach, separated by commas.
pub const ADDRESSES: &str = "ISOLATION_CHECK_ADDRESSES";
/// Addresses that it must not reach where it is a pod, separated by commas.
pub const POD_ADDRESSES: &str = "ISOLATION_CHECK_POD_ADDRESSES";
/// How a line about one probe begins; JSON follows.
pub const LINE: &str = "isolation-check: ";
/// The last line of the check.
pub const DONE: &str = "isolation-check done";
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Where a pod would have a token for the API server.
const ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// What of a process cannot be tried in a pod, and what stands in the place of it.
const NOT_IN_A_POD: [(&str, &str, &str); 3] = [
    (
        "files",
        "read files of the platform and of others",
        "a pod has the files of its image and its claim, and no others",
    ),
    ("network", "open sockets", "a pod has a network of its own, into which policies let nobody"),
    (
        "network",
        "reach the Internet and other agents",
        "not tried: the policies mi-deny and mi-allow refuse it, as far as the cluster's network plugin enforces policies, \
         which what else was tried of the network shows",
    ),
];

/// Tries everything, if the environment asks for it.
pub(crate) async fn run(config: &AgentConfig, anonymous: &Client, log: &Log) {
    if env::var_os(ASK).is_none() {
        return;
    }
    let list = |name, separator: char| -> Vec<String> {
        let text = env::var(name).unwrap_or_default();
        text.split(separator).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let api_server = api_server();
    let (paths, addresses) = match &api_server {
        Some(_) => (vec![ACCOUNT_TOKEN.to_owned(), "/etc/shadow".to_owned()], list(POD_ADDRESSES, ',')),
        None => {
            let own = ["/etc/shadow", "/root", "/home"].map(str::to_owned);
            (list(PATHS, ':').into_iter().chain(own).collect(), list(ADDRESSES, ','))
        }
    };
    for (layer, probe, why) in NOT_IN_A_POD.into_iter().filter(|_| api_server.is_some()) {
        log.say(format!("{LINE}{}", json!({ "layer": layer, "probe": probe, "absent": true, "detail": why })));
    }
    let tried = blocking(move || {
        let mut found = files(&paths);
        match &api_server {
            Some(server) => found.extend(iter::once(server).chain(&addresses).map(|it| from_pod(it))),
            None => found.extend(sockets(&addresses)),
        }
        found.extend(processes());
        found.extend(terminals());
        found
    });
    let mut found = tried.await;
    found.push(replay(config, anonymous).await);
    for (layer, probe, outcome) in found {
        let (hole, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        log.say(format!("{LINE}{}", json!({ "layer": layer, "probe": probe, "hole": hole, "detail": detail })));
    }
    log.say(DONE.into());
}

/// A layer of isolation, what was tried, and either what it led to or what stood in the way.
type Tried = (&'static str, String, Result<String, String>);

fn tried<T>(layer: &'static str, probe: String, outcome: io::Result<T>) -> Tried {
    (layer, probe, outcome.map(|_| "it worked".to_owned()).map_err(|error| error.to_string()))
}

fn files(paths: &[String]) -> Vec<Tried> {
    let read = |path: &str| match fs::metadata(path).map(|found| found.is_dir()) {
        Ok(true) => fs::read_dir(path).map(drop),
        _ => fs::File::open(path).map(drop),
    };
    let mut found: Vec<Tried> = paths.iter().map(|path| tried("files", format!("read {path}"), read(path))).collect();
    for directory in ["/usr", "/etc", "/"] {
        let file = Path::new(directory).join(".isolation-check");
        let written = fs::write(&file, "");
        let _ = fs::remove_file(&file);
        found.push(tried("files", format!("write to {directory}"), written));
    }
    found
}

/// A terminal lets whoever opens it read what is typed there.
fn terminals() -> Vec<Tried> {
    let foreign = match fs::read_dir("/dev/pts") {
        Ok(entries) => match entries.flatten().filter(|entry| entry.file_name() != "ptmx").count() {
            0 => Err("none can be seen".to_owned()),
            count => Ok(format!("{count} can be seen")),
        },
        Err(error) => Err(error.to_string()),
    };
    let own = tried("files", "open the platform's terminal".into(), fs::File::open("/dev/tty"));
    vec![("files", "find the terminals of others".into(), foreign), own]
}

/// Where the API server of the cluster is, which every pod is told, whatever its own settings; none: this is no pod.
fn api_server() -> Option<String> {
    let port = env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
    env::var("KUBERNETES_SERVICE_HOST").ok().map(|host| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    })
}

/// Connects from a pod. Some network plugins refuse what others drop, so that a refusal is one of theirs.
fn from_pod(address: &str) -> Tried {
    let outcome = match address.parse::<SocketAddr>() {
        Ok(parsed) => TcpStream::connect_timeout(&parsed, CONNECT_LIMIT).map(drop),
        Err(error) => Err(io::Error::other(error)),
    };
    tried("network", format!("connect to {address}"), outcome)
}

fn sockets(addresses: &[String]) -> Vec<Tried> {
    let mut found = Vec::new();
    for address in addresses {
        let outcome = match address.parse::<SocketAddr>() {
            // Nobody there is as good as an answer: the call got out.
            Ok(parsed) => match TcpStream::connect_timeout(&parsed, CONNECT_LIMIT) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                outcome => outcome.map(drop),
            },
            Err(_) => continue,
        };
        found.push(tried("network", format!("connect to {address}"), outcome));
    }
    found.push(tried("network", "listen on a TCP port".into(), TcpListener::bind("127.0.0.1:0")));
    found.push(tried("network", "open a UDP socket".into(), UdpSocket::bind("127.0.0.1:0")));
    found
}

fn processes() -> Vec<Tried> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let is = |name: &str, wanted: &str| match field(name) {
        value if value == wanted => Err(format!("{name} is {value}")),
        value => Ok(format!("{name} is {value:?}")),
    };
    let own = env::var("MI_AGENT_ID").unwrap_or_default();
    let foreign = fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        !environment.is_empty() && !String::from_utf8_lossy(&environment).contains(&own)
    });
    let seen = match foreign.count() {
        0 => Err("none can be read".to_owned()),
        count => Ok(format!("{count} can be read")),
    };
    vec![
        ("processes", "read the environment of others".into(), seen),
        ("privileges", "hold a capability".into(), is("CapEff", "0000000000000000")),
        ("privileges", "gain privileges by a program".into(), is("NoNewPrivs", "1")),
        ("privileges", "call any system call".into(), is("Seccomp", "2")),
    ]
}

/// The token that this agent enrolled with, once more, for another key.
async fn replay(config: &AgentConfig, anonymous: &Client) -> Tried {
    let token = match &config.enrol_token {
        EnrolToken::Given(token) => token.expose().to_owned(),
        EnrolToken::File(path) => fs::read_to_string(path).unwrap_or_default().trim().to_owned(),
    };
    let request = EnrolAgentRequest { office_id: config.office_id.clone(), token, public_key: vec![7; 32].into() };
    let outcome = match anonymous.access().enrol_agent(request).await {
        Ok(_) => Ok("another key was enrolled".to_owned()),
        Err(status) if status.code() == Code::Unauthenticated => Err(status.message().to_owned()),
        Err(status) => Ok(format!("answered {:?}: {}", status.code(), status.message())),
    };
    ("identity", "use an enrolment token twice".into(), outcome)
}
