//! `mi tasks receipt`: what a worker signed, and whether it holds.

use std::{collections::BTreeSet, fs, path::PathBuf};

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use clap::Args;
use mi_kernel::receipt::{self, Artifact, Receipt, sha256_hex};
use mi_proto::{
    rules::POOL,
    v1::{Task, TaskKind},
};
use prost_reflect::DynamicMessage;
use prost_types::Timestamp;
use serde::Serialize;

use super::{get, task_id};
use crate::{
    commands::files::find,
    context::Context,
    failure::Failure,
    known::{Known, by},
    options::ColonyArg,
    output::{Resource, pairs},
    text::time,
};

#[derive(Debug, Args)]
pub(crate) struct ReceiptArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// The task: its id or a unique start of it
    #[arg(value_name = "TASK", required_unless_present = "file", add = by(&[Known::Tasks]))]
    task: Option<String>,
    /// Read the task from what `mi tasks get -o json` printed; nothing is asked of the platform then
    #[arg(long, value_name = "FILE", conflicts_with = "task")]
    file: Option<PathBuf>,
    /// Check that the receipt is over this task, attempt and result; fails when it is not
    #[arg(long)]
    verify: bool,
    /// Check also that the artifacts still stand in the drive as they were
    #[arg(long, requires = "verify", conflicts_with = "file")]
    drive: bool,
    /// The worker's public key, 32 bytes [default: the one that the platform names in the task]
    #[arg(long, value_name = "HEX|BASE64|@FILE")]
    public_key: Option<String>,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    holds: bool,
    detail: String,
}

/// What programs read of a receipt.
#[derive(Serialize)]
struct Report<'a> {
    receipt: &'a Receipt,
    public_key: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<Check>,
}

pub(crate) async fn run(args: ReceiptArgs, context: &Context) -> Result<(), Failure> {
    let given_key = args.public_key.as_deref().map(public_key).transpose()?;
    let (office_id, task) = match (&args.file, &args.task) {
        (Some(file), _) => (String::new(), saved(file)?),
        (None, given) => {
            let office_id = context.colony(&args.colony).await?;
            let id = task_id(context, &office_id, given.as_deref().unwrap_or_default()).await?;
            let task = get(context, &office_id, &id).await?;
            (office_id, task)
        }
    };
    if task.receipt.is_empty() {
        return Err(Failure::new(format!("task {} has no receipt", task.id))
            .hint("only agents that the platform runs always send one, when they complete a task"));
    }
    let is_given = given_key.is_some();
    let key = given_key.unwrap_or_else(|| task.receipt_public_key.to_vec());
    // Whatever is asked for: what nobody signed is not shown as what somebody said.
    let receipt = receipt::verify(&task.receipt, &key).map_err(|error| {
        Failure::new(format!("the receipt of task {} {}", task.id, error.message))
            .hint("it proves nothing; with --public-key give the raw Ed25519 key of the agent that worked on it")
    })?;
    let mut checks = Vec::new();
    if args.verify {
        checks = over(&receipt, &task, is_given);
    }
    if args.drive {
        for artifact in &receipt.artifacts {
            checks.push(in_drive(context, &office_id, artifact).await?);
        }
    }
    let broken = checks.iter().filter(|check| !check.holds).count();
    match context.out.is_for_programs() {
        true => context.out.value(&Report { receipt: &receipt, public_key: hex::encode(&key), checks })?,
        false => {
            context.out.pairs(claims(&receipt, &key))?;
            if !checks.is_empty() {
                context.out.print("")?;
                let row = |check: &Check| {
                    let holds = if check.holds { "yes" } else { "NO" };
                    vec![check.name.to_owned(), holds.to_owned(), check.detail.clone()]
                };
                context.out.table(&["CHECK", "HOLDS", "SEEN"], checks.iter().map(row))?;
            }
        }
    }
    match broken {
        0 => Ok(()),
        broken => Err(Failure::new(format!("the receipt does not hold: {broken} checks failed"))),
    }
}

