//! What strangers send: other languages' clients, broken frames, oversized messages, metadata that is not theirs.

use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mi_e2e::{World, refusal};
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Arrangement, Backend};
use tonic::Code;

/// Sends these bytes as the body of a gRPC call and returns the `grpc-status` of the answer.
async fn raw(world: &World, path: &str, body: &[u8], headers: &[(&str, &str)]) -> i32 {
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<hyper::body::Bytes>>();
    let mut request = http::Request::post(format!("{}{path}", world.platform.endpoint()))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::from(body.to_vec())).expect("a request");
    let response = client.request(request).await.expect("answered");
    let (head, body) = response.into_parts();
    let collected = body.collect().await.expect("whole");
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let status = head.headers.get("grpc-status").or(trailers.get("grpc-status")).expect("a status");
    status.to_str().expect("digits").parse().expect("digits")
}

#[tokio::test]
async fn broken_frames_and_foreign_metadata() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let bearer = format!("Bearer {}", world.platform.admin_key());
    let known = [("authorization", bearer.as_str())];
    let list = "/mi.v1.OfficeService/ListOffices";
    assert_eq!(raw(&world, list, &[0, 0, 0, 0, 0], &known).await, Code::Ok as i32);
    let broken: [(&[u8], &str); 5] = [
        (&[], "no frame"),
        (&[0, 0, 0, 0, 9, 1], "shorter than it says"),
        (&[7, 0, 0, 0, 0], "an unknown compression flag"),
        (&[1, 0, 0, 0, 1, 0], "compressed without saying how"),
        (&[0, 0, 0, 0, 3, 0xff, 0xff, 0xff], "not protobuf"),
    ];
    for (body, what) in broken {
        let status = raw(&world, list, body, &known).await;
        assert!(status != Code::Ok as i32 && status != Code::Unavailable as i32, "{what}: {status}");
    }
    assert_eq!(raw(&world, list, &[0, 0, 0, 0, 0], &[]).await, Code::Unauthenticated as i32);
    for forged in ["Bearer mi_", "Bearer", "Basic eDp5", "Bearer a.b.c", "mi_x", "Bearer \u{fc}"] {
        let status = raw(&world, list, &[0, 0, 0, 0, 0], &[("authorization", forged)]).await;
        assert_eq!(status, Code::Unauthenticated as i32, "{forged}");
    }
    // A principal is the gateway's to give.
    let principal = [("mi-principal", "eyJhY3RvciI6e319.AAAA")];
    assert_eq!(raw(&world, list, &[0, 0, 0, 0, 0], &principal).await, Code::Unauthenticated as i32);
    // Roles speak to each other elsewhere.
    for internal in [
        "/mi.internal.v1.CredentialService/ResolveApiKey",
        "/mi.internal.v1.OfficeReplicaService/RemoveOffice",
        "/mi.internal.v1.IngestService/AppendEvents",
        "/mi.v1.OfficeService/Nonsense",
        "/nonsense",
    ] {
        assert_eq!(raw(&world, internal, &[0, 0, 0, 0, 0], &known).await, Code::Unimplemented as i32, "{internal}");
    }
    assert_eq!(
        raw(&world, list, &[0, 0, 0, 0, 0], &[known[0], ("grpc-timeout", "soon")]).await,
        Code::InvalidArgument as i32
    );
}

#[tokio::test]
async fn oversized_messages_are_refused_and_the_connection_lives() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let office = world.office("Big").await;
    let request = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "big".into(),
        system_prompt: "x".repeat(20 << 20),
        ..Default::default()
    };
    let (code, _) = refusal(world.hire_as(request).await);
    assert!(matches!(code, Code::OutOfRange | Code::ResourceExhausted), "{code:?}");
    world.hire(&office, "small").await.expect("hired");
}

#[tokio::test]
async fn a_trace_goes_from_the_client_into_the_feed() {
    let world = World::start(Backend::Sqlite, Arrangement::FourProcesses).await;
    let office = world.office("Traced").await;
    let mut request = tonic::Request::new(v1::HireAgentRequest {
        office_id: office.clone(),
        name: "analyst".into(),
        ..Default::default()
    });
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", parent.parse().expect("ASCII"));
    world.owner.agents().hire_agent(request).await.expect("hired");
    world.happened(&office, "analyst", "agent.hired").await;
    let hired = world.feed(&office).await.into_iter().find(|event| event.r#type == "agent.hired").expect("seen above");
    assert_eq!(hired.trace_id, trace);
}

#[tokio::test]
async fn the_enrolment_token_of_an_agent_is_used_up_and_its_environment_is_its_own() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let office = world.office("Secretive").await;
    let request = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "analyst".into(),
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        ..Default::default()
    };
    let agent = world.hire_as(request).await.expect("hired");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    let environment = environment_of(&world, &agent.id);
    let get = |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(get("GREETING"), Some("hello"));
    let mut names: Vec<&str> = environment.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    // Nothing of the platform's own environment.
    assert_eq!(
        names,
        [
            "GREETING",
            "HOME",
            "LANG",
            "MI_AGENT_ID",
            "MI_AGENT_NAME",
            "MI_ENDPOINT",
            "MI_ENROL_TOKEN",
            "MI_GENERATION",
            "MI_IDENTITY_DIR",
            "MI_INSTANCE_ID",
            "MI_NEW_IDENTITY",
            "MI_OFFICE_ID",
            "MI_SLOTS",
            "MI_WORKSPACE",
            "PATH",
            "TMPDIR",
        ]
    );
    let anonymous = world.owner.with_credential(mi_client::Credential::None).expect("good");
    let enrol = v1::EnrolAgentRequest {
        office_id: office,
        token: get("MI_ENROL_TOKEN").expect("has one").to_owned(),
        public_key: vec![7; 32].into(),
    };
    assert_eq!(refusal(anonymous.access().enrol_agent(enrol).await).0, Code::Unauthenticated);
    // The key that enrolled is the one in the agent's own storage, which only it may read.
    let identity = world.workspace(&agent).with_file_name("identity");
    let mode = |path: &std::path::Path| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).expect("there").permissions()) & 0o777
    };
    assert_eq!((mode(&identity), mode(&identity.join("identity.key"))), (0o700, 0o600));
}

fn environment_of(world: &World, agent_id: &str) -> Vec<(String, String)> {
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let environments = processes.filter_map(|entry| std::fs::read(entry.path().join("environ")).ok());
    let needle = format!("MI_AGENT_ID={agent_id}");
    let found = environments
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .find(|text| text.split('\0').any(|pair| pair == needle));
    let text = found.unwrap_or_else(|| panic!("the agent runs below {}", world.platform.pid()));
    text.split('\0').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}
