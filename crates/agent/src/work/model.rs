//! A task that needs judgement: the model reads it, calls tools, and completes it, within its ceilings.
//!
//! Whatever the model does, the attempt ends: with a result, with a reason, or given back to wait for subtasks.

mod anthropic;
mod http;
mod openai;
mod prompt;
mod sse;
mod tools;

use std::time::Duration;

use mi_kernel::receipt::Command;
use mi_proto::v1::Task;
use serde_json::Value;

pub(super) use self::http::Model;
use self::tools::{Said, Tools};
use super::{
    Shared,
    lease::{Done, Failed, Lease, Outcome},
};
use crate::config::ModelConfig;

/// The same call with the same answer so many times in a row is a loop.
const SAME_CALLS: u32 = 5;
/// So many times in a row the model is told that what it said makes no sense.
const CORRECTIONS: u32 = 2;
/// How much of a call is shown in the log.
const SHOWN: usize = 300;

const CORRECTION: &str = "Your answer was empty. Call one of the tools; when the work is done, call complete_task.";
const REMINDER: &str =
    "Is this your result? Then call complete_task with it. If the work is not done, go on with the tools.";

/// One turn of the conversation.
pub(super) enum Turn {
    /// What the agent's program says.
    User(String),
    /// What the model said.
    Model { text: String, calls: Vec<Call> },
    /// What came of the calls, each with the id of its call.
    Results(Vec<(String, String)>),
}

/// A tool that the model calls.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    /// As the model wrote them: JSON, if it knows how.
    pub(super) arguments: String,
}

/// An answer of the model.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
    /// Tokens of the request and the answer; 0: it was not said.
    pub(super) tokens: u64,
}

/// A tool as the model is told of it.
pub(super) struct Offer {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    /// JSON schema of its arguments.
    pub(super) schema: Value,
}

/// Works on the task until it ends.
pub(super) async fn run(shared: &Shared, task: &Task, lease: &Lease<'_>) -> Outcome {
    let Some((config, model)) = shared.model() else {
        return Outcome::Failed(Failed::retryable("this agent has no model".into()));
    };
    let talk = Talk { shared, config, model, strikes: 0, same: Same::default(), tokens: 0 };
    match tokio::time::timeout(config.limit, talk.run(task, lease)).await {
        Ok(outcome) => outcome,
        Err(_) => used_up(format!("the {} s that a model may work on a task", config.limit.as_secs())),
    }
}

/// A ceiling that was reached: the next attempt would reach it too.
fn used_up(what: String) -> Outcome {
    Outcome::Failed(Failed { error: format!("{what} are used up"), retryable: false, loop_detected: false })
}

/// One conversation.
struct Talk<'a> {
    shared: &'a Shared,
    config: &'a ModelConfig,
    model: &'a Model,
    /// How many times in a row it made no sense.
    strikes: u32,
    same: Same,
    tokens: u64,
}

impl Talk<'_> {
    async fn run(mut self, task: &Task, lease: &Lease<'_>) -> Outcome {
        let (system, first) = match prompt::of(self.shared, task).await {
            Ok(prompts) => prompts,
            Err(status) => {
                let error = format!("what the task is about could not be read: {}", status.message());
                return Outcome::Failed(Failed::retryable(error));
            }
        };
        let mut turns = vec![Turn::User(first)];
        let (mut tools, offers) = (Tools::new(self.shared, task, lease), tools::offers());
        let mut reminded = false;
        for _ in 0..self.config.steps {
            let reply = match self.model.ask(&system, &turns, &offers).await {
                Ok(reply) => reply,
                Err(problem) => return Outcome::Failed(problem),
            };
            self.tokens += reply.tokens;
            if self.tokens > self.config.tokens {
                return used_up(format!("the {} tokens of a task", self.config.tokens));
            }
            let (text, calls) = (reply.text.clone(), reply.calls.clone());
            turns.push(Turn::Model { text: reply.text, calls: reply.calls });
            if !calls.is_empty() {
                match self.call(&mut tools, task, calls).await {
                    Ok(results) => turns.push(Turn::Results(results)),
                    Err(outcome) => return outcome,
                }
            } else if text.trim().is_empty() {
                // A turn without content is one that no server takes back.
                turns.pop();
                match self.strike("it answers nothing") {
                    Some(outcome) => return outcome,
                    None => turns.push(Turn::User(CORRECTION.into())),
                }
            } else if reminded {
                let Tools { commands, .. } = tools;
                return Outcome::Done(Done { result: text, artifacts: Vec::new(), commands });
            } else {
                reminded = true;
                turns.push(Turn::User(REMINDER.into()));
            }
        }
        used_up(format!("the {} steps of a task", self.config.steps))
    }

    /// Does what the model calls for, one after the other; what to tell it, or how the task ends.
    async fn call(
        &mut self,
        tools: &mut Tools<'_>,
        task: &Task,
        calls: Vec<Call>,
    ) -> Result<Vec<(String, String)>, Outcome> {
        let mut results = Vec::new();
        let mut sense = true;
        for call in calls {
            let shown = &call.arguments[..call.arguments.floor_char_boundary(SHOWN)];
            self.shared.log.say(format!("task {}: {} {shown}", task.id, call.name));
            let text = match tools.call(&call).await {
                Said::Answer(text) => text,
                Said::Nonsense(text) => {
                    sense = false;
                    text
                }
                Said::End(outcome) => return Err(outcome),
            };
            if self.same.again(&call, &text) {
                return Err(Outcome::Failed(Failed {
                    error: format!(
                        "LOOP_DETECTED: {} was called {SAME_CALLS} times with the same arguments and the same result",
                        call.name
                    ),
                    retryable: false,
                    loop_detected: true,
                }));
            }
            results.push((call.id, text));
        }
        if sense {
            self.strikes = 0;
        } else if let Some(outcome) = self.strike("it calls tools as nobody can") {
            return Err(outcome);
        }
        Ok(results)
    }

    fn strike(&mut self, what: &str) -> Option<Outcome> {
        self.strikes += 1;
        let error = format!("the model makes no sense: {what}, {} times in a row", self.strikes);
        (self.strikes > CORRECTIONS).then(|| Outcome::Failed(Failed::retryable(error)))
    }
}

/// The last call and its answer, and how often it came.
#[derive(Default)]
struct Same {
    last: Option<(String, String, String)>,
    times: u32,
}

impl Same {
    /// Whether it came too often.
    fn again(&mut self, call: &Call, answer: &str) -> bool {
        let this = Some((call.name.clone(), call.arguments.clone(), answer.to_owned()));
        self.times = if self.last == this { self.times + 1 } else { 1 };
        self.last = this;
        self.times >= SAME_CALLS
    }
}

/// What commands the model ran, for the receipt; the first ones, if they are too many for it.
const MAX_COMMANDS: usize = 200;

fn note(commands: &mut Vec<Command>, command: Command) {
    if commands.len() < MAX_COMMANDS {
        commands.push(command);
    }
}

/// Wall time of a task, steps and tokens, unless told otherwise.
pub(crate) const LIMIT: Duration = Duration::from_secs(900);
/// Answers of the model for one task.
pub(crate) const STEPS: u32 = 50;
/// Tokens in and out for one task.
pub(crate) const TOKENS: u64 = 200_000;
