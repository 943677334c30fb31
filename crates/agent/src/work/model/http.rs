//! The model, through the platform's proxy: one streamed request for each answer, sent again while the provider is busy or
//! away.
//!
//! The three formats that providers serve, without a library for each. The proxy has the provider's key, counts what is
//! used, and refuses what nobody pays for.

use std::time::Duration;

use mi_client::jittered;
use mi_kernel::backoff::Backoff;
use reqwest::{Method, Response, StatusCode, header};

use super::{
    anthropic,
    conversation::{Collect, Offer, Reply, Tokens, Turn, Wrong},
    gemini, openai,
    sse::Events,
};
use crate::{
    config::{ModelApi, ModelConfig},
    proxy::{ProxyError, chain},
    work::{
        outcome::{Failed, Outcome},
        shared::Shared,
    },
};

/// Tries of one request.
const TRIES: u32 = 5;
/// Tries of one whose answers cannot be read: each is paid for.
const UNREADABLE_TRIES: u32 = 2;
/// Waits between them, before jitter.
const PAUSES: Backoff = Backoff { first: Duration::from_millis(500), most: Duration::from_secs(16) };
/// The longest that a server may ask to wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server may be silent: models think.
const SILENCE: Duration = Duration::from_secs(120);
/// The longest answer, in bytes.
const MAX_REPLY: usize = 4 << 20;
/// How many bytes of a refusal are passed on.
const MAX_REFUSAL: usize = 2 << 10;
/// Header of the platform's word for why it refuses.
const REASON: &str = "mi-reason";
/// Its word for a ceiling that is used up, and what the sentence says when that is the task's own.
const BUDGET_REACHED: &str = "BUDGET_REACHED";
const OF_THE_TASK: &str = "the task ";

/// A model as it works on one task.
pub(super) struct Model<'a> {
    shared: &'a Shared,
    config: &'a ModelConfig,
    task_id: &'a str,
}

/// Why a try failed.
enum Problem {
    /// The server may take the request later: how long it asks to wait, and what it said.
    Passing(Option<Duration>, String),
    /// The server would refuse the request again: what it said.
    Lasting(String),
    /// The answer is none that can be read: what is wrong with it.
    Unreadable(String),
    /// Nobody pays for it: what the proxy said, and whether it is the task that may not cost more.
    Unpaid(String, bool),
}

impl<'a> Model<'a> {
    pub(super) fn new(shared: &'a Shared, config: &'a ModelConfig, task_id: &'a str) -> Self {
        Self { shared, config, task_id }
    }

    /// The path of the proxy.
    fn path(&self) -> String {
        let ModelConfig { provider, id, .. } = self.config;
        match self.config.api {
            ModelApi::OpenAi => format!("/llm/{provider}/v1/chat/completions"),
            ModelApi::Anthropic => format!("/llm/{provider}/v1/messages"),
            ModelApi::Gemini => format!("/llm/{provider}/v1beta/models/{id}:streamGenerateContent?alt=sse"),
        }
    }

    /// The model's next answer; `tokens` pays for all that was asked and answered, and what it cannot pay is not asked.
    ///
    /// # Errors
    /// How the attempt ends.
    pub(super) async fn ask(
        &self,
        system: &str,
        turns: &[Turn],
        offers: &[Offer],
        tokens: &mut Tokens,
    ) -> Result<Reply, Outcome> {
        let (api, id) = (self.config.api, &self.config.id);
        let body = match api {
            ModelApi::OpenAi => openai::request(id, system, turns, offers),
            ModelApi::Anthropic => anthropic::request(id, system, turns, offers),
            ModelApi::Gemini => gemini::request(system, turns, offers),
        };
        let body = body.to_string();
        let failed = |text: String, retryable| Outcome::Failed(Failed { error: text, retryable, loop_detected: false });
        let (mut failures, mut unreadable) = (0, 0);
        loop {
            if !tokens.have(estimate(body.len())) {
                return Err(Outcome::Failed(tokens.used_up()));
            }
            let mut received = None;
            let tried = match api {
                ModelApi::OpenAi => self.attempt(&body, openai::Stream::default(), &mut received).await,
                ModelApi::Anthropic => self.attempt(&body, anthropic::Stream::default(), &mut received).await,
                ModelApi::Gemini => self.attempt(&body, gemini::Stream::default(), &mut received).await,
            };
            failures += 1;
            let problem = match tried {
                Ok(reply) => {
                    self.shared.paid.paid();
                    let said = reply.text.len() + reply.calls.iter().map(|call| call.arguments.len()).sum::<usize>();
                    tokens.use_up(if reply.tokens == 0 { estimate(body.len() + said) } else { reply.tokens });
                    return Ok(reply);
                }
                Err(problem) => problem,
            };
            if let Some(received) = received {
                tokens.use_up(estimate(body.len()) + received);
            }
            match problem {
                Problem::Lasting(text) => return Err(failed(format!("the model server refuses: {text}"), false)),
                Problem::Unreadable(text) => {
                    unreadable += 1;
                    if unreadable >= UNREADABLE_TRIES {
                        return Err(failed(self.unreadable(&text), false));
                    }
                    tokio::time::sleep(jittered(PAUSES.after(unreadable))).await;
                }
                Problem::Unpaid(text, true) => {
                    return Err(failed(format!("what the task may cost does not suffice: {text}"), false));
                }
                Problem::Unpaid(text, false) => {
                    self.shared.log.say(format!("task {}: the model is not paid for: {text}", self.task_id));
                    self.shared.paid.refused();
                    return Err(Outcome::Released);
                }
                Problem::Passing(asked, text) => {
                    let asked = asked.unwrap_or_default();
                    if failures >= TRIES || asked > PATIENCE {
                        return Err(failed(format!("the model server failed {failures} times: {text}"), true));
                    }
                    tokio::time::sleep(asked + jittered(PAUSES.after(failures))).await;
                }
            }
        }
    }

