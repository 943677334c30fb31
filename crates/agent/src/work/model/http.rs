//! The model server: one streamed request for each answer, sent again while the server is busy or away.
//!
//! Plain HTTP in the two formats that everybody serves. It is made when the first task needs it: an agent that only runs
//! scripts has no use for its memory.

use std::time::Duration;

use mi_client::jittered;
use mi_kernel::{backoff::Backoff, secret::Secret};
use reqwest::{StatusCode, header};

use super::{
    anthropic,
    conversation::{Collect, Offer, Reply, Tokens, Turn},
    openai,
    sse::Events,
};
use crate::{
    config::{ModelApi, ModelConfig},
    work::outcome::Failed,
};

/// Tries of one request.
const TRIES: u32 = 5;
/// Waits between them, before jitter.
const PAUSES: Backoff = Backoff { first: Duration::from_millis(500), most: Duration::from_secs(16) };
/// The longest that a server may ask to wait.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a server may be silent: models think.
const SILENCE: Duration = Duration::from_secs(120);
/// The longest answer, in bytes.
const MAX_REPLY: usize = 4 << 20;
/// How many bytes of a refusal are passed on.
const MAX_REFUSAL: usize = 2 << 10;

/// A model behind a server.
pub(crate) struct Model {
    http: reqwest::Client,
    api: ModelApi,
    url: String,
    key: Option<Secret>,
    id: String,
}

/// Why a try failed.
enum Problem {
    /// The server may take the request later: how long it asks to wait, and what it said.
    Passing(Option<Duration>, String),
    /// The server would refuse the request again: what it said.
    Lasting(String),
}

impl Model {
    pub(crate) fn new(config: &ModelConfig) -> Result<Self, reqwest::Error> {
        // What proxy variables say is for programs that may leave the sandbox.
        let mut http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_LIMIT).read_timeout(SILENCE);
        if let Some((host, address)) = &config.address {
            http = http.resolve(host, *address);
        }
        let path = match config.api {
            ModelApi::OpenAi => "/chat/completions",
            ModelApi::Anthropic => "/v1/messages",
        };
        Ok(Self {
            http: http.build()?,
            api: config.api,
            url: format!("{}{path}", config.url.trim_end_matches('/')),
            key: config.key.clone(),
            id: config.id.clone(),
        })
    }

    /// The model's next answer; `tokens` pays for all that was asked and answered, and what it cannot pay is not asked.
    ///
    /// # Errors
    /// How the attempt failed.
    pub(super) async fn ask(
        &self,
        system: &str,
        turns: &[Turn],
        offers: &[Offer],
        tokens: &mut Tokens,
    ) -> Result<Reply, Failed> {
        let body = match self.api {
            ModelApi::OpenAi => openai::request(&self.id, system, turns, offers),
            ModelApi::Anthropic => anthropic::request(&self.id, system, turns, offers),
        };
        let body = body.to_string();
        let failed = |text: String, retryable| Failed { error: text, retryable, loop_detected: false };
        let mut failures = 0;
        loop {
            if !tokens.have(estimate(body.len())) {
                return Err(tokens.used_up());
            }
            let mut received = None;
            let tried = match self.api {
                ModelApi::OpenAi => self.attempt(&body, openai::Stream::default(), &mut received).await,
                ModelApi::Anthropic => self.attempt(&body, anthropic::Stream::default(), &mut received).await,
            };
            failures += 1;
            let problem = match tried {
                Ok(reply) => {
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

    /// `received`: the tokens of what came, at the least, once the model has begun to answer.
    async fn attempt(
        &self,
        body: &str,
        mut answer: impl Collect,
        received: &mut Option<u64>,
    ) -> Result<Reply, Problem> {
        let passing = |error: reqwest::Error| Problem::Passing(None, chain(&error.without_url()));
        let mut request =
            self.http.post(&self.url).header(header::CONTENT_TYPE, "application/json").body(body.to_owned());
        match (self.api, &self.key) {
            (ModelApi::OpenAi, Some(key)) => request = request.bearer_auth(key.expose()),
            (ModelApi::Anthropic, Some(key)) => request = request.header("x-api-key", key.expose()),
            (_, None) => {}
        }
        if self.api == ModelApi::Anthropic {
            request = request.header("anthropic-version", "2023-06-01");
        }
        let mut response = request.send().await.map_err(passing)?;
        let status = response.status();
        if !status.is_success() {
            let asked = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let mut text = format!("{status}: ").into_bytes();
            while text.len() < MAX_REFUSAL
                && let Ok(Some(chunk)) = response.chunk().await
            {
                text.extend_from_slice(&chunk);
            }
            text.truncate(MAX_REFUSAL);
            let text = String::from_utf8_lossy(&text).into_owned();
            let passes = status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::REQUEST_TIMEOUT;
            return Err(if passes {
                Problem::Passing(asked.map(Duration::from_secs), text)
            } else {
                Problem::Lasting(text)
            });
        }
        *received = Some(0);
        let (mut events, mut size) = (Events::default(), 0);
        let wrong = |text: String| Problem::Passing(None, text);
        while let Some(chunk) = response.chunk().await.map_err(passing)? {
            size += chunk.len();
            if size > MAX_REPLY {
                return Err(Problem::Lasting(format!("its answer has more than {MAX_REPLY} bytes")));
            }
            for data in events.take(&chunk).map_err(Problem::Lasting)? {
                // Servers send about a token with each event.
                *received = received.map(|count| count + 1);
                if answer.take(&data).map_err(wrong)? {
                    return answer.finish().ok_or_else(cut);
                }
            }
        }
        answer.finish().ok_or_else(cut)
    }
}

/// For servers that do not count, and what they did not come to count: about four bytes are a token.
fn estimate(bytes: usize) -> u64 {
    bytes as u64 / 4
}

fn cut() -> Problem {
    Problem::Passing(None, "its answer was cut off".into())
}

/// The error with its causes, without the URL.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
