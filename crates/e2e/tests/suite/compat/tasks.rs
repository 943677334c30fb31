//! Tasks: made, claimed, reported, judged.

use mi_proto::v1;
use serde_json::{Value, json};

use super::{Program, start};

fn id(task: &Value) -> &str {
    task["id"].as_str().expect("a text")
}

#[tokio::test]
async fn a_task_from_its_creation_to_its_end() {
    let (_world, program) = start().await;
    let office = program.office("Work").await;
    let tasks = format!("{office}/tasks");
    assert_eq!(program.get(&tasks).await.ok(), json!([]));
    let claim = json!({"agent": "analyst", "kind": ""});
    let nothing = program.post(&format!("{tasks}/claim"), claim.clone()).await;
    assert_eq!((nothing.status, nothing.ok()), (204, json!(null)));

    let first = json!({"title": "Research", "description": "All of it", "kind": "research", "priority": 10, "requestedBy": "me"});
    let first = program.post(&tasks, first).await.ok();
    let told = ["title", "kind", "status", "dependsOn"].map(|name| first[name].clone());
    assert_eq!(told, ["Research", "research", "queued", ""].map(Value::from));
    let second = program.post(&tasks, json!({"title": "Think"})).await.ok();
    let depends = format!("{},{}", id(&first), id(&second));
    let third = json!({"title": "Write", "dependsOn": depends, "assigned_agent": ""});
    let third = program.post(&tasks, third).await.ok();
    assert_eq!((&third["status"], &third["depends_on"]), (&json!("blocked"), &json!(depends)));
    let list = json!({"title": "Write too", "depends_on": [id(&first)], "parentId": id(&third)});
    let child = program.post(&tasks, list).await.ok();
    assert_eq!((&child["dependsOn"], &child["parent_id"]), (&first["id"], &third["id"]));

    let titles = |list: Value| {
        let mut titles: Vec<String> =
            list.as_array().expect("a list").iter().map(|it| it["title"].as_str().expect("text").to_owned()).collect();
        titles.sort();
        titles
    };
    let all = program.get(&format!("{tasks}?limit=200")).await;
    assert_eq!((titles(all.ok()).len(), all.header("x-total-count")), (4, Some("4")));
    assert_eq!(titles(program.get(&format!("{tasks}?status=queued,done")).await.ok()), ["Research", "Think"]);
    assert_eq!(titles(program.get(&format!("{tasks}?status=pending")).await.ok()), ["Write", "Write too"]);
    assert_eq!(program.get(&format!("{tasks}?status=odd")).await.refused(), (400, "INVALID_ARGUMENT".into()));
    let page = program.get(&format!("{tasks}?limit=2&offset=3")).await;
    assert_eq!((page.ok().as_array().map(Vec::len), page.header("x-total-count")), (Some(1), Some("4")));

    let claimed = program.post(&format!("{tasks}/claim"), claim).await.ok();
    assert_eq!((&claimed["id"], &claimed["status"]), (&first["id"], &json!("running")));
    let path = format!("{tasks}/{}", id(&first));
    let said = program.post(&format!("{path}/log"), json!({"message": "half done", "event": "progress"})).await;
    assert_eq!(said.ok(), json!(null));
    let said = program.post(&format!("{path}/comments"), json!({"agent": "analyst", "message": "Looks good"})).await;
    assert_eq!(said.ok(), json!(null));
    assert_eq!(program.upload(&format!("{office}/files"), "report.md", b"# Report").await.ok(), json!(null));
    let artifact = json!({"kind": "file", "path": "report.md", "label": "Report"});
    let added = program.post(&format!("{path}/artifacts"), artifact).await.ok();
    assert_eq!(
        (&added["kind"], &added["path"], &added["label"]),
        (&json!("file"), &json!("report.md"), &json!("Report"))
    );
    let link = json!({"kind": "url", "path": "https://example.com", "label": ""});
    program.post(&format!("{path}/artifacts"), link).await.ok();
    let listed = program.get(&format!("{path}/artifacts")).await.ok();
    assert_eq!((&listed[0], listed.as_array().map(Vec::len)), (&added, Some(2)));

    let blank = program.patch(&path, json!({"status": "done", "result": " "})).await;
    assert_eq!(blank.refused(), (400, "INVALID_ARGUMENT".into()));
    let done = program.patch(&path, json!({"status": "done", "result": "42"})).await.ok();
    assert_eq!(
        (&done["status"], &done["result"], &done["resultSummary"]),
        (&json!("done"), &json!("42"), &json!("42"))
    );
    assert!(done["completed_at"].is_string(), "{done}");
    let detail = program.get(&path).await.ok();
    assert_eq!(detail["task"], done);
    assert_eq!((&detail["logs"][0]["message"], &detail["logs"][0]["event"]), (&json!("half done"), &json!("progress")));
    assert_eq!(
        (&detail["comments"][0]["message"], &detail["comments"][0]["agent"]),
        (&json!("Looks good"), &json!("operator"))
    );
    assert_eq!((&detail["subtasks"], detail["artifacts"].as_array().map(Vec::len)), (&json!([]), Some(2)));
    let detail = program.get(&format!("{tasks}/{}", id(&third))).await.ok();
    assert_eq!(detail["subtasks"][0]["id"], child["id"]);
    let below = program.get(&format!("{tasks}/{}/subtasks", id(&third))).await.ok();
    assert_eq!((&below[0]["id"], below.as_array().map(Vec::len)), (&child["id"], Some(1)));

    let path = format!("{tasks}/{}", id(&second));
    let failed = program.patch(&path, json!({"status": "failed", "error": "too hard"})).await.ok();
    assert_eq!((&failed["status"], &failed["error"]), (&json!("failed"), &json!("too hard")));
    let stats = program.get(&format!("{tasks}/stats")).await.ok();
    let told =
        ["total", "queued", "running", "completed", "failed", "pending", "claimed"].map(|name| stats[name].clone());
    assert_eq!(told, [4, 1, 0, 1, 1, 1, 0].map(Value::from));
    let retried = program.post(&format!("{path}/retry"), json!({"reason": "once more"})).await.ok();
    assert_eq!(retried["status"], "queued");
    let twice = program.post_nothing(&format!("{path}/retry")).await;
    assert_eq!(twice.refused().0, 409);
    assert_eq!(program.get(&path).await.ok()["logs"][0]["event"], "retry");
    let moved = program.patch(&path, json!({"assignedAgent": "nobody"})).await;
    assert_eq!(moved.refused(), (404, "NOT_FOUND".into()));
    program.agent(&office, "bob").await;
    let moved =
        program.patch(&path, json!({"assigned_agent": "bob", "status": "failed", "error": "not now"})).await.ok();
    assert_eq!((&moved["assignedAgent"], &moved["status"]), (&json!("bob"), &json!("failed")));
    let moved = program.post(&format!("{path}/retry"), json!({"assignedAgent": ""})).await.ok();
    assert_eq!((&moved["assignedAgent"], &moved["status"]), (&json!(""), &json!("queued")));
    let other = json!({"updatedDescription": "Something else"});
    assert_eq!(program.post(&format!("{path}/retry"), other).await.refused(), (501, "UNIMPLEMENTED".into()));
    let renamed = program.patch(&path, json!({"title": "Think again"})).await;
    assert_eq!(renamed.refused(), (501, "UNIMPLEMENTED".into()));
    assert_eq!(program.patch(&path, json!({"title": "Think"})).await.ok(), now(&program, &path).await);
    let called_off = program.patch(&path, json!({"status": "cancelled"})).await.ok();
    assert_eq!(called_off["status"], "cancelled");
}

