//! Dev only: a running platform with a customer on it, for the suites in `tests/`.

use std::{fs, path::PathBuf, time::Duration};

use mi_client::{Client, Credential};
use mi_kernel::secret::Secret;
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Arrangement, Backend, Platform, until};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// For broken code, not for slow machines.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A platform, its administrator, and an account on it.
pub struct World {
    /// The processes.
    pub platform: Platform,
    /// Calls as the administrator.
    pub admin: Client,
    /// Calls as an operator of an account of its own.
    pub owner: Client,
    owner_key: Secret,
}

impl World {
    /// Starts a platform.
    pub async fn start(backend: Backend, arrangement: Arrangement) -> Self {
        Self::on(Platform::builder().backend(backend).arrangement(arrangement).start().await).await
    }

    /// Opens an account on a platform.
    pub async fn on(platform: Platform) -> Self {
        let admin = connect(&platform, Secret::new(platform.admin_key()));
        let owner_key = account(&admin, "acme").await;
        let owner = connect(&platform, owner_key.clone());
        Self { platform, admin, owner, owner_key }
    }

    /// Calls as an operator of another account.
    pub async fn stranger(&self) -> Client {
        connect(&self.platform, account(&self.admin, "rival").await)
    }

    /// Kills every process at once and starts them again over the same data.
    pub async fn crash(&mut self) {
        self.platform.kill9();
        self.restart().await;
    }

    /// Stops what runs, in order, and starts it again over the same data.
    pub async fn restart(&mut self) {
        self.platform.restart().await;
        self.admin = connect(&self.platform, Secret::new(self.platform.admin_key()));
        self.owner = connect(&self.platform, self.owner_key.clone());
    }

    /// An active office of the owner.
    pub async fn office(&self, name: &str) -> String {
        let request = v1::CreateOfficeRequest { name: name.into(), ..Default::default() };
        let office = self.owner.offices().create_office(request).await.expect("created").into_inner().office;
        let id = office.expect("answered").id;
        until("the office is active", LIMIT, async || {
            let office = self.get_office(&id).await.map_err(|status| status.to_string())?;
            Ok::<_, String>((office.status() == v1::OfficeStatus::Active).then_some(()))
        })
        .await;
        id
    }

    /// The office as the owner sees it.
    pub async fn get_office(&self, id: &str) -> Result<v1::Office, Status> {
        let request = v1::GetOfficeRequest { office_id: id.into() };
        let answer = self.owner.offices().get_office(request).await?.into_inner();
        Ok(answer.office.expect("an answer has its office"))
    }

    /// Hires with all defaults.
    pub async fn hire(&self, office: &str, name: &str) -> Result<v1::Agent, Status> {
        self.hire_as(v1::HireAgentRequest { office_id: office.into(), name: name.into(), ..Default::default() }).await
    }

    /// Hires.
    pub async fn hire_as(&self, request: v1::HireAgentRequest) -> Result<v1::Agent, Status> {
        let answer = self.owner.agents().hire_agent(request).await?.into_inner();
        Ok(answer.agent.expect("an answer has its agent"))
    }

    /// The agent as the owner sees it.
    pub async fn agent(&self, office: &str, name: &str) -> Result<v1::Agent, Status> {
        let request = v1::GetAgentRequest { office_id: office.into(), name: name.into() };
        let answer = self.owner.agents().get_agent(request).await?.into_inner();
        Ok(answer.agent.expect("an answer has its agent"))
    }

    /// Waits until the agent is in the phase with its newest generation reached.
    pub async fn settled(&self, office: &str, name: &str, phase: AgentPhase) -> v1::Agent {
        until(&format!("{name} is settled in {phase:?}"), LIMIT, async || {
            let agent = self.agent(office, name).await.map_err(|status| status.to_string())?;
            let status = agent.status.clone().unwrap_or_default();
            if status.phase() == phase && status.observed_generation == agent.generation {
                return Ok(Some(agent));
            }
            Err(format!("{status:?}, generation {}", agent.generation))
        })
        .await
    }

    /// Waits until the agent is not found.
    pub async fn gone(&self, office: &str, name: &str) {
        until(&format!("{name} is gone"), LIMIT, async || match self.agent(office, name).await {
            Err(status) if status.code() == Code::NotFound => Ok(Some(())),
            Err(status) => Err(status.to_string()),
            Ok(agent) => Err(format!("{:?}", agent.status)),
        })
        .await;
    }

    /// Fires.
    pub async fn fire(&self, office: &str, name: &str) -> Result<(), Status> {
        let request = v1::FireAgentRequest { office_id: office.into(), name: name.into(), force: false };
        self.owner.agents().fire_agent(request).await.map(drop)
    }