fn claims(receipt: &Receipt, key: &[u8]) -> Vec<(&'static str, String)> {
    let lines = |lines: Vec<String>| lines.join("\n");
    let artifact = |it: &Artifact| format!("{} revision {} SHA-256 {}", it.path, it.revision, it.sha256);
    let command = |it: &receipt::Command| format!("exit code {} SHA-256 {}", it.exit_code, it.sha256);
    pairs! {
        "AGENT" => receipt.iss,
        "TASK" => receipt.task_id,
        "ATTEMPT" => receipt.attempt,
        "RESULT SHA-256" => receipt.result_sha256,
        "ARTIFACTS" => lines(receipt.artifacts.iter().map(artifact).collect()),
        "COMMANDS" => lines(receipt.commands.iter().map(command).collect()),
        "SIGNED" => time(Some(&Timestamp { seconds: receipt.iat, nanos: 0 })),
        "PUBLIC KEY" => hex::encode(key),
    }
}

/// Compares a receipt, whose signature was checked, with the task.
fn over(receipt: &Receipt, task: &Task, is_key_given: bool) -> Vec<Check> {
    let key = if is_key_given { "by the key that was given" } else { "by the key that the platform names" };
    let same = |name: &'static str, signed: &str, is: &str| {
        let holds = signed == is;
        let detail = if holds { is.to_owned() } else { format!("{signed} was signed, the task has {is}") };
        Check { name, holds, detail }
    };
    let paths = |paths: BTreeSet<&str>| match paths.is_empty() {
        true => "none".to_owned(),
        false => paths.into_iter().collect::<Vec<_>>().join(", "),
    };
    let mut checks = vec![
        Check { name: "signature", holds: true, detail: key.to_owned() },
        same("task", &receipt.task_id, &task.id),
        same("attempt", &receipt.attempt.to_string(), &task.attempt.to_string()),
        same("result", &receipt.result_sha256, &sha256_hex(task.result.as_bytes())),
        same(
            "artifacts",
            &paths(receipt.artifacts.iter().map(|it| it.path.as_str()).collect()),
            &paths(task.artifacts.iter().map(String::as_str).collect()),
        ),
    ];
    if task.kind() == TaskKind::Command {
        let script = sha256_hex(task.description.as_bytes());
        let ran = receipt.commands.iter().any(|command| command.sha256 == script);
        let detail = if ran { script } else { format!("{script} is not among the commands") };
        checks.push(Check { name: "script", holds: ran, detail });
    }
    checks
}

async fn in_drive(context: &Context, office_id: &str, artifact: &Artifact) -> Result<Check, Failure> {
    let Artifact { path, revision, sha256 } = artifact;
    let (holds, detail) = match find(context, office_id, path).await? {
        Some(file) if file.revision == *revision && file.sha256 == *sha256 => (true, format!("{path} is unchanged")),
        Some(file) => (
            false,
            format!(
                "{path} has revision {} and SHA-256 {}, signed were {revision} and {sha256}",
                file.revision, file.sha256
            ),
        ),
        None => (false, format!("{path} is gone")),
    };
    Ok(Check { name: "drive", holds, detail })
}

/// A task as `-o json` printed it.
fn saved(file: &PathBuf) -> Result<Task, Failure> {
    let text =
        fs::read_to_string(file).map_err(|error| Failure::io(format!("{} cannot be read", file.display()), &error))?;
    let broken = |error: &dyn std::fmt::Display| {
        Failure::new(format!("{} is no task: {error}", file.display()))
            .hint("save one with `mi tasks get TASK -o json > FILE`")
    };
    let descriptor = POOL.get_message_by_name(Task::TYPE).ok_or_else(|| broken(&"no descriptor"))?;
    let mut json = serde_json::Deserializer::from_str(&text);
    let message = DynamicMessage::deserialize(descriptor, &mut json).map_err(|error| broken(&error))?;
    json.end().map_err(|error| broken(&error))?;
    message.transcode_to().map_err(|error| broken(&error))
}

