//! Secrets of integrations: they go in, they show as set, they never come back.

use std::sync::Arc;

use mi_kernel::{Actor, AgentActor, AgentId, ErrorKind, OfficeId, event::Category, secret::Secret};
use mi_proto::{
    internal::v1::ResolveSecretsRequest,
    v1::{
        AgentIntegration, DeleteIntegrationSecretRequest, Integration, IntegrationStatus, ListAgentIntegrationsRequest,
        ListIntegrationsRequest, OfficeStatus, SetAgentIntegrationRequest, SetIntegrationSecretRequest,
    },
};
use mi_store::on;
use mi_testkit::on_both;
use mi_vault::{EnvKeys, FileKeys, Place};
use sqlx::Row;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    harness::{Harness, LONG},
    peer::Mood,
};
use crate::DataKeys;

on_both! {
    secrets_are_set_shown_as_set_and_deleted,
    an_integration_is_known_by_its_aliases,
    an_integration_is_enabled_for_one_agent,
    an_integration_without_its_secret_is_not_enabled,
    toggles_are_the_owners_and_strangers_see_nothing,
    what_becomes_a_header_is_one_line,
    services_are_told_secrets,
    only_the_owner_writes_and_strangers_see_nothing,
    what_cannot_be_a_secret_is_refused_and_not_repeated,
    a_row_holds_no_plain_text_and_opens_in_its_place_only,
    a_deleted_office_takes_its_key_along,
    another_master_key_is_refused_at_the_start,
    each_role_gets_the_secrets_that_it_uses_and_no_other_gets_any,
}

impl Harness {
    pub(super) async fn set(
        &self,
        actor: &Actor,
        office: &str,
        secret: (&str, &str),
        value: &str,
    ) -> Result<Integration, Status> {
        let request = SetIntegrationSecretRequest {
            office_id: office.into(),
            integration: secret.0.into(),
            name: secret.1.into(),
            value: value.into(),
        };
        let answer = self.integrations(actor).set_integration_secret(request).await?.into_inner();
        Ok(answer.integration.expect("always there"))
    }

    async fn toggle(
        &self,
        actor: &Actor,
        office: &str,
        agent: &str,
        (integration, enabled): (&str, bool),
    ) -> Result<(AgentIntegration, i64), Status> {
        let (office_id, agent, integration) = (office.into(), agent.into(), integration.into());
        let request = SetAgentIntegrationRequest { office_id, agent, integration, enabled };
        let answer = self.integrations(actor).set_agent_integration(request).await?.into_inner();
        Ok((answer.integration.expect("always there"), answer.revision))
    }

    async fn of_agent(&self, actor: &Actor, office: &str, agent: &str) -> Result<(Vec<AgentIntegration>, i64), Status> {
        let request = ListAgentIntegrationsRequest { office_id: office.into(), agent: agent.into() };
        let answer = self.integrations(actor).list_agent_integrations(request).await?.into_inner();
        Ok((answer.integrations, answer.revision))
    }

    /// The secrets that a service is told, by name.
    async fn resolved(&self, office: &str, integration: &str) -> Result<Vec<(String, String)>, Status> {
        let request = ResolveSecretsRequest { office_id: office.into(), integration: integration.into() };
        let secrets = self.secret_service().resolve_secrets(request).await?.into_inner().secrets;
        let mut secrets: Vec<_> = secrets.into_iter().collect();
        secrets.sort();
        Ok(secrets)
    }

    async fn unset(&self, actor: &Actor, office: &str, secret: (&str, &str)) -> Result<Integration, Status> {
        let request = DeleteIntegrationSecretRequest {
            office_id: office.into(),
            integration: secret.0.into(),
            name: secret.1.into(),
        };
        let answer = self.integrations(actor).delete_integration_secret(request).await?.into_inner();
        Ok(answer.integration.expect("always there"))
    }

    async fn listed(&self, actor: &Actor, office: &str) -> Result<Vec<Integration>, Status> {
        let request = ListIntegrationsRequest { office_id: office.into() };
        Ok(self.integrations(actor).list_integrations(request).await?.into_inner().integrations)
    }

