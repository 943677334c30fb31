//! A command task: its script, run in the workspace. Exit code and output are the result.

use mi_kernel::receipt::Artifact;
use mi_proto::v1::Task;

use super::{
    artifacts,
    outcome::{Done, Failed, Outcome},
    output::{KEPT, Output},
    script::{self, Ran},
    shared::Shared,
};

/// How much of each output goes into the error of a failed attempt, which takes less than a result.
const KEPT_OF_FAILURE: usize = 24 << 10;

/// Runs the script: exit code 0 is done, anything else a failed attempt.
pub(super) async fn run(shared: &Shared, task: &Task) -> Outcome {
    let limit = shared.config.command_limit;
    let failed = |error: String| Outcome::Failed(Failed::retryable(error));
    let ran = match script::run(shared, task, &task.description, limit).await {
        Ok(ran) => ran,
        Err(error) => return failed(format!("the script could not be run: {error}")),
    };
    let done = ran.exit_code == Some(0);
    let (mut kept, mut notes) = (Vec::new(), Vec::new());
    for (name, output) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        if let Some((artifact, note)) = keep(shared, task, name, output).await {
            notes.push((name, note));
            kept.extend(artifact);
        }
    }
    let note = |name: &str| notes.iter().find(|(of, _)| *of == name).map(|(_, note)| note.clone());
    if !done {
        return failed(ran.text(limit, KEPT_OF_FAILURE, note));
    }
    let mut result = ran.text(limit, KEPT, note);
    match artifacts::publish(shared, task, &ran.artifacts()).await {
        Ok(published) => {
            kept.extend(published.artifacts);
            if !published.left_out.is_empty() {
                result += &format!("--- left out of what is published\n{}\n", published.left_out);
            }
        }
        Err(problem) => return failed(format!("{problem}\n{}", ran.text(limit, KEPT_OF_FAILURE, note))),
    }
    let Ran { receipt, .. } = ran;
    Outcome::Done(Done { result, artifacts: kept, commands: vec![receipt] })
}

/// Puts an output that is longer than what is kept of it into the drive; what to say about it.
async fn keep(shared: &Shared, task: &Task, name: &str, output: &Output) -> Option<(Option<Artifact>, String)> {
    let (file, cut) = output.whole()?;
    let path = format!("tasks/{}/{}/{name}.log", task.id, task.attempt);
    Some(match artifacts::upload(shared, &path, "text/plain", file).await {
        Ok(artifact) => {
            let cut = cut.map(|why| format!(", but {why}")).unwrap_or_default();
            (Some(artifact), format!("; the whole is {path} in the drive{cut}"))
        }
        Err(status) => (None, format!("; the rest is lost: {}", artifacts::refused(&path, &status))),
    })
}
