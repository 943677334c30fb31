//! Every command, with what it prints when it works and when it does not.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use mi_e2e::World;
use mi_testkit::{Arrangement, Backend};

use super::Session;

/// Commands whose success is not written down, each with the reason.
const NO_SUCCESS: [(&str, &str); 9] = [
    ("up", "every suite runs on it"),
    ("serve", "every suite runs on it"),
    ("agents run", "the platform runs it"),
    ("colonies verify", "what it finds depends on the kernel; see `verify.rs`"),
    ("agents exec", "see `exec.rs`"),
    ("cp", "see `exec.rs`"),
    ("tasks verify", "an operator's own completion is its verdict; see `work.rs`"),
    ("doctor", "what it finds depends on the machine"),
    ("completions", "the scripts are those of clap_complete; see `completion.rs`"),
];

#[tokio::test]
async fn every_command() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let mut session = Session::new(&world.platform);
    let write = |name: &str, text: &str| fs::write(session.directory.path().join(name), text).expect("written");
    write("notes.md", "Notes");
    write("token.txt", "t0k3n\n");
    write("prompt.txt", "Be brief.");

    // Before there is an agent: what its sandbox lacks depends on the kernel.
    session
        .run_all(&[
            "whoami",
            "whoami --api-key mi_wrong",
            "status",
            "status --api-key mi_wrong",
            "tasks stats",
            "colonies create",
            "colonies create a b",
            "up --sandbox maybe",
            "doctor --listen nowhere",
            "serve kitchen",
            "agent run",
            "agents exec nobody -- true",
            "cp notes.md token.txt",
            "completions tcsh",
            "kolonies list",
        ])
        .await;
    insta::assert_snapshot!("platform", session.take());

    session.run_naming("colonies create Home -q", "home").await;
    session
        .run_all(&[
            "colonies create \"\"",
            "colony list",
            "colonies list -q",
            "colonies list -o name",
            "colonies list -o wide",
            "colonies list -o yaml",
            "colonies list --limit 5",
            "colonies get",
            "colonies get -o json",
            "colonies settings max_agents=5 verification=none",
            "colonies settings Home max_agents=6 --set max_agents=7",
            "colonies settings Home Home",
            "colonies status Home",
            "colonies status nowhere",
            "colonies verify nowhere",
            "colonies suspend",
            "colonies suspend Home -q",
            "colonies resume Home -q",
            "colonies resume nowhere",
            "colonies delete",
        ])
        .await;
    insta::assert_snapshot!("colonies", session.take());

    session.run_all(&["use", "files ls"]).await;
    session.run_naming("colonies create Away -q", "away").await;
    session
        .run_all(&[
            "use",
            "files ls",
            "use nowhere",
            "use Away",
            "use",
            "use -q",
            "files ls",
            "files ls --colony Home",
            "agents get nobody",
            "agents get Home nobody",
            "agents get Home nobody --colony Away",
            "colonies delete Away",
            "files ls",
            "use --unset Home",
            "use --unset",
            "files ls",
        ])
        .await;
    insta::assert_snapshot!("use", session.take());

    session
        .run_all(&[
            "agents hire worker --system-prompt @prompt.txt -q",
            "agents hire late --system-prompt @missing.txt",
            "agents hire late --system-prompt \"@@missing.txt says it\" --model nope",
            "agents hire late --env novalue",
        ])
        .await;
    session.run_until("agents get worker -o yaml", "ready: true").await;
    session.run_until("agents activity worker", "agent.hired").await;
    session
        .run_all(&[
            "agents hire late --provider claude",
            "agents hire late --provider gemini",
            "agents hire late --provider acme",
            "agents hire late --provider \"\"",
            "integrations enable slack worker",
            "integrations set-secret slack bot_token --file token.txt",
            "integrations enable slack worker",
            "integrations list --agent worker",
            "integrations disable slack worker -o yaml",
            "integrations disable slack nobody",
            "integrations rm-secret slack bot_token -q",
            "agents list",
            "agents list -o name",
            "agents list --colony nowhere",
            "agents get worker",
            "agents get",
            "agents update worker --skill research --wait -q",
            "agents update worker --command \"exec my-agent --serve\" --wait -q",
            "agents get worker",
            "agents update worker --clear command --wait -q",
            "agents update worker",
            "agents promote worker --model opus --wait -q",
            "agents promote worker",
            "agents stop worker -q",
            "agents stop nobody",
            "agents start worker -q",
            "agents start nobody",
            "agents restart worker -q",
            "agents restart nobody",
            "agents rotate worker -q",
            "agents rotate nobody",
            "agents roles",
            "agents roles extra",
            "agents models -q",
            "agents models extra",
            "agents activity worker --limit 1 -q",
            "agents activity --limit 0 worker",
            "agents logs --limit 0 worker",
            "agents logs nobody",
            "agents activity nobody",
            "agents watch --colony nowhere",
        ])
        .await;
    session.run_until("agents get worker -o yaml", "ready: true").await;
    session.run_for("agents watch -o name", 1).await;
    insta::assert_snapshot!("agents", session.take());

    session.run_naming("tasks create --title Write -q", "write").await;
    session.run_naming("tasks create --title Check --verify --priority 10 -q", "check").await;
    session
        .run_all(&[
            "tasks create",
            "tasks create --title Script --kind command",
            "tasks create --title Late --max-attempts 0",
            "run -- echo hello",
            "run --attempts 0 -- true",
            "tasks list -o wide --status queued",
            "tasks list --status stuck",
            "tasks get {write} -o name",
            "tasks get 0000",
            "tasks complete {check} --result Checked -q",
            "tasks complete {write} --result @missing.txt",
            "tasks verify {check} --reject",
            "tasks verify {check} --approve -q",
            "tasks note {write} @@you -q",
            "tasks note {write} \" \"",
            "tasks notes {write}",
            "tasks notes 0000",
            "tasks cancel {write} -q",
            "tasks cancel 0000",
            "tasks retry {write} -q",
            "tasks retry {check}",
            "tasks watch {check}",
            "tasks watch 0000",
            "tasks receipt {check}",
            "tasks stats",
            "tasks stats --colony nowhere",
            "wait task {check} -q",
            "wait task {write} --for status=finished",
            "wait task {check} --for status=failed",
            "wait agent worker -o name",
            "wait agent worker --for phase=happy",
            "wait agent nobody",
            "wait agent nobody --for deleted",
        ])
        .await;
    insta::assert_snapshot!("tasks", session.take());

    session
        .run_all(&[
            "files put notes.md",
            "files put notes.md",
            "files put notes.md --if-revision 1 -q",
            "files put",
            "files ls -o wide",
            "files ls --colony nowhere",
            "files get notes.md -O -",
            "files get notes.md -O nowhere/notes.md",
            "files stat notes.md -q",
            "files stat missing.md",
            "wait file notes.md -q",
            "wait file missing.md --timeout 1s",
            "files rm notes.md",
            "files rm notes.md --force",
            "files changes",
            "files changes --colony nowhere",
            "files put notes.md token.txt prompt.txt texts/ -q",
            "files put notes.md token.txt texts/",
            "files put notes.md token.txt texts",
            "files put -r missing",
            "files get -r texts out -q",
            "files get -r texts out",
            "files get -r nothing",
            "chat send \"hello, all\"",
            "chat send \" \"",
            "chat history",
            "chat history --limit 0",
            "chat follow --colony nowhere",
        ])
        .await;
    session.run_for("chat follow", 1).await;
    insta::assert_snapshot!("files_and_chat", session.take());

    session
        .run_all(&[
            "credits balance",
            "credits grant 2.5 --reason \"for the first steps\"",
            "credits grant 2.5 --request-id one",
            "credits grant 2.5 --request-id one -q",
            "credits grant 3 --request-id one",
            "credits grant 0",
            "credits grant 1000000001",
            "credits grant 1 --reason \" \"",
            "credits balance",
            "credits ledger",
            "credits ledger --limit 0",
            "credits usage",
            "credits usage --by nonsense",
            "credits usage --days 93",
            "credits budget worker 2.5 -q",
            "credits budget worker",
            "credits budget worker none -q",
            "credits budget worker -- -1",
            "credits budget nobody 1",
            "credits budget nobody",
            "credits balance --colony nowhere",
        ])
        .await;
    insta::assert_snapshot!("credits", session.take());

    session
        .run_all(&[
            "agents fire nobody",
            "agents fire worker",
            "backups ls --colony nowhere",
            "backups get",
            "backups get 0000",
            "backups rm 0000",
        ])
        .await;
    session.run_naming("backups ls -q", "backup").await;
    session.run_all(&["backups get {backup} -q -O backup.tar.zst", "backups rm Home {backup}", "backups ls"]).await;
    insta::assert_snapshot!("backups", session.take());

    session
        .run_all(&[
            "integrations list -o name",
            "integrations list --colony nowhere",
            "integrations set-secret github token --file token.txt",
            "integrations set-secret github token",
            "integrations rm-secret github token",
            "integrations rm-secret github nothing",
        ])
        .await;
    session.run_naming("accounts create rival -q", "rival").await;
    session.run_naming("admin rotate-master-key -q", "master key").await;
    session
        .run_all(&[
            "accounts create --name",
            "accounts list",
            "accounts list --api-key {rival}",
            "admin rotate-master-key --api-key {rival}",
            "login --endpoint {endpoint} --api-key {rival} --config-dir elsewhere",
            "login --endpoint {endpoint} --api-key mi_wrong --config-dir elsewhere",
            "keys create --api-key {rival}",
            "keys list --api-key {rival}",
            "keys list --account 0000",
        ])
        .await;
    session.run_naming("keys create laptop -q --api-key {rival}", "laptop").await;
    let keys = session.run("keys list --api-key {rival} -o json").await;
    let keys: serde_json::Value = serde_json::from_str(&keys).expect("JSON");
    let laptop = keys.as_array().expect("a list").iter().find(|key| key["name"] == "laptop").expect("listed");
    session.name(laptop["id"].as_str().expect("an id"), "laptop key");
    session
        .run_all(&[
            "keys revoke --api-key {rival} 0000",
            "keys revoke --api-key {rival} {laptop key} -q",
            "keys list -o name --api-key {rival}",
        ])
        .await;
    insta::assert_snapshot!("access", session.take());

    session.run_naming("invite -q", "code").await;
    session
        .run_all(&[
            "invite --colony nowhere",
            "join {code} --name robo --identity-dir identity --once",
            "join {code} --name again --identity-dir again --once",
            "join {code} --name robo --identity-dir identity --once",
        ])
        .await;
    session.run_until("agents activity robo --limit 10", "agent.").await;
    session.run_all(&["agents logs robo", "agents logs --limit none robo"]).await;
    insta::assert_snapshot!("join", session.take());
}

