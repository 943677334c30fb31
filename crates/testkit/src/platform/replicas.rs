//! Several processes of each role behind one address, as a cluster runs them: replaced one by one, or killed.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{ADMIN_KEY, ANY_PORT, GATEWAY, INTERNAL_KEY, MODELS, Platform};
use crate::{
    process::{Process, Ready},
    until,
};

/// Every role, in the order of their start.
pub(super) const ROLES: [&str; 5] = ["activity", "scheduler", "office", MODELS, GATEWAY];
/// For broken code, not for slow machines.
const LIMIT: Duration = Duration::from_secs(60);
/// Seconds for which a replica that ends is still called: longer than it takes to hear that it is not ready any more.
const DRAIN: &str = "1";

/// An address that stays. Each new connection goes to the next of the replicas that are ready, and stays with it.
#[derive(Debug)]
pub(super) struct Service {
    role: &'static str,
    address: SocketAddr,
    ready: Arc<Mutex<Vec<SocketAddr>>>,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    #[expect(clippy::disallowed_methods, reason = "it is aborted when the service is dropped")]
    async fn start(role: &'static str) -> Self {
        let listener = TcpListener::bind(ANY_PORT).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let ready = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(forward(listener, ready.clone()));
        Self { role, address, ready, task }
    }

    /// What a process that is one of them says of itself, at the address of all.
    pub(super) fn ready(&self, process: &Process) -> Ready {
        Ready { endpoint: format!("http://{}", self.address), ..process.ready.clone() }
    }

    fn edit(&self, edit: impl FnOnce(&mut Vec<SocketAddr>)) {
        edit(&mut self.ready.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

async fn forward(listener: TcpListener, ready: Arc<Mutex<Vec<SocketAddr>>>) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else { return };
        while open.try_join_next().is_some() {}
        let next = {
            let mut ready = ready.lock().unwrap_or_else(PoisonError::into_inner);
            if !ready.is_empty() {
                ready.rotate_left(1);
            }
            ready.first().copied()
        };
        // With nobody there the connection ends, as it does where a service has no endpoints.
        let Some(address) = next else { continue };
        open.spawn(async move {
            let Ok(mut server) = TcpStream::connect(address).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            // How a connection ends is for its two ends to tell.
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

impl Platform {
    pub(super) async fn start_replicas(&mut self, count: usize) {
        // Kept from start to start: everybody knows these addresses.
        if self.services.is_empty() {
            for role in ROLES {
                self.services.push(Service::start(role).await);
            }
        }
        self.services.iter().for_each(|service| service.edit(Vec::clear));
        for role in ROLES {
            for _ in 0..count {
                self.add_replica(role).await;
            }
        }
    }

    /// Replaces every replica of the role, as a rolling update does: the next one is ready before the last one is told to
    /// end, and it ends by itself.
    ///
    /// # Panics
    /// When one does not get ready, or does not end in order.
    pub async fn roll(&mut self, role: &'static str) {
        let old: Vec<u32> = self.replicas(role);
        for pid in old {
            self.add_replica(role).await;
            let mut process = self.take(pid);
            process.terminate();
            until("a replica that ends is not ready", LIMIT, async || {
                Ok::<_, String>((!is_ready(&process).await).then_some(()))
            })
            .await;
            self.forget(&process);
            process.ended().await;
        }
    }

    /// SIGKILL to one replica. New connections go elsewhere afterwards, as they do once the cluster has noticed.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn kill9_replica(&mut self, pid: u32) {
        let mut process = self.take(pid);
        process.kill9();
        self.forget(&process);
    }

    /// The process ids of a role's replicas, the oldest first.
    pub fn replicas(&self, role: &str) -> Vec<u32> {
        self.processes.iter().filter(|process| process.name == role).map(Process::pid).collect()
    }

    async fn add_replica(&mut self, role: &'static str) {
        let path = |name: &str| self.data_dir.join(name).display().to_string();
        let mut flags = vec![
            ("--internal-key-file", path(INTERNAL_KEY)),
            ("--object-store", format!("file://{}", path("objects"))),
            ("--drain", DRAIN.to_owned()),
        ];
        let peers = ["--activity-url", "--scheduler-url", "--office-url", "--models-url"];
        let url = |service: &Service| format!("https://{}", service.address);
        flags.extend(peers.into_iter().zip(self.services.iter().map(url)));
        match role {
            "scheduler" => flags.push(("--agent-endpoint", format!("http://{}", self.service(GATEWAY).address))),
            "office" => {
                flags.extend([("--admin-key-file", path(ADMIN_KEY)), ("--master-key-file", path("master.key"))])
            }
            GATEWAY => flags.push(("--card-key-file", path("card.key"))),
            _ => {}
        }
        self.started += 1;
        let process = self.process(role, &format!("{role}-{}", self.started), ANY_PORT, &flags).await;
        until("a replica is ready", LIMIT, async || Ok::<_, String>(is_ready(&process).await.then_some(()))).await;
        let address = address(&process);
        self.service(role).edit(|ready| ready.push(address));
        self.processes.push(process);
    }

    fn service(&self, role: &str) -> &Service {
        self.services.iter().find(|service| service.role == role).expect("each role has one")
    }

    fn take(&mut self, pid: u32) -> Process {
        let index = self.processes.iter().position(|process| process.pid() == pid);
        self.processes.remove(index.expect("the process is one of the platform's"))
    }

    fn forget(&self, process: &Process) {
        let gone = address(process);
        self.service(process.name).edit(|ready| ready.retain(|address| *address != gone));
    }
}

fn address(process: &Process) -> SocketAddr {
    host(&process.ready.endpoint).parse().expect("it listens at an address")
}

fn host(endpoint: &str) -> &str {
    endpoint.split_once("://").map_or(endpoint, |(_, host)| host)
}

/// What the cluster asks every few seconds.
async fn is_ready(process: &Process) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(host(&process.ready.metrics_endpoint)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: mi\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    asked.await.is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200 "))
}