    /// Where to look when nothing that the server says is an answer.
    fn unreadable(&self, text: &str) -> String {
        let ModelConfig { provider, id, .. } = self.config;
        let api = match self.config.api {
            ModelApi::OpenAi => "openai",
            ModelApi::Anthropic => "anthropic",
            ModelApi::Gemini => "gemini",
        };
        format!(
            "the model server's answers cannot be read as those of the API {api:?}: {text}; look at the `api` of the \
             provider {provider:?} in the catalogue, which serves {id:?}, or at --model-api and --model-url of the platform"
        )
    }

    /// `received`: the tokens of what came, at the least, once the model has begun to answer.
    async fn attempt(
        &self,
        body: &str,
        mut answer: impl Collect,
        received: &mut Option<u64>,
    ) -> Result<Reply, Problem> {
        let unmade = |error: ProxyError| Problem::Passing(None, error.to_string());
        let mut request = self.shared.proxy.request(Method::POST, &self.path(), Some(self.task_id)).map_err(unmade)?;
        request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_owned());
        if self.config.api == ModelApi::Anthropic {
            request = request.header("anthropic-version", "2023-06-01");
        }
        let mut response = in_time(request.send()).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        *received = Some(0);
        let (mut events, mut size) = (Events::default(), 0);
        let wrong = |wrong| match wrong {
            Wrong::Passing(text) => Problem::Passing(None, text),
            Wrong::Unreadable(text) => Problem::Unreadable(text),
        };
        while let Some(chunk) = in_time(response.chunk()).await? {
            size += chunk.len();
            if size > MAX_REPLY {
                return Err(Problem::Lasting(format!("its answer has more than {MAX_REPLY} bytes")));
            }
            for data in events.take(&chunk).map_err(Problem::Lasting)? {
                // Servers send about a token with each event.
                *received = received.map(|count| count + 1);
                if answer.take(&data).map_err(wrong)? {
                    return answer.finish().map_err(wrong);
                }
            }
        }
        answer.finish().map_err(wrong)
    }
}

async fn in_time<T>(work: impl Future<Output = reqwest::Result<T>>) -> Result<T, Problem> {
    match tokio::time::timeout(SILENCE, work).await {
        Ok(done) => done.map_err(|error| Problem::Passing(None, chain(error))),
        Err(_) => Err(Problem::Passing(None, format!("it was silent for {} s", SILENCE.as_secs()))),
    }
}

/// What a refusal means.
async fn refusal(mut response: Response) -> Problem {
    let (status, headers) = (response.status(), response.headers());
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let asked = text("retry-after").and_then(|value| value.parse().ok());
    let in_vain = text("x-should-retry") == Some("false");
    let ceiling = text(REASON) == Some(BUDGET_REACHED);
    let mut text = format!("{status}: ").into_bytes();
    while text.len() < MAX_REFUSAL
        && let Ok(Some(chunk)) = in_time(response.chunk()).await
    {
        text.extend_from_slice(&chunk);
    }
    text.truncate(MAX_REFUSAL);
    let text = String::from_utf8_lossy(&text).into_owned();
    let passes =
        status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT;
    match status {
        StatusCode::PAYMENT_REQUIRED => {
            let of_the_task = ceiling && text.contains(OF_THE_TASK);
            Problem::Unpaid(text, of_the_task)
        }
        _ if passes && !in_vain => Problem::Passing(asked.map(Duration::from_secs), text),
        _ => Problem::Lasting(text),
    }
}

/// For servers that do not count, and what they did not come to count: about four bytes are a token.
fn estimate(bytes: usize) -> u64 {
    bytes as u64 / 4
}
