//! Offices come to be, change and pause, also while a peer cannot be reached.

use std::time::{Duration, Instant};

use futures::future::join_all;
use mi_kernel::Actor;
use mi_proto::v1::{
    AgentCount, AgentPhase, CreateOfficeRequest, DeleteOfficeRequest, GetOfficeSettingsRequest, GetOfficeStatusRequest,
    ListOfficesRequest, OfficeCondition, OfficeSettings, OfficeStatus, ResumeOfficeRequest, SuspendOfficeRequest,
    UpdateOfficeSettingsRequest,
};
use mi_rpc::convert::timestamp;
use mi_testkit::{Backend, OnBackend, on_both};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    harness::{Harness, administrator},
    peer::Mood,
};

on_both! {
    a_new_office_is_active_at_once_when_its_peers_are_up,
    a_new_office_says_what_it_waits_for_and_becomes_active_by_itself,
    suspension_and_resumption_reach_a_peer_that_was_down,
    settings_reach_the_peers_and_wrong_ones_change_nothing,
    no_default_is_accepted_with_which_hires_fail,
    an_office_that_was_left_unfinished_is_finished_by_the_next_process,
    foreign_offices_are_not_found,
    a_creation_that_is_sent_again_creates_nothing_more,
}

impl Harness {
    pub(super) async fn conditions(&self, office: &str) -> Vec<OfficeCondition> {
        let request = GetOfficeStatusRequest { office_id: office.into() };
        let answer = self.offices(&self.owner).get_office_status(request).await.expect("answers").into_inner();
        let report = answer.status.expect("always there");
        assert_eq!(report.agents, [AgentCount { phase: AgentPhase::Running.into(), count: 3 }]);
        report.conditions
    }

    async fn suspend(&self, office: &str) -> OfficeStatus {
        let request = SuspendOfficeRequest { office_id: office.into() };
        let answer = self.offices(&self.owner).suspend_office(request).await.expect("suspends").into_inner();
        answer.office.expect("always there").status()
    }

    async fn resume(&self, office: &str) -> OfficeStatus {
        let request = ResumeOfficeRequest { office_id: office.into() };
        let answer = self.offices(&self.owner).resume_office(request).await.expect("resumes").into_inner();
        answer.office.expect("always there").status()
    }

    async fn update_settings(
        &self,
        office: &str,
        settings: OfficeSettings,
        paths: &[&str],
    ) -> Result<OfficeSettings, Status> {
        let request = UpdateOfficeSettingsRequest {
            office_id: office.into(),
            settings: Some(settings),
            update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(ToString::to_string).collect() }),
        };
        let answer = self.offices(&self.owner).update_office_settings(request).await?;
        Ok(answer.into_inner().settings.expect("always there"))
    }

    fn condition(&self, kind: &str, problem: &str) -> OfficeCondition {
        OfficeCondition {
            r#type: kind.into(),
            ok: problem.is_empty(),
            message: problem.into(),
            time: Some(timestamp(mi_kernel::Clock::now(&self.clock))),
        }
    }
}

async fn a_new_office_is_active_at_once_when_its_peers_are_up(harness: Harness) {
    let office = harness.create("  My Colony ").await;
    assert_eq!((office.name.as_str(), office.status()), ("My Colony", OfficeStatus::Active));
    assert_eq!(harness.get(&office.id).await.expect("there"), office);
    let Actor::Operator { account_id, .. } = harness.owner else { panic!("{:?}", harness.owner) };
    for peer in [&harness.scheduler, &harness.activity] {
        let copy = peer.known().offices[&office.id].clone();
        assert_eq!((copy.version, copy.status()), (1, OfficeStatus::Active));
        assert_eq!(copy.account_id, account_id.to_string());
        let settings = copy.settings.expect("always there");
        assert_eq!((settings.max_agents, settings.default_model_tier.as_str()), (Some(50), "sonnet"));
    }
    let expected = [harness.condition("SchedulerReady", ""), harness.condition("ActivityReady", "")];
    assert_eq!(harness.conditions(&office.id).await, expected);
    harness.until_events(&office.id, &["office.created", "credit.granted", "office.activated"]).await;
}

async fn a_new_office_says_what_it_waits_for_and_becomes_active_by_itself(harness: Harness) {
    harness.activity.be(Mood::Fails);
    let office = harness.create("Patient").await;
    assert_eq!(office.status(), OfficeStatus::Provisioning);
    let problem = harness.condition("ActivityReady", "the peer is down, as asked");
    assert_eq!(harness.conditions(&office.id).await, [harness.condition("SchedulerReady", ""), problem]);
    for refused in [
        harness
            .offices(&harness.owner)
            .suspend_office(SuspendOfficeRequest { office_id: office.id.clone() })
            .await
            .err(),
        harness.offices(&harness.owner).resume_office(ResumeOfficeRequest { office_id: office.id.clone() }).await.err(),
    ] {
        let refused = refused.expect("not yet");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(refused.get_details_error_info().expect("always there").reason, "OFFICE_NOT_ACTIVE");
    }
    harness.activity.be(Mood::Works);
    harness.until_status(&office.id, Some(OfficeStatus::Active)).await;
    let expected = [harness.condition("SchedulerReady", ""), harness.condition("ActivityReady", "")];
    assert_eq!(harness.conditions(&office.id).await, expected);
    harness.until_events(&office.id, &["office.created", "credit.granted", "office.activated"]).await;
}