    /// The bytes that are kept of a secret.
    pub(super) async fn sealed(&self, office: &str, secret: (&str, &str)) -> Vec<u8> {
        let db = self.tables().await;
        let mut conn = db.office(OfficeId::parse(office).expect("an id")).read().await.expect("reads");
        let office_id = conn.office_id();
        let sql = "SELECT sealed FROM integration_secrets WHERE office_id = $1 AND integration = $2 AND name = $3";
        on!(conn, |c| {
            let row = sqlx::query(sql).bind(office_id.0).bind(secret.0).bind(secret.1).fetch_one(&mut *c).await;
            row.map(|row| row.get::<Vec<u8>, _>(0))
        })
        .expect("there")
    }

    pub(super) async fn data_keys(&self) -> DataKeys {
        let wrapper = Arc::new(FileKeys::new(self.master_key_file()));
        DataKeys::open(self.context(self.clock.shared()).await, wrapper).await.expect("opens")
    }

    /// The secret, as whoever uses it will read it.
    pub(super) async fn opened(&self, office: &str, secret: (&str, &str)) -> Secret {
        let (db, office_id) = (self.tables().await, OfficeId::parse(office).expect("an id"));
        let mut conn = db.office(office_id).read().await.expect("reads");
        let key = self.data_keys().await.get(&mut conn).await.expect("unwraps").expect("has one");
        let place = Place { office_id, integration: secret.0, name: secret.1 };
        key.open(place, &self.sealed(office, secret).await).expect("opens")
    }

    /// Rows of the office in the tables of secrets and of data keys.
    async fn rows(&self, office: &str) -> [i64; 2] {
        let (db, office_id) = (self.db().await, OfficeId::parse(office).expect("an id"));
        let mut counts = [0; 2];
        let tables = [
            "SELECT count(*) FROM integration_secrets WHERE office_id = $1",
            "SELECT count(*) FROM office_keys WHERE office_id = $1",
        ];
        for (count, sql) in counts.iter_mut().zip(tables) {
            let mut conn = db.platform().read().await.expect("reads");
            *count = on!(conn, |c| sqlx::query_scalar(sql).bind(office_id.0).fetch_one(&mut *c).await).expect("counts");
        }
        counts
    }
}

fn of<'a>(integrations: &'a [Integration], name: &str) -> &'a Integration {
    integrations.iter().find(|integration| integration.name == name).expect(name)
}

/// The names of its secrets that are set.
fn set_of(integration: &Integration) -> Vec<&str> {
    let set = integration.secrets.iter().filter(|secret| secret.updated_at.is_some());
    set.map(|secret| secret.name.as_str()).collect()
}

async fn secrets_are_set_shown_as_set_and_deleted(harness: Harness) {
    let (office, other) = (harness.create("One").await.id, harness.create("Other").await.id);
    let fresh = harness.listed(&harness.owner, &office).await.expect("lists");
    assert!(fresh.len() >= 12 && fresh.iter().all(|it| !it.configured && set_of(it).is_empty()), "{fresh:?}");

    // The optional one alone does not make it work.
    let set = harness.set(&harness.owner, &office, ("gitlab", "url"), "https://git.example").await.expect("sets");
    assert_eq!((set_of(&set), set.configured), (vec!["url"], false));
    let set = harness.set(&harness.owner, &office, ("gitlab", "token"), "glpat-1").await.expect("sets");
    assert_eq!((set_of(&set), set.configured), (vec!["token", "url"], true));
    let listed = harness.listed(&harness.owner, &office).await.expect("lists");
    assert_eq!(*of(&listed, "gitlab"), set);
    assert_eq!(harness.listed(&harness.owner, &other).await.expect("lists"), fresh, "another office has none of it");

    harness.clock.advance(LONG);
    let again = harness.set(&harness.owner, &office, ("gitlab", "token"), "glpat-2").await.expect("sets");
    let since = |it: &Integration| it.secrets[0].updated_at.expect("set").seconds;
    assert_eq!(since(&again) - since(&set), LONG.as_secs() as i64);
    assert_eq!(harness.opened(&office, ("gitlab", "token")).await, Secret::new("glpat-2"));

    let left = harness.unset(&harness.owner, &office, ("gitlab", "token")).await.expect("deletes");
    assert_eq!((set_of(&left), left.configured), (vec!["url"], false));
    let gone = harness.unset(&harness.owner, &office, ("gitlab", "token")).await.expect_err("gone");
    assert_eq!((gone.code(), gone.message()), (Code::NotFound, "secret \"gitlab/token\" not found"));

    let expected = ["office.created", "credit.granted", "office.activated"].into_iter();
    let expected = expected.chain([
        "integration.secret_set",
        "integration.secret_set",
        "integration.secret_set",
        "integration.secret_deleted",
    ]);
    harness.until_events(&office, &expected.collect::<Vec<_>>()).await;
    let events = harness.activity.known().events.clone();
    let of_secrets = events.iter().filter(|event| event.kind.starts_with("integration."));
    for event in of_secrets {
        assert_eq!((event.category, event.metadata["integration"].as_str()), (Category::Security, Some("gitlab")));
        let printed = format!("{event:?}");
        assert!(!printed.contains("glpat") && !printed.contains("git.example"), "{printed}");
    }
}

