//! TLS at the edge: credentials leave the machine encrypted, or not at all.

use std::{fs, process::Stdio};

use mi_client::{Client, Credential};
use mi_e2e::LIMIT;
use mi_kernel::secret::Secret;
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Platform, until};

/// Files of a certificate for this machine, and its text.
fn certificate(dir: &std::path::Path) -> (String, String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    fs::write(&cert, made.cert.pem()).expect("written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    (cert.display().to_string(), key.display().to_string(), made.cert.pem())
}

#[tokio::test]
async fn the_api_speaks_tls_and_agents_of_the_machine_still_find_it() {
    let dir = tempfile::tempdir().expect("made");
    let (cert, key, pem) = certificate(dir.path());
    let platform = Platform::builder().arg(format!("--tls-cert={cert}")).arg(format!("--tls-key={key}")).start().await;
    assert!(platform.endpoint().starts_with("https://127.0.0.1:"), "{}", platform.endpoint());
    let credential = || Credential::ApiKey(Secret::new(platform.admin_key()));
    let client = Client::connect_trusting(platform.endpoint(), Some(&pem), credential()).expect("good");

    let request = v1::CreateOfficeRequest { name: "Sealed".into(), ..Default::default() };
    let office = client.offices().create_office(request).await.expect("created").into_inner().office.expect("answered");
    let hire = v1::HireAgentRequest { office_id: office.id.clone(), name: "analyst".into(), ..Default::default() };
    client.agents().hire_agent(hire).await.expect("hired");
    until("the agent runs", LIMIT, async || {
        let get = v1::GetAgentRequest { office_id: office.id.clone(), name: "analyst".into() };
        let answer = client.agents().get_agent(get).await.map_err(|status| status.to_string())?.into_inner();
        let status = answer.agent.and_then(|agent| agent.status).unwrap_or_default();
        if status.phase() == AgentPhase::Running { Ok(Some(())) } else { Err(format!("{status:?}")) }
    })
    .await;

    // Neither without trust in its certificate nor without TLS is there an answer.
    let plain = platform.endpoint().replace("https", "http");
    for endpoint in [platform.endpoint(), plain.as_str()] {
        let stranger = Client::connect(endpoint, credential()).expect("well-formed");
        let refused = stranger.access().who_am_i(v1::WhoAmIRequest {}).await.expect_err(endpoint);
        assert_ne!(refused.code(), tonic::Code::Unauthenticated, "it was answered: {refused}");
    }

    // The command line, with the CA in a file.
    let mut command = tokio::process::Command::new(mi_testkit::platform::binary());
    command.args(["whoami", "--ca-file", &cert, "-o", "json"]);
    command.env("MI_CONFIG_DIR", dir.path()).env("MI_ENDPOINT", platform.endpoint());
    command.env("MI_API_KEY", platform.admin_key()).stdin(Stdio::null());
    let output = command.output().await.expect("ran");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn plaintext_for_other_machines_is_refused_before_anything_listens() {
    let dir = tempfile::tempdir().expect("made");
    let mut command = tokio::process::Command::new(mi_testkit::platform::binary());
    command.args(["up", "--listen", "0.0.0.0:0", "--metrics-listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(dir.path()).env("MI_CONFIG_DIR", dir.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("ends by itself").expect("ran");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("--tls-cert") && told.contains("--allow-plaintext"), "{told}");
    assert!(!told.contains("serving"), "{told}");
}
