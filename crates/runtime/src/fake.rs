//! A runtime in memory, for tests of what stands above it: instances start, and end when the test says so.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use mi_kernel::{AgentId, BackupId, Error, InstanceId, OfficeId, Result, secret::Secret};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::{Cluster, Instance, Launch, Place, Progress, Runtime, Sandbox, Saving};

/// Instances and workspaces in memory.
pub struct FakeRuntime {
    state: Mutex<State>,
    /// The cluster where instances outlive the process, and others share them.
    cluster: Option<String>,
    /// Whether whoever stops an instance has to wait.
    stalled: watch::Sender<bool>,
    ended_in: mpsc::UnboundedSender<AgentId>,
    ended_out: tokio::sync::Mutex<mpsc::UnboundedReceiver<AgentId>>,
}

#[derive(Default)]
struct State {
    instances: HashMap<AgentId, Instance>,
    workspaces: HashMap<Place, Vec<u8>>,
    launches: Vec<Launch>,
    broken_archives: bool,
    handed: HashMap<AgentId, Secret>,
    /// Whether the cluster is not to be seen yet.
    unseen: bool,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        let (ended_in, ended_out) = mpsc::unbounded_channel();
        Self {
            state: Mutex::default(),
            cluster: None,
            stalled: watch::Sender::new(false),
            ended_in,
            ended_out: tokio::sync::Mutex::new(ended_out),
        }
    }
}

impl FakeRuntime {
    /// As a cluster, for several schedulers.
    pub fn elsewhere() -> Self {
        Self { cluster: Some("of a test".to_owned()), ..Self::default() }
    }

    /// As the cluster of this id, of which nothing is seen before it is joined.
    pub fn in_cluster(id: &str) -> Self {
        let unseen = Mutex::new(State { unseen: true, ..State::default() });
        Self { cluster: Some(id.to_owned()), state: unseen, ..Self::default() }
    }