/// The task as it is.
async fn now(program: &Program, path: &str) -> Value {
    program.get(path).await.ok()["task"].clone()
}

#[tokio::test]
async fn work_is_judged_by_somebody_else() {
    let (world, program) = start().await;
    let office = program.office("Checked").await;
    program.patch(&format!("{office}/settings"), json!({"verification": "peer"})).await.ok();
    let tasks = format!("{office}/tasks");
    let office_id = office.rsplit_once('/').expect("an id").1.to_owned();
    let request = v1::CreateTaskRequest {
        office_id,
        title: "Judge me".into(),
        verification_required: true,
        ..Default::default()
    };
    let made = world.admin.tasks().create_task(request).await.expect("made").into_inner().task.expect("answered");
    program.post(&format!("{tasks}/claim"), json!({"agent": "", "kind": "general"})).await.ok();
    let path = format!("{tasks}/{}", made.id);
    let waiting = program.patch(&path, json!({"status": "done", "result": "first"})).await.ok();
    assert_eq!(waiting["status"], "running", "what is verified is shown as running");
    let running = program.get(&format!("{tasks}?status=running")).await.ok();
    assert_eq!(running[0]["id"], *made.id);
    let verify = format!("{path}/verify");
    assert_eq!(program.post(&verify, json!({"accepted": true})).await.refused(), (403, "PERMISSION_DENIED".into()));
    let admin = Program::with(&world, world.platform.admin_key());
    assert_eq!(admin.post(&verify, json!({})).await.refused(), (400, "INVALID_ARGUMENT".into()));
    let rejection = json!({"accepted": false, "reviewer": "admin", "comments": "again"});
    assert_eq!(admin.post(&verify, rejection).await.ok(), json!(null));
    assert_eq!(program.get(&path).await.ok()["task"]["status"], "queued");
    program.post_nothing(&format!("{tasks}/claim")).await.ok();
    program.patch(&path, json!({"status": "done", "result": "second"})).await.ok();
    assert_eq!(admin.post(&verify, json!({"accepted": true})).await.ok(), json!(null));
    let task = program.get(&path).await.ok()["task"].clone();
    assert_eq!((&task["status"], &task["result"]), (&json!("done"), &json!("second")));
}