async fn an_integration_is_known_by_its_aliases(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let set = harness.set(&harness.owner, &office, ("google-gemini", "api_key"), "k-1").await.expect("sets");
    assert_eq!((set.name.as_str(), set.category.as_str()), ("gemini", "model"));
    assert_eq!(
        (set.aliases.as_slice(), set.configured),
        (&["google".to_owned(), "google-gemini".to_owned()][..], true)
    );
    assert_eq!(harness.opened(&office, ("gemini", "api_key")).await, Secret::new("k-1"));
    assert_eq!(harness.resolved(&office, "google").await.expect("told"), [("api_key".to_owned(), "k-1".to_owned())]);
    harness.agent(&office, "analyst", true, &[]);
    let (toggled, _) = harness.toggle(&harness.owner, &office, "analyst", ("google", true)).await.expect("enables");
    assert_eq!((toggled.name.as_str(), toggled.enabled), ("gemini", true));
    harness.unset(&harness.owner, &office, ("google", "api_key")).await.expect("deletes");
}

async fn an_integration_is_enabled_for_one_agent(harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.agent(&office, "analyst", true, &[]);
    harness.agent(&office, "other", true, &[]);
    let status = async |name: &str| of(&harness.listed(&harness.owner, &office).await.expect("lists"), name).status();
    assert_eq!(status("github").await, IntegrationStatus::Pending);
    harness.set(&harness.owner, &office, ("github", "token"), "ghp_1").await.expect("sets");
    assert_eq!(status("github").await, IntegrationStatus::Configured);
    let expected = |enabled: bool| AgentIntegration {
        name: "github".into(),
        enabled,
        status: if enabled { IntegrationStatus::Active } else { IntegrationStatus::Configured }.into(),
        env: vec!["GITHUB_TOKEN".into()],
        category: "code".into(),
    };
    for _ in 0..2 {
        let toggled = harness.toggle(&harness.owner, &office, "analyst", ("github", true)).await.expect("enables");
        assert_eq!(toggled, (expected(true), 1));
    }
    assert_eq!(status("github").await, IntegrationStatus::Active);
    let (listed, revision) = harness.of_agent(&harness.owner, &office, "analyst").await.expect("lists");
    assert_eq!((listed.iter().find(|it| it.name == "github"), revision), (Some(&expected(true)), 1));
    assert_eq!(listed.iter().filter(|it| it.enabled).count(), 1);
    let slack = listed.iter().find(|it| it.name == "slack").expect("listed");
    assert_eq!((slack.status(), slack.env.is_empty()), (IntegrationStatus::Pending, true));
    let (others, _) = harness.of_agent(&harness.owner, &office, "other").await.expect("lists");
    assert_eq!(others.iter().find(|it| it.name == "github"), Some(&expected(false)));
    // Without its secret it is pending again, whoever has it; to disable it always works.
    let unset = harness.unset(&harness.owner, &office, ("github", "token")).await.expect("deletes");
    assert_eq!(unset.status(), IntegrationStatus::Pending);
    let (off, revision) =
        harness.toggle(&harness.owner, &office, "analyst", ("github", false)).await.expect("disables");
    assert_eq!((off.enabled, off.status(), revision), (false, IntegrationStatus::Pending, 2));
}

