//! Carries what goes in and comes out of one command, between its client and its agent, until one of them is done.
//!
//! Each message waits here for its receiver to have room, and is then gone: however much a side sends, nothing piles up.

use std::{
    future::pending,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt};
use mi_kernel::{Error, exec::Window};
use mi_proto::v1::{
    ExecAgentRequest, ExecAgentResponse, ServeExecRequest, ServeExecResponse, exec_agent_request as from_client,
    exec_agent_response as to_client, serve_exec_request as from_agent, serve_exec_response as to_agent,
};
use tokio::sync::{Notify, mpsc};
use tonic::Status;

use super::rules::{self, End};

/// The two sides of a command.
pub(super) struct Relay<C, A> {
    pub(super) from_client: C,
    pub(super) to_client: mpsc::Sender<Result<ExecAgentResponse, Status>>,
    pub(super) from_agent: A,
    pub(super) to_agent: mpsc::Sender<Result<ServeExecResponse, Status>>,
    /// Whether it reads what its client sends.
    pub(super) stdin: bool,
    /// Whether it has a terminal.
    pub(super) terminal: bool,
    /// How long nothing may go in or come out.
    pub(super) idle: Duration,
}

/// What is on its way, and whether there was something lately.
#[derive(Default)]
struct Flow {
    input: Mutex<Window>,
    output: Mutex<Window>,
    something: Notify,
}

