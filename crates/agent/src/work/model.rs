//! A task that needs judgement: the model reads it, calls tools, and completes it, within its ceilings.
//!
//! Whatever the model does, the attempt ends: with a result, with a reason, or given back to wait for subtasks.

mod anthropic;
mod conversation;
mod descriptions;
mod gemini;
mod http;
mod openai;
mod prompt;
mod sse;
mod tools;

use mi_proto::v1::Task;

use self::{
    conversation::{Call, Reply, Tokens, Turn, used_up},
    http::Model,
    tools::{Said, Tools},
};
use super::{
    lease::Lease,
    outcome::{Failed, Outcome},
    shared::{Shared, is_private},
};
use crate::config::ModelConfig;

/// The same call with the same answer so many times in a row is a loop.
const SAME_CALLS: u32 = 5;
/// So many times in a row the model is told that what it said makes no sense.
const CORRECTIONS: u32 = 2;
/// How much of a call is shown in the log.
const SHOWN: usize = 300;

/// So many calls of one answer are done.
const MOST_CALLS: usize = 16;

const CORRECTION: &str = "Your answer was empty. Call one of the tools; when the work is done, call complete_task.";
const REMINDER: &str = "Nobody reads what you say without calling a tool. If the work is done, call complete_task with \
                        the whole result. If it is not, go on with the tools.";
const CUT: &str = "Your answer was cut off at the model's length limit, and nobody reads it. Put less into one answer: \
                   call a tool, and write what is long in parts.";
const CUT_CALL: &str = "error: not done: your answer was cut off at the model's length limit before this call was \
                        complete. Put less into one answer, and write what is long in parts.";
/// What is wrong with a model that goes on like that.
const TOO_LONG: &str = "its answers are cut off at its length limit";
const TOO_MANY_CALLS: &str = "error: not done: one answer had more calls than are done at once. Call again.";

/// Works on the task until it ends.
pub(super) async fn run(shared: &Shared, task: &Task, lease: &Lease<'_>) -> Outcome {
    let Some(config) = &shared.config.model else {
        return Outcome::Failed(Failed::retryable("this agent has no model".into()));
    };
    let tokens = Tokens { used: 0, most: config.tokens };
    let model = Model::new(shared, config, &task.id);
    let talk = Talk { shared, config, model, strikes: 0, same: Same::default(), tokens };
    match tokio::time::timeout(config.limit, talk.run(task, lease)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failed(used_up(format!("the {} s that a model may work on a task", config.limit.as_secs()))),
    }
}

/// The conversation with the model about one task.
struct Talk<'a> {
    shared: &'a Shared,
    config: &'a ModelConfig,
    model: Model<'a>,
    /// How many times in a row it made no sense.
    strikes: u32,
    same: Same,
    tokens: Tokens,
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
        for _ in 0..self.config.steps {
            let reply = match self.model.ask(&system, &turns, &offers, &mut self.tokens).await {
                Ok(reply) => reply,
                Err(outcome) => return outcome,
            };
            if !self.tokens.have(0) {
                return Outcome::Failed(self.tokens.used_up());
            }
            if !reply.calls.is_empty() {
                turns.push(Turn::Model { text: reply.text.clone(), calls: reply.calls.clone() });
                match self.call(&mut tools, task, reply).await {
                    Ok(results) => turns.push(Turn::Results(results)),
                    Err(outcome) => return outcome,
                }
                continue;
            }
            // Whatever it says, the task is done when it says so with complete_task: nobody can tell a result from a
            // remark, or from a question.
            let blank = reply.text.trim().is_empty();
            let (what, told) = match (reply.cut, blank) {
                (true, _) => (TOO_LONG, CUT),
                (_, true) => ("it answers nothing", CORRECTION),
                _ => ("it calls no tool", REMINDER),
            };
            if let Some(outcome) = self.strike(what, &reply.text) {
                return outcome;
            }
            // A turn without content is one that no server takes back.
            if !blank {
                turns.push(Turn::Model { text: reply.text, calls: reply.calls });
            }
            turns.push(Turn::User(told.into()));
        }
        Outcome::Failed(used_up(format!("the {} steps of a task", self.config.steps)))
    }

    /// Does what the model calls for, one after the other; what to tell it, or how the task ends.
    async fn call(
        &mut self,
        tools: &mut Tools<'_>,
        task: &Task,
        reply: Reply,
    ) -> Result<Vec<(String, String)>, Outcome> {
        let mut results = Vec::new();
        let mut sense = true;
        let last = reply.calls.len() - 1;
        for (place, call) in reply.calls.into_iter().enumerate() {
            // What it would have asked for nobody knows, even if it looks whole.
            let not_done = if reply.cut && place == last { Some(CUT_CALL) } else { None };
            if let Some(why) = not_done.or((place >= MOST_CALLS).then_some(TOO_MANY_CALLS)) {
                results.push((call.id, why.to_owned()));
                continue;
            }
            self.shared.log.say(format!("task {}: {}", task.id, shown(&call, is_private(task))));
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
        let what = if reply.cut { TOO_LONG } else { "it calls tools as nobody can" };
        if sense && !reply.cut {
            self.strikes = 0;
        } else if let Some(outcome) = self.strike(what, "") {
            return Err(outcome);
        }
        Ok(results)
    }

    /// One more time it made no sense; how the task ends if that was too often. What it said may be what somebody wanted.
    fn strike(&mut self, what: &str, said: &str) -> Option<Outcome> {
        self.strikes += 1;
        let mut error = format!("the model makes no sense: {what}, {} times in a row", self.strikes);
        if !said.trim().is_empty() {
            error += &format!("; it last said:\n{said}");
        }
        (self.strikes > CORRECTIONS).then(|| Outcome::Failed(Failed::retryable(error)))
    }
}

/// A call as the log, which every agent of the office may read, shows it. What is said in the chat may be for one reader,
/// whatever the task.
fn shown(call: &Call, private: bool) -> String {
    let Call { name, arguments, .. } = call;
    match private || name == tools::CHAT_SEND {
        true => format!("{name} ({} bytes)", arguments.len()),
        false => format!("{name} {}", &arguments[..arguments.floor_char_boundary(SHOWN)]),
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
