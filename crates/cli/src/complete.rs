//! Completion of what only the running platform knows: names of colonies and agents, ids of tasks, paths of files.
//!
//! The shell's script calls this binary for each completion. Whatever goes wrong then, or takes too long, completes
//! nothing and says nothing.

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{ArgMatches, CommandFactory};
use clap_complete::{CompleteEnv, engine::CompletionCandidate};
use mi_kernel::page::MAX_PAGE_SIZE;
use mi_proto::{
    rules::POOL,
    v1::{
        ListAgentsRequest, ListApiKeysRequest, ListBackupsRequest, ListFilesRequest, ListIntegrationsRequest,
        ListModelTiersRequest, ListOfficesRequest, ListRolesRequest, ListTasksRequest, Office, OfficeSettings,
    },
};

use crate::{
    args::Cli,
    context::Context,
    failure::Failure,
    known::{self, Known},
    options::Global,
    output::Resource,
    runtime,
    text::escape,
};

/// The variable by which the shell's script asks for completions.
pub(crate) const VARIABLE: &str = "MI_COMPLETE";
/// How long the platform may take.
const LIMIT: Duration = Duration::from_millis(900);
/// How much of a title is shown beside an id.
const HELP_SHOWN: usize = 60;

/// Answers the shell if it is the shell that calls.
pub(crate) fn answered() -> Option<ExitCode> {
    known::found_by(candidates);
    let directory = env::current_dir().ok();
    let complete = CompleteEnv::with_factory(Cli::command).var(VARIABLE);
    match complete.try_complete(env::args_os(), directory.as_deref()) {
        Ok(false) => None,
        Ok(true) => Some(ExitCode::SUCCESS),
        Err(_) => Some(ExitCode::FAILURE),
    }
}

fn candidates(kinds: &[Known], current: &OsStr) -> Option<Vec<CompletionCandidate>> {
    let current = current.to_str()?;
    let runtime = runtime::client().ok()?;
    let found = runtime.block_on(async { tokio::time::timeout(LIMIT, find_all(kinds, current)).await });
    // A host that is still being looked up is not waited for.
    runtime.shutdown_background();
    let found = found.ok()??;
    let fits = |value: &str| value.starts_with(current) && is_plain(value);
    let found = found.into_iter().filter(|(value, _)| fits(value));
    let offered = |(value, help): (String, String)| {
        CompletionCandidate::new(value).help((!help.is_empty()).then(|| shown(&help).into()))
    };
    Some(found.map(offered).collect())
}

/// Whether a shell takes this for itself: what it would read otherwise, which others may have named so, is not put on
/// anybody's command line.
fn is_plain(word: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./,@%+=".contains(&byte);
    !word.is_empty() && !word.starts_with('-') && word.bytes().all(is_plain)
}

fn shown(help: &str) -> String {
    let line = help.lines().next().unwrap_or_default();
    escape(line).chars().take(HELP_SHOWN).collect()
}

/// What was typed before the word that is completed.
struct Typed {
    global: Global,
    colony: Option<String>,
    /// The first of the words that may be preceded by a colony.
    first: Option<String>,
}

impl Typed {
    fn read() -> Option<Self> {
        let mut words: Vec<OsString> = env::args_os().skip_while(|word| word != "--").skip(1).collect();
        let index = env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok());
        // Shells that tell no index have the word last.
        words.truncate(index.unwrap_or(words.len().saturating_sub(1)));
        Self::parse(words)
    }

    fn parse(words: Vec<OsString>) -> Option<Self> {
        let matches = Cli::command().ignore_errors(true).try_get_matches_from(words).ok()?;
        let mut of_command = &matches;
        while let Some((_, next)) = of_command.subcommand() {
            of_command = next;
        }
        let text = |id: &str| value::<String>(of_command, id);
        let path = |id: &str| value::<PathBuf>(of_command, id);
        let global = Global {
            endpoint: text("endpoint"),
            ca_file: path("ca_file"),
            api_key: text("api_key"),
            config_dir: path("config_dir"),
            ..Global::default()
        };
        Some(Self { global, colony: text("colony"), first: text("first") })
    }
}

/// The value of an argument, if the command has it and it was typed.
fn value<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, id: &str) -> Option<T> {
    matches.try_get_one::<T>(id).ok().flatten().cloned()
}

/// Values, each with what it is.
type Found = Vec<(String, String)>;

async fn find_all(kinds: &[Known], current: &str) -> Option<Found> {
    let typed = Typed::read()?;
    let context = Context::new(&typed.global).ok()?;
    // The first word may be the colony of the second.
    let colony = typed.colony.or(typed.first);
    let mut all = Vec::new();
    for kind in kinds {
        all.extend(find(*kind, current, colony.as_deref(), &context).await.unwrap_or_default());
    }
    Some(all)
}

