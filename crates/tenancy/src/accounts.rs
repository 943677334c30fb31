//! Accounts and the API keys that act for them.

mod credentials;
mod repo;

use std::{fs, path::Path, sync::Arc};

use async_trait::async_trait;
use mi_base::files;
use mi_kernel::{
    AccountId, Actor, ApiKeyId, Clock, Error, Result, Time,
    event::{Category, Event},
    page::Page,
    secret::Secret,
    text::display_name,
};
use mi_proto::v1;
use mi_rpc::Caller;
use mi_store::{Conn, Db, FromRow, OfficeConn, PlatformConn, outbox};
use ring::digest;
use serde_json::json;
use tokio::sync::Notify;

use self::repo::Counted;
use crate::{
    LifecycleStep, Office, OfficePart, RoleContext,
    offices::repo::office_ids,
    quotas::{self, Quotas},
};

/// Every API key starts like this, so that it is recognised in a log or a leak.
pub const KEY_PREFIX: &str = "mi_";
const SHOWN_CHARACTERS: usize = 8;

/// What owns offices.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Account {
    /// Identifies the account.
    pub id: AccountId,
    /// Display name.
    pub name: String,
    /// Whether it is the one created at first start.
    pub administrator: bool,
    /// When it was created.
    pub created_at: Time,
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ApiKey {
    /// Identifies the key.
    pub id: ApiKeyId,
    /// The account it acts for.
    pub account_id: AccountId,
    /// What it is for.
    pub name: String,
    /// First characters of the secret.
    pub prefix: String,
    /// When it was created.
    pub created_at: Time,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
}

/// The accounts of the platform.
#[derive(Clone)]
pub struct Accounts {
    db: Db,
    clock: Arc<dyn Clock>,
    outbox: Arc<Notify>,
    quotas: Quotas,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy)]
enum Change {
    Created,
    Revoked,
}

impl Accounts {
    /// The accounts of this database.
    pub fn new(context: RoleContext, quotas: Quotas) -> Self {
        let RoleContext { db, clock, outbox } = context;
        Self { db, clock, outbox, quotas }
    }

    /// Creates an account with a first key; answers the secret of that, which is not kept.
    ///
    /// # Errors
    /// `Invalid` for a name that is none.
    pub async fn create(&self, name: &str) -> Result<(Account, Secret)> {
        let account = Account {
            id: AccountId::new(),
            name: display_name("name", name)?,
            administrator: false,
            created_at: self.clock.now(),
        };
        let (key, secret) = self.fresh_key(account.id, "first key");
        let mut tx = self.db.platform().begin().await?;
        repo::account_insert(&mut tx, &account).await?;
        repo::count(&mut tx, account.id, Counted::ApiKeys, u32::MAX).await?;
        repo::key_insert(&mut tx, &key, &hash(&secret)).await?;
        tx.commit().await?;
        Ok((account, secret))
    }

