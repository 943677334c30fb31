//! What is asked for every day, in one line each: offices, agents and their work. Everything else is a call of the typed
//! client that stands behind each of these.

use std::ops::{Deref, DerefMut};

use mi_kernel::page::MAX_PAGE_SIZE;
use mi_proto::v1::{
    Agent, AgentPhase, CreateOfficeRequest, CreateTaskRequest, DeleteOfficeRequest, FireAgentRequest, GetAgentRequest,
    GetOfficeRequest, GetTaskRequest, HireAgentRequest, ListAgentsRequest, ListOfficesRequest, Office,
    PromoteAgentRequest, Task, TaskKind, TaskStatus, WatchTasksRequest, agent_service_client::AgentServiceClient,
    office_service_client::OfficeServiceClient, task_service_client::TaskServiceClient,
};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{Result, Wire, list_all, once, retry, retry::waited};

/// A typed client with the everyday calls beside it.
macro_rules! everyday {
    ($($(#[$doc:meta])* $name:ident: $client:ident,)+) => {
        $($(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            /// The typed client of the whole service.
            pub all: $client<Wire>,
        }

        impl Deref for $name {
            type Target = $client<Wire>;

            fn deref(&self) -> &Self::Target {
                &self.all
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.all
            }
        })+
    };
}

everyday! {
    /// Offices: the everyday calls, and by dereference all of `OfficeService`.
    Offices: OfficeServiceClient,
    /// Agents: the everyday calls, and by dereference all of `AgentService`.
    Agents: AgentServiceClient,
    /// Tasks: the everyday calls, and by dereference all of `TaskService`.
    Tasks: TaskServiceClient,
}

/// A call that is sent again until it is answered; nothing that was done is done twice, since it has a key of its own or says
/// what should be.
macro_rules! ask {
    ($self:ident.$call:ident($request:expr).$field:ident) => {{
        let request = $request;
        let answer = retry(async || $self.all.clone().$call(request.clone()).await).await?.into_inner();
        answer.$field.ok_or_else(|| Status::internal(concat!("an answer without its ", stringify!($field))).into())
    }};
}

impl Offices {
    /// Creates an office.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn create(&self, name: &str) -> Result<Office> {
        ask!(self.create_office(CreateOfficeRequest { name: name.to_owned(), request_id: key() }).office)
    }

    /// One office.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn get(&self, id: &str) -> Result<Office> {
        ask!(self.get_office(GetOfficeRequest { office_id: id.to_owned() }).office)
    }

    /// All offices of the account; for the administrator, all there are.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn list(&self) -> Result<Vec<Office>> {
        list_all(async |page_token| {
            let request = ListOfficesRequest { page_size: Some(MAX_PAGE_SIZE), page_token };
            let page = self.all.clone().list_offices(request).await?.into_inner();
            Ok((page.offices, page.next_page_token))
        })
        .await
    }

    /// Deletes an office with all that is in it.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn delete(&self, id: &str) -> Result<()> {
        let request = DeleteOfficeRequest { office_id: id.to_owned() };
        retry(async || self.all.clone().delete_office(request.clone()).await).await?;
        Ok(())
    }
}

