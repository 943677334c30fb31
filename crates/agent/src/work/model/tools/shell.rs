//! Scripts of the model's own.

use std::time::Duration;

use super::{Answer, Tools};
use crate::work::script;

/// How much of each output; both fit into an answer.
const MAX_OUTPUT: usize = 7 << 10;
/// What commands the model ran, for the receipt; the first ones, if they are too many for it.
const MAX_COMMANDS: usize = 200;

tool!(Shell, "shell", "Run a script with /bin/sh in your workspace. It reads no input. You get exit code and output.", {
    command: String = "string", "The script.";
    seconds: Option<u64> = "integer?", "How long it may take.";
});

impl Tools<'_> {
    pub(super) async fn shell(&mut self, asked: Shell) -> Answer {
        let most = self.shared.config.command_limit;
        let limit = asked.seconds.map_or(most, |seconds| Duration::from_secs(seconds.max(1)).min(most));
        let ran =
            script::run(self.shared, self.task, &asked.command, limit).await.map_err(|error| error.to_string())?;
        let text = ran.text(limit, MAX_OUTPUT, |_| None);
        if self.commands.len() < MAX_COMMANDS {
            self.commands.push(ran.receipt);
        }
        Ok(text)
    }
}