    /// Has whoever stops an instance wait from now on, or go on.
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Whether somebody stops an instance, and waits.
    pub fn is_waited_for(&self) -> bool {
        self.stalled.receiver_count() > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the agent's instance for this reason, as a crash would.
    pub fn crash(&self, agent: AgentId, reason: &str) {
        if let Some(instance) = self.state().instances.get_mut(&agent) {
            instance.exit = Some(reason.to_owned());
        }
        let _ = self.ended_in.send(agent);
    }

    /// Has the agent's instance run with this flaw from now on, or without.
    pub fn flaw(&self, agent: AgentId, flaw: Option<&str>) {
        if let Some(instance) = self.state().instances.get_mut(&agent) {
            instance.flaw = flaw.map(str::to_owned);
        }
        let _ = self.ended_in.send(agent);
    }

    /// Forgets all instances, as the death of the platform does.
    pub fn lose_everything(&self) {
        self.state().instances.clear();
    }

    /// Makes archives fail from now on, or work again.
    pub fn break_archives(&self, broken: bool) {
        self.state().broken_archives = broken;
    }

    /// All starts so far, oldest first.
    pub fn launches(&self) -> Vec<(AgentId, InstanceId)> {
        self.state().launches.iter().map(|launch| (launch.place.agent_id, launch.instance)).collect()
    }

    /// Environment of the agent's newest start.
    pub fn environment(&self, agent: AgentId) -> BTreeMap<String, String> {
        let state = self.state();
        let newest = state.launches.iter().rev().find(|launch| launch.place.agent_id == agent);
        newest.map(|launch| launch.env.clone()).unwrap_or_default()
    }

    /// The token that the agent's instance was handed last.
    pub fn handed(&self, agent: AgentId) -> Option<Secret> {
        self.state().handed.get(&agent).cloned()
    }

    /// Replaces the content of a workspace.
    pub fn fill(&self, place: Place, content: &[u8]) {
        self.state().workspaces.insert(place, content.to_vec());
    }

    /// The content of a workspace; none: there is no workspace.
    pub fn content(&self, place: Place) -> Option<Vec<u8>> {
        self.state().workspaces.get(&place).cloned()
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn prepare(&self, place: Place, archive: Option<Box<dyn Read + Send>>) -> Result<()> {
        let mut content = Vec::new();
        if let Some(mut archive) = archive {
            // As the trait allows, on a thread that may block: the reader may wait for this very runtime.
            let read = move || archive.read_to_end(&mut content).map(|_| content);
            content = tokio::task::spawn_blocking(read).await.map_err(Error::internal)?.map_err(Error::internal)?;
        }
        self.state().workspaces.entry(place).or_insert(content);
        Ok(())
    }

    async fn prepared(&self, place: Place) -> Result<bool> {
        Ok(self.state().workspaces.contains_key(&place))
    }

    async fn start(&self, launch: Launch) -> Result<()> {
        let mut state = self.state();
        let instance = Instance::up(launch.instance);
        state.instances.insert(launch.place.agent_id, instance);
        state.launches.push(launch);
        Ok(())
    }

    async fn hand_over(&self, place: Place, token: &Secret) -> Result<()> {
        self.state().handed.insert(place.agent_id, token.clone());
        Ok(())
    }

    async fn stop(&self, place: Place) -> Result<Progress> {
        // The sender is this runtime's own.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
        self.state().instances.remove(&place.agent_id);
        Ok(Progress::Done)
    }

    async fn shut_down(&self) {
        if self.cluster.is_none() {
            self.lose_everything();
        }
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        self.cluster.as_ref().map(|_| self as &dyn Cluster)
    }

    fn sandbox(&self) -> Sandbox {
        Sandbox {
            in_cluster: false,
            enforced: Vec::new(),
            missing: vec!["everything: instances are not real".to_owned()],
        }
    }

    fn observe(&self, agent: AgentId) -> Option<Instance> {
        self.state().instances.get(&agent).cloned()
    }

    async fn ended(&self) -> AgentId {
        match self.ended_out.lock().await.recv().await {
            Some(agent) => agent,
            None => std::future::pending().await,
        }
    }

    async fn archive(&self, place: Place, mut output: Box<dyn Write + Send>) -> Result<()> {
        let content = {
            let state = self.state();
            if state.broken_archives {
                return Err(Error::precondition("BACKUP_FAILED", "the workspace could not be archived: as asked"));
            }
            state.workspaces.get(&place).cloned().unwrap_or_default()
        };
        let write = move || output.write_all(&content).and_then(|()| output.flush());
        tokio::task::spawn_blocking(write).await.map_err(Error::internal)?.map_err(Error::internal)
    }

    async fn remove(&self, place: Place) -> Result<Progress> {
        let mut state = self.state();
        state.instances.remove(&place.agent_id);
        state.workspaces.remove(&place);
        Ok(Progress::Done)
    }

    async fn remove_office(&self, office: OfficeId) -> Result<Progress> {
        self.state().workspaces.retain(|place, _| place.office_id != office);
        Ok(Progress::Done)
    }
}

#[async_trait]
impl Cluster for FakeRuntime {
    async fn id(&self) -> Result<String> {
        Ok(self.cluster.clone().unwrap_or_default())
    }

    fn join(&self, _: Uuid) {
        self.state().unseen = false;
    }

    fn seen(&self) -> Result<(), String> {
        match self.state().unseen {
            true => Err("the cluster was not reached yet".to_owned()),
            false => Ok(()),
        }
    }

    fn saving(&self, _: Place, _: BackupId) -> Saving {
        Saving::NotAsked
    }

    async fn save(&self, _: Place, _: BackupId, _: &BTreeMap<String, String>, _: &Secret) -> Result<()> {
        Ok(())
    }

    async fn started(&self, _: Place, _: InstanceId) -> Result<()> {
        Ok(())
    }

    async fn discard(&self, _: Place) -> Result<()> {
        Ok(())
    }

    async fn look_over(&self, _: bool) -> Result<()> {
        Ok(())
    }

    fn places(&self) -> (Vec<Place>, Vec<OfficeId>) {
        (self.state().workspaces.keys().copied().collect(), Vec::new())
    }

    fn problems(&self, _: OfficeId) -> Vec<String> {
        Vec::new()
    }
}