async fn suspension_and_resumption_reach_a_peer_that_was_down(harness: Harness) {
    let (office, other) = (harness.create("Paused").await.id, harness.create("Running").await.id);
    harness.scheduler.be(Mood::Fails);
    assert_eq!(harness.suspend(&office).await, OfficeStatus::Suspended);
    assert_eq!(harness.suspend(&office).await, OfficeStatus::Suspended);
    harness.scheduler.be(Mood::Works);
    harness.until_applied(&office, |copy| copy.version == 2 && copy.status() == OfficeStatus::Suspended).await;

    harness.activity.be(Mood::Fails);
    assert_eq!(harness.resume(&office).await, OfficeStatus::Active);
    assert_eq!(harness.suspend(&office).await, OfficeStatus::Suspended);
    assert_eq!(harness.resume(&office).await, OfficeStatus::Active);
    assert_eq!(harness.resume(&office).await, OfficeStatus::Active);
    harness.activity.be(Mood::Works);
    harness.until_applied(&office, |copy| copy.version == 5 && copy.status() == OfficeStatus::Active).await;
    harness.until_applied(&other, |copy| copy.version == 1 && copy.status() == OfficeStatus::Active).await;
    let expected = [
        "office.created",
        "credit.granted",
        "office.activated",
        "office.suspended",
        "office.resumed",
        "office.suspended",
        "office.resumed",
    ];
    harness.until_events(&office, &expected).await;
    assert_eq!(harness.get(&office).await.expect("there").status(), OfficeStatus::Active);
}

async fn settings_reach_the_peers_and_wrong_ones_change_nothing(harness: Harness) {
    let office = harness.create("Configured").await.id;
    let update = async |settings, paths: &[&str]| harness.update_settings(&office, settings, paths).await;
    let given = OfficeSettings { allow_agent_hiring: true, max_agents: Some(7), ..OfficeSettings::default() };
    let twice = ["allowAgentHiring", "max_agents", "allow_agent_hiring"];
    let changed = update(given.clone(), &twice).await.expect("updates");
    assert_eq!((changed.allow_agent_hiring, changed.max_agents, changed.max_hire_depth), (true, Some(7), Some(2)));
    harness.until_applied(&office, |copy| copy.version == 2 && copy.settings.as_ref() == Some(&changed)).await;

    for (paths, field) in [
        (&["max_agents", "nonsense"][..], "update_mask"),
        (&["max_hire_depth"], "max_hire_depth"),
        (&["max_agents"; 101], "update_mask"),
        (&["idleFireAfter"], "idle_fire_after"),
    ] {
        let refused = update(given.clone(), paths).await.expect_err("wrong");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.get_details_bad_request().expect("names it").field_violations[0].field, field);
    }
    let request = GetOfficeSettingsRequest { office_id: office.clone() };
    let kept = harness.offices(&harness.owner).get_office_settings(request).await.expect("answers").into_inner();
    assert_eq!(kept.settings, Some(changed));
    harness
        .until_events(&office, &["office.created", "credit.granted", "office.activated", "office.settings_updated"])
        .await;
    let known = harness.activity.known();
    let told = known.events.iter().find(|event| event.kind == "office.settings_updated").expect("told");
    assert_eq!(told.summary, "Settings changed: allow_agent_hiring, max_agents");
    assert_eq!(told.metadata, serde_json::json!({ "fields": ["allow_agent_hiring", "max_agents"] }));
}

