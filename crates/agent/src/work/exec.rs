//! Commands that operators run in this agent: each has a call of its own, and ends with it.
//!
//! The platform tells of one over the session. What it prints waits in its pipes until the other end has used what went
//! before; what it is sent waits here, no more than may be on its way.

use std::{convert::Infallible, future::pending, io, sync::Arc, time::Duration};

use bytes::Bytes;
use mi_kernel::exec::{CHUNK, WINDOW};
use mi_proto::v1::{
    self, ExecStart, ExecTake, ServeExecRequest, ServeExecResponse, serve_exec_request, serve_exec_response::Part,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, SimplexStream, WriteHalf, simplex},
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    processes::{self, Processes},
    script::AFTERWARDS,
    shared::Shared,
    surroundings::Surroundings,
    terminal::Terminal,
};

/// Commands that the session may be told of before they are begun; the platform allows fewer.
const TOLD: usize = 16;
/// How long the platform may take to notice the end of a command.
const LINGER: Duration = Duration::from_secs(10);
/// As shells have it: there is no such program, and it cannot be run.
const NO_PROGRAM: i32 = 127;
const NOT_RUN: i32 = 126;
/// Terminal of a client that does not say which kind it has.
const TERMINAL: &str = "xterm";

/// The commands that run.
pub(crate) struct Execs {
    shared: Arc<Shared>,
    told: mpsc::Receiver<String>,
    running: JoinSet<()>,
}

impl Execs {
    /// None yet; also where to tell of one.
    pub(super) fn new(shared: Arc<Shared>) -> (Self, mpsc::Sender<String>) {
        let (tell, told) = mpsc::channel(TOLD);
        (Self { shared, told, running: JoinSet::new() }, tell)
    }

    /// Runs what it is told of, until it is dropped; what is under way then goes on until [`stop`](Self::stop).
    pub(crate) async fn run(&mut self) -> Infallible {
        loop {
            tokio::select! {
                Some(exec_id) = self.told.recv() => {
                    self.running.spawn(serve(self.shared.clone(), exec_id));
                }
                Some(_) = self.running.join_next(), if !self.running.is_empty() => {}
                else => pending().await,
            }
        }
    }

    /// Kills what is under way.
    pub(crate) async fn stop(mut self) {
        self.running.shutdown().await;
        processes::cleared().await;
    }
}

/// Takes a command and runs it.
async fn serve(shared: Arc<Shared>, exec_id: String) {
    if let Err(status) = take(&shared, exec_id).await {
        shared.log.say(format!("a command of an operator could not be taken: {}", status.message()));
    }
}

async fn take(shared: &Shared, exec_id: String) -> Result<(), Status> {
    let (send, requests) = mpsc::channel(1);
    let take = ExecTake { office_id: shared.office_id.clone(), exec_id };
    // Queued before the call, which is answered only after that.
    let _ = send.try_send(ServeExecRequest { part: Some(serve_exec_request::Part::Take(take)) });
    let mut answers = shared.client.agents().serve_exec(ReceiverStream::new(requests)).await?.into_inner();
    let Some(ServeExecResponse { part: Some(Part::Start(start)) }) = answers.message().await? else {
        // Whoever wanted it has left.
        return Ok(());
    };
    let _busy = shared.idle.busy();
    let out = Out { send, room: Semaphore::new(WINDOW) };
    let Some(code) = perform(shared, &start, &out, &mut answers).await else { return Ok(()) };
    out.send(serve_exec_request::Part::ExitCode(code)).await;
    drop(out);
    // Whoever ends a call early may lose what is on its way: the platform ends it once it has all.
    let ended = async { while let Ok(Some(_)) = answers.message().await {} };
    let _ = tokio::time::timeout(LINGER, ended).await;
    Ok(())
}

/// What goes to the platform.
struct Out {
    send: mpsc::Sender<ServeExecRequest>,
    /// Bytes that may go on their way.
    room: Semaphore,
}

impl Out {
    /// Sends a message; false: the call is over.
    async fn send(&self, part: serve_exec_request::Part) -> bool {
        self.send.send(ServeExecRequest { part: Some(part) }).await.is_ok()
    }

    /// Sends all that is printed.
    async fn print(&self, from: Option<impl AsyncRead + Unpin>, part: impl Fn(Bytes) -> serve_exec_request::Part) {
        let Some(mut from) = from else { return };
        let mut chunk = vec![0; CHUNK / 2];
        // A terminal whose last process is gone cannot be read, and has nothing more to say.
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            match self.room.acquire_many(count as u32).await {
                Ok(room) => room.forget(),
                Err(_) => return,
            }
            if !self.send(part(chunk[..count].to_vec().into())).await {
                return;
            }
        }
    }

    /// Hands on what is sent to the command, and says so.
    async fn feed(&self, mut from: ReadHalf<SimplexStream>, mut to: Option<impl AsyncWrite + Unpin>) {
        let mut chunk = vec![0; CHUNK / 2];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            if let Some(input) = &mut to
                && input.write_all(&chunk[..count]).await.is_err()
            {
                // It reads no more. What comes all the same is for nobody.
                to = None;
            }
            if !self.send(serve_exec_request::Part::Consumed(count as i32)).await {
                return;
            }
        }
    }
}

/// Where a command's input comes from and its output goes to.
struct Pipes {
    input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    output: Option<Box<dyn AsyncRead + Send + Unpin>>,
    errors: Option<Box<dyn AsyncRead + Send + Unpin>>,
    terminal: Option<Terminal>,
}

