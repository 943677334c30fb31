//! Mutual TLS between roles: a certificate and a principal token, and neither alone.

use std::path::Path;

use mi_base::Tasks;
use mi_kernel::Clock;
use mi_proto::v1::activity_service_client::ActivityServiceClient;
use mi_rpc::{
    Connections, PrincipalKey, RoleTls, Transport,
    principal::PRINCIPAL_HEADER,
    server::{self, Listener},
    tls::KeyFiles,
};
use mi_testkit::ManualClock;
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig},
};

use crate::stage::{Client, Feed, LONG, guard, list, operator};

/// A role behind mutual TLS, with certificates of the CA in this directory.
async fn serve(ca: &Path, key: &PrincipalKey, clock: &ManualClock, tasks: &Tasks) -> String {
    let tls = Some(RoleTls::development(ca, "activity").expect("made").acceptor().expect("good"));
    let socket = server::bind("--listen", "127.0.0.1:0".parse().expect("an address")).await.expect("binds");
    let url = format!("https://{}", socket.local_addr().expect("bound"));
    let listener = Listener { name: "activity", socket, tls, http1: false, connections: Connections::default() };
    server::serve(tasks, listener, guard(&Feed::default(), key, clock, tasks));
    url
}

/// A call with this certificate and this principal token.
async fn call(url: &str, tls: Option<ClientTlsConfig>, token: Option<&str>) -> Result<(), Status> {
    let mut endpoint = Channel::from_shared(url.to_owned()).expect("a URL");
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).expect("good");
    }
    let mut request = list("answers");
    if let Some(token) = token {
        request.metadata_mut().insert(PRINCIPAL_HEADER, token.parse().expect("ASCII"));
    }
    ActivityServiceClient::new(endpoint.connect_lazy()).list_activity(request).await.map(drop)
}

#[tokio::test]
async fn a_role_takes_calls_with_a_certificate_and_a_token_and_no_other() {
    let (ours, theirs) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let (key, clock, tasks) = (PrincipalKey::random(), ManualClock::new(), Tasks::new());
    let url = serve(ours.path(), &key, &clock, &tasks).await;
    let gateway = RoleTls::development(ours.path(), "gateway").expect("made");
    let foreign = RoleTls::development(theirs.path(), "gateway").expect("made");
    let token = key.sign(&operator(false), clock.now());

    let good = gateway.client("activity").expect("good");
    call(&url, Some(good.clone()), Some(&token)).await.expect("both");
    let refused = call(&url, Some(good), None).await.expect_err("no token");
    assert_eq!(refused.code(), Code::Unauthenticated);

    let ca = std::fs::read(ours.path().join("ca.pem")).expect("there");
    let nameless =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca)).domain_name("activity.mi.internal");
    let plain = url.replace("https", "http");
    for (what, url, tls) in [
        ("no certificate", &url, Some(nameless)),
        ("a certificate of another CA", &url, Some(foreign.client("activity").expect("good"))),
        ("plaintext", &plain, None),
        // The client's own check: this listener cannot pose as another role.
        ("a role of another name", &url, Some(gateway.client("office").expect("good"))),
    ] {
        let refused = call(url, tls, Some(&token)).await.expect_err(what);
        assert_ne!(refused.code(), Code::Unauthenticated, "{what}: it got through the handshake: {refused}");
    }
    tasks.stop(LONG).await;
}

#[tokio::test]
async fn roles_that_start_at_once_share_one_ca_and_calls_go_through_the_transport() {
    let dir = tempfile::tempdir().expect("made");
    let starts = ["activity", "gateway", "office", "scheduler"].map(|role| {
        let dir = dir.path().to_owned();
        std::thread::spawn(move || RoleTls::development(&dir, role).map(drop))
    });
    for start in starts {
        start.join().expect("no panic").expect("made");
    }
    let (key, clock, tasks) = (PrincipalKey::random(), ManualClock::new(), Tasks::new());
    let url = serve(dir.path(), &key, &clock, &tasks).await;
    let gateway = RoleTls::development(dir.path(), "gateway").expect("made");
    let tls = gateway.client("activity").expect("good");
    let transport =
        Transport::remote("activity_url", &url, Some(tls.clone()), key.clone(), clock.shared()).expect("good");
    let actor = std::sync::Arc::new(operator(false));
    let answer = ActivityServiceClient::new(Client(transport, actor.clone())).list_activity(list("answers")).await;
    assert_eq!(answer.expect("answers").into_inner().events[0].id, actor.key());
    let plain = url.replace("https", "http");
    let refused = Transport::remote("activity_url", &plain, Some(tls), key, clock.shared()).err().expect("refused");
    assert_eq!(refused.field, Some("activity_url"));
    for file in ["ca.key", "gateway.key"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.path().join(file)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    tasks.stop(LONG).await;
}

#[tokio::test]
async fn files_that_are_no_certificates_are_named() {
    let dir = tempfile::tempdir().expect("made");
    let made = RoleTls::development(dir.path(), "office").expect("made");
    assert!(made.acceptor().is_ok());
    let (office, nowhere) = (dir.path().join("office.pem"), dir.path().join("nowhere.pem"));
    let missing = RoleTls::from_files(&nowhere, KeyFiles { cert: office.clone(), key: office.clone() });
    assert_eq!(missing.expect_err("no CA").field, Some("internal_tls_ca"));
    let other = RoleTls::development(dir.path(), "gateway").map(|_| dir.path().join("gateway.key")).expect("made");
    for (cert, key, field) in [
        (&nowhere, &other, "tls_cert"),
        (&office, &nowhere, "tls_key"),
        // A key, but not of this certificate.
        (&office, &other, "tls_key"),
    ] {
        let files = KeyFiles { cert: cert.clone(), key: key.clone() };
        let error = mi_rpc::tls::public_acceptor(&files).err().expect("refused");
        assert_eq!(error.field, Some(field), "{error}");
    }
}
