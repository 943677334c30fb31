//! `mi integrations` and `mi admin`.

use std::{fs, io::Read};

use clap::{Args, Subcommand};
use mi_kernel::secret::Secret;
use mi_proto::v1::{
    AgentIntegration, DeleteIntegrationSecretRequest, Integration, ListAgentIntegrationsRequest,
    ListIntegrationsRequest, RotateMasterKeyRequest, RotateMasterKeyResponse, SetAgentIntegrationRequest,
    SetIntegrationSecretRequest,
};
use zeroize::Zeroizing;

use crate::{
    answer::ask,
    context::Context,
    failure::Failure,
    input::ask_for,
    known::{Known, by},
    options::ColonyArg,
    output::resource,
    text::word,
};

#[derive(Debug, Subcommand)]
pub(crate) enum IntegrationsCommand {
    /// List what can be integrated, and which secrets the colony has; with --agent, what is enabled for an agent
    #[command(alias = "ls")]
    List(ListArgs),
    /// Set a secret, read from standard input unless --file names a file
    SetSecret(SetArgs),
    /// Delete a secret
    RmSecret(SecretArgs),
    /// Let an agent use an integration; it restarts if its environment changes by that
    Enable(ToggleArgs),
    /// Let an agent use an integration no more
    Disable(ToggleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// Show what is enabled for this agent
    #[arg(long, value_name = "NAME", add = by(&[Known::Agents]))]
    agent: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ToggleArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// The integration, e.g. github
    #[arg(add = by(&[Known::Integrations]))]
    integration: String,
    /// The agent's name
    #[arg(add = by(&[Known::Agents]))]
    agent: String,
}

#[derive(Debug, Args)]
pub(crate) struct SecretArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// The integration, e.g. github
    #[arg(add = by(&[Known::Integrations]))]
    integration: String,
    /// Its secret, e.g. token
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    secret: SecretArgs,
    /// File that holds the secret [default: standard input]
    #[arg(long, value_name = "FILE")]
    file: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Wrap every colony's data key by a new master key, while everything goes on
    RotateMasterKey,
}

pub(crate) async fn run(command: IntegrationsCommand, context: &Context) -> Result<(), Failure> {
    let out = context.out;
    match command {
        IntegrationsCommand::List(ListArgs { colony, agent: None }) => {
            let request = ListIntegrationsRequest { office_id: context.colony(&colony).await? };
            out.list(&ask!(context, integrations.list_integrations(request)).await?.integrations)
        }
        IntegrationsCommand::List(ListArgs { colony, agent: Some(agent) }) => {
            let request = ListAgentIntegrationsRequest { office_id: context.colony(&colony).await?, agent };
            out.list(&ask!(context, integrations.list_agent_integrations(request)).await?.integrations)
        }
        IntegrationsCommand::Enable(args) => toggle(args, true, context).await,
        IntegrationsCommand::Disable(args) => toggle(args, false, context).await,
        IntegrationsCommand::SetSecret(SetArgs { secret: SecretArgs { colony, integration, name }, file }) => {
            let value = read_secret(file.as_deref())?;
            let office_id = context.colony(&colony).await?;
            let value = value.expose().to_owned();
            let request = SetIntegrationSecretRequest { office_id, integration, name, value };
            out.one(&ask!(context, integrations.set_integration_secret(request).integration).await?)
        }
        IntegrationsCommand::RmSecret(SecretArgs { colony, integration, name }) => {
            let office_id = context.colony(&colony).await?;
            let request = DeleteIntegrationSecretRequest { office_id, integration, name };
            out.one(&ask!(context, integrations.delete_integration_secret(request).integration).await?)
        }
    }
}

async fn toggle(args: ToggleArgs, enabled: bool, context: &Context) -> Result<(), Failure> {
    let ToggleArgs { colony, integration, agent } = args;
    let office_id = context.colony(&colony).await?;
    let request = SetAgentIntegrationRequest { office_id, agent, integration, enabled };
    context.out.one(&ask!(context, integrations.set_agent_integration(request).integration).await?)
}

pub(crate) async fn admin(command: AdminCommand, context: &Context) -> Result<(), Failure> {
    match command {
        AdminCommand::RotateMasterKey => {
            // Not tried again: the second call would rotate once more.
            let answer = mi_client::once(context.client.access().rotate_master_key(RotateMasterKeyRequest {})).await?;
            context.out.one(&answer.into_inner())
        }
    }
}

/// The text of a file or of standard input, without the line end that editors and `echo` add.
fn read_secret(file: Option<&std::path::Path>) -> Result<Secret, Failure> {
    let mut text = Zeroizing::new(String::new());
    if let Some(file) = file {
        let read = fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text));
        read.map_err(|error| Failure::io(file.display(), &error))?;
    } else {
        ask_for("Secret", &mut text)?;
    }
    let value = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if value.is_empty() {
        return Err(Failure::new("no secret was given").hint("write it to standard input, or name a file by --file"));
    }
    Ok(Secret::new(value))
}

/// The names of its secrets, and which of them are there.
fn secrets(integration: &Integration) -> String {
    let shown = integration.secrets.iter().map(|secret| {
        let state = match (&secret.updated_at, secret.required) {
            (Some(_), _) => "set",
            (None, true) => "missing",
            (None, false) => "optional",
        };
        format!("{} ({state})", secret.name)
    });
    shown.collect::<Vec<_>>().join(", ")
}

resource!(
    Integration, "integrations", |it| {
        "NAME" => it.name,
        "STATUS" => word(it.status().as_str_name(), "INTEGRATION_STATUS_"),
        "SECRETS" => secrets(it),
        "DESCRIPTION" => it.description,
    }
    wide { "CATEGORY" => it.category, "ALIASES" => it.aliases.join(", ") }
    id { it.name }
);

resource!(
    AgentIntegration, "integrations", |it| {
        "NAME" => it.name,
        "ENABLED" => it.enabled,
        "STATUS" => word(it.status().as_str_name(), "INTEGRATION_STATUS_"),
        "ENVIRONMENT" => it.env.join(", "),
    }
    id { it.name }
);

resource!(
    RotateMasterKeyResponse, "rotations", |it| { "MASTER KEY" => it.master_key_id, "REWRAPPED" => it.rewrapped }
    id { it.master_key_id }
);
