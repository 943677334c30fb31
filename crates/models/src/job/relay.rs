//! An answer on its way from the provider to the client: at the client's pace, looked at and not kept.

use std::{io, time::Duration};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use mi_kernel::{Error, ErrorKind, secret::Secret};
use reqwest::Response;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{Ended, Head, Job, account::Account, broke, respond};
use crate::{
    headers,
    route::Call,
    sse::Events,
    usage::{Kind, Meter, Said},
};

/// Pieces of an answer that wait for the client.
const WAITING: usize = 4;
/// Largest answer that is read for its usage when it comes whole, in bytes.
const MAX_COPY: usize = 16 << 20;
/// What stands for a key.
const KEY: &str = "[key]";
/// Bytes of a refusal of a key that are passed on.
const MAX_REFUSAL: usize = 64 << 10;
/// Tokens by which an answer may be longer than its ceiling: providers count a little otherwise than they stop.
const SLACK: i64 = 4096;
/// Events of a stream that bring no token: its start, its end, pings.
const SILENT_EVENTS: i64 = 1024;

/// What comes next.
enum Next {
    Piece(Bytes),
    End,
    Broken(reqwest::Error),
    /// Nothing came in time.
    Silent,
    /// The client is gone.
    Gone,
    /// It is not paid for any more.
    Wall,
    /// It took too long in all.
    Late,
}

/// Both ends of an answer.
struct Pipe<'a> {
    response: Response,
    client: mpsc::Sender<Result<Bytes, io::Error>>,
    wall: &'a CancellationToken,
    end: Instant,
    silence: Duration,
    /// The client is gone, and what comes is read for its usage alone.
    is_alone: bool,
}

impl Pipe<'_> {
    async fn next(&mut self) -> Next {
        tokio::select! {
            // What is there already goes before all that ends it.
            biased;
            () = self.client.closed(), if !self.is_alone => Next::Gone,
            piece = timeout(self.silence, self.response.chunk()) => match piece {
                Ok(Ok(Some(piece))) => Next::Piece(piece),
                Ok(Ok(None)) => Next::End,
                Ok(Err(error)) => Next::Broken(error.without_url()),
                Err(_) => Next::Silent,
            },
            () = self.wall.cancelled() => Next::Wall,
            () = sleep_until(self.end) => Next::Late,
        }
    }

    /// All that comes, up to so many bytes.
    async fn collect(mut self, most: usize) -> BytesMut {
        let mut all = BytesMut::new();
        while all.len() < most
            && let Next::Piece(piece) = self.next().await
        {
            all.extend_from_slice(&piece[..piece.len().min(most - all.len())]);
        }
        all
    }

    /// Goes on without the client, for as long as a provider may be silent.
    fn go_on_alone(&mut self) {
        self.is_alone = true;
        self.end = self.end.min(Instant::now() + self.silence);
    }

    /// Whether the client took it.
    async fn give(&self, piece: Bytes) -> bool {
        piece.is_empty() || self.client.send_timeout(Ok(piece), self.silence).await.is_ok()
    }

    /// Cuts the answer off, so that it does not pass for a whole one.
    async fn cut(&self, why: &'static str) {
        let _ = self.client.send_timeout(Err(io::Error::other(why)), self.silence).await;
    }
}

impl Job {
    pub(super) async fn relay(
        &self,
        response: Response,
        head: Head,
        account: &mut Account,
        wall: &CancellationToken,
    ) -> Ended {
        let status = response.status();
        let (client, body) = mpsc::channel(WAITING);
        let said_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_stream =
            said_type.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"));
        let is_encoded = response.headers().get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity");
        let passed = headers::incoming(response.headers(), !is_stream);
        let limits = &self.proxy.limits;
        let (end, silence) = (Instant::now() + limits.total, limits.silence);
        let pipe = Pipe { response, client, wall, end, silence, is_alone: false };
        if !status.is_success() {
            // It refused before it did anything.
            account.settle(self, &Said::Nothing).await;
        }
        if status == StatusCode::UNAUTHORIZED {
            // Its words may tell the key, or parts of it.
            let said = pipe.collect(MAX_REFUSAL).await;
            let said = without_keys(&String::from_utf8_lossy(&said), &self.keys);
            let _ = head.send(Ok(respond(status, passed, Body::from(said))));
            return Ended::new("vendor_error", Said::Nothing);
        }
        let is_whole = status.is_success() && self.paid.is_some() && !is_encoded && !is_stream;
        let is_taken = head.send(Ok(respond(status, passed, Body::from_stream(ReceiverStream::new(body))))).is_ok();
        if !is_taken && !is_whole {
            let said = if status.is_success() { gone() } else { Said::Nothing };
            return Ended::new("cancelled", said);
        }
        if !status.is_success() || self.paid.is_none() {
            let outcome = if status.is_success() { "ok" } else { "vendor_error" };
            return self.pass(pipe, outcome, Said::Nothing).await;
        }
        if is_encoded {
            return self.pass(pipe, "ok", Said::Unknown("the provider's answer is encoded")).await;
        }
        match is_whole {
            true => self.whole(pipe, account).await,
            false => self.stream(pipe, account).await,
        }
    }

    /// Hands on what nobody has to look at.
    async fn pass(&self, mut pipe: Pipe<'_>, outcome: &'static str, said: Said) -> Ended {
        loop {
            match pipe.next().await {
                Next::Piece(piece) => {
                    if !pipe.give(piece).await {
                        return Ended::new("cancelled", said);
                    }
                }
                Next::End => return Ended::new(outcome, said),
                other => return self.broken(pipe, other, said).await,
            }
        }
    }

