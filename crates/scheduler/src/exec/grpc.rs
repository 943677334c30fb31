//! The two calls that meet in a command: the client's ExecAgent and the agent's ServeExec.

use std::{sync::Arc, time::Duration};

use mi_kernel::{Error, ErrorKind, ExecId, OfficeId, Result, backoff::Backoff, event::Event, text};
use mi_proto::v1::{
    ExecAgentRequest, ExecAgentResponse, ExecStart, ServeExecRequest, ServeExecResponse, exec_agent_request,
    exec_agent_response, serve_exec_request, serve_exec_response,
};
use mi_rpc::{Caller, status};
use mi_store::outbox;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    Place, Told,
    relay::Relay,
    rules::{self, End, Recorded},
    unreachable_agent,
};
use crate::{
    Scheduler,
    agents::{self, Agent, Desired, Phase, State, repo},
};

/// How long a call may take to say what it is about, and an agent to take what it was told of.
const PATIENCE: Duration = Duration::from_secs(10);
/// A command in which nothing happens for so long is ended.
const IDLE: Duration = Duration::from_secs(3600);
/// The end of a command is recorded after its client was answered; a database that is away is waited for so often.
const TRIES: u32 = 10;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(10) };

/// What a call answers.
pub(crate) type Answers<T> = ReceiverStream<Result<T, Status>>;

/// The way to the client of a command.
type ToClient = mpsc::Sender<Result<ExecAgentResponse, Status>>;

/// The agent's side of a command.
pub(crate) struct Taken {
    requests: Streaming<ServeExecRequest>,
    answers: mpsc::Sender<Result<ServeExecResponse, Status>>,
}

/// Runs a command for a client.
pub(crate) async fn exec(
    scheduler: Arc<Scheduler>,
    caller: Caller,
    mut messages: Streaming<ExecAgentRequest>,
) -> Result<Answers<ExecAgentResponse>, Status> {
    let first = first(&mut messages).await?.part;
    let Some(exec_agent_request::Part::Start(start)) = first else { return Err(not_first("start")) };
    let (agent, told) = scheduler.tell(&caller, &start).await.map_err(status)?;
    let Told { place, takes, over } = told;
    let taken = tokio::select! {
        taken = tokio::time::timeout(PATIENCE, takes) => taken.ok().and_then(Result::ok),
        () = over.cancelled() => None,
    };
    let taken = taken.ok_or_else(|| status(unreachable_agent(&agent.name)))?;
    let recorded = Recorded {
        agent,
        id: place.id,
        by: caller.actor,
        command: start.command.clone(),
        terminal: start.terminal.is_some(),
        trace_id: caller.trace_id,
    };
    let command = move |to_client| async move {
        let relay = Relay {
            from_client: messages,
            to_client,
            from_agent: taken.requests,
            to_agent: taken.answers.clone(),
            stdin: start.stdin,
            terminal: start.terminal.is_some(),
            idle: IDLE,
        };
        // The channel is empty; an agent that is gone is noticed by the relay.
        let _ = taken.answers.try_send(Ok(ServeExecResponse { part: Some(serve_exec_response::Part::Start(start)) }));
        drop(taken.answers);
        run(relay, over, place).await
    };
    Ok(see_through(scheduler, recorded, command).await.map_err(status)?.into())
}

/// Runs a command between the events of its start and its end; answers what its client is to hear, once the start is
/// recorded. All of it is a task of its own, which shutdown waits for: the client may leave at any time, and then the call is
/// dropped where it stands, also between a start that is in the feed and whatever ends the command.
pub(crate) async fn see_through<F: Future<Output = End> + Send + 'static>(
    scheduler: Arc<Scheduler>,
    recorded: Recorded,
    command: impl FnOnce(ToClient) -> F + Send + 'static,
) -> Result<mpsc::Receiver<Result<ExecAgentResponse, Status>>> {
    let (started, starts) = oneshot::channel();
    let tasks = scheduler.tasks.clone();
    tasks.spawn_to_end("scheduler-exec", async move {
        let began = scheduler.clock.now();
        // Nothing runs that is not in the feed.
        if let Err(error) = scheduler.record_exec(&recorded.started(began)).await {
            let _ = started.send(Err(error));
            return;
        }
        let (to_client, answers) = mpsc::channel(1);
        // A client that is gone is noticed by the command.
        let _ = started.send(Ok(answers));
        let end = command(to_client.clone()).await;
        let event = recorded.ended(&end, began, scheduler.clock.now());
        // A client that does not read is waited for no longer than while it ran.
        let _ = tokio::time::timeout(IDLE, answer(&to_client, end)).await;
        drop(to_client);
        scheduler.record_end(&event).await;
    });
    starts.await.unwrap_or_else(|_| Err(Error::internal("the command ended before it began")))
}

