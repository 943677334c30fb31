//! Secrets of integrations: they go in, they show as set, they never come back.

use std::sync::Arc;

use mi_kernel::{Actor, AgentActor, AgentId, ErrorKind, OfficeId, event::Category, secret::Secret};
use mi_proto::v1::{
    DeleteIntegrationSecretRequest, Integration, ListIntegrationsRequest, OfficeStatus, SetIntegrationSecretRequest,
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
    only_the_owner_writes_and_strangers_see_nothing,
    what_cannot_be_a_secret_is_refused_and_not_repeated,
    a_row_holds_no_plain_text_and_opens_in_its_place_only,
    a_deleted_office_takes_its_key_along,
    another_master_key_is_refused_at_the_start,
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

    let expected = ["office.created", "office.activated"].into_iter();
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
