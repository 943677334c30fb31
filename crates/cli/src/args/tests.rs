//! What command lines mean.

use std::fmt::Write;

use super::*;
use crate::options::Format;

/// Spellings that work.
const GOOD: &[&str] = &[
    "mi colonies create --name X",
    "mi colonies create X",
    "mi colony list",
    "mi offices list -o json",
    "mi colonies get",
    "mi colonies settings ID max_agents=5 --set verification=peer",
    "mi colonies settings max_agents=5",
    "mi use",
    "mi use ID",
    "mi use --unset",
    "mi colonies settings ID --set allow_agent_hiring=true --set max_agents=5",
    "mi colonies delete ID --no-wait",
    "mi agents hire --colony ID --name analyst --model sonnet --skill github --env A=b=c --wait",
    "mi agents hire analyst",
    "mi agents list --office ID",
    "mi agent list",
    "mi agents get analyst",
    "mi agents get --colony ID analyst",
    "mi agents fire ID --force analyst",
    "mi agents logs ID analyst -f --limit 5",
    "mi agents activity ID analyst --category task,lifecycle --limit 50 -f",
    "mi agents promote ID analyst --model opus --provider anthropic",
    "mi agents fire ID analyst --force",
    "mi agents watch --colony ID",
    "mi agents models",
    "mi backups get ID B -O out.tar.zst",
    "mi backups rm B",
    "mi tasks create --colony ID --title T --kind command --description @f --priority 10 --agent a --parent P \
     --depends-on A --depends-on B --tool github --max-attempts 1 --verify --request-id R --wait --timeout 10m",
    "mi tasks list --colony ID --status queued,running --agent a --parent P --limit 500",
    "mi tasks get ID",
    "mi task ls",
    "mi tasks watch --colony ID --after 0 -o json",
    "mi tasks cancel ID --reason R",
    "mi tasks retry ID",
    "mi tasks verify ID --reject --note N",
    "mi tasks note ID N",
    "mi tasks notes ID",
    "mi tasks stats",
    "mi tasks complete ID --result done --artifact a --artifact b",
    "mi tasks receipt ID --verify --drive --public-key @f",
    "mi tasks receipt --file task.json --verify",
    "mi run --colony ID -- ls -l",
    "mi run --agent a --title T --attempts 3 --timeout 10m -- sh -c true",
    "mi apply -f office.yaml -f - --wait --timeout 90s",
    "mi apply --file office.yaml --dry-run",
    "mi chat send --colony ID hello",
    "mi chat send --to analyst --request-id R -",
    "mi chat history --with analyst --limit 500 -o json",
    "mi chat follow --with analyst --limit 0",
    "mi chat follow --all",
    "mi keys create --name ci --account A",
    "mi files ls --colony ID reports/",
    "mi files put --colony ID report.md",
    "mi files put - reports/a.md --if-revision 3",
    "mi files put report.md --force --content-type text/markdown",
    "mi files get reports/a.md -O -",
    "mi files get reports/a.md -",
    "mi files get a b c out/ --force",
    "mi files get -r . out",
    "mi files put -r reports old/reports --force",
    "mi files put a b c reports/ --content-type text/plain",
    "mi files rm reports/a.md --if-revision 3",
    "mi files changes -f --after 5",
    "mi files stat a",
    "mi invite --colony ID",
    "mi invite -o json",
    "mi join ABC234 --name robo",
    "mi join ABC234 --name robo --endpoint http://a --identity-dir DIR --once",
    "mi join --name robo",
    "mi join --identity-dir DIR",
    "mi --config-dir /tmp/x up --listen 127.0.0.1:0 --runtime process",
    "mi serve gateway --office-url http://a --internal-key-file k",
    "mi wait agent analyst",
    "mi wait agent a b --colony ID --for phase=Running --timeout 90s",
    "mi wait agent a --for deleted",
    "mi wait task ID ID --for status=done",
    "mi wait task ID --for finished",
    "mi wait file reports/a.md",
    "mi wait file a b --for deleted -q",
    "mi doctor",
    "mi doctor --data-dir DIR --database postgres://a/b --object-store file:///x --listen 127.0.0.1:0 -o json",
    "mi agent run",
    "mi agent save",
    "mi agents exec analyst -- ls -l",
    "mi agents exec ID analyst -it -- bash",
    "mi cp ID/analyst:report.md .",
    "mi cp report.md analyst:reports/",
    "mi integrations list --colony ID",
    "mi integrations set-secret --colony ID github token --file /tmp/t",
    "mi integrations rm-secret github token",
    "mi integrations list --agent analyst",
    "mi integrations enable --colony ID github analyst",
    "mi integrations disable github analyst",
    "mi admin rotate-master-key",
    "mi up --master-key-file k",
];

