//! API keys: good while they are not revoked, and never seen by another account.

use futures::future::join_all;
use mi_kernel::{Actor, ApiKeyId, secret::Secret};
use mi_proto::v1::{
    ApiKey, CreateAccountRequest, CreateApiKeyRequest, ListAccountsRequest, ListApiKeysRequest, RevokeApiKeyRequest,
};
use mi_testkit::on_both;
use tonic::{Code, Status};

use super::harness::{Harness, administrator};

on_both! {
    a_key_acts_for_its_account_until_it_is_revoked,
    keys_of_other_accounts_are_not_found,
    the_administrator_manages_every_account,
    secrets_are_not_kept,
    every_office_of_the_account_is_told_who_may_enter,
}

impl Harness {
    pub(super) async fn create_key(&self, actor: &Actor, account: &str) -> Result<(ApiKey, Secret), Status> {
        let request = CreateApiKeyRequest { name: " laptop ".into(), account_id: account.into() };
        let created = self.access(actor).create_api_key(request).await?.into_inner();
        Ok((created.api_key.expect("always there"), Secret::new(created.secret)))
    }

    async fn list_keys(&self, actor: &Actor, account: &str) -> Result<Vec<ApiKey>, Status> {
        let request = ListApiKeysRequest { account_id: account.into(), ..ListApiKeysRequest::default() };
        Ok(self.access(actor).list_api_keys(request).await?.into_inner().api_keys)
    }

    pub(super) async fn revoke(&self, actor: &Actor, key: &str) -> Result<ApiKey, Status> {
        let request = RevokeApiKeyRequest { api_key_id: key.into() };
        Ok(self.access(actor).revoke_api_key(request).await?.into_inner().api_key.expect("always there"))
    }
}

