//! What is wrong with a request is said clearly, names the field, and loses nothing.

use mi_e2e::{World, refusal, wrong_field};
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Arrangement, Backend, on_both};
use tonic::Code;

on_both! { names_tiers_and_pages, request_ids, one_of_many_hires_wins }

async fn names_tiers_and_pages(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let offices = || world.owner.offices();
    let create = |name: &str| v1::CreateOfficeRequest { name: name.into(), ..Default::default() };
    for bad in ["", "   ", "a\0b", "a\nb", "a\u{202e}b", "\u{200b}", &"x".repeat(10_000)] {
        assert_eq!(wrong_field(offices().create_office(create(bad)).await), "name", "{bad:?}");
    }
    for good in ["משרד ראשי", "مكتب", "办公室 🏢", &"é".repeat(80)] {
        let office = offices().create_office(create(good)).await.expect(good).into_inner().office;
        assert_eq!(office.expect("answered").name, good);
    }

    let office = world.office("Strict").await;
    let hire = |name: &str| v1::HireAgentRequest { office_id: office.clone(), name: name.into(), ..Default::default() };
    for bad in ["", " ", "-a", "a_b", "a.b", "ä", "a\0", "../../etc", &"a".repeat(10_000)] {
        assert_eq!(wrong_field(world.hire_as(hire(bad)).await), "name", "{bad:?}");
    }
    let with = |change: fn(&mut v1::HireAgentRequest)| {
        let mut request = hire("analyst");
        change(&mut request);
        request
    };
    let cases: [(v1::HireAgentRequest, &str); 12] = [
        (with(|r| r.model_tier = "nope".into()), "model_tier"),
        (with(|r| r.provider = "acme".into()), "provider"),
        // It does not serve the tier.
        (with(|r| r.provider = "google".into()), "provider"),
        (with(|r| r.role = "emperor".into()), "role"),
        (with(|r| r.skills = vec!["a b".into()]), "skills"),
        (with(|r| r.system_prompt = "x".repeat(70_000)), "system_prompt"),
        (with(|r| r.command = "x".repeat((16 << 10) + 1)), "command"),
        (with(|r| r.command = "a\0b".into()), "command"),
        (with(|r| r.env = [("MI_ENDPOINT".into(), "x".into())].into()), "env"),
        (with(|r| r.env = [("LD_PRELOAD".into(), "x".into())].into()), "env"),
        (with(|r| r.resources = Some(v1::Resources { memory_bytes: -1, ..Default::default() })), "resources"),
        (with(|r| r.restore_from_backup = "x".into()), "backup_id"),
    ];
    for (request, field) in cases {
        assert_eq!(wrong_field(world.hire_as(request).await), field);
    }
    let unknown = world.hire_as(with(|r| r.model_tier = "nope".into())).await.expect_err("unknown tier");
    assert!(unknown.message().contains("sonnet, opus, haiku, gpt-5.5, gemini-2.5-flash"), "{unknown}");
    let unconfigured = world.hire_as(with(|r| r.provider = "claude".into())).await;
    assert_eq!(refusal(unconfigured), (Code::FailedPrecondition, "INTEGRATION_NOT_CONFIGURED".to_owned()));
    assert_eq!(world.owner.agents().list(&office).await.expect("listed"), []);

    let list = |page_size, page_token: &str| v1::ListAgentsRequest {
        office_id: office.clone(),
        page_size,
        page_token: page_token.into(),
    };
    assert_eq!(wrong_field(world.owner.agents().list_agents(list(Some(0), "")).await), "page_size");
    assert_eq!(wrong_field(world.owner.agents().list_agents(list(None, "nonsense")).await), "page_token");
    let mask = |paths: &[&str]| v1::UpdateOfficeSettingsRequest {
        office_id: office.clone(),
        settings: Some(v1::OfficeSettings::default()),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(ToString::to_string).collect() }),
    };
    for paths in [&["nonsense"][..], &[], &["allow_agent_hiring", "id"]] {
        assert_eq!(wrong_field(offices().update_office_settings(mask(paths)).await), "update_mask");
    }
    let settings = |settings: v1::OfficeSettings, path: &str| v1::UpdateOfficeSettingsRequest {
        settings: Some(settings),
        ..mask(&[path])
    };
    let bad_tier = v1::OfficeSettings { default_model_tier: "zzz".into(), ..Default::default() };
    let bad_provider = v1::OfficeSettings { default_provider: "zzz".into(), ..Default::default() };
    for (given, path, field) in [
        (bad_tier, "defaultModelTier", "default_model_tier"),
        (bad_provider, "default_provider", "default_provider"),
        (Default::default(), "idleFireAfter", "idle_fire_after"),
    ] {
        assert_eq!(wrong_field(offices().update_office_settings(settings(given, path)).await), field);
    }
    let get = |id: &str| v1::GetOfficeRequest { office_id: id.into() };
    for bad in ["", "x", "00000000-0000-0000-0000-00000000000g"] {
        assert_eq!(wrong_field(offices().get_office(get(bad)).await), "office_id");
    }
    let nil = uuid::Uuid::nil().to_string();
    assert_eq!(refusal(offices().get_office(get(&nil)).await), (Code::NotFound, "NOT_FOUND".to_owned()));
    assert_eq!(refusal(world.agent(&office, "nobody").await), (Code::NotFound, "NOT_FOUND".to_owned()));
}

async fn request_ids(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Once").await;
    let hire = |name: &str, id: &str| v1::HireAgentRequest {
        office_id: office.clone(),
        name: name.into(),
        request_id: id.into(),
        ..Default::default()
    };
    let twins = futures::future::join_all((0..8).map(|_| world.hire_as(hire("analyst", "one")))).await;
    let ids: Vec<String> = twins.into_iter().map(|twin| twin.expect("answered").id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(wrong_field(world.hire_as(hire("other", "one")).await), "request_id");
    assert_eq!(wrong_field(world.hire_as(hire("other", &"x".repeat(200))).await), "request_id");
    assert_eq!(world.owner.agents().list(&office).await.expect("listed").len(), 1);

    let create = || v1::CreateOfficeRequest { name: "Twice".into(), request_id: "one".into() };
    let first = world.owner.offices().create_office(create()).await.expect("created").into_inner().office;
    let second = world.owner.offices().create_office(create()).await.expect("answered").into_inner().office;
    assert_eq!(first.expect("answered").id, second.expect("answered").id);
    // Another caller's ids are its own.
    let other = world.stranger().await.offices().create_office(create()).await.expect("created").into_inner().office;
    assert_ne!(other.expect("answered").id, office);
}

async fn one_of_many_hires_wins(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Race").await;
    let outcomes = futures::future::join_all((0..16).map(|_| world.hire(&office, "racer"))).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for outcome in lost {
        assert_eq!(refusal(outcome), (Code::AlreadyExists, "ALREADY_EXISTS".to_owned()));
    }
    assert_eq!(refusal(world.hire(&office, "Racer").await).0, Code::AlreadyExists);
    world.settled(&office, "racer", AgentPhase::Running).await;
    assert_eq!(world.count(&office, "racer", "agent.hired").await, 1);
}
