//! Agents that people know from elsewhere, as npm has them, in the place of an agent's own loop: they reach their model, do
//! their work with its tools, and are metered. The provider's key is nowhere in their reach.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mi_e2e::LIMIT;
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{
    model::{ModelRequest, Reply},
    until,
};
use serde_json::json;

use super::{PLANTED, Vendors, packages, reach};

/// Tools that run commands, of whichever program.
const SHELLS: [&str; 2] = ["exec_command", "Bash"];
/// What the model has run. It looks for keys from the inside, and waits until the test has done so from the outside; the
/// patterns do not find themselves, and programs have a `grep` of their own. What it prints is not in what it is told to run.
const WORK: &str = "\
    MARK=relay-mark command grep -l 'relay-[0-9a-zA-Z]' /proc/self/environ /proc/[0-9]*/environ > words.txt 2> /dev/null; \
    command grep -rl 'sk-plante[d]' /proc/[0-9]*/environ /proc/[0-9]*/cmdline /etc /tmp . \"$MI_IDENTITY_DIR\" > keys.txt 2> /dev/null; \
    mv words.txt looked.txt; \
    until test -e searched.txt; do sleep 0.1; done; \
    printf '%s %s\\n' work done";
const DONE: &str = "work done";
/// What it says then.
const REPORT: &str = "The work was looked into.";
/// What the programs are asked for.
const PROMPT: &str = "Look into it.";

/// Has the work done, once.
fn reply(request: &ModelRequest) -> Reply {
    let shell = request.tools().into_iter().find(|tool| SHELLS.contains(&tool.as_str()));
    match shell {
        Some(shell) if !request.texts().iter().any(|text| text.contains(DONE)) => {
            let arguments = match shell.as_str() {
                "Bash" => json!({ "command": WORK, "description": "Looks into it." }),
                _ => json!({ "cmd": WORK, "yield_time_ms": 30_000 }),
            };
            Reply::call(&shell, arguments)
        }
        _ => Reply::text(REPORT),
    }
}

/// The directory of npm that has the programs.
fn installed(packages: &Path) -> PathBuf {
    let directory = packages.join("programs");
    if !directory.join("node_modules").exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"]).arg(&directory);
        let ran = npm.args(["@openai/codex", "@anthropic-ai/claude-code"]).output().expect("npm runs");
        assert!(ran.status.success(), "{ran:?}");
    }
    directory
}

/// Runs a program, of this scope in npm, as an agent.
async fn works(scope: &str, tier: &str, command: &str) {
    let Some(packages) = packages() else { return };
    let vendors = Vendors::start(reply).await;
    let (world, office) = (&vendors.world, &vendors.office);
    let hire = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "coder".into(),
        model_tier: tier.into(),
        command: format!("until test -e installed; do sleep 0.1; done; {command} '{PROMPT}'"),
        ..Default::default()
    };
    let agent = world.hire_as(hire).await.expect("hired");
    world.settled(office, "coder", AgentPhase::Running).await;
    let workspace = vendors.workspace(&agent);
    let modules = workspace.join("node_modules");
    fs::create_dir(&modules).expect("made");
    // Agents read nothing of this machine but the system.
    let copy = Command::new("cp")
        .arg("-a")
        .arg(installed(&packages).join("node_modules").join(scope))
        .arg(&modules)
        .output()
        .expect("cp runs");
    assert!(copy.status.success(), "{copy:?}");
    fs::write(workspace.join("installed"), "").expect("written");

    let log = async || {
        let request = v1::ListLogsRequest {
            office_id: office.clone(),
            agent: "coder".into(),
            limit: Some(10_000),
            ..Default::default()
        };
        let lines = world.owner.logs().list_logs(request).await.map_err(|status| status.to_string())?;
        Ok::<_, String>(lines.into_inner().lines.into_iter().map(|line| line.text + "\n").collect::<String>())
    };
    until("the program does its work", LIMIT, async || {
        if workspace.join("looked.txt").exists() { Ok(Some(())) } else { Err(log().await?) }
    })
    .await;
    let processes = reach::processes(&agent.id);
    // The agent, a shell, the program, and the shell of the program's tool, at least.
    assert!(processes.len() >= 4, "{processes:?}");
    let with = |text: &str| processes.iter().filter(|process| reach::has(process, text)).count();
    assert!(with("relay-") >= 3, "programs have the relay's word, and a search of them finds it");
    assert_eq!(with(PLANTED), 0, "a process has the provider's key in its memory");
    let home = workspace.parent().expect("it has one");
    assert_eq!(reach::files_with(home, PLANTED), "");
    assert_eq!(fs::read_to_string(workspace.join("keys.txt")).expect("there"), "");
    let words = fs::read_to_string(workspace.join("looked.txt")).expect("there");
    assert!(words.contains("environ"), "the search from inside finds what is there: {words:?}");
    fs::write(workspace.join("searched.txt"), "").expect("written");

    let log = until("the program has ended", LIMIT, async || {
        let log = log().await?;
        if log.contains("the command has ended") { Ok(Some(log)) } else { Err(log) }
    })
    .await;
    assert!(log.contains(REPORT), "{log}");
    assert!(!log.contains(PLANTED), "{log}");
    assert!(!format!("{:?}", world.feed(office).await).contains(PLANTED));
    assert_eq!(reach::files_with(home, PLANTED), "");
    // The call of the tool, and the report, at least.
    assert!(vendors.model.requests().len() >= 2);
    vendors.each_call_is_paid().await;
}

#[tokio::test]
async fn codex_works_as_an_agent() {
    let command = "\
        node node_modules/@openai/codex/bin/codex.js exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \
        --disable plugins --disable apps -c analytics.enabled=false -c check_for_update_on_startup=false \
        -c 'web_search=\"disabled\"' -c model_provider=mi \
        -c \"model_providers.mi={name='mi',base_url='$OPENAI_BASE_URL',env_key='OPENAI_API_KEY'}\" -m gpt-5.5";
    works("@openai", "gpt-5.5", command).await;
}

#[tokio::test]
async fn claude_code_works_as_an_agent() {
    let command = "\
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1 \
        node_modules/@anthropic-ai/claude-code/bin/claude.exe --model claude-sonnet-4-5 --allowedTools Bash -p";
    works("@anthropic-ai", "sonnet", command).await;
}
