//! `mi agents hire`.

use clap::Args;
use mi_proto::v1::HireAgentRequest;
use uuid::Uuid;

use crate::{
    answer::ask,
    commands::{agents::change, backups},
    context::Context,
    failure::Failure,
    input::text_or_file,
    known::{Known, by},
    options::{ColonyArg, NameArg, key_value, provider},
};

#[derive(Debug, Args)]
pub(crate) struct HireArgs {
    #[command(flatten)]
    colony: ColonyArg,
    #[command(flatten)]
    name: NameArg,
    /// Model tier; `mi agents models` lists them [default: the role's, else the colony's]
    #[arg(long, value_name = "TIER", add = by(&[Known::Models]))]
    model: Option<String>,
    /// Model provider that serves the tier; the colony needs a key for it [default: the colony's, else the tier's own]
    #[arg(long, value_parser = provider, add = by(&[Known::Providers]))]
    provider: Option<String>,
    /// Role template; `mi agents roles` lists them
    #[arg(long, add = by(&[Known::Roles]))]
    role: Option<String>,
    /// Skill to start with, beside the role's; an integration's name enables it; may be repeated
    #[arg(long = "skill", value_name = "SKILL")]
    skills: Vec<String>,
    /// Instructions in place of the role's; @FILE reads them from a file, @- from standard input; @@ begins with an @
    #[arg(long, value_name = "TEXT|@FILE")]
    system_prompt: Option<String>,
    /// Program that it runs instead of doing tasks, a line for the shell; @FILE reads it from a file, @- from standard input
    #[arg(long, value_name = "LINE|@FILE")]
    command: Option<String>,
    /// Environment variable for its compute; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    env: Vec<(String, String)>,
    /// Backup that fills its workspace: its id or a unique start of it
    #[arg(long, value_name = "BACKUP", add = by(&[Known::Backups]))]
    restore_from_backup: Option<String>,
    /// Wait until it is ready
    #[arg(long)]
    wait: bool,
}

pub(crate) async fn run(args: HireArgs, context: &Context) -> Result<(), Failure> {
    let system_prompt = args.system_prompt.as_deref().map(text_or_file).transpose()?;
    let command = args.command.as_deref().map(text_or_file).transpose()?;
    let office_id = context.colony(&args.colony).await?;
    let restore_from_backup = match &args.restore_from_backup {
        Some(given) => backups::backup_id(context, &office_id, given).await?,
        None => String::new(),
    };
    let request = HireAgentRequest {
        office_id: office_id.clone(),
        name: args.name.into_name(),
        model_tier: args.model.unwrap_or_default(),
        provider: args.provider.unwrap_or_default(),
        role: args.role.unwrap_or_default(),
        skills: args.skills,
        system_prompt: system_prompt.unwrap_or_default(),
        env: args.env.into_iter().collect(),
        resources: None,
        restore_from_backup,
        request_id: Uuid::new_v4().to_string(),
        command: command.unwrap_or_default(),
    };
    let agent = ask!(context, agents.hire_agent(request).agent).await?;
    change::finish(context, &office_id, agent, args.wait).await
}