/// Until its end, which its agent hears of.
async fn run(
    relay: Relay<Streaming<ExecAgentRequest>, Streaming<ServeExecRequest>>,
    over: CancellationToken,
    _place: Place,
) -> End {
    tokio::select! {
        biased;
        end = relay.run() => end,
        () = over.cancelled() => End::Interrupted,
    }
}

/// Tells the client how it ended.
async fn answer(client: &ToClient, end: End) {
    let aborted = |reason, text: &str| Err(status(Error::new(ErrorKind::Aborted, reason, text)));
    let answer = match end {
        End::Exited(code) => Ok(ExecAgentResponse { part: Some(exec_agent_response::Part::ExitCode(code)) }),
        End::Left => return,
        End::Refused(error) => Err(status(error)),
        End::Idle => aborted("EXEC_IDLE", "the command was ended: for an hour nothing went in or came out"),
        End::Interrupted => aborted(
            "EXEC_INTERRUPTED",
            "the agent was lost, stopped or replaced, and the command ended with it; how far it came is not known",
        ),
    };
    let _ = client.send(answer).await;
}

/// Takes a command for an agent.
pub(crate) async fn serve(
    scheduler: Arc<Scheduler>,
    caller: Caller,
    mut messages: Streaming<ServeExecRequest>,
) -> Result<Answers<ServeExecResponse>, Status> {
    let first = first(&mut messages).await?.part;
    let Some(serve_exec_request::Part::Take(take)) = first else { return Err(not_first("take")) };
    let found = async {
        let office_id = OfficeId::parse(&take.office_id)?;
        let mut conn = scheduler.db.office(office_id).read().await?;
        let (_, access) = scheduler.enter(&mut conn, &caller).await?;
        let agent = access.agent().ok_or_else(|| Error::denied("only agents take commands"))?;
        scheduler.execs.take(agent.agent_id, ExecId::parse(&take.exec_id)?)
    };
    let waiting = found.await.map_err(status)?;
    let (answers, stream) = mpsc::channel(1);
    let gone = |_| status(Error::not_found("exec", &take.exec_id));
    waiting.send(Taken { requests: messages, answers }).map_err(gone)?;
    Ok(stream.into())
}

/// The first message of a call.
async fn first<T>(messages: &mut Streaming<T>) -> Result<T, Status> {
    let silent = |_| Status::cancelled("the call said nothing");
    let first = tokio::time::timeout(PATIENCE, messages.message()).await.map_err(silent)?;
    first?.ok_or_else(|| Status::cancelled("the call ended before it began"))
}

fn not_first(field: &'static str) -> Status {
    status(Error::invalid(field, "must be the first message"))
}

impl Scheduler {
    /// Tells an agent of a command that the caller may run in it.
    pub(crate) async fn tell(&self, caller: &Caller, start: &ExecStart) -> Result<(Agent, Told)> {
        let office_id = OfficeId::parse(&start.office_id)?;
        let mut conn = self.db.office(office_id).read().await?;
        let (office, _) = self.enter(&mut conn, caller).await?;
        let name = text::lookup_name("start.name", &start.name)?;
        let agent = repo::agent_get_by_name(&mut conn, &name).await?;
        let agent = agent.ok_or_else(|| Error::not_found("agent", &name))?;
        drop(conn);
        rules::start(start)?;
        if agent.external {
            let text = format!("agent {name:?} runs elsewhere, where the platform runs nothing");
            return Err(Error::precondition("EXTERNAL_AGENT", text));
        }
        agents::rules::office_works(&office)?;
        let State::Running { instance, .. } = agent.state else { return Err(not_running(&agent)) };
        if agent.desired != Desired::Run {
            return Err(not_running(&agent));
        }
        let told = self.execs.tell(&agent, instance)?;
        Ok((agent, told))
    }

    async fn record_exec(&self, event: &Event) -> Result<()> {
        let mut tx = self.db.office(event.office_id).begin().await?;
        outbox::push(&mut tx, event).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        Ok(())
    }

    async fn record_end(&self, event: &Event) {
        for failures in 1..=TRIES {
            let Err(error) = self.record_exec(event).await else { return };
            let error = error.chain();
            tracing::warn!(target: "mi::scheduler", error, event = event.summary, "the end of a command is not recorded");
            tokio::time::sleep(BACKOFF.after(failures)).await;
        }
    }
}

fn not_running(agent: &Agent) -> Error {
    let phase = match agent.phase() {
        // Not for long.
        Phase::Running if agent.desired != Desired::Run => "being stopped",
        phase => phase.as_str(),
    };
    let text = format!("agent {:?} is {phase}; a command needs it running", agent.name);
    Error::precondition("AGENT_NOT_RUNNING", text)
}
