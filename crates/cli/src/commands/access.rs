//! `mi keys`, `mi accounts`, `mi whoami` and `mi login`.

use clap::Subcommand;
use mi_client::{Client, Credential, once, retry};
use mi_kernel::secret::Secret;
use mi_proto::v1::{
    Account, ApiKey, CreateAccountRequest, CreateAccountResponse, CreateApiKeyRequest, CreateApiKeyResponse, Principal,
    Quota, RevokeApiKeyRequest, WhoAmIRequest,
};

use crate::{
    answer::{ask, resource},
    config::ConfigFile,
    context::Context,
    failure::Failure,
    input::ask_for,
    known::{Known, by},
    options::{Global, NameArg},
    output::resource,
    resolve,
};

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create an API key, named after what it is for; its secret is shown this once
    Create {
        #[command(flatten)]
        name: NameArg,
        /// Account it acts for, by id; for the administrator [default: your own]
        #[arg(long, value_name = "ID")]
        account: Option<String>,
    },
    /// List API keys
    #[command(alias = "ls")]
    List {
        /// Account, by id; for the administrator [default: your own]
        #[arg(long, value_name = "ID")]
        account: Option<String>,
    },
    /// Revoke an API key for good
    Revoke {
        /// The key's id or a unique start of it
        #[arg(add = by(&[Known::Keys]))]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountsCommand {
    /// Create an account with its first API key; its secret is shown this once
    Create(NameArg),
    /// List all accounts
    #[command(alias = "ls")]
    List,
}

pub(crate) async fn keys(command: KeysCommand, context: &Context) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    match command {
        KeysCommand::Create { name, account } => {
            let (name, account_id) = (name.into_name(), account.unwrap_or_default());
            // Not tried again: a key whose secret got lost would stay behind.
            let answer = once(client.access().create_api_key(CreateApiKeyRequest { name, account_id })).await?;
            out.one(&answer.into_inner())
        }
        KeysCommand::List { account } => out.list(&client.all_api_keys(&account.unwrap_or_default()).await?),
        KeysCommand::Revoke { id } => {
            let api_key_id = resolve::id("API key", &id, client.all_api_keys(""), |key| &key.id).await?;
            out.one(&ask!(context, access.revoke_api_key(RevokeApiKeyRequest { api_key_id }).api_key).await?)
        }
    }
}

pub(crate) async fn accounts(command: AccountsCommand, context: &Context) -> Result<(), Failure> {
    match command {
        AccountsCommand::Create(name) => {
            // Not tried again, for the same reason as keys.
            let request = CreateAccountRequest { name: name.into_name() };
            let answer = once(context.client.access().create_account(request)).await?;
            context.out.one(&answer.into_inner())
        }
        AccountsCommand::List => context.out.list(&context.client.all_accounts().await?),
    }
}

pub(crate) async fn whoami(context: &Context) -> Result<(), Failure> {
    context.out.one(&principal(&context.client).await?)
}

/// Who the platform takes this client for.
pub(crate) async fn principal(client: &Client) -> Result<Principal, Failure> {
    Ok(principal_and_quotas(client).await?.0)
}

/// The same, with what its account has and may have.
pub(crate) async fn principal_and_quotas(client: &Client) -> Result<(Principal, Vec<Quota>), Failure> {
    let answer = retry(async || client.access().who_am_i(WhoAmIRequest {}).await).await?;
    resource(answer, |answer| Some((answer.principal?, answer.quotas)))
}

pub(crate) async fn login(global: &Global, context: &Context) -> Result<(), Failure> {
    let key = match global.api_key.as_deref().filter(|key| !key.is_empty()) {
        Some(key) => Secret::new(key),
        None => read_key()?,
    };
    let client = context.client.with_credential(Credential::ApiKey(key.clone()))?;
    let principal =
        principal(&client).await.map_err(|failure| failure.hint("nothing was stored; check the key and --endpoint"))?;
    let mut file = ConfigFile::load(&context.settings.dir)?;
    let endpoint = Some(context.settings.endpoint.clone());
    if file.endpoint != endpoint {
        // Another platform has other colonies.
        file.colony = None;
    }
    file.endpoint = endpoint;
    file.api_key = Some(key.expose().to_owned());
    let path = file.save(&context.settings.dir)?;
    context.out.note(&format!("logged in to {}; stored in {}", context.settings.endpoint, path.display()));
    context.out.one(&principal)
}

fn read_key() -> Result<Secret, Failure> {
    let mut text = String::new();
    ask_for("API key", &mut text)?;
    match text.trim() {
        "" => {
            Err(Failure::new("no API key was given")
                .hint("pass --api-key, set MI_API_KEY, or write it to standard input"))
        }
        key => Ok(Secret::new(key)),
    }
}

fn key(created: &CreateApiKeyResponse) -> ApiKey {
    created.api_key.clone().unwrap_or_default()
}

fn account(created: &CreateAccountResponse) -> Account {
    created.account.clone().unwrap_or_default()
}

// The secret is shown with what it opens, or alone: it cannot be asked for again.
resource!(
    CreateApiKeyResponse, "API keys", |it| { "ID" => key(it).id, "NAME" => key(it).name, "SECRET" => it.secret }
    id { it.secret }
);

resource!(
    CreateAccountResponse, "accounts", |it| {
        "ID" => account(it).id,
        "NAME" => account(it).name,
        "SECRET" => it.secret,
    }
    id { it.secret }
);