impl Flow {
    fn of<T>(window: &Mutex<Window>, change: impl FnOnce(&mut Window) -> T) -> T {
        change(&mut window.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<C, A> Relay<C, A>
where
    C: Stream<Item = Result<ExecAgentRequest, Status>> + Unpin,
    A: Stream<Item = Result<ServeExecRequest, Status>> + Unpin,
{
    /// Until the command has ended, or has to.
    pub(super) async fn run(self) -> End {
        let Self { mut from_client, to_client, mut from_agent, to_agent, stdin, terminal, idle } = self;
        let flow = Flow::default();
        let closed = to_client.clone();
        let up = up(&mut from_client, &to_agent, &flow, (stdin, terminal));
        let down = down(&mut from_agent, &to_client, &flow);
        let quiet = async { while tokio::time::timeout(idle, flow.something.notified()).await.is_ok() {} };
        tokio::select! {
            biased;
            // A command that has ended has ended, whoever left meanwhile.
            end = down => end,
            () = closed.closed() => End::Left,
            end = up => end,
            () = quiet => End::Idle,
        }
    }
}

/// From the client to the agent.
async fn up(
    messages: &mut (impl Stream<Item = Result<ExecAgentRequest, Status>> + Unpin),
    agent: &mpsc::Sender<Result<ServeExecResponse, Status>>,
    flow: &Flow,
    (stdin, terminal): (bool, bool),
) -> End {
    use from_client::Part;
    while let Some(message) = messages.next().await {
        let Ok(message) = message else { return End::Left };
        flow.something.notify_one();
        let refused = |field, problem: &str| End::Refused(Error::invalid(field, problem));
        let part = match message.part {
            Some(Part::Stdin(_)) if !stdin => return refused("stdin", "comes, though `start.stdin` did not say so"),
            Some(Part::Stdin(bytes)) => {
                if !Flow::of(&flow.input, |input| input.sent(bytes.len())) {
                    return refused("stdin", "must be 1 to 65536 bytes, and at most 262144 that are not `consumed`");
                }
                to_agent::Part::Stdin(bytes)
            }
            Some(Part::Resize(_)) if !terminal => return refused("resize", "comes, but there is no terminal"),
            Some(Part::Resize(size)) => match rules::size("resize", Some(&size)) {
                Ok(()) => to_agent::Part::Resize(size),
                Err(error) => return End::Refused(error),
            },
            Some(Part::Consumed(bytes)) => {
                if !Flow::of(&flow.output, |output| output.used(bytes)) {
                    return refused("consumed", "must be 1 or more, and no more than there was");
                }
                to_agent::Part::Consumed(bytes)
            }
            Some(Part::StdinClosed(_)) => to_agent::Part::StdinClosed(true),
            Some(Part::Start(_)) => return refused("start", "comes twice; a call runs one command"),
            None => return refused("part", "is required"),
        };
        // Once the agent is gone, its own stream says so.
        let _ = agent.send(Ok(ServeExecResponse { part: Some(part) })).await;
    }
    let _ = agent.send(Ok(ServeExecResponse { part: Some(to_agent::Part::StdinClosed(true)) })).await;
    pending().await
}

/// From the agent to the client.
async fn down(
    messages: &mut (impl Stream<Item = Result<ServeExecRequest, Status>> + Unpin),
    client: &mpsc::Sender<Result<ExecAgentResponse, Status>>,
    flow: &Flow,
) -> End {
    use from_agent::Part;
    // An agent that does not keep to the rules is as good as lost.
    while let Some(Ok(message)) = messages.next().await {
        flow.something.notify_one();
        let part = match message.part {
            Some(Part::Stdout(bytes)) if Flow::of(&flow.output, |output| output.sent(bytes.len())) => {
                to_client::Part::Stdout(bytes)
            }
            Some(Part::Stderr(bytes)) if Flow::of(&flow.output, |output| output.sent(bytes.len())) => {
                to_client::Part::Stderr(bytes)
            }
            Some(Part::Consumed(bytes)) if Flow::of(&flow.input, |input| input.used(bytes)) => {
                to_client::Part::Consumed(bytes)
            }
            Some(Part::ExitCode(code)) => return End::Exited(code),
            _ => return End::Interrupted,
        };
        if client.send(Ok(ExecAgentResponse { part: Some(part) })).await.is_err() {
            return End::Left;
        }
    }
    End::Interrupted
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests join what they spawn")]
mod tests {
    use mi_kernel::exec::{CHUNK, WINDOW};
    use mi_proto::v1::{ExecStart, TerminalSize};
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// Far longer than anything takes that works.
    const LONG: Duration = Duration::from_secs(60);

    /// The two ends of a relay.
    struct Ends {
        client: mpsc::Sender<Result<ExecAgentRequest, Status>>,
        to_client: mpsc::Receiver<Result<ExecAgentResponse, Status>>,
        agent: mpsc::Sender<Result<ServeExecRequest, Status>>,
        to_agent: mpsc::Receiver<Result<ServeExecResponse, Status>>,
    }

    impl Ends {
        async fn client(&self, part: from_client::Part) {
            self.client.send(Ok(ExecAgentRequest { part: Some(part) })).await.expect("open");
        }

        async fn agent(&self, part: from_agent::Part) {
            self.agent.send(Ok(ServeExecRequest { part: Some(part) })).await.expect("open");
        }

        async fn at_client(&mut self) -> Option<to_client::Part> {
            self.to_client.recv().await.and_then(|message| message.expect("good").part)
        }

        async fn at_agent(&mut self) -> Option<to_agent::Part> {
            self.to_agent.recv().await.and_then(|message| message.expect("good").part)
        }
    }

    fn relay(idle: Duration, stdin: bool, terminal: bool) -> (Ends, impl Future<Output = End>) {
        let (client, from_client) = mpsc::channel(1024);
        let (agent, from_agent) = mpsc::channel(1024);
        let (to_client, at_client) = mpsc::channel(1);
        let (to_agent, at_agent) = mpsc::channel(1);
        let (from_client, from_agent) = (ReceiverStream::new(from_client), ReceiverStream::new(from_agent));
        let relay = Relay { from_client, to_client, from_agent, to_agent, stdin, terminal, idle };
        (Ends { client, to_client: at_client, agent, to_agent: at_agent }, async move {
            tokio::time::timeout(LONG, relay.run()).await.expect("ends")
        })
    }

    #[tokio::test]
    async fn what_goes_in_and_comes_out_arrives_in_order_and_the_end_is_last() {
        let (mut ends, run) = relay(LONG, true, true);
        let run = tokio::spawn(run);
        let size = TerminalSize { rows: 24, columns: 80 };
        ends.client(from_client::Part::Stdin("in".into())).await;
        ends.client(from_client::Part::Resize(size)).await;
        ends.client(from_client::Part::StdinClosed(true)).await;
        assert_eq!(ends.at_agent().await, Some(to_agent::Part::Stdin("in".into())));
        assert_eq!(ends.at_agent().await, Some(to_agent::Part::Resize(size)));
        assert_eq!(ends.at_agent().await, Some(to_agent::Part::StdinClosed(true)));
        ends.agent(from_agent::Part::Consumed(2)).await;
        ends.agent(from_agent::Part::Stdout("out".into())).await;
        ends.agent(from_agent::Part::Stderr("err".into())).await;
        ends.agent(from_agent::Part::ExitCode(3)).await;
        assert_eq!(ends.at_client().await, Some(to_client::Part::Consumed(2)));
        assert_eq!(ends.at_client().await, Some(to_client::Part::Stdout("out".into())));
        ends.client(from_client::Part::Consumed(6)).await;
        assert_eq!(ends.at_client().await, Some(to_client::Part::Stderr("err".into())));
        assert!(matches!(run.await.expect("no panic"), End::Exited(3)));
    }

    #[tokio::test]
    async fn a_client_that_uses_nothing_stops_its_command_and_costs_no_more_than_the_window() {
        let (mut ends, run) = relay(LONG, false, false);
        let run = tokio::spawn(run);
        let piece = || from_agent::Part::Stdout(vec![0; CHUNK].into());
        for _ in 0..WINDOW / CHUNK {
            ends.agent(piece()).await;
            ends.at_client().await.expect("sent on");
        }
        ends.client(from_client::Part::Consumed(CHUNK as i32)).await;
        assert_eq!(ends.at_agent().await, Some(to_agent::Part::Consumed(CHUNK as i32)));
        ends.agent(piece()).await;
        ends.at_client().await.expect("there is room again");
        // An agent that sends more than there is room for is taken for a lost one.
        ends.agent(piece()).await;
        assert!(matches!(run.await.expect("no panic"), End::Interrupted));
        assert_eq!(ends.at_client().await, None);
    }

    #[tokio::test]
    async fn a_client_that_does_not_keep_to_the_rules_is_told_which() {
        use from_client::Part::{Consumed, Resize, Start, Stdin};
        let piece = || Stdin(vec![0; CHUNK].into());
        let size = |rows| Resize(TerminalSize { rows, columns: 80 });
        let bad = [
            (vec![Stdin("in".into())], (false, false), "stdin"),
            (vec![Stdin("".into())], (true, false), "stdin"),
            (vec![Stdin(vec![0; CHUNK + 1].into())], (true, false), "stdin"),
            (vec![piece(), piece(), piece(), piece(), piece()], (true, false), "stdin"),
            (vec![size(24)], (true, false), "resize"),
            (vec![size(0)], (true, true), "resize"),
            (vec![Consumed(1)], (true, false), "consumed"),
            (vec![Consumed(-1)], (true, false), "consumed"),
            (vec![Start(ExecStart::default())], (true, false), "start"),
        ];
        for (parts, (stdin, terminal), field) in bad {
            let (mut ends, run) = relay(LONG, stdin, terminal);
            for part in parts {
                ends.client(part).await;
            }
            let taken = async { while ends.to_agent.recv().await.is_some() {} };
            let (end, ()) = tokio::join!(run, taken);
            let End::Refused(error) = end else { panic!("{field}: {end:?}") };
            assert_eq!(error.field, Some(field));
        }
    }

    #[tokio::test]
    async fn it_ends_with_either_side_and_when_nothing_happens() {
        let (ends, run) = relay(LONG, false, false);
        drop(ends.to_client);
        assert!(matches!(run.await, End::Left), "its answers are read no more");
        let (ends, run) = relay(LONG, false, false);
        ends.client.send(Err(Status::unavailable("gave up"))).await.expect("open");
        assert!(matches!(run.await, End::Left), "its client broke off");
        let (ends, run) = relay(LONG, false, false);
        drop(ends.agent);
        assert!(matches!(run.await, End::Interrupted), "its agent is gone");
        let (mut ends, run) = relay(LONG, false, false);
        drop(ends.client);
        let (end, closed) = tokio::join!(run, async {
            let closed = ends.to_agent.recv().await;
            ends.agent.send(Ok(ServeExecRequest { part: Some(from_agent::Part::ExitCode(0)) })).await.expect("open");
            closed
        });
        assert!(matches!(end, End::Exited(0)), "a client that has said all waits for the end");
        assert_eq!(closed.and_then(|it| it.expect("good").part), Some(to_agent::Part::StdinClosed(true)));
        let (_ends, run) = relay(Duration::from_millis(20), false, false);
        assert!(matches!(run.await, End::Idle));
    }
}
