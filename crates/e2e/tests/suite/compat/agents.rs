//! Agents: from the hire, in one call and in that client's sequence, to the backup that is left.

use serde_json::{Value, json};

use super::{names, start};

#[tokio::test]
async fn an_agent_from_its_hire_to_its_backup() {
    let (_world, program) = start().await;
    let office = program.office("Staff").await;
    let employees = format!("{office}/employees");
    let wanted = json!({
        "name": "analyst", "role": "research-analyst", "modelTier": "opus", "systemPrompt": "Be brief.",
        "env": {"LANG": "C"}, "skills": [], "storage": "10Gi", "chromium": false});
    let hired = program.post(&employees, wanted).await.ok();
    let told = ["name", "role", "modelTier", "systemPrompt", "employeeType"].map(|name| hired[name].clone());
    assert_eq!(told, ["analyst", "research-analyst", "opus", "Be brief.", "kubernetes"].map(Value::from));
    let twice = program.post(&employees, json!({"name": "Analyst"})).await;
    assert_eq!(twice.refused(), (409, "ALREADY_EXISTS".into()));
    let agent = format!("{employees}/analyst");
    let running = program.until(&agent, "it runs", |agent| agent["status"]["phase"] == "Running").await;
    assert_eq!((running["env"]["LANG"].clone(), running["spawned_by"].clone()), (json!("C"), json!("")));
    assert_eq!(running["public_key"].as_str().map(str::len), Some(64));
    program.agent(&office, "second").await;
    let listed = program.get(&employees).await;
    assert_eq!((names(&listed.ok()), listed.header("x-total-count")), (vec!["analyst", "second"], Some("2")));
    assert_eq!(names(&program.get(&format!("{employees}?limit=1&offset=1")).await.ok()), ["second"]);

    let seen = program.get(&format!("{agent}/presence")).await.ok();
    assert_eq!(seen["online"], true);
    assert!(seen["last_seen"].is_string() && seen["lastSeen"] == seen["last_seen"], "{seen}");
    let logs = format!("{agent}/logs?tail=100");
    let log =
        program.until(&logs, "there are lines", |log| log["logs"].as_str().is_some_and(|it| !it.is_empty())).await;
    assert_eq!(log["pod"], "analyst");
    let one = program.get(&format!("{agent}/logs?limit=1")).await.ok();
    assert_eq!(one["logs"].as_str().map(|log| log.lines().count()), Some(1));
    let feed = format!("{agent}/activity?limit=50&category=task,lifecycle");
    let is_told =
        |feed: &Value, kind: &str| feed.as_array().is_some_and(|feed| feed.iter().any(|it| it["type"] == kind));
    let events = program.until(&feed, "the hire is told", |feed| is_told(feed, "agent.hired")).await;
    let hire = events.as_array().expect("a list").iter().find(|it| it["type"] == "agent.hired").expect("there");
    assert_eq!(hire["category"], "lifecycle");
    assert!(hire["id"].is_string() && hire["summary"].is_string() && hire["timestamp"].is_string(), "{hire}");
    assert_eq!(program.get(&format!("{agent}/activity?category=chat")).await.ok(), json!([]));
    assert_eq!(program.get(&format!("{agent}/activity?since=4102444800000")).await.ok(), json!([]));
    assert_eq!(program.get(&format!("{agent}/last-error")).await.ok(), json!({}));

    let promoted = program.post(&format!("{agent}/promote"), json!({"modelTier": "haiku"})).await.ok();
    assert_eq!(promoted["modelTier"], "haiku");
    let skilled = program.post(&format!("{agent}/skills"), json!({"add": ["github", "slack"]})).await;
    let skilled = if skilled.status == 200 { skilled.ok() } else { panic!("{skilled:?}") };
    let skills = |agent: &Value| {
        agent["skills"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|it| it.as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    assert!(["github", "slack"].iter().all(|skill| skills(&skilled).contains(&(*skill).to_owned())), "{skilled}");
    let fewer = program.post(&format!("{agent}/skills"), json!({"remove": ["slack"]})).await.ok();
    assert!(!skills(&fewer).contains(&"slack".to_owned()), "{fewer}");
    let updated = program.patch(&agent, json!({"system_prompt": "Be long.", "modelTier": "sonnet"})).await.ok();
    assert_eq!(
        (&updated["systemPrompt"], &updated["modelTier"], &updated["skills"]),
        (&json!("Be long."), &json!("sonnet"), &fewer["skills"])
    );
    let fixed = program.patch(&agent, json!({"role": "leader"})).await;
    assert_eq!(fixed.refused(), (400, "INVALID_ARGUMENT".into()));

    let lifecycle = format!("{agent}/lifecycle");
    assert_eq!(program.post(&lifecycle, json!({"action": "stop"})).await.ok(), json!(null));
    program.until(&agent, "it is stopped", |agent| agent["status"]["phase"] == "Stopped").await;
    assert_eq!(program.get(&format!("{agent}/presence")).await.ok()["online"], false);
    assert_eq!(program.post(&lifecycle, json!({"action": "start"})).await.ok(), json!(null));
    program.until(&agent, "it runs again", |agent| agent["status"]["phase"] == "Running").await;
    assert_eq!(program.post(&lifecycle, json!({"action": "restart"})).await.ok(), json!(null));
    assert_eq!(program.post(&lifecycle, json!({"action": "dance"})).await.refused(), (400, "INVALID_ARGUMENT".into()));
    let before = program.until(&agent, "it runs", |agent| agent["status"]["phase"] == "Running").await;
    assert_eq!(program.post_nothing(&format!("{agent}/credentials/rotate")).await.ok(), json!(null));
    let is_new = |agent: &Value| agent["publicKey"] != before["publicKey"] && agent["publicKey"] != "";
    program.until(&agent, "it has another key", is_new).await;

    assert_eq!(program.delete(&agent).await.ok(), json!(null));
    let kept = format!("{office}/backups?employee=analyst");
    let kept =
        program.until(&kept, "there is a backup", |kept| kept.as_array().is_some_and(|kept| kept.len() == 1)).await;
    let id = office.rsplit_once('/').expect("an id").1;
    assert_eq!((&kept[0]["employee_name"], &kept[0]["office_id"]), (&json!("analyst"), &json!(id)));
    assert!(kept[0]["size_bytes"].as_i64().is_some_and(|size| size > 0), "{kept}");
    assert_eq!(program.delete(&format!("{employees}/second?force=true")).await.ok(), json!(null));
    let backup = format!("{office}/backups/{}", kept[0]["id"].as_str().expect("an id"));
    assert_eq!(program.get(&backup).await.ok(), kept[0]);
    let restored = json!({"name": "heir", "restoreFromBackup": kept[0]["id"]});
    assert_eq!(program.post(&employees, restored).await.ok()["name"], "heir");
    program.until(&format!("{employees}/heir"), "it runs", |agent| agent["status"]["phase"] == "Running").await;
    assert_eq!(program.get(&format!("{office}/backups?employee=nobody")).await.ok(), json!([]));
    assert_eq!(program.delete(&backup).await.ok(), json!(null));
    assert_eq!(program.get(&backup).await.refused(), (404, "NOT_FOUND".into()));
}

#[tokio::test]
async fn a_provider_in_that_clients_sequence_and_in_one_call() {
    let (_world, program) = start().await;
    let office = program.office("Providers").await;
    let id = office.rsplit_once('/').expect("an id").1;
    let integrations = program.get(&format!("/api/offices/{id}/integrations")).await.ok();
    assert_eq!(program.get(&format!("{office}/integrations")).await.ok(), integrations);
    let of = |list: &Value, name: &str| {
        list.as_array().expect("a list").iter().find(|it| it["id"] == name).expect("known").clone()
    };
    let codex = of(&integrations, "openai-codex");
    assert_eq!((&codex["status"], &codex["requiredSecrets"]), (&json!("pending"), &json!(["api_key"])));
    let models = format!("{office}/provider-models");
    let of_codex = |models: &Value| {
        let found = models
            .as_array()
            .expect("a list")
            .iter()
            .find(|it| it["provider"] == "openai-codex" && it["name"] == "gpt-5.5");
        found.cloned().expect("the tier can be had there")
    };
    let model = of_codex(&program.get(&models).await.ok());
    assert_eq!((&model["available"], model["model_id"].is_string()), (&json!(false), true));

    let employees = format!("{office}/employees");
    let toggle = format!("{office}/integrations/openai-codex/agents/analyst");
    let promotion = json!({"modelTier": "gpt-5.5", "provider": "openai-codex"});
    // Without a secret each step says so, for good: 400 is not waited out.
    let body = json!({"name": "analyst", "modelTier": "gpt-5.5", "provider": "openai-codex"});
    let unset = (400, "INTEGRATION_NOT_CONFIGURED".to_owned());
    assert_eq!(program.post(&employees, body).await.refused(), unset);
    let secret = format!("{office}/integrations/openai-codex/secret");
    assert_eq!(program.post(&secret, json!({"key": "sk-planted"})).await.ok(), json!(null));
    let configured = of(&program.get(&format!("{office}/integrations")).await.ok(), "openai-codex");
    assert_eq!(configured["status"], "configured");
    assert_eq!(of_codex(&program.get(&models).await.ok())["available"], true);

    program.post(&employees, json!({"name": "analyst", "modelTier": "gpt-5.5"})).await.ok();
    assert_eq!(program.post(&toggle, json!({"enabled": true})).await.ok(), json!(null));
    for _ in 0..3 {
        let promoted = program.post(&format!("{employees}/analyst/promote"), promotion.clone()).await.ok();
        assert_eq!((&promoted["modelProvider"], &promoted["modelTier"]), (&json!("openai-codex"), &json!("gpt-5.5")));
    }
    program.until(&format!("{employees}/analyst"), "it runs", |agent| agent["status"]["phase"] == "Running").await;
    let own = program.get(&format!("{employees}/analyst/integrations")).await.ok();
    assert_eq!((&of(&own["integrations"], "openai-codex")["enabled"], own["rev"].is_i64()), (&json!(true), true));
    assert_eq!(of(&program.get(&format!("{office}/integrations")).await.ok(), "openai-codex")["status"], "active");

    program.post(&format!("{office}/integrations/github/secret"), json!({"GITHUB_TOKEN": "ghp_planted"})).await.ok();
    let body = json!({
        "name": "clerk", "modelTier": "gpt-5.5", "provider": "openai-codex", "integrations": {"github": true}});
    assert_eq!(program.post(&employees, body).await.ok()["modelProvider"], "openai-codex");
    let own = program.get(&format!("{employees}/clerk/integrations")).await.ok();
    assert_eq!(of(&own["integrations"], "github")["enabled"], true);
    let off = format!("{office}/integrations/github/agents/clerk");
    assert_eq!(program.post(&off, json!({"enabled": false})).await.ok(), json!(null));
    let own = program.get(&format!("{employees}/clerk/integrations")).await.ok();
    assert_eq!(of(&own["integrations"], "github")["enabled"], false);
    assert_eq!(program.delete(&format!("{office}/integrations/github/secret")).await.ok(), json!(null));
    let after = of(&program.get(&format!("{office}/integrations")).await.ok(), "github");
    assert_eq!(after["status"], "pending");
    assert_eq!(program.delete(&format!("{office}/integrations/github/secret")).await.ok(), json!(null));
    let unknown = program.post(&format!("{office}/integrations/nope/secret"), json!({"key": "x"})).await;
    assert_eq!(unknown.refused(), (404, "NOT_FOUND".into()));
    let all = program.get(&format!("{office}/integrations")).await;
    assert!(!String::from_utf8_lossy(&all.bytes).contains("planted"), "no call answers a secret");
}