    /// Hands on an answer that comes whole. Its last piece waits for the settlement, so that whoever has the answer may
    /// spend what is left of the reservation. A client that hangs up pays what the answer cost: the provider has made all
    /// of it already, so the rest is read for its usage, which comes last.
    async fn whole(&self, mut pipe: Pipe<'_>, account: &mut Account) -> Ended {
        let (mut copy, mut last, mut lost) = (BytesMut::new(), Bytes::new(), false);
        loop {
            match pipe.next().await {
                Next::Piece(piece) => {
                    lost |= copy.len() + piece.len() > MAX_COPY;
                    if !lost {
                        copy.extend_from_slice(&piece);
                    }
                    if lost && pipe.is_alone {
                        return Ended::new("cancelled", too_large());
                    }
                    if !pipe.is_alone && !pipe.give(std::mem::replace(&mut last, piece)).await {
                        pipe.go_on_alone();
                    }
                }
                Next::Gone => pipe.go_on_alone(),
                Next::End => break,
                other => return self.broken(pipe, other, gone()).await,
            }
        }
        let mut meter = Meter::new(self.call);
        meter.whole(&copy);
        drop(copy);
        account.answered_by = meter.model().map(str::to_owned);
        let said = if lost { too_large() } else { meter.said(true) };
        account.settle(self, &said).await;
        let taken = !pipe.is_alone && pipe.give(last).await;
        let outcome = if !taken {
            "cancelled"
        } else if meter.failed() {
            "failed"
        } else {
            "ok"
        };
        Ended::new(outcome, said)
    }

    /// Hands on a stream. What ends it waits for the settlement, likewise.
    async fn stream(&self, mut pipe: Pipe<'_>, account: &mut Account) -> Ended {
        let (mut meter, mut events) = (Meter::new(self.call), Events::default());
        loop {
            let piece = match pipe.next().await {
                Next::Piece(piece) => piece,
                Next::End => break,
                other => {
                    account.answered_by = meter.model().map(str::to_owned);
                    return self.broken(pipe, other, meter.said(false)).await;
                }
            };
            events.push(&piece);
            let (mut kept, mut is_last) = (BytesMut::new(), false);
            while let Some(event) = events.next() {
                let kind = meter.event(&event.data);
                is_last |= kind == Kind::Last;
                if self.drops_usage && kind != Kind::UsageOnly {
                    kept.extend_from_slice(&event.raw);
                }
            }
            if self.is_over(&meter) {
                account.answered_by = meter.model().map(str::to_owned);
                let said = Said::Unknown("the answer went on past its ceiling");
                account.settle(self, &said).await;
                pipe.give(self.error_event(&past_ceiling())).await;
                return Ended::new("failed", said);
            }
            if is_last {
                account.answered_by = meter.model().map(str::to_owned);
                account.settle(self, &meter.said(true)).await;
            }
            if !pipe.give(if self.drops_usage { kept.freeze() } else { piece }).await {
                account.answered_by = meter.model().map(str::to_owned);
                return Ended::new("cancelled", meter.said(false));
            }
        }
        account.answered_by = meter.model().map(str::to_owned);
        let said = meter.said(true);
        account.settle(self, &said).await;
        if self.drops_usage
            && let Some(rest) = events.rest()
        {
            pipe.give(rest).await;
        }
        Ended::new(if meter.failed() { "failed" } else { "ok" }, said)
    }

    /// Ends an answer that is not whole.
    async fn broken(&self, pipe: Pipe<'_>, why: Next, said: Said) -> Ended {
        match why {
            Next::Wall => {
                pipe.give(self.error_event(&broke())).await;
                pipe.cut("credits ran out").await;
                Ended::new("wall", said)
            }
            Next::Gone => Ended::new("cancelled", said),
            Next::Silent | Next::Late => {
                pipe.cut("the provider took too long").await;
                Ended::new("timeout", said)
            }
            Next::Broken(error) => {
                tracing::debug!(target: "mi::models", %error, "a provider's answer broke off");
                pipe.cut("the provider broke off").await;
                Ended::new("failed", said)
            }
            Next::Piece(_) | Next::End => Ended::new("failed", said),
        }
    }

    /// Whether more has come than was asked for.
    fn is_over(&self, meter: &Meter) -> bool {
        let output = self.paid.as_ref().map_or(i64::MAX, |paid| paid.output);
        meter.output_so_far() > output.saturating_add(SLACK) || meter.events() > output.saturating_add(SILENT_EVENTS)
    }

    /// An error as this vendor writes it into a stream; nothing where the answer is no stream.
    fn error_event(&self, error: &Error) -> Bytes {
        let body = self.call.form().body(error);
        let text = match self.call {
            _ if !self.streamed => String::new(),
            Call::Messages => format!("event: error\ndata: {body}\n\n"),
            Call::Responses => {
                let body =
                    serde_json::json!({"type": "error", "code": error.reason, "message": error.message, "param": null});
                format!("event: error\ndata: {body}\n\n")
            }
            _ => format!("data: {body}\n\n"),
        };
        text.into()
    }
}

/// A vendor's words without keys, and without what looks like the rest of one.
fn without_keys(said: &str, keys: &[Secret]) -> String {
    let told = keys.iter().fold(said.to_owned(), |said, key| said.replace(key.expose(), KEY));
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "-_*.".contains(letter);
    let masked = said.split(|letter| !is_word(letter)).filter(|word| word.contains("**"));
    masked.fold(told, |said, word| said.replace(word, KEY))
}

fn gone() -> Said {
    Said::Unknown("the answer was broken off before its usage came")
}

fn too_large() -> Said {
    Said::Unknown("the provider's answer is too large to be read")
}

fn past_ceiling() -> Error {
    Error::new(ErrorKind::Exhausted, "OUT_OF_CREDITS", "the answer is longer than the request allows, and was ended")
}
