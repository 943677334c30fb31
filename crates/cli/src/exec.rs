//! One command inside an agent, from here: what it reads goes there, and what it prints comes back, no faster than either
//! end takes it.

use std::{
    future::pending,
    io::{self, Read, Write},
};

use bytes::Bytes;
use mi_client::once;
use mi_kernel::exec::{CHUNK, WINDOW};
use mi_proto::v1::{
    ExecAgentRequest, ExecAgentResponse, ExecStart, TerminalSize, exec_agent_request::Part,
    exec_agent_response::Part as Answer,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::Streaming;

use crate::{context::Context, failure::Failure};

/// Pieces of input and output that may wait here.
const PIECES: usize = 4;

/// What a command printed.
pub(crate) enum Printed {
    Out(Bytes),
    Err(Bytes),
}

/// Runs a command to its end; its exit code. It reads `input`, if `start` says so; `sizes` is how the terminal changes.
/// What `print` has taken is not waited for any more; what it fails with ends the command.
pub(crate) async fn run(
    context: &Context,
    start: ExecStart,
    input: Option<mpsc::Receiver<Bytes>>,
    sizes: impl Stream<Item = TerminalSize>,
    print: impl AsyncFnMut(Printed) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let (send, requests) = mpsc::channel(PIECES);
    // Queued before the call, which is answered only after that.
    let _ = send.try_send(ExecAgentRequest { part: Some(Part::Start(start)) });
    // Not tried again: a command that runs twice is not one that runs once.
    let answers = once(context.client.agents().exec_agent(ReceiverStream::new(requests))).await?.into_inner();
    let requests = Requests { send, room: Semaphore::new(WINDOW) };
    tokio::select! {
        code = requests.listen(answers, print) => code,
        () = requests.feed(input) => pending().await,
        () = requests.resize(sizes) => pending().await,
    }
}

/// What goes to the command.
struct Requests {
    send: mpsc::Sender<ExecAgentRequest>,
    /// Bytes of input that may go on their way.
    room: Semaphore,
}

impl Requests {
    async fn send(&self, part: Part) {
        // A call that is over says so by its answers.
        let _ = self.send.send(ExecAgentRequest { part: Some(part) }).await;
    }

    async fn listen(
        &self,
        mut answers: Streaming<ExecAgentResponse>,
        mut print: impl AsyncFnMut(Printed) -> Result<(), Failure>,
    ) -> Result<u8, Failure> {
        while let Some(answer) = answers.message().await? {
            let (count, printed) = match answer.part {
                Some(Answer::Stdout(bytes)) => (bytes.len(), Printed::Out(bytes)),
                Some(Answer::Stderr(bytes)) => (bytes.len(), Printed::Err(bytes)),
                Some(Answer::Consumed(bytes)) => {
                    self.room.add_permits(usize::try_from(bytes).unwrap_or(0).min(WINDOW));
                    continue;
                }
                Some(Answer::ExitCode(code)) => return Ok(u8::try_from(code).unwrap_or(1)),
                None => continue,
            };
            print(printed).await?;
            self.send(Part::Consumed(i32::try_from(count).unwrap_or(i32::MAX))).await;
        }
        Err(Failure::new("the command's end was not told; whether it has ended is not known"))
    }

    /// Sends all that there is to read, then never ends.
    async fn feed(&self, input: Option<mpsc::Receiver<Bytes>>) {
        if let Some(mut input) = input {
            while let Some(mut bytes) = input.recv().await {
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(CHUNK));
                    match self.room.acquire_many(piece.len() as u32).await {
                        Ok(room) => room.forget(),
                        Err(_) => return pending().await,
                    }
                    self.send(Part::Stdin(piece)).await;
                }
            }
            self.send(Part::StdinClosed(true)).await;
        }
        pending().await
    }

    /// Tells each change, then never ends.
    async fn resize(&self, sizes: impl Stream<Item = TerminalSize>) {
        let mut sizes = std::pin::pin!(sizes);
        while let Some(size) = sizes.next().await {
            self.send(Part::Resize(size)).await;
        }
        pending().await
    }
}

/// What a thread writes, for somebody else to take piece by piece.
pub(crate) struct Pieces(mpsc::Sender<Bytes>);

impl Pieces {
    /// Also where the pieces come out.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Bytes>) {
        let (send, pieces) = mpsc::channel(PIECES);
        (Self(send), pieces)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What somebody else sends piece by piece, for a thread to read.
pub(crate) struct Pieced {
    pieces: mpsc::Receiver<Bytes>,
    left: Bytes,
}

impl Pieced {
    /// Also where the pieces go in.
    pub(crate) fn new() -> (Self, mpsc::Sender<Bytes>) {
        let (send, pieces) = mpsc::channel(PIECES);
        (Self { pieces, left: Bytes::new() }, send)
    }
}

impl Read for Pieced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.left = piece,
                None => return Ok(0),
            }
        }
        let piece = self.left.split_to(self.left.len().min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}
