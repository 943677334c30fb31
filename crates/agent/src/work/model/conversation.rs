//! What is said between an agent and its model, whichever way the model is spoken to.

use serde_json::{Value, json};

use crate::work::outcome::Failed;

/// Tokens that an answer may have, thoughts among them: all of them are set aside before each call.
pub(super) const MAX_ANSWER: u64 = 16_384;

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
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    /// As the model wrote them: JSON, if it knows how.
    pub(super) arguments: String,
    /// What Google's models want to see again with it; empty: nothing.
    pub(super) signature: String,
}

impl Call {
    /// The arguments as the model is shown them again: servers take nothing but an object, and the model is told of what
    /// is none in the result.
    pub(super) fn object(&self) -> Value {
        serde_json::from_str(&self.arguments).ok().filter(Value::is_object).unwrap_or_else(|| json!({}))
    }
}

/// An answer of the model.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
    /// Tokens of the request and the answer; 0: it was not said.
    pub(super) tokens: u64,
    /// It ends at the model's length limit, anywhere.
    pub(super) cut: bool,
}

/// The tokens of a task.
pub(super) struct Tokens {
    pub(super) used: u64,
    pub(super) most: u64,
}

impl Tokens {
    pub(super) fn use_up(&mut self, tokens: u64) {
        self.used = self.used.saturating_add(tokens);
    }

    /// Whether there are so many left.
    pub(super) fn have(&self, tokens: u64) -> bool {
        self.used.saturating_add(tokens) <= self.most
    }

    /// How a task ends that wants more.
    pub(super) fn used_up(&self) -> Failed {
        used_up(format!("the {} tokens of a task", self.most))
    }
}

/// A tool as the model is told of it.
pub(super) struct Offer {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    /// JSON schema of its arguments.
    pub(super) schema: Value,
}

/// A ceiling that was reached: the next attempt would reach it too.
pub(super) fn used_up(what: String) -> Failed {
    Failed { error: format!("{what} are used up"), retryable: false, loop_detected: false }
}

/// Puts an answer together.
pub(super) trait Collect {
    /// Takes the data of an event; true: it was the last one.
    ///
    /// # Errors
    /// What the server says is wrong, or what it says is nothing that can be read.
    fn take(&mut self, data: &str) -> Result<bool, Wrong>;

    /// The answer.
    ///
    /// # Errors
    /// When it was cut off, or was none.
    fn finish(self) -> Result<Reply, Wrong>;
}

/// Why there is no answer in what a server sent.
#[derive(Debug, PartialEq)]
pub(super) enum Wrong {
    /// The server says so itself, or the answer was cut off: another one may come.
    Passing(String),
    /// It is nothing that a server of this kind says: the next one will be no other.
    Unreadable(String),
}

impl Wrong {
    /// An error that the server reports in its answer.
    pub(super) fn reported(error: &Value) -> Self {
        Self::Passing(error["message"].as_str().unwrap_or("it reports an error").to_owned())
    }

    /// Something that is no JSON.
    pub(super) fn unreadable(error: serde_json::Error) -> Self {
        Self::Unreadable(format!("it sent what is no JSON: {error}"))
    }

    /// An answer without an end, of which something was read or nothing.
    pub(super) fn unfinished(is_known: bool) -> Self {
        match is_known {
            true => Self::Passing("its answer was cut off".into()),
            false => Self::Unreadable("there is no answer in what it sent".into()),
        }
    }
}