fn account_of(actor: &Actor) -> String {
    match actor {
        Actor::Operator { account_id, .. } => account_id.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn a_key_acts_for_its_account_until_it_is_revoked(harness: Harness) {
    let account = account_of(&harness.owner);
    let (key, secret) = harness.create_key(&harness.owner, "").await.expect("creates");
    assert_eq!((key.name.as_str(), &key.account_id), ("laptop", &account));
    assert!(secret.expose().starts_with(&key.prefix) && secret.expose().starts_with("mi_"));
    let resolved = harness.resolve(secret.expose()).await.expect("good");
    let Actor::Operator { account_id, api_key_id, administrator: false } = resolved else { panic!("{resolved:?}") };
    assert_eq!((account_id.to_string(), api_key_id.to_string()), (account.clone(), key.id.clone()));

    let (other, other_secret) = harness.create_key(&harness.owner, &account).await.expect("creates");
    let revoked = harness.revoke(&harness.owner, &key.id).await.expect("revokes");
    assert!(revoked.revoked_at.is_some());
    assert_eq!(harness.refusal(&secret).await, Code::Unauthenticated);
    assert_eq!(harness.refusal(&other_secret).await, Code::Ok);
    harness.clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(harness.revoke(&harness.owner, &key.id).await.expect("again"), revoked);
    let listed = harness.list_keys(&harness.owner, "").await.expect("lists");
    assert_eq!(listed[1..], [revoked, other]);
    for wrong in [Secret::new(""), Secret::new("mi_"), Secret::random("mi_")] {
        assert_eq!(harness.refusal(&wrong).await, Code::Unauthenticated);
    }
}

async fn keys_of_other_accounts_are_not_found(harness: Harness) {
    let (stranger, stranger_secret) = harness.account("Stranger").await;
    let (key, secret) = harness.create_key(&harness.owner, "").await.expect("creates");
    let owners = account_of(&harness.owner);
    let refusals = [
        harness.create_key(&stranger, &owners).await.map(drop),
        harness.list_keys(&stranger, &owners).await.map(drop),
        harness.revoke(&stranger, &key.id).await.map(drop),
        harness.revoke(&stranger, &ApiKeyId::new().to_string()).await.map(drop),
    ];
    for refused in refusals {
        assert_eq!(refused.expect_err("foreign").code(), Code::NotFound);
    }
    assert_eq!(harness.refusal(&secret).await, Code::Ok);
    assert_eq!(harness.refusal(&Secret::new(stranger_secret)).await, Code::Ok);
    let own = harness.list_keys(&stranger, "").await.expect("lists");
    assert!(own.iter().all(|key| key.account_id == account_of(&stranger)) && own.len() == 1, "{own:?}");
    let mut access = harness.access(&stranger);
    let create = access.create_account(CreateAccountRequest { name: "Mine".into() }).await.err();
    let list = access.list_accounts(ListAccountsRequest::default()).await.err();
    for refused in [create, list] {
        assert_eq!(refused.expect("for the administrator only").code(), Code::PermissionDenied);
    }
}

async fn the_administrator_manages_every_account(harness: Harness) {
    let owners = account_of(&harness.owner);
    let (key, secret) = harness.create_key(&administrator(), &owners).await.expect("creates");
    assert_eq!(key.account_id, owners);
    assert_eq!(harness.refusal(&secret).await, Code::Ok);
    harness.revoke(&administrator(), &key.id).await.expect("revokes");
    assert_eq!(harness.refusal(&secret).await, Code::Unauthenticated);
    let unknown = mi_kernel::AccountId::new().to_string();
    for refused in [
        harness.create_key(&administrator(), &unknown).await.map(drop),
        harness.list_keys(&administrator(), &unknown).await.map(drop),
    ] {
        assert_eq!(refused.expect_err("no such account").code(), Code::NotFound);
    }
    let listed = harness.access(&administrator()).list_accounts(ListAccountsRequest::default()).await;
    let names: Vec<String> =
        listed.expect("lists").into_inner().accounts.into_iter().map(|account| account.name).collect();
    assert_eq!(names, ["Owner"]);
}

async fn every_office_of_the_account_is_told_who_may_enter(harness: Harness) {
    let offices = [harness.create("First").await.id, harness.create("Second").await.id];
    let (stranger, _) = harness.account("Stranger").await;
    harness.create_key(&stranger, "").await.expect("another account's");
    let (key, secret) = harness.create_key(&harness.owner, "").await.expect("creates");
    let (foreign, _) = harness.create_key(&administrator(), &key.account_id).await.expect("creates");
    for revoked in join_all((0..6).map(|_| harness.revoke(&harness.owner, &key.id))).await {
        assert!(revoked.expect("revokes").revoked_at.is_some());
    }
    for office in &offices {
        let kinds =
            ["office.created", "credit.granted", "office.activated", "key.created", "key.created", "key.revoked"];
        harness.until_events(office, &kinds).await;
    }
    let Actor::Operator { api_key_id, .. } = harness.owner else { panic!("{:?}", harness.owner) };
    let known = harness.activity.known();
    for office in &offices {
        let about = |key: &ApiKey, by: &str| serde_json::json!({ "api_key_id": key.id, "name": "laptop", "prefix": key.prefix, "by": by });
        let told = known.events.iter().filter(|event| event.office_id.to_string() == *office).skip(3);
        let told: Vec<_> = told.map(|event| (event.category.as_str(), event.metadata.clone())).collect();
        let own = api_key_id.to_string();
        let expected = [about(&key, &own), about(&foreign, "administrator"), about(&key, &own)];
        assert_eq!(told, expected.map(|metadata| ("security", metadata)));
    }
    assert!(!format!("{:?}", known.events).contains(secret.expose()));
}

async fn secrets_are_not_kept(harness: Harness) {
    let (key, secret) = harness.create_key(&harness.owner, "").await.expect("creates");
    assert!(key.prefix.len() < secret.expose().len() / 4, "{}", key.prefix);
    let listed = format!("{:?}", harness.list_keys(&harness.owner, "").await.expect("lists"));
    assert!(listed.contains(&key.id) && !listed.contains(secret.expose()));
}
