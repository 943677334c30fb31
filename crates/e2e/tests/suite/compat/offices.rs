//! Offices, their settings, credits and members from outside.

use serde_json::json;

use super::{Program, names, start};

#[tokio::test]
async fn offices_as_that_client_knows_them() {
    let (world, program) = start().await;
    let nobody = Program::with(&world, "");
    assert_eq!(nobody.get("/healthz").await.ok(), json!({"status": "ok"}));

    let office = program.post("/api/v1/offices", json!({"name": "My Colony", "owner_id": "ignored"})).await.ok();
    assert_eq!((&office["name"], &office["status"]), (&json!("My Colony"), &json!("active")));
    let id = office["id"].as_str().expect("an id");
    let path = format!("/api/v1/offices/{id}");
    assert_eq!(program.get(&path).await.ok(), office);
    assert!(office["owner_id"].as_str().is_some_and(|owner| owner.len() == 36), "{office}");
    assert!(office["created_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{office}");
    for name in ["Second", "Third"] {
        program.office(name).await;
    }
    let listed = program.get("/api/v1/offices?limit=200&offset=0").await;
    assert_eq!((names(&listed.ok()).len(), listed.header("x-total-count")), (3, Some("3")));
    let all = listed.ok();
    let page = program.get("/api/v1/offices?limit=1&offset=1").await;
    assert_eq!((page.ok(), page.header("x-total-count")), (json!([all[1]]), Some("3")));
    assert_eq!(program.get("/api/v1/offices?offset=7").await.ok(), json!([]));

    let ready = json!({"ready": true});
    program.until(&format!("{path}/status"), "it is ready", |status| status["phase"] == "ready").await;
    let status = program.get(&format!("{path}/status")).await.ok();
    assert_eq!(status, json!({"phase": "ready", "operator": ready, "ingress": ready}));

    let settings = format!("{path}/settings");
    let before = program.get(&settings).await.ok();
    assert_eq!((&before["allowAgentHiring"], &before["maxEmployees"]), (&json!(false), &json!(50)));
    let after = program.patch(&settings, json!({"allowAgentHiring": true})).await.ok();
    let mut expected = before;
    expected["allowAgentHiring"] = json!(true);
    assert_eq!(after, expected);
    let change = json!({"maxEmployees": 7, "hiresPer10Minutes": 2, "verification": "peer", "modelBudgetPerTask": 1.5});
    let after = program.patch(&settings, change.clone()).await.ok();
    for (name, value) in change.as_object().expect("an object") {
        assert_eq!((name, &after[name]), (name, value));
    }
    assert_eq!(program.patch(&settings, json!({})).await.ok(), after);
    assert_eq!(program.get(&settings).await.ok(), after);
    let unknown = program.patch(&settings, json!({"allowAgentHiring": false, "colour": "red"})).await;
    assert_eq!(unknown.refused(), (400, "INVALID_ARGUMENT".into()));
    assert!(unknown.json()["message"].as_str().expect("text").contains("`colour`"), "{unknown:?}");
    assert_eq!(program.get(&settings).await.ok(), after);

    assert_eq!(program.post_nothing(&format!("{path}/suspend")).await.ok(), json!(null));
    assert_eq!(program.get(&path).await.ok()["status"], "suspended");
    let told = program.get(&format!("{path}/status")).await.ok();
    assert_eq!((&told["phase"], &told["message"]), (&json!("degraded"), &json!("the office is suspended; resume it")));
    let hired = program.post(&format!("{path}/employees"), json!({"name": "late"})).await;
    assert_eq!(hired.refused(), (409, "OFFICE_NOT_ACTIVE".into()));
    assert_eq!(program.post_nothing(&format!("{path}/resume")).await.ok(), json!(null));
    assert_eq!(program.get(&path).await.ok()["status"], "active");

    assert_eq!(program.delete(&path).await.ok(), json!(null));
    mi_testkit::until("it is gone", mi_e2e::LIMIT, async || {
        let found = program.get(&path).await;
        if found.status == 404 { Ok(Some(())) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert_eq!(names(&program.get("/api/v1/offices").await.ok()).len(), 2);
}

#[tokio::test]
async fn credits_in_credits() {
    let (world, program) = start().await;
    let office = program.office("Rich").await;
    let (credits, id) = (format!("{office}/credits"), office.rsplit_once('/').expect("an id").1);
    let before = program.get(&credits).await.ok();
    assert_eq!(before["office_id"], *id);
    let denied = program.post(&credits, json!({"amount": 5, "reason": "mine"})).await;
    assert_eq!(denied.refused(), (403, "PERMISSION_DENIED".into()));
    let admin = Program::with(&world, world.platform.admin_key());
    let wrong = admin.post(&credits, json!({"amount": "5"})).await;
    assert_eq!(wrong.refused(), (400, "INVALID_ARGUMENT".into()));
    let start = before["balance"].as_f64().expect("a number");
    let after = admin.post(&credits, json!({"amount": 2.5, "reason": "topup"})).await.ok();
    assert_eq!((&after["office_id"], after["balance"].as_f64()), (&json!(id), Some(start + 2.5)));
    assert_eq!(program.get(&credits).await.ok(), after);
    let history = program.get(&format!("{credits}/history?limit=1&offset=0")).await;
    let entry = &history.ok()[0];
    let told = ["office_id", "amount", "balance_after", "reason"].map(|name| entry[name].clone());
    assert_eq!(told, [json!(id), json!(2.5), after["balance"].clone(), json!("topup")]);
    assert!(entry["id"].is_string() && entry["created_at"].is_string(), "{entry}");
    let usage = program.get(&format!("{office}/usage/summary")).await.ok();
    assert_eq!(usage, json!({"cpu_core_hours": 0, "memory_gib_hours": 0, "total_credits": 0, "pods": []}));
    let usage = program.get(&format!("{office}/usage/llm/summary")).await.ok();
    assert_eq!(usage, json!({"total_tokens": 0, "total_cost": 0, "total_credits": 0, "agents": []}));
}

/// A key as an agent makes it, and the token that it signs with it.
struct Robo(ring::signature::Ed25519KeyPair);

impl Robo {
    fn new() -> Self {
        let made =
            ring::signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).expect("randomness");
        Self(ring::signature::Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("own key"))
    }

    fn public(&self) -> &[u8] {
        ring::signature::KeyPair::public_key(&self.0).as_ref()
    }

    fn token(&self, id: &str) -> String {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let kid = ring::digest::digest(&ring::digest::SHA256, self.public());
        let kid = format!("k{}", hex(&kid.as_ref()[..8]));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let claims =
            json!({"iss": id, "aud": "mi", "iat": now, "exp": now + 120, "jti": uuid::Uuid::new_v4().to_string()});
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(json!({"alg": "EdDSA", "kid": kid})), part(claims));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(text.as_bytes())))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn agents_from_elsewhere_join_and_beat() {
    let (world, program) = start().await;
    let office = program.office("Open").await;
    let id = office.rsplit_once('/').expect("an id").1;
    let invite = program.post_nothing(&format!("{office}/invites")).await.ok();
    assert_eq!((&invite["officeId"], &invite["claim"]), (&json!(id), &invite["code"]));
    let robo = Robo::new();
    let nobody = Program::with(&world, "");
    let keyless = nobody.post("/api/agents/join", json!({"code": invite["code"], "agent_name": "robo"})).await;
    assert_eq!(keyless.refused(), (400, "INVALID_ARGUMENT".into()));
    let join = json!({"code": invite["code"], "agent_name": "robo", "public_key": hex(robo.public())});
    let joined = nobody.post("/api/agents/join", join).await.ok();
    let told = ["office_id", "agent_name", "public_key"].map(|name| joined[name].clone());
    assert_eq!(told, [json!(id), json!("robo"), json!(hex(robo.public()))]);
    let again = json!({"code": invite["code"], "agent_name": "late", "public_key": hex(Robo::new().public())});
    assert_eq!(nobody.post("/api/agents/join", again).await.refused(), (401, "UNAUTHENTICATED".into()));

    let own = Program::with(&world, &robo.token(joined["bot_id"].as_str().expect("an id")));
    assert_eq!(own.post_nothing("/api/agents/heartbeat").await.ok(), json!({"ok": true}));
    assert_eq!(program.post_nothing("/api/agents/heartbeat").await.refused(), (403, "PERMISSION_DENIED".into()));
    assert_eq!(nobody.post_nothing("/api/agents/heartbeat").await.refused(), (401, "UNAUTHENTICATED".into()));
    let agent = program.get(&format!("{office}/employees/robo")).await.ok();
    assert_eq!((&agent["employeeType"], &agent["id"]), (&json!("external"), &joined["bot_id"]));
    let seen = program.get(&format!("{office}/employees/robo/presence")).await.ok();
    assert_eq!(seen["online"], true);
}