    /// All accounts, a page at a time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list(&self, page: &Page<AccountId>) -> Result<(Vec<Account>, String)> {
        let rows = repo::account_list(&mut self.db.platform().read().await?, page).await?;
        Ok(page.finish(rows, |account| account.id))
    }

    /// The account a request means: the caller's own, or, for the administrator, any. Others' are not found.
    fn account_of(actor: &Actor, asked: &str) -> Result<AccountId> {
        let Actor::Operator { account_id, administrator, .. } = actor else {
            return Err(Error::denied("only operators have an account"));
        };
        if asked.is_empty() {
            return Ok(*account_id);
        }
        let asked = AccountId::parse(asked)?;
        if *administrator || asked == *account_id { Ok(asked) } else { Err(Error::not_found("account", asked)) }
    }

    /// Creates a key for an account; answers its secret, which is not kept. An empty account is the caller's own.
    ///
    /// # Errors
    /// `NotFound` for accounts of others, `Exhausted` when the account has as many keys as it may.
    pub async fn create_key(&self, caller: &Caller, account: &str, name: &str) -> Result<(ApiKey, Secret)> {
        let account_id = Self::account_of(&caller.actor, account)?;
        let name = display_name("name", name)?;
        let (key, secret) = self.fresh_key(account_id, &name);
        let mut tx = self.db.platform().begin().await?;
        if repo::account_get(&mut tx, account_id).await?.is_none() {
            return Err(Error::not_found("account", account_id));
        }
        if !repo::count(&mut tx, account_id, Counted::ApiKeys, self.quotas.api_keys).await? {
            return Err(quotas::exceeded("the account", "api_keys", self.quotas.api_keys, "revoke some first"));
        }
        repo::key_insert(&mut tx, &key, &hash(&secret)).await?;
        self.tell(&mut tx, &key, Change::Created, Some(caller)).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        Ok((key, secret))
    }

    /// The keys of an account, revoked ones among them. An empty account is the caller's own.
    ///
    /// # Errors
    /// `NotFound` for accounts of others.
    pub async fn list_keys(
        &self,
        actor: &Actor,
        account: &str,
        page: &Page<ApiKeyId>,
    ) -> Result<(Vec<ApiKey>, String)> {
        let account_id = Self::account_of(actor, account)?;
        let mut conn = self.db.platform().read().await?;
        if repo::account_get(&mut conn, account_id).await?.is_none() {
            return Err(Error::not_found("account", account_id));
        }
        let rows = repo::key_list(&mut conn, account_id, page).await?;
        Ok(page.finish(rows, |key| key.id))
    }

    /// Revokes a key, for good. Calls that it opened end.
    ///
    /// # Errors
    /// `NotFound` for keys of other accounts.
    pub async fn revoke_key(&self, caller: &Caller, key: &str) -> Result<ApiKey> {
        let id = ApiKeyId::parse(key)?;
        let mut tx = self.db.platform().begin().await?;
        let key = repo::key_get(&mut tx, id).await?.filter(|key| caller.actor.owns(key.account_id));
        let mut key = key.ok_or_else(|| Error::not_found("api_key", id))?;
        if key.revoked_at.is_some() {
            // Whoever asks again may not have got the answer, and nobody else may have been told.
            self.db.notify(credentials::revocations());
            return Ok(key);
        }
        let now = self.clock.now();
        if !repo::key_revoke(&mut tx, id, now).await? {
            // Between the two statements.
            return repo::key_get(&mut tx, id).await?.ok_or_else(|| Error::not_found("api_key", id));
        }
        repo::discount(&mut tx, key.account_id, Counted::ApiKeys).await?;
        key.revoked_at = Some(now);
        self.tell(&mut tx, &key, Change::Revoked, Some(caller)).await?;
        tx.commit().await?;
        self.db.notify(credentials::revocations());
        self.outbox.notify_one();
        Ok(key)
    }

    /// What an operator's account has, and may have.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn quotas(&self, actor: &Actor) -> Result<Vec<v1::Quota>> {
        let Actor::Operator { account_id, .. } = actor else { return Ok(Vec::new()) };
        let counts = repo::counts(&mut self.db.platform().read().await?, *account_id).await?;
        let Some((offices, api_keys)) = counts else { return Ok(Vec::new()) };
        Ok(vec![
            quotas::to_wire("offices", offices, self.quotas.offices.into()),
            quotas::to_wire("api_keys", api_keys, self.quotas.api_keys.into()),
        ])
    }

    /// Who holds the key with this hash.
    async fn resolve(&self, sha256: &[u8]) -> Result<Actor> {
        let found = repo::key_by_hash(&mut self.db.platform().read().await?, sha256).await?;
        match found {
            Some((key, administrator)) if key.revoked_at.is_none() => {
                Ok(Actor::Operator { account_id: key.account_id, api_key_id: key.id, administrator })
            }
            _ => Err(Error::unauthenticated("the API key is unknown or revoked")),
        }
    }

    /// Tells every office of the key's account that somebody else may enter it now, or not any more. An account with
    /// thousands of offices pays for that with a slower call; keys change rarely.
    async fn tell(&self, tx: &mut PlatformConn, key: &ApiKey, change: Change, caller: Option<&Caller>) -> Result<()> {
        let (kind, what) = match change {
            Change::Created => ("key.created", "was created and may enter the office"),
            Change::Revoked => ("key.revoked", "was revoked and may not enter the office any more"),
        };
        let by = match caller.map(|caller| &caller.actor) {
            Some(Actor::Operator { account_id, api_key_id, .. }) if *account_id == key.account_id => {
                api_key_id.to_string()
            }
            Some(_) => "administrator".to_owned(),
            None => "platform".to_owned(),
        };
        let summary = format!("API key {:?} {what}", key.name);
        for office in office_ids(tx, key.account_id).await? {
            let event = Event::lifecycle(office, "", kind, summary.as_str(), self.clock.now())
                .category(Category::Security)
                .with(json!({ "api_key_id": key.id, "name": key.name, "prefix": key.prefix, "by": by }))
                .traced(caller.map_or("", |caller| &caller.trace_id));
            outbox::push(tx.within(office), &event).await?;
        }
        Ok(())
    }

    fn fresh_key(&self, account_id: AccountId, name: &str) -> (ApiKey, Secret) {
        let secret = Secret::random(KEY_PREFIX);
        (self.key_of(account_id, name, &secret), secret)
    }

    fn key_of(&self, account_id: AccountId, name: &str, secret: &Secret) -> ApiKey {
        ApiKey {
            id: ApiKeyId::new(),
            account_id,
            name: name.to_owned(),
            prefix: secret.expose().chars().take(SHOWN_CHARACTERS).collect(),
            created_at: self.clock.now(),
            revoked_at: None,
        }
    }

    /// Makes sure that there is an administrator whose API key stands in this file, and returns the key.
    ///
    /// The file is written before the database: a crash between leaves a key that the next start registers.
    ///
    /// # Errors
    /// `FailedPrecondition` when the file cannot be read or written.
    pub async fn ensure_administrator(&self, file: &Path) -> Result<Secret> {
        let unusable = |error| {
            let text = format!("the administrator's key file {} cannot be read or written", file.display());
            Error::precondition("KEY_FILE", text).caused_by(error)
        };
        let kept = match fs::read_to_string(file) {
            Ok(text) => Some(Secret::new(text.trim())).filter(looks_like_key),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(unusable(error)),
        };
        let mut tx = self.db.platform().begin().await?;
        let administrator = match repo::administrator(&mut tx).await? {
            Some(account) => account.id,
            None => {
                let account = Account {
                    id: AccountId::new(),
                    name: "administrator".into(),
                    administrator: true,
                    created_at: self.clock.now(),
                };
                repo::account_insert(&mut tx, &account).await?;
                account.id
            }
        };
        let known = match &kept {
            Some(secret) => repo::key_by_hash(&mut tx, &hash(secret)).await?,
            None => None,
        };
        let secret = match (kept, known) {
            (Some(secret), Some((key, true))) if key.revoked_at.is_none() => secret,
            (Some(secret), None) => {
                let key = self.key_of(administrator, "administrator", &secret);
                repo::count(&mut tx, administrator, Counted::ApiKeys, u32::MAX).await?;
                repo::key_insert(&mut tx, &key, &hash(&secret)).await?;
                self.tell(&mut tx, &key, Change::Created, None).await?;
                secret
            }
            // No key yet, a revoked one, or one that somebody put there and that is no administrator's.
            _ => {
                let (key, secret) = self.fresh_key(administrator, "administrator");
                files::write_private(file, secret.expose().as_bytes()).map_err(unusable)?;
                repo::count(&mut tx, administrator, Counted::ApiKeys, u32::MAX).await?;
                repo::key_insert(&mut tx, &key, &hash(&secret)).await?;
                self.tell(&mut tx, &key, Change::Created, None).await?;
                secret
            }
        };
        tx.commit().await?;
        self.outbox.notify_one();
        Ok(secret)
    }
}