/// Runs it; its exit code, unless it was ended with the call.
async fn perform(
    shared: &Shared,
    start: &ExecStart,
    out: &Out,
    answers: &mut Streaming<ServeExecResponse>,
) -> Option<i32> {
    let started = async {
        let surroundings = Surroundings::new(shared, "exec-", None).await?;
        let (processes, pipes) = spawn(shared, &surroundings, start)?;
        Ok::<_, io::Error>((surroundings, processes, pipes))
    };
    let (_surroundings, mut processes, pipes) = match started.await {
        Ok(started) => started,
        Err(error) => {
            let text = format!("{}: {error}\n", start.command.first().map_or("", String::as_str));
            // A name may be long; what is wrong with it is at the end.
            let cut = text.ceil_char_boundary(text.len().saturating_sub(CHUNK));
            out.send(serve_exec_request::Part::Stderr(text[cut..].to_owned().into())).await;
            return Some(if error.kind() == io::ErrorKind::NotFound { NO_PROGRAM } else { NOT_RUN });
        }
    };
    let ended = attend(&mut processes, pipes, out, answers).await;
    if ended.is_none() {
        // Its pipes or its terminal are closed, which tells it that it is alone: it may tidy up before it is killed.
        let _ = tokio::time::timeout(AFTERWARDS, processes.wait()).await;
        processes.kill().await;
    }
    ended
}

/// Carries what goes in and comes out until nothing of it is left; its exit code, unless nobody is there any more.
async fn attend(
    processes: &mut Processes,
    pipes: Pipes,
    out: &Out,
    answers: &mut Streaming<ServeExecResponse>,
) -> Option<i32> {
    let Pipes { input, output, errors, terminal } = pipes;
    let (from, to) = simplex(WINDOW);
    let feed = async {
        out.feed(from, input).await;
        pending().await
    };
    let gone = async {
        tokio::select! {
            () = listen(answers, out, to, terminal.as_ref()) => {}
            () = feed => {}
        }
    };
    let printed = async {
        let errors = out.print(errors, serve_exec_request::Part::Stderr);
        tokio::join!(out.print(output, serve_exec_request::Part::Stdout), errors);
    };
    tokio::pin!(gone, printed);
    let mut open = true;
    let status = loop {
        tokio::select! {
            status = processes.wait() => break status,
            () = &mut printed, if open => open = false,
            () = &mut gone => return None,
        }
    };
    if open {
        tokio::select! {
            ended = tokio::time::timeout(AFTERWARDS, &mut printed) => open = ended.is_err(),
            () = &mut gone => return None,
        }
    }
    processes.kill().await;
    if open {
        // Nobody prints any more, but a client that is slow has not seen it all.
        tokio::select! {
            () = &mut printed => {}
            () = &mut gone => return None,
        }
    }
    Some(status.map_or(processes::KILLED, processes::code))
}

/// Starts the command, with pipes or at a terminal.
fn spawn(shared: &Shared, surroundings: &Surroundings, start: &ExecStart) -> io::Result<(Processes, Pipes)> {
    use std::process::Stdio;
    let (program, arguments) = start.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = surroundings.command(shared, program);
    command.args(arguments);
    let Some(v1::Terminal { size, kind }) = &start.terminal else {
        let input = if start.stdin { Stdio::piped() } else { Stdio::null() };
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut processes = Processes::spawn(&mut command, false)?;
        let (input, output, errors) = processes.pipes();
        let pipes = Pipes {
            input: input.map(|it| Box::new(it) as _),
            output: output.map(|it| Box::new(it) as _),
            errors: errors.map(|it| Box::new(it) as _),
            terminal: None,
        };
        return Ok((processes, pipes));
    };
    command.env("TERM", if kind.is_empty() { TERMINAL } else { kind });
    // No program is missing when there is no terminal.
    let none = |error| io::Error::other(format!("no terminal can be made: {error}"));
    let (terminal, side) = Terminal::open(size.unwrap_or_default()).map_err(none)?;
    command.stdin(side.try_clone()?).stdout(side.try_clone()?).stderr(side);
    let processes = Processes::spawn(&mut command, true)?;
    let (output, input) = terminal.ends()?;
    let (input, output) = (start.stdin.then(|| Box::new(input) as _), Some(Box::new(output) as _));
    Ok((processes, Pipes { input, output, errors: None, terminal: Some(terminal) }))
}

/// Takes what comes for the command, until nobody is there any more.
async fn listen(
    answers: &mut Streaming<ServeExecResponse>,
    out: &Out,
    mut input: WriteHalf<SimplexStream>,
    terminal: Option<&Terminal>,
) {
    while let Ok(Some(answer)) = answers.message().await {
        match answer.part {
            // There is room: the platform lets no more through than the window.
            Some(Part::Stdin(bytes)) => drop(input.write_all(&bytes).await),
            // A terminal that is not written to is no terminal that is closed.
            Some(Part::StdinClosed(_)) if terminal.is_none() => drop(input.shutdown().await),
            Some(Part::Consumed(bytes)) => out.room.add_permits(usize::try_from(bytes).unwrap_or(0).min(WINDOW)),
            Some(Part::Resize(size)) => terminal.into_iter().for_each(|terminal| terminal.resize(size)),
            Some(Part::StdinClosed(_) | Part::Start(_)) | None => {}
        }
    }
}
