//! The command line as people see it: whole sessions, compared with reviewed snapshots.

use std::{fmt::Write, process::Stdio};

use mi_e2e::{LIMIT, World};
use mi_testkit::{Arrangement, Backend, Platform};

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

/// A terminal session: every command with what it printed, ids and times replaced by names.
struct Session<'a> {
    platform: &'a Platform,
    /// Where the commands run.
    directory: tempfile::TempDir,
    known: Vec<(String, String)>,
    transcript: String,
}

impl<'a> Session<'a> {
    fn new(platform: &'a Platform) -> Self {
        let directory = tempfile::tempdir().expect("made");
        Self { platform, directory, known: Vec::new(), transcript: String::new() }
    }
}

impl Session<'_> {
    /// Runs `mi` with these arguments, `{name}` standing for an id that was named.
    async fn run(&mut self, line: &str) -> String {
        let filled =
            self.known.iter().fold(line.to_owned(), |line, (id, name)| line.replace(&format!("{{{name}}}"), id));
        let args = split(&filled);
        let mut command = tokio::process::Command::new(mi_testkit::platform::binary());
        command
            .args(&args)
            .current_dir(self.directory.path())
            .env("MI_CONFIG_DIR", self.platform.config_dir())
            .env_remove("MI_ENDPOINT")
            .env_remove("MI_API_KEY")
            .env("COLUMNS", "200")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await.expect("ends by itself").expect("ran");
        let stdout = String::from_utf8(output.stdout).expect("text");
        let stderr = String::from_utf8(output.stderr).expect("text");
        let _ = writeln!(self.transcript, "$ mi {line}");
        self.transcript.push_str(&self.mask(&stdout));
        self.transcript.push_str(&self.mask(&stderr));
        if let Some(code @ 1..) = output.status.code() {
            let _ = writeln!(self.transcript, "[exit {code}]");
        }
        stdout
    }

    /// Gives an id a name from now on.
    fn name(&mut self, id: &str, name: &str) {
        self.known.push((id.to_owned(), name.to_owned()));
    }

    /// Replaces what differs from run to run: ids, times, hashes, addresses, durations.
    fn mask(&self, text: &str) -> String {
        let named = self.known.iter().fold(text.to_owned(), |text, (id, name)| {
            // Kept as wide as it was, so that tables stay tables.
            text.replace(id, &format!("{:<width$}", format!("<{name}>"), width = id.len()))
        });
        let lines = named.replace(self.platform.endpoint(), "<endpoint>");
        lines.split_inclusive('\n').map(|line| line.split_inclusive(' ').map(mask_word).collect::<String>()).collect()
    }
}

fn mask_word(word: &str) -> String {
    let text = word.trim_end();
    let is_uuid = uuid::Uuid::try_parse(text).is_ok();
    let is_time = text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[4] == b'-' && text.contains('T');
    let is_hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_age = (2..=3).contains(&text.len()) && text.ends_with('s') && text.as_bytes()[0].is_ascii_digit();
    let name = match text {
        _ if is_uuid => "<id>",
        _ if is_time => "<time>",
        _ if is_hex => "<hex>",
        _ if is_age => "<age>",
        _ if text.starts_with("eyJ") => return "<jws>".to_owned() + &word[text.len()..],
        _ => return word.to_owned(),
    };
    format!("{name:<width$}", width = text.len()) + &word[text.len()..]
}

/// Splits a command line at spaces, outside of double quotes.
fn split(line: &str) -> Vec<String> {
    let pieces = line.split('"').enumerate();
    pieces
        .flat_map(|(index, piece)| match index % 2 {
            1 => vec![piece.to_owned()],
            _ => piece.split_whitespace().map(str::to_owned).collect(),
        })
        .collect()
}

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
        "tasks create --title Homeless",
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
