//! One call, from its reservation to its settlement: a task of its own, which ends when the provider has answered, or the
//! client is gone, or time or money is up.

mod account;
mod relay;

use std::{convert::Infallible, sync::Arc};

use axum::{body::Body, response::Response};
use mi_base::{budget::Share, metrics};
use mi_catalogue::{Catalogue, Model};
use mi_kernel::{Error, ErrorKind, Result, secret::Secret};
use mi_proto::internal::v1::{ReserveCreditsRequest, SettleCreditsRequest};
use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::account::Account;
use crate::{
    proxy::Proxy,
    route::Call,
    slots::Slot,
    upstream::{Failed, Outgoing},
    usage::Said,
};

/// What a call is paid with.
pub(crate) struct Paid {
    /// What is set aside.
    pub(crate) reservation: ReserveCreditsRequest,
    /// Tokens that its answers may have.
    pub(crate) output: i64,
}

/// A call that may be made.
pub(crate) struct Job {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) call: Call,
    /// Whether the answer is to come in pieces.
    pub(crate) streamed: bool,
    /// Whether the event that we asked for, and the client did not, is left out.
    pub(crate) drops_usage: bool,
    pub(crate) model: Model,
    /// The name of the model that was sent.
    pub(crate) asked: String,
    pub(crate) catalogue: Arc<Catalogue>,
    /// What the provider was shown, which its answers must not tell.
    pub(crate) keys: Vec<Secret>,
    /// None: nobody bills it.
    pub(crate) paid: Option<Paid>,
    pub(crate) span: Span,
    pub(crate) _slot: Slot,
}

/// What is sent to the provider, and what its bytes count among until then.
pub(crate) type Sending = (Outgoing, Share);

/// The way to the client, until it has a status.
pub(crate) type Head = oneshot::Sender<Result<Response>>;

/// How a call ended.
#[derive(Debug)]
struct Ended {
    /// The label of the metric.
    outcome: &'static str,
    said: Said,
}

impl Ended {
    fn new(outcome: &'static str, said: Said) -> Self {
        Self { outcome, said }
    }
}

impl Job {
    /// Makes the call.
    pub(crate) async fn run(self, sending: Sending, head: Head) {
        let mut account = Account::default();
        let ended = match self.reserve().await {
            Ok(()) => {
                let wall = CancellationToken::new();
                tokio::select! {
                    ended = self.exchange(sending, head, &mut account, &wall) => ended,
                    never = self.keep(&wall) => match never {},
                }
            }
            Err(error) => {
                let unknown = is_passing(&error);
                let _ = head.send(Err(error));
                if unknown {
                    self.release().await;
                }
                metrics::model_call(&self.model.provider, &self.model.id, "refused");
                return;
            }
        };
        account.settle(&self, &ended.said).await;
        metrics::model_call(&self.model.provider, &self.model.id, ended.outcome);
        if ended.outcome != "ok" {
            self.span.record("error.type", ended.outcome);
        }
    }

    async fn reserve(&self) -> Result<()> {
        if let Some(paid) = &self.paid {
            let task = self.proxy.ledger.reserve(paid.reservation.clone()).await?;
            self.span.record("mi.task", task);
        }
        Ok(())
    }

    /// Gives back what may have been set aside although nobody heard of it.
    async fn release(&self) {
        let Some(Paid { reservation, .. }) = &self.paid else { return };
        let settlement = SettleCreditsRequest {
            office_id: reservation.office_id.clone(),
            call_id: reservation.call_id.clone(),
            amount: Some(0),
            ..SettleCreditsRequest::default()
        };
        self.proxy.ledger.settle(settlement).await;
    }

    /// Puts the end of the reservation off for as long as the call lasts. Reaches the wall when the office refuses.
    async fn keep(&self, wall: &CancellationToken) -> Infallible {
        let Some(paid) = &self.paid else { return std::future::pending().await };
        loop {
            tokio::time::sleep(self.proxy.limits.renewed_every).await;
            match self.proxy.ledger.reserve(paid.reservation.clone()).await {
                Err(error) if is_wall(&error) => {
                    tracing::info!(target: "mi::models", error = %error.chain(), "a call under way is not paid for any more");
                    wall.cancel();
                    return std::future::pending().await;
                }
                _ => {}
            }
        }
    }

    /// Asks the provider and hands its answer on.
    async fn exchange(
        &self,
        sending: Sending,
        mut head: Head,
        account: &mut Account,
        wall: &CancellationToken,
    ) -> Ended {
        let limits = &self.proxy.limits;
        if head.is_closed() {
            return Ended::new("cancelled", Said::Nothing);
        }
        let limit = if self.streamed { limits.silence } else { limits.whole_answer };
        let sent = tokio::select! {
            sent = timeout(limit, self.proxy.upstream.send(&sending.0)) => sent,
            () = head.closed() => {
                return Ended::new("cancelled", Said::Unknown("the client gave up before an answer came"));
            }
            () = wall.cancelled() => {
                let _ = head.send(Err(broke()));
                return Ended::new("wall", Said::Unknown("credits ran out before an answer came"));
            }
        };
        // A stream may last, and needs the request no longer.
        drop(sending);
        let (outcome, said, error) = match sent {
            Ok(Ok(response)) if response.status().is_redirection() => {
                let error = Error::unavailable("the provider sends elsewhere, where this platform does not go");
                ("failed", Said::Nothing, error)
            }
            Ok(Ok(response)) => return self.relay(response, head, account, wall).await,
            Ok(Err(Failed::NotSent(cause))) => {
                ("failed", Said::Nothing, Error::unavailable("the provider cannot be reached").caused_by(cause))
            }
            Ok(Err(Failed::Broken(cause))) => {
                let said = Said::Unknown("the connection broke before an answer came");
                ("failed", said, Error::unavailable("the connection to the provider broke").caused_by(cause))
            }
            Err(_) => {
                let error = "the provider did not answer in time";
                let error = Error::new(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", error);
                ("timeout", Said::Unknown("the provider never answered"), error)
            }
        };
        account.settle(self, &said).await;
        let _ = head.send(Err(error));
        Ended::new(outcome, said)
    }
}

/// Whether it says nothing of whether what was asked for is done.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Internal)
}

/// Whether the office pays for the call no longer. Everything else may be otherwise a moment later.
fn is_wall(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::FailedPrecondition | ErrorKind::NotFound)
        || ["OUT_OF_CREDITS", "BUDGET_REACHED"].contains(&error.reason)
}

/// What ends a call that is under way.
fn broke() -> Error {
    Error::new(ErrorKind::Exhausted, "OUT_OF_CREDITS", "the credits for this call are gone")
}

/// An answer whose body is this.
fn respond(status: http::StatusCode, headers: http::HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