    /// Promotes to a tier.
    pub async fn promote(&self, office: &str, name: &str, tier: &str) -> Result<v1::Agent, Status> {
        let request = v1::PromoteAgentRequest {
            office_id: office.into(),
            name: name.into(),
            model_tier: tier.into(),
            provider: String::new(),
        };
        let answer = self.owner.agents().promote_agent(request).await?.into_inner();
        Ok(answer.agent.expect("an answer has its agent"))
    }

    /// Runs a script as a task of the agent; what it printed.
    pub async fn run(&self, office: &str, agent: &str, script: &str) -> String {
        let request = v1::CreateTaskRequest {
            office_id: office.into(),
            title: "Script".into(),
            description: script.into(),
            kind: v1::TaskKind::Command.into(),
            assigned_agent: agent.into(),
            ..Default::default()
        };
        let task = self.owner.tasks().create_task(request).await.expect("created").into_inner().task.expect("a task");
        until("the task is done", LIMIT, async || {
            let request = v1::GetTaskRequest { office_id: office.into(), task_id: task.id.clone() };
            let answer = self.owner.tasks().get_task(request).await.map_err(|status| status.to_string())?;
            let task = answer.into_inner().task.expect("a task");
            match task.status() {
                v1::TaskStatus::Done => Ok(Some(task.result)),
                status => Err(format!("{status:?} {}", task.error)),
            }
        })
        .await
    }

    /// All backups of the office.
    pub async fn backups(&self, office: &str) -> Vec<v1::Backup> {
        self.owner.all_backups(office).await.expect("listed")
    }

    /// The whole feed of the office in the order it was taken in, read by pages.
    pub async fn feed(&self, office: &str) -> Vec<v1::ActivityEvent> {
        let mut events = mi_client::list_all(async |page_token| {
            let request = v1::ListActivityRequest {
                office_id: office.into(),
                page_token,
                page_size: Some(7),
                ..Default::default()
            };
            let page = self.owner.activity().list_activity(request).await?.into_inner();
            Ok((page.events, page.next_page_token))
        })
        .await
        .expect("listed");
        events.sort_by_key(|event| event.cursor);
        events
    }

    /// How often the feed holds an event of this type, for this agent.
    pub async fn count(&self, office: &str, agent: &str, kind: &str) -> usize {
        let feed = self.feed(office).await;
        feed.iter().filter(|event| event.agent == agent && event.r#type == kind).count()
    }

    /// Waits until the feed holds an event of this type, for this agent.
    pub async fn happened(&self, office: &str, agent: &str, kind: &str) {
        until(&format!("{kind} of {agent:?} is in the feed"), LIMIT, async || {
            let feed = self.feed(office).await;
            let found = feed.iter().any(|event| event.agent == agent && event.r#type == kind);
            let kinds: Vec<&str> = feed.iter().map(|event| event.r#type.as_str()).collect();
            if found { Ok(Some(())) } else { Err(format!("{kinds:?}")) }
        })
        .await;
    }

    /// Directories of agents below the data directory: `<office>/<agent>`.
    pub fn homes(&self) -> Vec<PathBuf> {
        let list = |dir: PathBuf| -> Vec<PathBuf> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
        };
        let root = self.platform.data_dir().to_owned();
        let roots = [root.join("agents"), root.join("scheduler/agents")];
        roots.into_iter().flat_map(list).flat_map(list).collect()
    }

    /// The workspace of an agent.
    pub fn workspace(&self, agent: &v1::Agent) -> PathBuf {
        let home = self.homes().into_iter().find(|home| home.ends_with(&agent.id));
        home.expect("the agent has a home").join("workspace")
    }
}

fn connect(platform: &Platform, key: Secret) -> Client {
    Client::connect(platform.endpoint(), Credential::ApiKey(key)).expect("a good endpoint")
}

async fn account(admin: &Client, name: &str) -> Secret {
    let request = v1::CreateAccountRequest { name: name.into() };
    let answer = admin.access().create_account(request).await.expect("created").into_inner();
    Secret::new(answer.secret)
}

/// Code and reason of a refusal.
///
/// # Panics
/// When the call was not refused.
pub fn refusal<T>(outcome: Result<T, Status>) -> (Code, String) {
    match outcome {
        Ok(_) => panic!("the call was answered"),
        Err(status) => {
            let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
            (status.code(), reason)
        }
    }
}

/// The field that a refusal names.
///
/// # Panics
/// When the call was not refused as INVALID_ARGUMENT.
pub fn wrong_field<T>(outcome: Result<T, Status>) -> String {
    match outcome {
        Err(status) if status.code() == Code::InvalidArgument => {
            let details = status.get_details_bad_request().expect("a wrong argument is named");
            details.field_violations[0].field.clone()
        }
        Err(status) => panic!("refused otherwise: {status}"),
        Ok(_) => panic!("the call was answered"),
    }
}
