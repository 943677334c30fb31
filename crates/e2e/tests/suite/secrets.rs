//! No log line, event, answer, metric or file of a run contains a secret that went through it.

use std::{fs, path::Path, process::Stdio};

use mi_client::{Client, Credential};
use mi_e2e::{LIMIT, World};
use mi_kernel::secret::Secret;
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Backend, Platform, on_both};
use tokio::io::AsyncWriteExt;

on_both! { nothing_leaks_a_secret }

/// Secrets by what they are, and what was said in the run by where it was said.
#[derive(Default)]
struct Witness {
    secrets: Vec<(&'static str, String)>,
    said: Vec<(String, Vec<u8>)>,
}

impl Witness {
    fn secret(&mut self, what: &'static str, secret: impl Into<String>) {
        let secret = secret.into();
        assert!(secret.len() >= 12, "{what} is too short to be looked for");
        self.secrets.push((what, secret));
    }

    fn said(&mut self, place: impl Into<String>, text: impl Into<Vec<u8>>) {
        self.said.push((place.into(), text.into()));
    }

    fn refused<T: std::fmt::Debug>(&mut self, place: &str, outcome: Result<T, tonic::Status>) {
        self.said(place, format!("{:?}", outcome.expect_err(place)));
    }

    fn assert_silent(&self) {
        for (place, text) in &self.said {
            for (what, secret) in &self.secrets {
                let found = text.windows(secret.len()).position(|window| window == secret.as_bytes());
                if let Some(at) = found {
                    let around = &text[at.saturating_sub(300)..at];
                    panic!("{place} holds {what}, after {:?}", String::from_utf8_lossy(around));
                }
            }
        }
    }
}

/// Runs `mi` as the owner; answers what it printed.
async fn mi(world: &World, key: &Secret, args: &[&str], input: &str) -> Vec<u8> {
    let mut command = tokio::process::Command::new(mi_testkit::platform::binary());
    command
        .args(args)
        .env("MI_CONFIG_DIR", world.platform.config_dir())
        .env("MI_ENDPOINT", world.platform.endpoint())
        .env("MI_API_KEY", key.expose())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().expect("started");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).await.expect("written");
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("ends").expect("ran");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    [output.stdout, output.stderr].concat()
}

/// The enrolment token in the environment of an agent's process.
fn enrolment_token(agent_id: &str) -> String {
    let own = format!("MI_AGENT_ID={agent_id}");
    let processes = fs::read_dir("/proc").expect("there").flatten();
    let found = processes.filter_map(|process| fs::read(process.path().join("environ")).ok()).find_map(|environ| {
        let texts: Vec<String> =
            environ.split(|byte| *byte == 0).map(|it| String::from_utf8_lossy(it).into()).collect();
        if !texts.contains(&own) {
            return None;
        }
        texts.iter().find_map(|text| text.strip_prefix("MI_ENROL_TOKEN=").map(str::to_owned))
    });
    found.expect("the agent has a token in its environment")
}

/// The databases' files, their logs included.
fn databases(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(dir).expect("there").flatten().map(|entry| entry.path());
    let databases = files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".db")));
    databases.map(|path| (path.display().to_string(), fs::read(&path).expect("readable"))).collect()
}

