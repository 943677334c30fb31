//! The command line at its top level; each command's own arguments live with the command.

use std::{env, ffi::OsString};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    commands::{
        access::{AccountsCommand, KeysCommand},
        agents::AgentsCommand,
        apply::ApplyArgs,
        backups::BackupsCommand,
        chat::ChatCommand,
        files::FilesCommand,
        integrations::{AdminCommand, IntegrationsCommand},
        join::JoinArgs,
        offices::OfficesCommand,
        run::RunArgs,
        tasks::TasksCommand,
        use_colony::UseArgs,
    },
    options::{ColonyArg, Global},
    serve::{ServeArgs, UpArgs},
};

/// Companies of AI agents, on your own machines.
#[derive(Debug, Parser)]
#[command(name = "mi", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Colonies: isolated workspaces with agents of their own (the API calls them offices)
    #[command(subcommand, visible_alias = "offices", aliases = ["colony", "office"])]
    Colonies(OfficesCommand),
    /// Show or choose the colony of commands that name none
    Use(UseArgs),
    /// Agents: AI workers hired into a colony
    #[command(subcommand, alias = "agent")]
    Agents(AgentsCommand),
    /// Tasks: the work that a colony's agents share
    #[command(subcommand, alias = "task")]
    Tasks(TasksCommand),
    /// Run a command in a colony, as a task, and end as it ends
    Run(RunArgs),
    /// Make colonies with their agents, files and tasks what YAML files say; again changes nothing
    Apply(ApplyArgs),
    /// Chat: the colony's group and direct messages with its agents
    #[command(subcommand)]
    Chat(ChatCommand),
    /// Backups of fired agents' workspaces
    #[command(subcommand, alias = "backup")]
    Backups(BackupsCommand),
    /// The drive: files that the agents of a colony share
    #[command(subcommand, alias = "file")]
    Files(FilesCommand),
    /// What agents can use outside the platform, and the secrets it takes
    #[command(subcommand, alias = "integration")]
    Integrations(IntegrationsCommand),
    /// The platform itself, for the administrator
    #[command(subcommand)]
    Admin(AdminCommand),
    /// API keys
    #[command(subcommand, alias = "key")]
    Keys(KeysCommand),
    /// Accounts, for the administrator
    #[command(subcommand, alias = "account")]
    Accounts(AccountsCommand),
    /// Make an invite, with whose code one agent that runs elsewhere joins a colony
    Invite(ColonyArg),
    /// Join a colony as an agent that runs here, and stay until this command is ended
    Join(JoinArgs),
    /// Show who the API key belongs to
    Whoami,
    /// Check an API key and store it with the endpoint; without --api-key it is read from standard input
    Login,
    /// Show whether the platform is up, what of it, and what it holds
    Status,
    /// Start the whole platform in this process
    Up(UpArgs),
    /// Start one service of the platform
    Serve(Box<ServeArgs>),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
}

/// Reads the command line of this process, and tells which command it is about. Ends the process when the line makes no
/// sense, or asks for help.
pub(crate) fn parse() -> (Cli, clap::Command) {
    let words: Vec<OsString> = env::args_os().collect();
    read(&words).unwrap_or_else(|error| error.exit())
}

fn read(words: &[OsString]) -> Result<(Cli, clap::Command), clap::Error> {
    let mut command = Cli::command();
    let matches = match command.try_get_matches_from_mut(words) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Err(error),
        // What the environment gives shows in clap's usage lines as if the command needed it. The mistake is told as
        // without the environment, when it is the same one.
        Err(error) => match without_environment(Cli::command()).try_get_matches_from(words) {
            Err(plain) if plain.kind() == error.kind() => return Err(plain),
            _ => return Err(error),
        },
    };
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    let (mut command, mut matches) = (&command, &matches);
    while let Some((name, of_it)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else { break };
        (command, matches) = (found, of_it);
    }
    let command = command.clone();
    Ok((cli, command))
}

fn without_environment(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.env(None::<&str>)).mut_subcommands(without_environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_spellings_parse() {
        for line in [
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
            "mi agent run",
            "mi integrations list --colony ID",
            "mi integrations set-secret --colony ID github token --file /tmp/t",
            "mi integrations rm-secret github token",
            "mi admin rotate-master-key",
            "mi up --master-key-file k",
        ] {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "mi agents hire --name x --env novalue",
            "mi colonies create",
            "mi colonies create A --name B",
            "mi colonies delete",
            "mi agents get a b c",
            "mi agents get --colony ID a b",
            "mi backups rm --colony ID a b",
            "mi use ID --unset",
            "mi nonsense",
            "mi files put a b --if-revision 1 --force",
            "mi integrations set-secret github token value",
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
        ] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
