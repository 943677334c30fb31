//! Hires and promotions with a provider, by one call each whatever dies; and a catalogue that changes while it is in use.

use std::{collections::BTreeMap, fs};

use mi_e2e::{LIMIT, World, refusal};
use mi_proto::v1::{self, AgentPhase, IntegrationStatus};
use mi_testkit::{Arrangement, Backend, Platform, on_both, until};
use tonic::Code;

on_both! {
    a_provider_is_hired_and_promoted_to_in_one_call,
    a_catalogue_counts_as_soon_as_it_changes,
}

/// The environment of an agent's processes.
fn environment(agent_id: &str) -> BTreeMap<String, String> {
    let own = format!("MI_AGENT_ID={agent_id}");
    let processes = fs::read_dir("/proc").expect("there").flatten();
    let found = processes.filter_map(|process| fs::read(process.path().join("environ")).ok()).find_map(|environ| {
        let texts: Vec<String> =
            environ.split(|byte| *byte == 0).map(|it| String::from_utf8_lossy(it).into()).collect();
        texts.contains(&own).then_some(texts)
    });
    let texts = found.expect("the agent has a process");
    texts.iter().filter_map(|text| text.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

async fn set_secret(world: &World, office: &str, secret: [&str; 2], value: &str) {
    let [integration, name] = secret.map(str::to_owned);
    let request = v1::SetIntegrationSecretRequest { office_id: office.into(), integration, name, value: value.into() };
    world.owner.integrations().set_integration_secret(request).await.expect("sets");
}

async fn a_provider_is_hired_and_promoted_to_in_one_call(backend: Backend) {
    let mut world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Providers").await;
    let hiring = || v1::HireAgentRequest {
        office_id: office.clone(),
        name: "analyst".into(),
        provider: "openrouter".into(),
        skills: vec!["github".into()],
        request_id: "hire".into(),
        ..Default::default()
    };
    let unconfigured = (Code::FailedPrecondition, "INTEGRATION_NOT_CONFIGURED".to_owned());
    assert_eq!(refusal(world.hire_as(hiring()).await), unconfigured);
    assert_eq!(world.owner.agents().list(&office).await.expect("lists"), []);
    set_secret(&world, &office, ["openrouter", "api_key"], "sk-planted-openrouter").await;
    set_secret(&world, &office, ["github", "token"], "ghp_planted").await;
    let hired = world.hire_as(hiring()).await.expect("hires");
    world.crash().await;
    assert_eq!(world.hire_as(hiring()).await.expect("the same").id, hired.id);
    let agent = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!((agent.provider.as_str(), agent.model_tier.as_str()), ("openrouter", "sonnet"));
    let env = environment(&agent.id);
    let told = ["MI_MODEL_API", "MI_MODEL_PROVIDER", "MI_MODEL_ID", "GITHUB_TOKEN"].map(|name| env[name].as_str());
    assert_eq!(told, ["openai", "openrouter", "anthropic/claude-sonnet-4.5", "ghp_planted"]);
    assert!(!env.values().any(|value| value.contains("sk-planted")), "an agent never gets a provider's key");

    let promotion = v1::PromoteAgentRequest {
        office_id: office.clone(),
        name: "analyst".into(),
        model_tier: "opus".into(),
        provider: "claude-code".into(),
    };
    assert_eq!(refusal(world.owner.agents().promote_agent(promotion.clone()).await), unconfigured);
    set_secret(&world, &office, ["claude", "api_key"], "sk-planted-anthropic").await;
    world.owner.agents().promote_agent(promotion).await.expect("promotes");
    world.crash().await;
    let agent = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!((agent.provider.as_str(), agent.generation), ("anthropic", 2));
    assert_eq!(environment(&agent.id)["MI_MODEL_ID"], "claude-opus-4-5");

    let listing = v1::ListAgentIntegrationsRequest { office_id: office.clone(), agent: "analyst".into() };
    let listed = world.owner.integrations().list_agent_integrations(listing).await.expect("lists").into_inner();
    let active = listed.integrations.iter().filter(|it| it.status() == IntegrationStatus::Active);
    assert_eq!(active.map(|it| it.name.as_str()).collect::<Vec<_>>(), ["anthropic", "openrouter", "github"]);
    let toggle = v1::SetAgentIntegrationRequest {
        office_id: office.clone(),
        agent: "analyst".into(),
        integration: "github".into(),
        enabled: false,
    };
    let toggled = world.owner.integrations().set_agent_integration(toggle).await.expect("disables").into_inner();
    assert_eq!(toggled.revision, listed.revision + 1);
    let agent = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!((agent.generation, environment(&agent.id).get("GITHUB_TOKEN")), (3, None));
    world.happened(&office, "analyst", "integration.disabled").await;
}

async fn a_catalogue_counts_as_soon_as_it_changes(backend: Backend) {
    let directory = tempfile::tempdir().expect("made");
    let file = directory.path().join("catalogue.toml");
    let built_in = include_str!("../../../catalogue/src/catalogue.toml");
    fs::write(&file, built_in).expect("written");
    let builder = Platform::builder().backend(backend).arg("--catalogue").arg(file.display().to_string());
    let world = World::on(builder.start().await).await;
    let price = async || {
        let tiers = world.owner.agents().list_model_tiers(v1::ListModelTiersRequest {}).await;
        let tiers = tiers.map_err(|status| status.to_string())?.into_inner().model_tiers;
        Ok::<i64, String>(tiers[0].input_price)
    };
    assert_eq!(price().await, Ok(3_000_000));
    // Broken first: it is told with its line, and what counted goes on.
    let line = 1 + built_in.lines().position(|line| line == "input = 3_000_000").expect("there");
    fs::write(&file, built_in.replacen("input = 3_000_000", "input = 3", 1)).expect("written");
    let told = format!("is wrong in line {line}: input = 3 looks like a price per token");
    until("the mistake is logged", LIMIT, async || match world.platform.log() {
        log if log.contains(&told) => Ok(Some(())),
        log => Err(log),
    })
    .await;
    assert_eq!(price().await, Ok(3_000_000));
    fs::write(&file, built_in.replacen("input = 3_000_000", "input = 4_000_000", 1)).expect("written");
    until("the new price counts", LIMIT, async || {
        let now = price().await?;
        if now == 4_000_000 { Ok(Some(())) } else { Err(now.to_string()) }
    })
    .await;
}