async fn no_default_is_accepted_with_which_hires_fail(harness: Harness) {
    let office = harness.create("Defaults").await.id;
    let given = |tier: &str, provider: &str| OfficeSettings {
        default_model_tier: tier.into(),
        default_provider: provider.into(),
        ..OfficeSettings::default()
    };
    let both = ["default_model_tier", "default_provider"];
    let update = async |tier: &str, provider: &str, paths: &[&str]| {
        let updated = harness.update_settings(&office, given(tier, provider), paths).await;
        updated.map(|settings| (settings.default_model_tier, settings.default_provider)).map_err(|refused| {
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            refused.get_details_bad_request().expect("names it").field_violations[0].field.clone()
        })
    };
    let is = |tier: &str, provider: &str| Ok((tier.to_owned(), provider.to_owned()));
    let refused = |field: &str| Err(field.to_owned());
    assert_eq!(update("zzz", "", &["default_model_tier"]).await, refused("default_model_tier"));
    assert_eq!(update("", "zzz", &["default_provider"]).await, refused("default_provider"));
    assert_eq!(update("", "openai", &["default_provider"]).await, refused("default_provider"));
    assert_eq!(update("", "anthropic", &["defaultProvider"]).await, is("sonnet", "anthropic"));
    assert_eq!(update("opus", "", &["default_model_tier"]).await, is("opus", "anthropic"));
    assert_eq!(update("", "router", &["default_provider"]).await, is("opus", "router"));
    // An alias is known by its name from here on.
    assert_eq!(update("", "claude", &["default_provider"]).await, is("opus", "anthropic"));
    assert_eq!(update("gpt", "", &["default_model_tier"]).await, refused("default_model_tier"));
    assert_eq!(update("gpt", "openai", &both).await, is("gpt", "openai"));
    assert_eq!(update("sonnet", "", &both).await, is("sonnet", ""));

    // What cannot be checked is not accepted; settings that need no check do not wait for the scheduler.
    harness.scheduler.be(Mood::Fails);
    let unchecked = harness.update_settings(&office, given("opus", ""), &["default_model_tier"]).await;
    assert_eq!(unchecked.expect_err("the scheduler is away").code(), Code::Unavailable);
    let more = OfficeSettings { max_agents: Some(9), ..OfficeSettings::default() };
    assert_eq!(harness.update_settings(&office, more, &["max_agents"]).await.expect("updates").max_agents, Some(9));
}

async fn an_office_that_was_left_unfinished_is_finished_by_the_next_process(mut harness: Harness) {
    harness.scheduler.be(Mood::Fails);
    let office = harness.create("Orphan").await;
    assert_eq!(office.status(), OfficeStatus::Provisioning);
    harness.end().await;
    harness.scheduler.be(Mood::Works);
    harness.start_again().await;
    harness.until_status(&office.id, Some(OfficeStatus::Active)).await;
    harness.until_applied(&office.id, |copy| copy.version == 1).await;
    harness.until_events(&office.id, &["office.created", "credit.granted", "office.activated"]).await;
}

async fn foreign_offices_are_not_found(harness: Harness) {
    let office = harness.create("Private").await;
    let (stranger, _) = harness.account("Stranger").await;
    let mut client = harness.offices(&stranger);
    let office_id = office.id.clone();
    let settings = Some(OfficeSettings::default());
    let refusals = [
        client.get_office_status(GetOfficeStatusRequest { office_id: office_id.clone() }).await.err(),
        client.get_office_settings(GetOfficeSettingsRequest { office_id: office_id.clone() }).await.err(),
        client.suspend_office(SuspendOfficeRequest { office_id: office_id.clone() }).await.err(),
        client.resume_office(ResumeOfficeRequest { office_id: office_id.clone() }).await.err(),
        client.delete_office(DeleteOfficeRequest { office_id: office_id.clone() }).await.err(),
        client
            .update_office_settings(UpdateOfficeSettingsRequest {
                office_id: office_id.clone(),
                settings,
                update_mask: None,
            })
            .await
            .err(),
    ];
    for refused in refusals {
        let refused = refused.expect("foreign");
        assert_eq!((refused.code(), refused.message()), (Code::NotFound, &*format!("office {office_id:?} not found")));
    }
    let list = async |actor: &Actor| {
        let listed = harness.offices(actor).list_offices(ListOfficesRequest::default()).await.expect("lists");
        listed.into_inner().offices
    };
    assert_eq!(list(&stranger).await, []);
    assert_eq!(list(&harness.owner).await, std::slice::from_ref(&office));
    assert_eq!(list(&administrator()).await, std::slice::from_ref(&office));
    assert_eq!(harness.get(&office_id).await.expect("untouched"), office);
}

async fn a_creation_that_is_sent_again_creates_nothing_more(harness: Harness) {
    let request = |name: &str| CreateOfficeRequest { name: name.into(), request_id: "r-1".into() };
    let create = async |name: &str| {
        let answer = harness.offices(&harness.owner).create_office(request(name)).await?;
        Ok::<_, tonic::Status>(answer.into_inner().office.expect("always there"))
    };
    let twins: Vec<_> = join_all((0..6).map(|_| create("Once"))).await;
    let ids: Vec<String> = twins.into_iter().map(|twin| twin.expect("the same office").id).collect();
    assert_eq!(ids, vec![ids[0].clone(); 6]);
    assert_eq!(create("Once").await.expect("again").status(), OfficeStatus::Active);
    let refused = create("Twice").await.expect_err("another content");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.get_details_bad_request().expect("names it").field_violations[0].field, "request_id");
    harness.until_events(&ids[0], &["office.created", "credit.granted", "office.activated"]).await;
    assert_eq!(harness.scheduler.known().offices.keys().cloned().collect::<Vec<_>>(), [ids[0].clone()]);
}

/// The caller is not kept waiting for a peer that does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_hangs_does_not_hold_up_the_answer() {
    let harness = Harness::on(Backend::Sqlite).await;
    harness.scheduler.be(Mood::Hangs);
    let started = Instant::now();
    let office = harness.create("Impatient").await;
    assert_eq!(office.status(), OfficeStatus::Provisioning);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
