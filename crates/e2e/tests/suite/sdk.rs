//! The vendors' own libraries, from PyPI and npm, in the surroundings of an agent's program: through the agent's relay and
//! the platform's proxy, each call in the ledger.
//!
//! The packages come from the network, so these tests do something only where `MI_TEST_SDK` names a directory for them.

mod connect;
mod own;
mod programs;
mod reach;

use std::{
    collections::BTreeMap,
    env, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use mi_e2e::{LIMIT, World};
use mi_proto::v1::{self, AgentPhase, Usage, UsageGroup};
use mi_testkit::{
    Platform,
    model::{FakeModel, ModelApi, ModelRequest, Reply, sdk},
    until,
};
use prost_types::FieldMask;
use tempfile::NamedTempFile;

const CATALOGUE: &str = include_str!("../../../catalogue/src/catalogue.toml");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/run.py");
/// The providers, with their keys.
const KEYS: [(&str, &str); 3] =
    [("anthropic", "sk-planted-anthropic"), ("openai", "sk-planted-openai"), ("gemini", "sk-planted-gemini")];
/// How all of them begin.
const PLANTED: &str = "sk-planted";

/// Where the packages are; none: they are not wanted.
fn packages() -> Option<PathBuf> {
    let directory = PathBuf::from(env::var_os("MI_TEST_SDK")?);
    fs::create_dir_all(&directory).expect("made");
    Some(fs::canonicalize(directory).expect("there"))
}

/// An office that has a key for each vendor, all of whom are one server.
struct Vendors {
    model: FakeModel,
    world: World,
    office: String,
    _catalogue: NamedTempFile,
}

impl Vendors {
    async fn start(script: impl Fn(&ModelRequest) -> Reply + Send + Sync + 'static) -> Self {
        let model = FakeModel::scripted((Ipv4Addr::LOCALHOST, 0).into(), script).await;
        let catalogue = CATALOGUE
            .replace("https://api.anthropic.com", &model.url(ModelApi::Anthropic))
            .replace("https://api.openai.com/v1", &model.url(ModelApi::OpenAi))
            .replace("https://generativelanguage.googleapis.com", &model.url(ModelApi::Gemini));
        let file = NamedTempFile::new().expect("a file");
        fs::write(file.path(), catalogue).expect("written");
        let platform = Platform::builder().arg("--catalogue").arg(file.path().display().to_string());
        let world = World::on(platform.start().await).await;
        let office = world.office("Vendors").await;
        for (integration, key) in KEYS {
            let request = v1::SetIntegrationSecretRequest {
                office_id: office.clone(),
                integration: integration.into(),
                name: "api_key".into(),
                value: key.into(),
            };
            world.owner.integrations().set_integration_secret(request).await.expect("set");
        }
        Self { model, world, office, _catalogue: file }
    }

    /// Each vendor was shown the office's key for it, and the ledger has each call at the price of what the vendor said
    /// was used.
    async fn each_call_is_paid(&self) {
        let requests = self.model.requests();
        let mut expected: BTreeMap<&str, Usage> = BTreeMap::new();
        for request in &requests {
            let shown = request.key.as_deref().unwrap_or_default();
            let (key, model, output, amount) = match request.api {
                ModelApi::Anthropic => ("sk-planted-anthropic", "anthropic/claude-sonnet-4-5", 10, 450),
                ModelApi::OpenAi | ModelApi::Responses => ("Bearer sk-planted-openai", "openai/gpt-5.5", 10, 800),
                ModelApi::Embeddings => ("Bearer sk-planted-openai", "openai/text-embedding-3-small", 0, 2),
                ModelApi::Gemini => ("sk-planted-gemini", "gemini/gemini-2.5-flash", 10, 55),
            };
            assert_eq!(shown, key, "{request:?}");
            let usage = expected.entry(model).or_default();
            usage.key = model.into();
            usage.calls += 1;
            usage.amount += amount;
            usage.input_tokens += 100;
            usage.output_tokens += output;
        }
        let expected: Vec<Usage> = expected.into_values().collect();
        until("each call is in the usage", LIMIT, async || {
            let request = v1::GetUsageRequest {
                office_id: self.office.clone(),
                group_by: UsageGroup::Model.into(),
                ..Default::default()
            };
            let usages = self.world.owner.credits().get_usage(request).await.map_err(|status| status.to_string())?;
            let mut usages = usages.into_inner().usages;
            usages.retain(|usage| usage.key != "compute");
            usages.sort_by(|one, other| one.key.cmp(&other.key));
            if usages == expected { Ok(Some(())) } else { Err(format!("{usages:?}, not {expected:?}")) }
        })
        .await;
        let request =
            v1::ListLedgerEntriesRequest { office_id: self.office.clone(), page_size: Some(200), ..Default::default() };
        let listed = self.world.owner.credits().list_ledger_entries(request).await.expect("listed").into_inner();
        assert_eq!(listed.next_page_token, "");
        let calls: Vec<i64> = listed.entries.iter().filter(is_call).map(|entry| -entry.amount).collect();
        assert_eq!(calls.len(), requests.len(), "{:?}", listed.entries);
        assert_eq!(calls.iter().sum::<i64>(), expected.iter().map(|usage| usage.amount).sum::<i64>());
    }

    /// The workspace of an agent.
    fn workspace(&self, agent: &v1::Agent) -> PathBuf {
        self.world.workspace(agent)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "a filter gives references to references")]
fn is_call(entry: &&v1::LedgerEntry) -> bool {
    entry.reference.starts_with("call/")
}

/// Waits for a file: its text.
async fn appears(file: &Path) -> String {
    until(&format!("{} is there", file.display()), LIMIT, async || Ok::<_, String>(fs::read_to_string(file).ok())).await
}

#[tokio::test]
async fn vendors_libraries_work_as_they_are() {
    let Some(packages) = packages() else { return };
    let vendors = Vendors::start(sdk::reply).await;
    let (world, office) = (&vendors.world, &vendors.office);
    let settings = v1::UpdateOfficeSettingsRequest {
        office_id: office.clone(),
        settings: Some(v1::OfficeSettings { allow_any_model: true, ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["allow_any_model".into()] }),
    };
    world.owner.offices().update_office_settings(settings).await.expect("set");
    let hire = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "coder".into(),
        command: "env > env.new; mv env.new env.$MI_GENERATION; exec sleep 1000".into(),
        ..Default::default()
    };
    let agent = world.hire_as(hire).await.expect("hired");
    for integration in ["openai", "gemini"] {
        let request = v1::SetAgentIntegrationRequest {
            office_id: office.clone(),
            agent: "coder".into(),
            integration: integration.into(),
            enabled: true,
        };
        world.owner.integrations().set_agent_integration(request).await.expect("enabled");
    }
    // A change of what it may use may have started it anew.
    let generation = world.settled(office, "coder", AgentPhase::Running).await.generation;
    let text = appears(&vendors.workspace(&agent).join(format!("env.{generation}"))).await;
    assert!(!text.contains(PLANTED), "an agent never gets a provider's key");
    let variables = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| ["_BASE_URL", "_API_KEY"].iter().any(|end| name.ends_with(end)));
    let mut command = Command::new("python3");
    command.arg(SCRIPT).arg("--packages").arg(&packages).envs(variables);
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    vendors.each_call_is_paid().await;
}