async fn an_integration_without_its_secret_is_not_enabled(harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.agent(&office, "analyst", true, &[]);
    let refused = harness.toggle(&harness.owner, &office, "analyst", ("jira", true)).await.expect_err("no secrets");
    let reason = refused.get_details_error_info().expect("always there").reason;
    assert_eq!((refused.code(), reason.as_str()), (Code::FailedPrecondition, "INTEGRATION_NOT_CONFIGURED"));
    assert!(refused.message().contains(r#""url", "email", "api_token""#), "{refused:?}");
    let missing = harness.toggle(&harness.owner, &office, "nobody", ("jira", false)).await.expect_err("missing");
    let named = missing.get_details_resource_info().expect("names it");
    assert_eq!((missing.code(), named.resource_type.as_str()), (Code::NotFound, "agent"));
    let unknown = harness.toggle(&harness.owner, &office, "analyst", ("acme", true)).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::InvalidArgument);
    // What the scheduler does not confirm did not happen, and a secret can be set all the same.
    harness.scheduler.be(Mood::Fails);
    let away = harness.toggle(&harness.owner, &office, "analyst", ("jira", false)).await.expect_err("away");
    assert_eq!(away.code(), Code::Unavailable);
    let set = harness.set(&harness.owner, &office, ("github", "token"), "ghp_1").await.expect("sets");
    assert_eq!(set.status(), IntegrationStatus::Configured);
}

async fn toggles_are_the_owners_and_strangers_see_nothing(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let member = harness.agent(&office, "analyst", true, &[]);
    harness.set(&harness.owner, &office, ("github", "token"), "ghp_1").await.expect("sets");
    harness.of_agent(&member, &office, "analyst").await.expect("members read");
    let denied = harness.toggle(&member, &office, "analyst", ("github", true)).await.expect_err("a member");
    assert_eq!(denied.code(), Code::PermissionDenied);
    let (stranger, _) = harness.account("Stranger").await;
    for refused in [
        harness.of_agent(&stranger, &office, "analyst").await.map(drop),
        harness.toggle(&stranger, &office, "analyst", ("github", true)).await.map(drop),
        harness.toggle(&stranger, &office, "nobody", ("acme", true)).await.map(drop),
    ] {
        let refused = refused.expect_err("foreign");
        let named = refused.get_details_resource_info().expect("names it");
        assert_eq!((refused.code(), named.resource_type.as_str()), (Code::NotFound, "office"));
    }
    assert!(harness.scheduler.known().integrations.is_empty());
}

async fn what_becomes_a_header_is_one_line(harness: Harness) {
    let office = harness.create("Mine").await.id;
    for (secret, value) in [
        (("anthropic", "api_key"), "sk-1\n"),
        (("anthropic", "api_key"), "sk-1\r\nx-admin: 1"),
        (("openai", "api_key"), "sk-\u{e4}"),
        (("github", "token"), "ghp\n"),
    ] {
        let refused = harness.set(&harness.owner, &office, secret, value).await.expect_err(secret.0);
        let field = refused.get_details_bad_request().expect("names the field").field_violations[0].field.clone();
        assert_eq!((refused.code(), field.as_str()), (Code::InvalidArgument, "value"));
        assert!(!format!("{refused:?}").contains("x-admin"), "{refused:?}");
    }
    assert_eq!(harness.rows(&office).await, [0, 0]);
    // A whole JSON file, as what goes nowhere near a header may be.
    let json = "{\n  \"key\": \"-----BEGIN PRIVATE KEY-----\\n\"\n}\n";
    harness.set(&harness.owner, &office, ("jira", "api_token"), json).await.expect("sets");
    assert_eq!(harness.opened(&office, ("jira", "api_token")).await, Secret::new(json));
}

async fn services_are_told_secrets(harness: Harness) {
    let (office, other) = (harness.create("Mine").await.id, harness.create("Other").await.id);
    for (name, value) in [("token", "glpat-1"), ("url", "https://git.example")] {
        harness.set(&harness.owner, &office, ("gitlab", name), value).await.expect("sets");
    }
    harness.set(&harness.owner, &office, ("github", "token"), "ghp_1").await.expect("sets");
    let expected = [("token", "glpat-1"), ("url", "https://git.example")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(harness.resolved(&office, "gitlab").await.expect("told"), expected);
    assert_eq!(harness.resolved(&office, "slack").await.expect("none"), []);
    assert_eq!(harness.resolved(&other, "gitlab").await.expect("none"), [], "another office has none of it");
    assert_eq!(harness.resolved(&office, "acme").await.expect_err("unknown").code(), Code::InvalidArgument);
    harness.delete(&office).await;
    harness.until_status(&office, None).await;
    assert_eq!(harness.resolved(&office, "gitlab").await.expect("none"), []);
}

async fn only_the_owner_writes_and_strangers_see_nothing(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let secret = ("github", "token");
    harness.set(&harness.owner, &office, secret, "ghp_1").await.expect("sets");
    let member = Actor::Agent(AgentActor {
        office_id: OfficeId::parse(&office).expect("an id"),
        agent_id: AgentId::new(),
        name: "analyst".into(),
    });
    assert!(of(&harness.listed(&member, &office).await.expect("lists"), "github").configured);
    assert_eq!(harness.set(&member, &office, secret, "x").await.expect_err("a member").code(), Code::PermissionDenied);
    assert_eq!(harness.unset(&member, &office, secret).await.expect_err("a member").code(), Code::PermissionDenied);
    let (stranger, _) = harness.account("Stranger").await;
    for refused in [
        harness.listed(&stranger, &office).await.map(drop),
        harness.set(&stranger, &office, secret, "x").await.map(drop),
        // Not even that its request is wrong.
        harness.set(&stranger, &office, ("nope", ""), "x").await.map(drop),
        harness.unset(&stranger, &office, secret).await.map(drop),
    ] {
        assert_eq!(refused.expect_err("foreign").code(), Code::NotFound);
    }
    assert_eq!(harness.opened(&office, secret).await, Secret::new("ghp_1"));
}

async fn what_cannot_be_a_secret_is_refused_and_not_repeated(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let (long, hunter) = ("hunter2".repeat(2341), "hunter2");
    for (field, secret, value) in [
        ("value", ("github", "token"), ""),
        ("value", ("github", "token"), "hunter2\0"),
        ("value", ("github", "token"), long.as_str()),
        ("integration", (hunter, "token"), "x"),
        ("integration", ("GitHub", "token"), "x"),
        ("name", ("github", hunter), "x"),
        ("name", ("github", ""), "x"),
    ] {
        let refused = harness.set(&harness.owner, &office, secret, value).await.expect_err(field);
        let details = refused.get_details_bad_request().expect("names the field");
        assert_eq!((refused.code(), details.field_violations[0].field.as_str()), (Code::InvalidArgument, field));
        assert!(!format!("{refused:?}").contains(hunter), "{refused:?}");
    }
    assert_eq!(harness.rows(&office).await, [0, 0]);
}

async fn a_row_holds_no_plain_text_and_opens_in_its_place_only(harness: Harness) {
    let (one, other) = (harness.create("One").await.id, harness.create("Other").await.id);
    let secret = ("github", "token");
    for office in [&one, &other] {
        harness.set(&harness.owner, office, secret, "ghp_planted").await.expect("sets");
    }
    let (first, second) = (harness.sealed(&one, secret).await, harness.sealed(&other, secret).await);
    assert_ne!(first, second);
    for sealed in [&first, &second] {
        assert!(!sealed.windows(7).any(|window| window == b"planted"));
    }
    // The other office's key opens neither the row nor a copy of it.
    let office_id = OfficeId::parse(&other).expect("an id");
    let db = harness.db().await;
    let key = harness.data_keys().await.get(&mut db.office(office_id).read().await.expect("reads")).await;
    let key = key.expect("unwraps").expect("has one");
    let place = Place { office_id, integration: secret.0, name: secret.1 };
    assert!(key.open(place, &first).is_err());
    assert_eq!(key.open(place, &second).expect("its own"), Secret::new("ghp_planted"));
}

async fn a_deleted_office_takes_its_key_along(harness: Harness) {
    let (gone, kept) = (harness.create("Gone").await.id, harness.create("Kept").await.id);
    let secret = ("slack", "bot_token");
    for office in [&gone, &kept] {
        harness.set(&harness.owner, office, secret, "xoxb-1").await.expect("sets");
        assert_eq!(harness.rows(office).await, [1, 1]);
    }
    harness.scheduler.be(Mood::NotDone);
    harness.delete(&gone).await;
    assert_eq!(harness.get(&gone).await.expect("still there").status(), OfficeStatus::Deleting);
    let late = harness.set(&harness.owner, &gone, ("github", "token"), "ghp").await.expect_err("being deleted");
    assert_eq!(late.code(), Code::FailedPrecondition);
    harness.scheduler.be(Mood::Works);
    harness.until_status(&gone, None).await;
    assert_eq!(harness.rows(&gone).await, [0, 0]);
    assert_eq!(harness.opened(&kept, secret).await, Secret::new("xoxb-1"));
}

async fn another_master_key_is_refused_at_the_start(mut harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.set(&harness.owner, &office, ("github", "token"), "ghp_1").await.expect("sets");
    let text = std::fs::read_to_string(harness.master_key_file()).expect("there");
    let elsewhere = tempfile::tempdir().expect("made");
    let lost = FileKeys::new(elsewhere.path().join("master.key"));
    let wrong = EnvKeys::new(&Secret::new("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=")).expect("a key");
    harness.end().await;
    let refused = [
        harness.start_with(Arc::new(lost)).await.expect_err("no file"),
        harness.start_with(Arc::new(wrong)).await.expect_err("another key"),
    ];
    for error in refused {
        assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "MASTER_KEY_UNKNOWN"), "{error}");
        assert!(error.message.contains("master key mk_"), "{error}");
    }
    assert_eq!(std::fs::read_dir(elsewhere.path()).expect("reads").count(), 0, "no key is made in its place");
    // The same key from the environment will do.
    harness.start_with(Arc::new(EnvKeys::new(&Secret::new(text)).expect("a key"))).await.expect("starts");
    assert_eq!(harness.opened(&office, ("github", "token")).await, Secret::new("ghp_1"));
}

async fn each_role_gets_the_secrets_that_it_uses_and_no_other_gets_any(harness: Harness) {
    let office = harness.create("Mine").await.id;
    for secret in [("anthropic", "api_key"), ("github", "token")] {
        harness.set(&harness.owner, &office, secret, "sk-planted").await.expect("sets");
    }
    let told = async |role: &str, integration: &str| {
        let request = ResolveSecretsRequest { office_id: office.clone(), integration: integration.into() };
        let answer = harness.secret_service_for(role).resolve_secrets(request).await;
        answer.map(|answer| answer.into_inner().secrets.into_keys().collect::<Vec<_>>()).map_err(|error| error.code())
    };
    assert_eq!(told("models", "anthropic").await, Ok(vec!["api_key".to_owned()]));
    assert_eq!(told("models", "github").await, Ok(vec!["token".to_owned()]));
    // What agents may have in their environment, and nothing else.
    assert_eq!(told("scheduler", "anthropic").await, Ok(Vec::new()));
    assert_eq!(told("scheduler", "github").await, Ok(vec!["token".to_owned()]));
    for role in ["gateway", "activity"] {
        assert_eq!(told(role, "github").await, Err(Code::PermissionDenied), "{role}");
    }
}
