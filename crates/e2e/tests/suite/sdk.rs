//! The vendors' own libraries, from PyPI and npm, in the surroundings of an agent's program: through the agent's relay and
//! the platform's proxy.

use std::{env, fs, net::Ipv4Addr, process::Command};

use mi_e2e::{LIMIT, World};
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{
    Platform,
    model::{FakeModel, ModelApi, sdk},
    until,
};
use prost_types::FieldMask;

const CATALOGUE: &str = include_str!("../../../catalogue/src/catalogue.toml");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/run.py");

/// The built-in catalogue with all three vendors at one server, which wants no key.
fn catalogue(model: &FakeModel) -> String {
    let at = |url: String| format!("base_url = \"{url}\"\nopen = true");
    CATALOGUE
        .replace("base_url = \"https://api.anthropic.com\"", &at(model.url(ModelApi::Anthropic)))
        .replace("base_url = \"https://api.openai.com/v1\"", &at(model.url(ModelApi::OpenAi)))
        .replace("base_url = \"https://generativelanguage.googleapis.com\"", &at(model.url(ModelApi::Gemini)))
}

/// Where `MI_TEST_SDK` names a directory for the packages.
#[tokio::test]
async fn vendors_libraries_work_as_they_are() {
    let Ok(packages) = env::var("MI_TEST_SDK") else { return };
    let model = FakeModel::scripted((Ipv4Addr::LOCALHOST, 0).into(), sdk::reply).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), catalogue(&model)).expect("written");
    let platform = Platform::builder().arg("--catalogue").arg(file.path().display().to_string());
    let world = World::on(platform.start().await).await;
    let office = world.office("Libraries").await;
    let settings = v1::UpdateOfficeSettingsRequest {
        office_id: office.clone(),
        settings: Some(v1::OfficeSettings { allow_any_model: true, ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["allow_any_model".into()] }),
    };
    world.owner.offices().update_office_settings(settings).await.expect("set");
    let hire = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "coder".into(),
        command: "env > env; echo > ready; exec sleep 1000".into(),
        ..Default::default()
    };
    let agent = world.hire_as(hire).await.expect("hired");
    world.settled(&office, "coder", AgentPhase::Running).await;
    for integration in ["openai", "gemini"] {
        let request = v1::SetAgentIntegrationRequest {
            office_id: office.clone(),
            agent: "coder".into(),
            integration: integration.into(),
            enabled: true,
        };
        world.owner.integrations().set_agent_integration(request).await.expect("enabled");
    }
    // A change of what it may use may start it anew.
    world.settled(&office, "coder", AgentPhase::Running).await;
    let workspace = world.platform.data_dir().join("agents").join(&office).join(&agent.id).join("workspace");
    until("the command has begun", LIMIT, async || {
        Ok::<_, String>(fs::exists(workspace.join("ready")).unwrap_or(false).then_some(()))
    })
    .await;
    let text = fs::read_to_string(workspace.join("env")).expect("written");
    let variables = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| ["_BASE_URL", "_API_KEY"].iter().any(|end| name.ends_with(end)));
    let mut command = Command::new("python3");
    command.args([SCRIPT, "--packages", &packages]).envs(variables);
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(model.requests().iter().all(|request| !request.key.as_deref().unwrap_or_default().contains("relay-")));
}
