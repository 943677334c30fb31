//! What strangers send: other languages' clients, broken frames, oversized messages, metadata that is not theirs.

use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mi_e2e::{LIMIT, World, refusal};
use mi_proto::v1::{self, AgentPhase, upload_file_request::Part};
use mi_testkit::{Arrangement, Backend, Platform, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, codec::CompressionEncoding};

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
    assert_too_large(world.hire_as(request).await.map(drop), "plain");
    world.hire(&office, "small").await.expect("hired");
}

fn assert_too_large(outcome: Result<(), tonic::Status>, how: &str) {
    assert_eq!(refusal(outcome), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".into()), "{how}");
}

/// Nothing, compressed.
const NOTHING: [(&str, &[u8]); 2] = [
    ("gzip", &[31, 139, 8, 0, 0, 0, 0, 0, 2, 255, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("zstd", &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0]),
];

#[tokio::test]
async fn every_method_reads_what_is_compressed() {
    let world = World::start(Backend::Sqlite, Arrangement::ProcessPerRole).await;
    let bearer = format!("Bearer {}", world.platform.admin_key());
    let public = mi_proto::rules::all().map(|rule| rule.path).filter(|path| path.starts_with("/mi.v1."));
    let own = [
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ];
    let paths: Vec<&str> = public.chain(own).collect();
    for (encoding, nothing) in NOTHING {
        let frame = [&[1, 0, 0, 0, u8::try_from(nothing.len()).expect("short")][..], nothing].concat();
        let headers = [("authorization", bearer.as_str()), ("grpc-encoding", encoding)];
        for path in &paths {
            let status = raw(&world, path, &frame, &headers).await;
            // Most want at least to be told which office. What is not read is one of these.
            let unread = [Code::Unimplemented, Code::Internal, Code::ResourceExhausted];
            assert!(unread.iter().all(|code| *code as i32 != status), "{path} {encoding}: {status}");
        }
        let unknown = raw(&world, paths[0], &frame, &[headers[0], ("grpc-encoding", "snappy")]).await;
        assert_eq!(unknown, Code::Unimplemented as i32);
    }
}

#[tokio::test]
async fn what_is_compressed_is_bounded_by_what_it_becomes() {
    let world = World::start(Backend::Sqlite, Arrangement::ProcessPerRole).await;
    let office = world.office("Bombs").await;
    let path = "zeros".to_owned();
    let header = v1::UploadHeader { office_id: office.clone(), path, force: true, ..Default::default() };
    let message = |part| v1::UploadFileRequest { part: Some(part) };
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let bomb = v1::CreateTaskRequest {
            office_id: office.clone(),
            title: "bomb".into(),
            description: "\0".repeat((4 << 20) + 1),
            ..Default::default()
        };
        let sent = world.owner.tasks().all.send_compressed(encoding).create_task(bomb).await;
        assert_too_large(sent.map(drop), "a call");
        let parts = |size: usize| {
            let chunk = vec![0u8; size].into();
            [message(Part::Header(header.clone())), message(Part::Chunk(chunk))]
        };
        let mut drive = world.owner.drive().send_compressed(encoding).accept_compressed(encoding);
        let sent = drive.upload_file(futures::stream::iter(parts((4 << 20) + 1))).await;
        assert_too_large(sent.map(drop), "a stream");
        let parts = [message(Part::Header(header.clone())), message(Part::Chunk(vec![7u8; 1 << 20].into()))];
        let stored = drive.upload_file(futures::stream::iter(parts)).await.expect("fits").into_inner();
        assert_eq!(stored.file.expect("always there").size, 1 << 20);
        let request = v1::DownloadFileRequest { office_id: office.clone(), path: "zeros".into(), ..Default::default() };
        let mut content = drive.download_file(request).await.expect("there").into_inner();
        let mut bytes = 0;
        while let Some(message) = content.message().await.expect("whole") {
            assert!(message.chunk.iter().all(|byte| *byte == 7));
            bytes += message.chunk.len();
        }
        assert_eq!(bytes, 1 << 20);
    }
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_metrics_have_their_own() {
    let platform =
        Platform::builder().arg("--max-connections").arg("300").arg("--max-connections-per-address").arg("70");
    let world = World::on(platform.start().await).await;
    world.office("Opens the connection").await;
    let address = |url: &str| url.strip_prefix("http://").expect("plain HTTP").to_owned();
    let (api, metrics) = (address(world.platform.endpoint()), address(world.platform.metrics_endpoint()));
    // 64 may have said nothing yet: a quarter, but never less than that.
    let mut silent = Vec::new();
    for _ in 0..66 {
        silent.push(TcpStream::connect(&api).await.expect("connects"));
    }
    until("the oldest make room for those beyond the limit, and are counted", LIMIT, async || {
        let mut connection = TcpStream::connect(&metrics).await?;
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        connection.read_to_string(&mut text).await?;
        let ended = r#"mi_refused_connections_total{limit="address",listener="gateway"} 2"#;
        Ok::<_, std::io::Error>(text.lines().any(|line| line == ended).then_some(()))
    })
    .await;
    let mut newcomer = TcpStream::connect(&api).await.expect("connects");
    newcomer.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("sends");
    let mut answer = Vec::new();
    newcomer.read_to_end(&mut answer).await.expect("answered");
    assert!(answer.starts_with(b"HTTP/1."), "{}", answer.escape_ascii());
    world.office("Reached over a connection that is open").await;
}

#[tokio::test]
async fn a_trace_goes_from_the_client_into_the_feed() {
    let world = World::start(Backend::Sqlite, Arrangement::ProcessPerRole).await;
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
            "MI_RELAY_PORT",
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