/// Takes up to so many micro-credits out of an account's allowance for a new office; how many of them it gets, and how many
/// of those go back one day. The administrator's account needs no allowance.
///
/// # Errors
/// Those of the database.
pub async fn take_credits(tx: &mut Conn, account: AccountId, most: i64, allowance: i64) -> Result<(i64, i64)> {
    match repo::allowance_lock(tx, account).await? {
        None => Ok((0, 0)),
        Some((true, _)) => Ok((most, 0)),
        Some((false, taken)) => {
            let amount = allowance.saturating_sub(taken).clamp(0, most);
            if amount > 0 {
                repo::allowance_take(tx, account, amount).await?;
            }
            Ok((amount, amount))
        }
    }
}

/// Puts micro-credits back that [`take_credits`] took.
///
/// # Errors
/// Those of the database.
pub async fn give_back_credits(tx: &mut Conn, account: AccountId, amount: i64) -> Result<()> {
    Ok(repo::allowance_take(tx, account, -amount).await?)
}

/// The account counts its offices. One that is being deleted counts until it is gone.
#[async_trait]
impl OfficePart for Accounts {
    async fn step(&self, tx: &mut OfficeConn, office: &Office, step: LifecycleStep, _: &str) -> Result<()> {
        match step {
            LifecycleStep::Create => {
                let most = self.quotas.offices;
                match repo::count(tx, office.account_id, Counted::Offices, most).await? {
                    true => Ok(()),
                    false => Err(quotas::exceeded("the account", "offices", most, "delete some first")),
                }
            }
            LifecycleStep::Stop => Ok(()),
            LifecycleStep::Remove => Ok(repo::discount(tx, office.account_id, Counted::Offices).await?),
        }
    }
}

/// Whether a text can be an API key at all: what the gateway would not take must not be made one.
fn looks_like_key(secret: &Secret) -> bool {
    let text = secret.expose();
    text.len() >= 40 && text.starts_with(KEY_PREFIX) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn hash(secret: &Secret) -> Vec<u8> {
    digest::digest(&digest::SHA256, secret.expose().as_bytes()).as_ref().to_vec()
}