/// A public key in hex or base64, or what `@FILE` holds, which may also be the raw bytes.
fn public_key(given: &str) -> Result<Vec<u8>, Failure> {
    let bytes = match given.strip_prefix('@') {
        Some(file) => fs::read(file).map_err(|error| Failure::io(format!("{file} cannot be read"), &error))?,
        None => given.as_bytes().to_vec(),
    };
    let wrong = || Failure::Usage("--public-key must be the 32 bytes of an Ed25519 key in hex or base64".into());
    if bytes.len() == 32 && given.starts_with('@') {
        return Ok(bytes);
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    decoded(text.trim()).filter(|key| key.len() == 32).ok_or_else(wrong)
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    if text.len() == 64
        && let Ok(key) = hex::decode(text)
    {
        return Some(key);
    }
    let padding = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [STANDARD, URL_SAFE].iter().find_map(|alphabet| GeneralPurpose::new(alphabet, padding).decode(text).ok())
}

#[cfg(test)]
mod tests {
    use mi_client::AgentKey;
    use mi_proto::v1::TaskStatus;

    use super::*;
    use crate::json::Json;

    /// A task of kind command that an agent did, with the agent's key.
    fn done() -> (Task, Vec<u8>) {
        let dir = tempfile::tempdir().expect("temp dir");
        let key = AgentKey::generate(&dir.path().join("identity.key")).expect("made");
        let mut task = Task {
            id: "019aa0b4-7c1e-7d0a-b3a5-000000000001".into(),
            kind: TaskKind::Command.into(),
            status: TaskStatus::Done.into(),
            description: "make".into(),
            result: "exit code: 0\n".into(),
            attempt: 2,
            artifacts: vec!["out/a".into()],
            receipt_public_key: key.public_key().to_vec().into(),
            ..Task::default()
        };
        let receipt = Receipt {
            iss: "a".into(),
            task_id: task.id.clone(),
            attempt: 2,
            result_sha256: sha256_hex(task.result.as_bytes()),
            artifacts: vec![Artifact { path: "out/a".into(), revision: 7, sha256: sha256_hex(b"a") }],
            commands: vec![receipt::Command { sha256: sha256_hex(b"make"), exit_code: 0 }],
            iat: 1_767_225_600,
        };
        task.receipt = key.receipt(&receipt).expect("signed");
        (task, key.public_key().to_vec())
    }

    /// The names of the checks that fail.
    fn broken(task: &Task) -> Vec<&'static str> {
        let receipt = receipt::verify(&task.receipt, &task.receipt_public_key).expect("signed");
        over(&receipt, task, false).into_iter().filter(|check| !check.holds).map(|check| check.name).collect()
    }

    #[test]
    fn a_receipt_is_over_one_task_attempt_and_result() {
        let (task, _) = done();
        let receipt = receipt::verify(&task.receipt, &task.receipt_public_key).expect("signed");
        let names: Vec<_> = over(&receipt, &task, true).into_iter().map(|check| check.name).collect();
        assert_eq!(names, ["signature", "task", "attempt", "result", "artifacts", "script"]);
        assert_eq!(broken(&task), [""; 0]);
        let changed = |change: fn(&mut Task)| {
            let mut task = task.clone();
            change(&mut task);
            broken(&task)
        };
        assert_eq!(changed(|task| task.id.push('0')), ["task"]);
        assert_eq!(changed(|task| task.attempt = 3), ["attempt"]);
        assert_eq!(changed(|task| task.result.push('0')), ["result"]);
        assert_eq!(changed(|task| task.artifacts.clear()), ["artifacts"]);
        assert_eq!(changed(|task| task.description.push('x')), ["script"]);
    }

    #[test]
    fn a_saved_task_is_the_task() {
        let (task, _) = done();
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("task.json");
        let text = serde_json::to_string_pretty(&Json::new(Task::TYPE, &task).expect("known")).expect("JSON");
        fs::write(&file, &text).expect("written");
        assert_eq!(saved(&file).expect("whole"), task);
        for wrong in ["", "[]", "{\"nonsense\": 1}", &format!("{text} {{}}")] {
            fs::write(&file, wrong).expect("written");
            let told = saved(&file).expect_err(wrong).to_string();
            assert!(told.contains("is no task"), "{told}");
        }
    }

    #[test]
    fn a_key_may_be_written_in_each_usual_way() {
        let (_, key) = done();
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("key");
        let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&key);
        let standard = base64::engine::general_purpose::STANDARD.encode(&key);
        for text in [hex::encode(&key), hex::encode(&key).to_uppercase(), url_safe, standard] {
            assert_eq!(public_key(&text).expect("a key"), key);
            fs::write(&file, format!("{text}\n")).expect("written");
            assert_eq!(public_key(&format!("@{}", file.display())).expect("a key"), key);
        }
        fs::write(&file, &key).expect("written");
        assert_eq!(public_key(&format!("@{}", file.display())).expect("a key"), key);
        for wrong in ["", "abc", &hex::encode(&key[1..]), &"g".repeat(64), "é"] {
            assert_eq!(public_key(wrong).expect_err(wrong).exit_code(), 2);
        }
    }
}