async fn nothing_leaks_a_secret(backend: Backend) {
    let mut witness = Witness::default();
    let builder = Platform::builder().backend(backend).arg("--log-format").arg("json").env("MI_LOG", "debug");
    let world = World::on(builder.start().await).await;
    witness.secret("the administrator's key", world.platform.admin_key());
    let master = fs::read_to_string(world.platform.data_dir().join("master.key")).expect("there");
    witness.secret("the master key", master.trim());
    let create = v1::CreateApiKeyRequest { name: "planted".into(), ..Default::default() };
    let created = world.owner.access().create_api_key(create).await.expect("created").into_inner();
    witness.said("Debug of the created key", format!("{created:?}"));
    let key = Secret::new(created.secret);
    witness.secret("an API key", key.expose());

    let office = world.office("Vault").await;
    let hired = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "analyst".into(),
        env: [("PLANTED".into(), "planted-environment-value".into())].into(),
        ..Default::default()
    };
    witness.said("Debug of a hire", format!("{hired:?}"));
    world.hire_as(hired).await.expect("hired");
    let agent = world.settled(&office, "analyst", AgentPhase::Running).await;
    let token = enrolment_token(&agent.id);
    witness.secret("the enrolment token", token.clone());

    // A secret that is set, replaced, and sent in ways that are refused.
    let value = "planted-integration-secret";
    witness.secret("an integration's secret", value);
    let colony = ["--colony", office.as_str()];
    let set = ["integrations", "set-secret", "-o", "json", colony[0], colony[1], "github", "token"];
    for input in [format!("{value}\n"), value.to_owned()] {
        witness.said("mi integrations set-secret", mi(&world, &key, &set, &input).await);
    }
    for bad in [
        v1::SetIntegrationSecretRequest { value: format!("{value}\0"), ..request(&office, "github", "token") },
        v1::SetIntegrationSecretRequest { value: value.repeat(1000), ..request(&office, "github", "token") },
        v1::SetIntegrationSecretRequest { value: value.into(), ..request(&office, value, "token") },
        v1::SetIntegrationSecretRequest { value: value.into(), ..request(&office, "github", value) },
        v1::SetIntegrationSecretRequest { value: value.into(), ..request(&"x".repeat(36), "github", "token") },
    ] {
        // Put into the wrong field it prints here, at the sender; the answer and the platform must not repeat it.
        if [&bad.integration, &bad.name].into_iter().all(|field| field != value) {
            witness.said("Debug of a request", format!("{bad:?}"));
        }
        witness.refused("a refused secret", world.owner.integrations().set_integration_secret(bad).await);
    }
    // Credentials that are wrong, or used where they do not belong.
    for wrong in [format!("{}x", key.expose()), token.clone(), value.to_owned()] {
        let wrong = Client::connect(world.platform.endpoint(), Credential::ApiKey(Secret::new(wrong))).expect("made");
        witness.refused("a wrong credential", wrong.access().who_am_i(v1::WhoAmIRequest {}).await);
    }
    let enrol = v1::EnrolAgentRequest { office_id: office.clone(), token, public_key: vec![7; 32].into() };
    witness.said("Debug of an enrolment", format!("{enrol:?}"));
    witness.refused("a used token", world.owner.access().enrol_agent(enrol).await);
    let rotate = v1::RotateMasterKeyRequest {};
    witness.refused("a rotation by an owner", world.owner.access().rotate_master_key(rotate).await);
    let rotated = world.admin.access().rotate_master_key(rotate).await.expect("rotated").into_inner();
    assert_eq!(rotated.rewrapped, 1);
    witness.said("a rotation", format!("{rotated:?}"));
    let master = fs::read_to_string(world.platform.data_dir().join("master.key")).expect("there");
    witness.secret("the new master key", master.trim());
    world.happened(&office, "", "data_key.rewrapped").await;

    for args in [
        &["integrations", "list", "-o", "json"][..],
        &["agents", "list", "-o", "json"],
        &["agents", "logs", "analyst", "-o", "json"],
        &["agents", "activity", "-o", "json"],
    ] {
        let args: Vec<&str> = match args[1] {
            "logs" => vec!["agents", "logs", &office, "analyst", "-o", "json"],
            "activity" => vec!["agents", "activity", &office, "analyst", "-o", "json"],
            _ => [args, &colony].concat(),
        };
        witness.said(format!("mi {}", args.join(" ")), mi(&world, &key, &args, "").await);
    }
    for args in [&["keys", "list", "-o", "json"][..], &["whoami", "-o", "json"], &["colonies", "list", "-o", "json"]] {
        witness.said(format!("mi {}", args.join(" ")), mi(&world, &key, args, "").await);
    }
    witness.said("the feed", format!("{:?}", world.feed(&office).await));
    witness.said("the metrics", metrics(world.platform.metrics_endpoint()).await);
    let log = world.platform.log();
    assert!(log.contains("\"DEBUG\"") && log.contains("refused"), "the log has its details");
    witness.said("the platform's log", log);
    if let Some(url) = world.platform.database_url() {
        witness.secret("the database's URL", url);
    }
    witness.assert_silent();
    // What an operator asked for in the clear is kept in the clear; what was given as a secret is not.
    let kept = |what: &str| what != "the administrator's key";
    let mut files =
        Witness { secrets: witness.secrets.into_iter().filter(|(what, _)| kept(what)).collect(), said: Vec::new() };
    files.said = databases(world.platform.data_dir());
    assert!(backend == Backend::Postgres || files.said.len() >= 3, "the databases are looked into");
    files.assert_silent();
}

fn request(office: &str, integration: &str, name: &str) -> v1::SetIntegrationSecretRequest {
    let (office_id, integration, name) = (office.into(), integration.into(), name.into());
    v1::SetIntegrationSecretRequest { office_id, integration, name, value: String::new() }
}

/// The text of the metrics, by a request of HTTP/1.0, which ends when the connection does.
async fn metrics(endpoint: &str) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let address = endpoint.strip_prefix("http://").expect("plain HTTP");
    let mut connection = tokio::net::TcpStream::connect(address).await.expect("listens");
    connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("sent");
    let mut text = Vec::new();
    connection.read_to_end(&mut text).await.expect("answered");
    assert!(String::from_utf8_lossy(&text).contains("mi_"), "metrics");
    text
}