impl Agents {
    /// Hires an agent with all defaults.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn hire(&self, office_id: &str, name: &str) -> Result<Agent> {
        self.hire_as(HireAgentRequest { office_id: office_id.to_owned(), name: name.to_owned(), ..Default::default() })
            .await
    }

    /// Hires an agent as the request has it; a `request_id` is added if there is none.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn hire_as(&self, mut request: HireAgentRequest) -> Result<Agent> {
        or_key(&mut request.request_id);
        ask!(self.hire_agent(request).agent)
    }

    /// One agent.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn get(&self, office_id: &str, name: &str) -> Result<Agent> {
        ask!(self.get_agent(GetAgentRequest { office_id: office_id.to_owned(), name: name.to_owned() }).agent)
    }

    /// All agents of an office, by name.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn list(&self, office_id: &str) -> Result<Vec<Agent>> {
        list_all(async |page_token| {
            let office_id = office_id.to_owned();
            let request = ListAgentsRequest { office_id, page_size: Some(MAX_PAGE_SIZE), page_token };
            let page = self.all.clone().list_agents(request).await?.into_inner();
            Ok((page.agents, page.next_page_token))
        })
        .await
    }

    /// Has an agent use another model; an empty provider: that of the tier.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn promote(&self, office_id: &str, name: &str, model_tier: &str, provider: &str) -> Result<Agent> {
        let request = PromoteAgentRequest {
            office_id: office_id.to_owned(),
            name: name.to_owned(),
            model_tier: model_tier.to_owned(),
            provider: provider.to_owned(),
        };
        ask!(self.promote_agent(request).agent)
    }

    /// Fires an agent, whose workspace is backed up.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn fire(&self, office_id: &str, name: &str) -> Result<Agent> {
        let request = FireAgentRequest { office_id: office_id.to_owned(), name: name.to_owned(), ..Default::default() };
        // Sent again it could find the next agent of this name.
        let answer = once(self.all.clone().fire_agent(request)).await?.into_inner();
        answer.agent.ok_or_else(|| Status::internal("an answer without its agent").into())
    }

    /// Waits until an agent runs what it should, for as long as it takes: the caller has the clock.
    ///
    /// # Errors
    /// The status of a call; FAILED_PRECONDITION when it will not run: it has failed, was stopped, suspended or fired.
    pub async fn running(&self, office_id: &str, name: &str) -> Result<Agent> {
        let mut looks = 0;
        loop {
            let agent = self.get(office_id, name).await?;
            let status = agent.status.clone().unwrap_or_default();
            match status.phase() {
                AgentPhase::Running if status.observed_generation == agent.generation => return Ok(agent),
                AgentPhase::Failed | AgentPhase::Stopped | AgentPhase::Suspended | AgentPhase::Terminating => {
                    let text = format!("agent {name} is {}: {}", status.phase().as_str_name(), status.message);
                    return Err(Status::failed_precondition(text).into());
                }
                _ => looks += 1,
            }
            tokio::time::sleep(waited(looks)).await;
        }
    }
}

impl Tasks {
    /// Creates a task of a title, for whoever takes it.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn create(&self, office_id: &str, title: &str) -> Result<Task> {
        let (office_id, title) = (office_id.to_owned(), title.to_owned());
        self.create_as(CreateTaskRequest { office_id, title, ..Default::default() }).await
    }

    /// Creates a task as the request has it; a `request_id` is added if there is none.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn create_as(&self, mut request: CreateTaskRequest) -> Result<Task> {
        or_key(&mut request.request_id);
        ask!(self.create_task(request).task)
    }

    /// One task.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn get(&self, office_id: &str, id: &str) -> Result<Task> {
        ask!(self.get_task(GetTaskRequest { office_id: office_id.to_owned(), task_id: id.to_owned() }).task)
    }

    /// Has a script run by an agent of the office, and waits for its end: `result` holds the exit code and what it printed.
    ///
    /// # Errors
    /// As [`Tasks::create_as`] and [`Tasks::finished`].
    pub async fn run(&self, office_id: &str, script: &str) -> Result<Task> {
        let request = CreateTaskRequest {
            office_id: office_id.to_owned(),
            title: script.lines().next().unwrap_or_default().chars().take(80).collect(),
            description: script.to_owned(),
            kind: TaskKind::Command.into(),
            ..Default::default()
        };
        let task = self.create_as(request).await?;
        self.finished(office_id, &task.id).await
    }

    /// Waits until a task is done, failed or cancelled, however often the connection is lost meanwhile and for as long as it
    /// takes: the caller has the clock.
    ///
    /// # Errors
    /// The status of a call that does not pass, such as NOT_FOUND.
    pub async fn finished(&self, office_id: &str, id: &str) -> Result<Task> {
        let (mut seen, mut failures) = (0, 0);
        loop {
            let request =
                WatchTasksRequest { office_id: office_id.to_owned(), after_cursor: Some(seen), task_id: id.to_owned() };
            let lost = match self.all.clone().watch_tasks(request).await {
                Err(status) => status,
                Ok(answer) => {
                    let mut changes = answer.into_inner();
                    loop {
                        match changes.message().await {
                            Ok(Some(change)) => {
                                (seen, failures) = (change.cursor, 0);
                                if let Some(task) = change.task.filter(|task| is_finished(task.status())) {
                                    return Ok(task);
                                }
                            }
                            Ok(None) => break Status::unavailable("the stream has ended"),
                            Err(status) => break status,
                        }
                    }
                }
            };
            if !matches!(lost.code(), Code::Unavailable | Code::Cancelled | Code::Unknown) {
                return Err(lost.into());
            }
            failures += 1;
            tokio::time::sleep(waited(failures)).await;
        }
    }
}

fn is_finished(status: TaskStatus) -> bool {
    matches!(status, TaskStatus::Done | TaskStatus::Failed | TaskStatus::Cancelled)
}

/// A key of its own, by which a request that is sent again is known.
fn key() -> String {
    Uuid::now_v7().to_string()
}

fn or_key(request_id: &mut String) {
    if request_id.is_empty() {
        *request_id = key();
    }
}