/// Every command of the command line, as its help has them.
fn commands(prefix: &[&str], found: &mut Vec<String>) {
    let output = Command::new(mi_testkit::platform::binary()).args(prefix).arg("--help").output().expect("ran");
    let help = String::from_utf8(output.stdout).expect("text");
    let below = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<&str> = below
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    if names.is_empty() {
        found.push(prefix.join(" "));
    }
    for name in names {
        commands(&[prefix, &[name]].concat(), found);
    }
}

#[test]
fn every_command_is_written_down_with_a_success_and_an_error() {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite");
    // Snapshots lie beside the file of their test.
    let snapshots = ["snapshots", "transcripts/snapshots"].map(|directory| suite.join(directory));
    let mut all = vec!["agents run".to_owned()];
    commands(&[], &mut all);
    // Whether it was seen to work, and to fail.
    let mut seen: BTreeMap<&str, (bool, bool)> = all.iter().map(|command| (command.as_str(), (false, false))).collect();
    let entries = snapshots.iter().flat_map(|directory| fs::read_dir(directory).expect("there"));
    for entry in entries.map(|entry| entry.expect("readable").path()) {
        if !entry.display().to_string().contains("transcripts__") {
            continue;
        }
        let text = fs::read_to_string(&entry).expect("readable");
        for said in text.split("\n$ mi ").skip(1) {
            let is_error = said.trim_end().lines().last().is_some_and(|line| line.starts_with("[exit "));
            let said = said.replacen("agent run", "agents run", 1).replacen("colony ", "colonies ", 1);
            let known = seen
                .iter_mut()
                .find(|(command, _)| said.strip_prefix(**command).is_some_and(|rest| rest.starts_with([' ', '\n'])));
            if let Some((_, (works, fails))) = known {
                *(if is_error { fails } else { works }) = true;
            }
        }
    }
    let excused = |command: &str| NO_SUCCESS.iter().any(|(known, _)| *known == command);
    let missing: Vec<_> =
        seen.into_iter().filter(|(command, (works, fails))| !fails || !(*works || excused(command))).collect();
    assert!(missing.is_empty(), "add these to a session, (works, fails): {missing:?}");
}
