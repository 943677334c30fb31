//! Integrations that are no models: one host, known paths, and a secret that the agent does not see.

use http::Method;
use mi_kernel::Actor;
use serde_json::json;

use crate::stage::{Answer, Does, Stage, read, whole};

const TOKEN: &str = "tok-of-the-office";

async fn staged(does: impl IntoIterator<Item = Does>) -> Stage {
    let stage = Stage::new(does).await;
    stage.secret("forge", "token", TOKEN);
    stage.spender(|spender| spender.integrations.push("forge".into()));
    stage
}

async fn call(stage: &Stage, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let actor = Actor::Agent(stage.agent.clone());
    read(stage.send(actor, method, path, headers, body.to_owned()).await).await
}

#[tokio::test]
async fn a_call_shows_the_secret_and_nothing_of_the_agents() {
    let mut does = whole(201, json!({"made": true}));
    if let Does::Answers(response) = &mut does {
        for name in ["set-cookie", "etag"] {
            response.headers_mut().insert(name, "a".parse().expect("a value"));
        }
    }
    let stage = staged([does]).await;
    let headers = [
        ("authorization", "Bearer of-the-agent"),
        ("cookie", "a=b"),
        ("host", "evil.example"),
        ("mi-task-id", "x"),
        ("x-forwarded-for", "10.0.0.1"),
        ("accept", "application/vnd.forge+json"),
    ];
    let answer = call(&stage, Method::POST, "/proxy/smithy/repos/a/b/issues?state=open", &headers, "{\"t\":1}").await;
    assert_eq!((answer.status, answer.body.as_str()), (201, r#"{"made":true}"#));
    assert_eq!((answer.header("etag"), answer.header("set-cookie")), ("a", ""));
    assert!(!format!("{answer:?}").contains(TOKEN));
    let got = stage.got().remove(0);
    assert_eq!((got.method, got.uri.as_str()), (Method::POST, "/api/repos/a/b/issues?state=open"));
    assert_eq!(got.body, "{\"t\":1}");
    assert_eq!(got.headers["authorization"], format!("Token {TOKEN}"));
    assert_eq!(got.headers["accept"], "application/vnd.forge+json");
    assert_eq!(got.headers["host"], stage.provider.address.to_string());
    for gone in ["cookie", "mi-task-id", "x-forwarded-for"] {
        assert!(!got.headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn only_what_the_catalogue_names_is_called() {
    let stage = staged([]).await;
    for (method, path) in [
        (Method::DELETE, "/proxy/forge/repos/a"),
        (Method::POST, "/proxy/forge/user"),
        (Method::GET, "/proxy/forge/users"),
        (Method::GET, "/proxy/forge/repos"),
        (Method::GET, "/proxy/forge/repos/../user/keys"),
        (Method::GET, "/proxy/forge/repos/%2e%2e/admin"),
        (Method::GET, "/proxy/forge/repos%2fa"),
        (Method::GET, "/proxy/forge//repos/a"),
        (Method::GET, "/proxy/forge/http://evil.example/"),
        (Method::GET, "/proxy/forge@evil.example/user"),
        (Method::GET, "/proxy/anthropic/user"),
        (Method::GET, "/proxy/nobody/user"),
        (Method::GET, "/proxy/forge"),
    ] {
        let answer = call(&stage, method.clone(), path, &[], "").await;
        assert_eq!((answer.status, answer.header("mi-reason")), (404, "NOT_FOUND"), "{method} {path}");
    }
    assert!(stage.got().is_empty());
}

#[tokio::test]
async fn an_integration_is_called_by_whom_it_is_enabled_for_once_it_is_set() {
    let stage = Stage::new([]).await;
    let refused = call(&stage, Method::GET, "/proxy/forge/user", &[], "").await;
    assert_eq!((refused.status, refused.header("mi-reason")), (403, "INTEGRATION_DISABLED"));
    for token in ["", "two\nlines"] {
        let stage = staged([]).await;
        stage.secret("forge", "token", token);
        let refused = call(&stage, Method::GET, "/proxy/forge/user", &[], "").await;
        assert_eq!((refused.status, refused.header("mi-reason")), (403, "INTEGRATION_NOT_CONFIGURED"));
    }
    let stage = staged([]).await;
    stage.spender(|spender| spender.working = false);
    assert_eq!(call(&stage, Method::GET, "/proxy/forge/user", &[], "").await.header("mi-reason"), "AGENT_NOT_WORKING");
    assert!(stage.got().is_empty());
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_names_do_not_lead_inside() {
    let mut does = whole(302, "");
    if let Does::Answers(response) = &mut does {
        response.headers_mut().insert("location", "http://169.254.169.254/".parse().expect("a value"));
    }
    let stage = staged([does]).await;
    assert_eq!(call(&stage, Method::GET, "/proxy/forge/user", &[], "").await.status, 302);
    assert_eq!(stage.got().len(), 1);

    // A name that leads here, and an address that is inside.
    for (host, status) in [("localhost", 503), ("10.0.0.1", 403)] {
        let stage = staged([]).await;
        let mut catalogue = mi_catalogue::Catalogue::clone(&stage.catalogues.current());
        let forge = catalogue.integrations.iter_mut().find(|known| known.name == "forge").expect("known");
        let url = format!("http://{host}:{}/api", stage.provider.address.port());
        forge.broker.as_mut().expect("there").base_url = url.parse().expect("a URL");
        stage.catalogues.replace(catalogue);
        assert_eq!(call(&stage, Method::GET, "/proxy/forge/user", &[], "").await.status, status, "{host}");
        assert!(stage.got().is_empty());
    }
}