/// Spellings that make no sense.
const BAD: &[&str] = &[
    "mi agents hire --name x --env novalue",
    "mi colonies create",
    "mi colonies create A --name B",
    "mi colonies delete",
    "mi agents get a b c",
    "mi agents exec ID analyst ls",
    "mi agents exec analyst",
    "mi cp report.md",
    "mi agents get --colony ID a b",
    "mi backups rm --colony ID a b",
    "mi use ID --unset",
    "mi nonsense",
    "mi files put a b --if-revision 1 --force",
    "mi integrations set-secret github token value",
    "mi integrations enable github",
    "mi colonies settings ID --set x",
    "mi join",
    "mi join ABC234",
    "mi join ABC234 --identity-dir DIR",
    "mi chat send",
    "mi chat send two words",
    "mi chat follow --all --with analyst",
    "mi chat history --limit 0",
    "mi tasks create",
    "mi apply",
    "mi apply -f office.yaml --dry-run --wait",
    "mi apply -f office.yaml --timeout 90s",
    "mi tasks create --title T --timeout 90s",
    "mi tasks create --title T --wait --timeout 0s",
    "mi run --colony ID",
    "mi run --colony ID ls",
    "mi run --timeout soon -- ls",
    "mi tasks verify ID",
    "mi tasks verify ID --reject",
    "mi tasks verify ID --approve --reject --note N",
    "mi tasks list --status stuck",
    "mi tasks receipt",
    "mi tasks receipt ID --file task.json",
    "mi tasks receipt --file task.json --verify --drive",
    "mi tasks receipt ID --drive",
];

/// As clap reads it, whatever the environment of the tests.
fn parsed(line: &str) -> Result<Cli, clap::Error> {
    let matches = without_environment(Cli::command()).try_get_matches_from(line.split_whitespace())?;
    Cli::from_arg_matches(&matches)
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn each_spelling_means_what_is_written_down() {
    let mut text = String::new();
    for line in GOOD {
        let cli = parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let _ = writeln!(text, "$ {line}\n{:?}", cli.command);
    }
    insta::assert_snapshot!(text);
}

#[test]
fn each_mistake_is_told_as_what_it_is() {
    let mut text = String::new();
    for line in BAD {
        let error = parsed(line).expect_err(line).to_string();
        let _ = writeln!(text, "$ {line}\n{}", error.split("\n\n").next().unwrap_or_default());
    }
    insta::assert_snapshot!(text);
}

#[test]
fn an_agent_that_is_given_and_empty_is_not_everybody() {
    for line in [
        "mi chat send hello --to EMPTY",
        "mi chat history --with EMPTY",
        "mi chat follow --with EMPTY",
        "mi tasks create --title T --agent EMPTY",
        "mi tasks list --agent EMPTY",
        "mi run --agent EMPTY -- ls",
        "mi wait agent analyst EMPTY",
    ] {
        let words = line.split(' ').map(|word| if word == "EMPTY" { "" } else { word });
        let error = without_environment(Cli::command()).try_get_matches_from(words).expect_err(line).to_string();
        assert!(error.starts_with("error: a value is required for "), "{line}: {error}");
    }
}

#[test]
fn options_of_every_command_stand_before_or_after_it() {
    for line in [
        "mi --endpoint http://a:1 --config-dir c -o yaml agents list --api-key k",
        "mi agents list --endpoint http://a:1 --config-dir c -o yaml --api-key k",
    ] {
        let global = parsed(line).expect(line).global;
        assert_eq!(global.endpoint.as_deref(), Some("http://a:1"));
        assert_eq!((global.config_dir, global.api_key), (Some("c".into()), Some("k".to_owned())));
        assert_eq!((global.output, global.quiet, global.ca_file), (Format::Yaml, false, None));
    }
    let global = parsed("mi -q agents list").expect("quiet").global;
    assert_eq!((global.output, global.quiet), (Format::Table, true));
}