/// One page of what there is.
async fn find(kind: Known, current: &str, colony: Option<&str>, context: &Context) -> Result<Found, Failure> {
    let client = &context.client;
    let page_size = Some(MAX_PAGE_SIZE);
    let office_id = match kind {
        Known::Colonies | Known::Keys | Known::Roles | Known::Models | Known::Providers | Known::Settings => {
            String::new()
        }
        _ => context.colony_silently(colony).await?.0,
    };
    Ok(match kind {
        Known::Colonies => {
            let request = ListOfficesRequest { page_size, ..Default::default() };
            let offices = client.offices().list_offices(request).await?.into_inner().offices;
            let by_name = |office: Office| match is_plain(&office.name) {
                true => (office.name, office.id),
                false => (office.id, office.name),
            };
            offices.into_iter().map(by_name).collect()
        }
        Known::Agents => {
            let request = ListAgentsRequest { office_id, page_size, ..Default::default() };
            let agents = client.agents().list_agents(request).await?.into_inner().agents;
            agents.into_iter().map(|agent| (agent.name, agent.role)).collect()
        }
        Known::Backups => {
            let request = ListBackupsRequest { office_id, page_size, ..Default::default() };
            let backups = client.agents().list_backups(request).await?.into_inner().backups;
            backups.into_iter().map(|backup| (backup.id, backup.agent)).collect()
        }
        Known::Tasks => {
            let request = ListTasksRequest { office_id, page_size, ..Default::default() };
            let tasks = client.tasks().list_tasks(request).await?.into_inner().tasks;
            tasks.into_iter().map(|task| (task.id, task.title)).collect()
        }
        Known::Files => {
            let request = ListFilesRequest { office_id, prefix: current.into(), page_size, ..Default::default() };
            let files = client.drive().list_files(request).await?.into_inner().files;
            let by_level = files.into_iter().map(|file| level(file.path, current.len()));
            by_level.collect::<BTreeSet<_>>().into_iter().map(|path| (path, String::new())).collect()
        }
        Known::Integrations => {
            let request = ListIntegrationsRequest { office_id };
            let all = client.integrations().list_integrations(request).await?.into_inner().integrations;
            all.into_iter().map(|integration| (integration.name, integration.description)).collect()
        }
        Known::Keys => {
            let request = ListApiKeysRequest { page_size, ..Default::default() };
            let keys = client.access().list_api_keys(request).await?.into_inner().api_keys;
            keys.into_iter().map(|key| (key.id, key.name)).collect()
        }
        Known::Roles => {
            let roles = client.agents().list_roles(ListRolesRequest {}).await?.into_inner().roles;
            roles.into_iter().map(|role| (role.name, role.description)).collect()
        }
        Known::Models => {
            let tiers = client.agents().list_model_tiers(ListModelTiersRequest {}).await?.into_inner().model_tiers;
            tiers.into_iter().map(|tier| (tier.name, tier.model_id)).collect()
        }
        Known::Providers => {
            let tiers = client.agents().list_model_tiers(ListModelTiersRequest {}).await?.into_inner().model_tiers;
            let names: BTreeSet<String> = tiers.into_iter().flat_map(|tier| tier.providers).collect();
            names.into_iter().map(|name| (name, String::new())).collect()
        }
        Known::Settings => {
            let fields = POOL.get_message_by_name(OfficeSettings::TYPE);
            let fields = fields.iter().flat_map(|message| message.fields());
            fields.map(|field| (format!("{}=", field.name()), String::new())).collect()
        }
    })
}

/// The path up to the end of the directory that follows what is typed already, as shells complete files.
fn level(mut path: String, typed: usize) -> String {
    if let Some(end) = path.get(typed..).and_then(|rest| rest.find('/')) {
        path.truncate(typed + end + 1);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_read_is_left_out() {
        for plain in ["analyst", "reports/2026-01.md", "max_agents=", "019aa0b4-7c1e-7d0a-b3a5-000000000001"] {
            assert!(is_plain(plain), "{plain}");
        }
        for odd in ["", "My Colony", "$(id)", "a;b", "~", "-rf", "a'b", "a\\b", "é", "a\nb", "*", "a:b"] {
            assert!(!is_plain(odd), "{odd}");
        }
        assert_eq!(shown("two\u{1b}[2J\nlines"), "two\\u{1b}[2J");
        assert_eq!(shown(&"é".repeat(99)).chars().count(), HELP_SHOWN);
    }

    #[test]
    fn files_are_completed_a_directory_at_a_time() {
        for (path, typed, shown) in [
            ("reports/a/b.md", "", "reports/"),
            ("reports/a/b.md", "rep", "reports/"),
            ("reports/a/b.md", "reports/", "reports/a/"),
            ("reports/a/b.md", "reports/a/b", "reports/a/b.md"),
            ("top.md", "t", "top.md"),
        ] {
            assert_eq!(level(path.to_owned(), typed.len()), shown);
        }
    }

    #[test]
    fn what_was_typed_before_says_where_to_look() {
        let typed = |line: &str| {
            let typed = Typed::parse(line.split(' ').map(OsString::from).collect()).expect("commands");
            (typed.global.endpoint, typed.colony, typed.first)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(typed("mi --endpoint http://a:1 agents get home"), (some("http://a:1"), None, some("home")));
        assert_eq!(typed("mi agents logs --colony home -f"), (None, some("home"), None));
        // Half a command is enough.
        assert_eq!(typed("mi tasks create --colony home --depends-on"), (None, some("home"), None));
        assert_eq!(typed("mi files get --office home --endpoint http://a:1"), (some("http://a:1"), some("home"), None));
    }
}
