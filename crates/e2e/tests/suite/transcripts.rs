//! The command line as people see it: whole sessions, compared with reviewed snapshots.

mod every;
mod session;

use mi_e2e::World;
use mi_testkit::{Arrangement, Backend};

use session::Session;

/// A colony whose tasks are a file.
const OFFICE: &str = r#"
office: {name: From a file, settings: {max_agents: 2}}
agents:
  - {name: worker, role: engineer, model_tier: haiku}
tasks:
  - {key: last, kind: command, description: echo the end, depends_on: [first, second]}
  - {key: first, title: The first, kind: command, description: echo one, priority: 0}
  - {key: second, kind: command, description: "echo no >&2; exit 3", max_attempts: 1}
"#;

fn field(json: &str, path: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
    value.pointer(path).and_then(|value| value.as_str()).expect("a text").to_owned()
}

#[tokio::test]
async fn a_first_session() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let mut session = Session::new(&world.platform);
    std::fs::write(session.directory.path().join("notes.md"), "Notes").expect("written");
    let json = session.run("colonies create --name \"My Colony\" -o json").await;
    session.transcript.clear();
    let colony = field(&json, "/id");
    session.name(&colony, "colony");
    for line in [
        "colonies list",
        "colonies get {colony}",
        "colonies get \"My Colony\"",
        "colonies get \"Your Colony\"",
        "colonies settings {colony} --set allow_agent_hiring=true --set max_agents=7",
        "colonies settings {colony} --set max_agents=many",
        "colonies settings {colony} --set nonsense=1",
        "agents hire --colony {colony} --name analyst --model sonnet --role research-analyst --skill github --wait",
        "agents hire --colony {colony} --name Analyst",
        "agents hire --colony {colony} --name b --model nope",
        "agents list --colony {colony}",
        "agents get {colony} nobody",
        "colonies status {colony}",
        "agents promote {colony} analyst --model opus --wait",
        "agents fire {colony} analyst",
        "agents list --colony {colony}",
        "agents models",
        "colonies suspend {colony}",
        "agents hire --colony {colony} --name late",
        "colonies resume {colony}",
        "files ls --colony {colony}",
        "files put --colony {colony} notes.md ../outside",
        "files put --colony {colony} missing.txt",
        "files put --colony {colony} /dev/null reports/empty.txt",
        "files put --colony {colony} /dev/null reports/empty.txt",
        "files put --colony {colony} /dev/null reports/empty.txt/below --force",
        "files ls --colony {colony} reports/",
        "files stat --colony {colony} reports/empty.txt",
        "files changes --colony {colony} --after 1",
        "files rm --colony {colony} reports/empty.txt --if-revision 5",
        "files rm --colony {colony} reports/empty.txt --if-revision 1",
        "files get --colony {colony} reports/empty.txt",
        "files changes --colony {colony}",
        "keys create --name laptop --bogus",
        "colonies delete {colony}",
        "colonies list",
    ] {
        session.run(line).await;
    }
    insta::assert_snapshot!(session.transcript);
}

#[tokio::test]
async fn a_session_of_work() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let mut session = Session::new(&world.platform);
    let colony = field(&session.run("colonies create --name Work -o json").await, "/id");
    session.name(&colony, "colony");
    session.run("agents hire --colony {colony} --name worker --wait").await;
    let greet =
        "tasks create --colony {colony} --title Greet --kind command --description \"echo hello\" --wait -o json";
    let greet = field(&session.run(greet).await, "/id");
    session.name(&greet, "greet");
    // Nobody has a model, so nobody takes it.
    let think = "tasks create --colony {colony} --title Think --priority 10 --description \"What now?\" -o json";
    let think = field(&session.run(think).await, "/id");
    session.name(&think, "think");
    session.transcript.clear();
    for line in [
        "tasks create --colony {colony} --title Again --kind command --description \"echo again\" --wait",
        "tasks create --colony {colony} --title Fail --kind command --description \"exit 3\" --max-attempts 1 --wait",
        "tasks create --colony {colony} --title Script --kind command",
        "run --colony {colony} -- echo \"a  b\" $HOME",
        "run --colony {colony} -- sh -c \"echo out; echo err >&2; exit 7\"",
        "run --colony {colony} -- sh -c \"mi --version | cut -d ' ' -f 1\"",
        "run --colony {colony} --attempts 0 -- true",
        "tasks get --colony {colony} {greet}",
        "tasks receipt --colony {colony} {greet} --verify",
        "tasks receipt --colony {colony} {think}",
        "tasks list --colony {colony}",
        "tasks list --colony {colony} --status queued,blocked",
        "tasks list --colony {colony} --status stuck",
        "tasks note --colony {colony} {think} \"Ask somebody.\"",
        "tasks notes --colony {colony} {think}",
        "tasks cancel --colony {colony} {think} --reason \"no model\"",
        "tasks cancel --colony {colony} {think}",
        "tasks create --colony {colony} --title After --depends-on {think} --tool github --wait --timeout 3s",
        "tasks create --colony {colony} --title Tools --tool github --wait --timeout 3s -o json",
        "tasks retry --colony {colony} {think}",
        "tasks complete --colony {colony} {think} --result \" \"",
        "tasks complete --colony {colony} {think} --result \"Nothing now.\"",
        "tasks verify --colony {colony} {think} --approve",
        "tasks watch --colony {colony} {think}",
        "tasks get --colony {colony} 0000",
        "tasks stats --colony {colony}",
    ] {
        session.run(line).await;
    }
    insta::assert_snapshot!(session.transcript);
}

#[tokio::test]
async fn a_session_with_a_file() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let mut session = Session::new(&world.platform);
    for (name, text) in [
        ("office.yaml", OFFICE.to_owned()),
        ("changed.yaml", OFFICE.replace("echo one", "echo two").replace("max_agents: 2", "max_agents: 3")),
        ("again.yaml", OFFICE.replace("\nagents", "\nrun: 2\nagents")),
        ("promoted.yaml", OFFICE.replace("haiku", "opus")),
        ("cycle.yaml", OFFICE.replace("title: The first", "depends_on: [last]")),
        ("misspelt.yaml", OFFICE.replace("priority", "prioritee")),
        ("stuck.yaml", "office: {name: Stuck}\ntasks: [{key: release, required_tools: [github]}]".to_owned()),
        ("setting.yaml", OFFICE.replace("max_agents", "most_agents")),
    ] {
        std::fs::write(session.directory.path().join(name), text).expect("written");
    }
    for line in [
        "apply -f cycle.yaml",
        "apply -f misspelt.yaml --dry-run",
        "apply -f setting.yaml",
        "apply -f office.yaml -f nothing.yaml",
        "apply -f office.yaml --dry-run",
        "apply -f office.yaml",
        "apply -f office.yaml --wait",
        "apply -f changed.yaml --dry-run",
        "apply -f changed.yaml",
        "apply -f again.yaml --wait",
        "apply -f promoted.yaml",
        "apply -f stuck.yaml --wait --timeout 3s",
        "tasks stats --colony \"From a file\"",
    ] {
        session.run(line).await;
    }
    insta::assert_snapshot!(session.transcript);
}
