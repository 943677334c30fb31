//! `mi colonies`.

use std::time::Duration;

use clap::{Args, Subcommand};
use mi_proto::v1::{
    CreateOfficeRequest, DeleteOfficeRequest, GetOfficeSettingsRequest, GetOfficeStatusRequest, Office, OfficeStatus,
    ResumeOfficeRequest, SuspendOfficeRequest, UpdateOfficeSettingsRequest,
};
use uuid::Uuid;

use crate::{
    answer::ask,
    commands::{settings, verify},
    context::Context,
    failure::Failure,
    known::{Known, by},
    options::{NameArg, key_value},
    text::escape,
    wait,
};

/// How long `create` waits for a colony to become active.
const ACTIVE_LIMIT: Duration = Duration::from_secs(10);
/// How long `delete` waits for a colony to be gone.
const DELETE_LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, Subcommand)]
pub(crate) enum OfficesCommand {
    /// Create a colony and wait until it is active
    Create(CreateArgs),
    /// List all colonies
    #[command(alias = "ls")]
    List,
    /// Show one colony
    Get(AnyOfficeArg),
    /// Show what a colony needs and how many agents are in which phase
    Status(AnyOfficeArg),
    /// Show the settings, or change those given
    Settings(SettingsArgs),
    /// Check the isolation of a colony, live, with a throw-away neighbour; fails when anything gets through
    Verify(AnyOfficeArg),
    /// Stop the compute of every agent and keep all data
    Suspend(OfficeArg),
    /// Bring the agents of a suspended colony back
    Resume(OfficeArg),
    /// Fire every agent and delete everything, backups included
    Delete(DeleteArgs),
}

/// The colony of a command that changes all of it, and is never guessed.
#[derive(Debug, Args)]
pub(crate) struct OfficeArg {
    /// The colony: its id, a unique start of it, or its name
    #[arg(value_name = "COLONY", add = by(&[Known::Colonies]))]
    office: String,
}

/// The colony of a command that is as well about the default one.
#[derive(Debug, Args)]
pub(crate) struct AnyOfficeArg {
    /// The colony: its id, a unique start of it, or its name [default: as with --colony of other commands]
    #[arg(value_name = "COLONY", add = by(&[Known::Colonies]))]
    office: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    name: NameArg,
    /// Wait until it is active, at most 10 s; the default
    #[arg(long, hide = true, conflicts_with = "no_wait")]
    wait: bool,
    /// Do not wait until it is active
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// The colony, unless the first word is a setting already, then the settings to change, e.g. max_agents=5
    #[arg(value_name = "COLONY|KEY=VALUE", add = by(&[Known::Colonies, Known::Settings]))]
    words: Vec<String>,
    /// Change a setting, e.g. allow_agent_hiring=true; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, add = by(&[Known::Settings]))]
    set: Vec<Setting>,
}

/// A setting's name and its new value.
type Setting = (String, String);

impl SettingsArgs {
    /// The colony, and what to change. A first word with an equals sign is no colony: one whose name has it is given by its
    /// id.
    fn split(self) -> Result<(Option<String>, Vec<Setting>), Failure> {
        let mut words = self.words.into_iter().peekable();
        let colony = words.next_if(|first| !first.contains('='));
        let pair = |word: String| key_value(&word).map_err(|wrong| Failure::Usage(format!("{word:?} {wrong}")));
        let pairs = words.map(pair).chain(self.set.into_iter().map(Ok));
        Ok((colony, pairs.collect::<Result<_, _>>()?))
    }
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    office: OfficeArg,
    /// Return as soon as the deletion is recorded
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(command: OfficesCommand, context: &Context) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    match command {
        OfficesCommand::Create(args) => create(args, context).await,
        OfficesCommand::List => out.list(&client.offices().list().await?),
        OfficesCommand::Get(arg) => {
            let office_id = context.colony_or_default(arg.office.as_deref()).await?;
            out.one(&context.office(&office_id).await?)
        }
        OfficesCommand::Status(arg) => {
            let office_id = context.colony_or_default(arg.office.as_deref()).await?;
            out.one(&ask!(context, offices.get_office_status(GetOfficeStatusRequest { office_id }).status).await?)
        }
        OfficesCommand::Verify(arg) => {
            let office_id = context.colony_or_default(arg.office.as_deref()).await?;
            verify::run(&office_id, context).await
        }
        OfficesCommand::Settings(args) => settings(args, context).await,
        OfficesCommand::Suspend(arg) => {
            let office_id = context.office_id(&arg.office).await?;
            out.one(&ask!(context, offices.suspend_office(SuspendOfficeRequest { office_id }).office).await?)
        }
        OfficesCommand::Resume(arg) => {
            let office_id = context.office_id(&arg.office).await?;
            out.one(&ask!(context, offices.resume_office(ResumeOfficeRequest { office_id }).office).await?)
        }
        OfficesCommand::Delete(args) => delete(args, context).await,
    }
}

async fn create(args: CreateArgs, context: &Context) -> Result<(), Failure> {
    let request = CreateOfficeRequest { name: args.name.into_name(), request_id: Uuid::new_v4().to_string() };
    let office = ask!(context, offices.create_office(request).office).await?;
    if args.no_wait || office.status() != OfficeStatus::Provisioning {
        return context.out.one(&office);
    }
    match settled(context, &office.id).await? {
        Some(office) => context.out.one(&office),
        None => {
            // It was created, and gets there by itself: not an error.
            context.out.note(&format!("still provisioning; `mi colonies status {}` says what it waits for", office.id));
            context.out.one(&office)
        }
    }
}

/// Waits until a new colony is active; none: it is still on its way.
pub(crate) async fn settled(context: &Context, office_id: &str) -> Result<Option<Office>, Failure> {
    let active = wait::until("waiting for the colony to become active".into(), ACTIVE_LIMIT, async || {
        let office = context.office(office_id).await?;
        Ok((office.status() != OfficeStatus::Provisioning).then_some(office))
    });
    active.await
}

async fn settings(args: SettingsArgs, context: &Context) -> Result<(), Failure> {
    let (colony, set) = args.split()?;
    if set.is_empty() {
        let request = GetOfficeSettingsRequest { office_id: context.colony_or_default(colony.as_deref()).await? };
        return context.out.one(&ask!(context, offices.get_office_settings(request).settings).await?);
    }
    // Before the first call: a misspelt setting needs no platform to be refused.
    let (settings, mask) = settings::parse(&set)?;
    let request = UpdateOfficeSettingsRequest {
        office_id: context.colony_or_default(colony.as_deref()).await?,
        settings: Some(settings),
        update_mask: Some(mask),
    };
    context.out.one(&ask!(context, offices.update_office_settings(request).settings).await?)
}

async fn delete(args: DeleteArgs, context: &Context) -> Result<(), Failure> {
    let office_id = context.office_id(&args.office.office).await?;
    ask!(context, offices.delete_office(DeleteOfficeRequest { office_id: office_id.clone() })).await?;
    let shown = escape(&args.office.office).into_owned();
    if args.no_wait {
        context.out.note(&format!("colony {shown} is being deleted"));
        return Ok(());
    }
    let gone = wait::until(format!("deleting colony {shown}"), DELETE_LIMIT, async || {
        match context.office(&office_id).await {
            Ok(_) => Ok(None),
            Err(failure) if failure.is_not_found() => Ok(Some(())),
            Err(failure) => Err(failure),
        }
    });
    match gone.await? {
        Some(()) => {
            context.out.note(&format!("colony {shown} is deleted"));
            Ok(())
        }
        None => Err(Failure::new("the colony is still being deleted").hint("the deletion goes on by itself")),
    }
}
