//! How pods fare, as a test says.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Node, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, EvictParams, LogParams, Patch, PatchParams},
};
use mi_kubesim::{Conduct, Pods, Setup, Sim};
use serde_json::{Value, json};

use crate::{api, cluster, cluster_with, condition, create, is_ready, refusal};

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}], "automountServiceAccountToken": false},
    })
}

fn get(sim: &Sim, name: &str) -> Value {
    sim.get("pods", "office", name).expect("it is there")
}

async fn running(sim: &Sim, name: &str) -> Value {
    sim.until("it runs", |sim| sim.get("pods", "office", name).filter(is_ready)).await
}

/// The one container of a pod, as its status shows it.
fn container(pod: &Value) -> Value {
    pod["status"]["containerStatuses"][0].clone()
}

#[tokio::test]
async fn a_pod_gets_a_node_and_runs() {
    let (sim, client) = cluster().await;
    create(&api::<Pod>(&client), pod("a")).await;
    let pod = running(&sim, "a").await;
    assert_eq!((&pod["spec"]["nodeName"], &pod["status"]["qosClass"]), (&json!("node-1"), &json!("BestEffort")));
    let ready = json!({"type": "Ready", "status": "True"});
    assert_eq!(condition(&pod, "Ready"), ready);
    assert_eq!(condition(&pod, "PodScheduled"), json!({"type": "PodScheduled", "status": "True"}));
    assert_eq!((container(&pod)["restartCount"].clone(), pod["spec"].get("volumes")), (json!(0), None));
}

#[tokio::test]
async fn a_token_is_mounted_unless_somebody_says_no() {
    let (sim, client) = cluster().await;
    let mut with = pod("a");
    with["spec"]["automountServiceAccountToken"] = true.into();
    create(&api::<Pod>(&client), with).await;
    let mounts = get(&sim, "a")["spec"]["containers"][0]["volumeMounts"].clone();
    assert_eq!(mounts[0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    let mut stranger = pod("b");
    stranger["spec"]["serviceAccountName"] = "nobody".into();
    let refused = sim.create("pods", "office", stranger).expect_err("refused");
    let message =
        "pods \"b\" is forbidden: error looking up service account office/nobody: serviceaccount \"nobody\" not found";
    assert_eq!(refused["message"], message);
}

#[tokio::test]
async fn images_that_cannot_be_had_and_their_recovery() {
    let (sim, _client) = cluster().await;
    let bad = Pods::all().image("bad:1");
    sim.conduct(bad.clone(), Conduct::ImagePullBackOff("Back-off pulling image \"bad:1\"".to_owned()));
    let mut value = pod("a");
    value["spec"]["containers"][0]["image"] = "bad:1".into();
    sim.create("pods", "office", value).expect("created");
    sim.create("pods", "office", pod("well")).expect("created");
    sim.settled().await;
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"bad:1\""}});
    let a = get(&sim, "a");
    assert_eq!((&a["status"]["phase"], container(&a)["state"].clone()), (&json!("Pending"), waiting));
    running(&sim, "well").await;
    sim.conduct(bad, Conduct::Run);
    running(&sim, "a").await;
}

#[tokio::test]
async fn containers_that_end_again_and_again() {
    let (sim, client) = cluster().await;
    sim.create("pods", "office", pod("a")).expect("created");
    running(&sim, "a").await;
    sim.conduct(Pods::all().name("a"), Conduct::OutOfMemory { restarts: 3 });
    sim.settled().await;
    let found = get(&sim, "a");
    let status = container(&found);
    assert_eq!((&found["status"]["phase"], &status["restartCount"]), (&json!("Running"), &json!(3)));
    assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff");
    let last = &status["lastState"]["terminated"];
    assert_eq!((&last["reason"], &last["exitCode"]), (&json!("OOMKilled"), &json!(137)));
    let unready = json!({
        "type": "Ready", "status": "False", "reason": "ContainersNotReady",
        "message": "containers with unready status: [c]",
    });
    assert_eq!(condition(&found, "Ready"), unready);
    sim.set_log("office", "a", "c", "now\n", "one\ntwo\n");
    let previous = LogParams { previous: true, tail_lines: Some(1), ..LogParams::default() };
    assert_eq!(api::<Pod>(&client).logs("a", &previous).await.expect("a log"), "two\n");
    sim.conduct(Pods::all().name("a"), Conduct::Run);
    let well = running(&sim, "a").await;
    assert_eq!(container(&well)["restartCount"], 3);
    assert_eq!(api::<Pod>(&client).logs("a", &LogParams::default()).await.expect("a log"), "now\n");
}

#[tokio::test]
async fn a_log_needs_a_container_that_started() {
    let (sim, client) = cluster().await;
    sim.conduct(Pods::all(), Conduct::Create);
    sim.create("pods", "office", pod("a")).expect("created");
    sim.settled().await;
    let refused = api::<Pod>(&client).logs("a", &LogParams::default()).await;
    let message = "container \"c\" in pod \"a\" is waiting to start: ContainerCreating".to_owned();
    assert_eq!(refusal(refused), (400, "BadRequest".to_owned(), message));
}

#[tokio::test]
async fn a_pod_that_is_thrown_out_has_failed() {
    let (sim, _client) = cluster().await;
    sim.create("pods", "office", pod("a")).expect("created");
    running(&sim, "a").await;
    sim.conduct(Pods::all(), Conduct::Evict("The node was low on resource: memory.".to_owned()));
    sim.settled().await;
    let status = get(&sim, "a")["status"].clone();
    let found = (&status["phase"], &status["reason"], &status["message"]);
    assert_eq!(found, (&json!("Failed"), &json!("Evicted"), &json!("The node was low on resource: memory.")));
}

#[tokio::test]
async fn nodes_that_take_nobody_are_named() {
    let (sim, client) = cluster_with(Setup { nodes: 2, ..Setup::default() }).await;
    let nodes = Api::<Node>::all(client.clone());
    nodes.cordon("node-1").await.expect("cordoned");
    sim.lose_node("node-2");
    sim.create("pods", "office", pod("a")).expect("created");
    sim.settled().await;
    let message = "0/2 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }, 1 node(s) \
        were unschedulable. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    let expected = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
    assert_eq!(condition(&get(&sim, "a"), "PodScheduled"), expected);
    nodes.uncordon("node-1").await.expect("uncordoned");
    assert_eq!(running(&sim, "a").await["spec"]["nodeName"], "node-1");
}

#[tokio::test]
async fn pods_of_a_lost_node_do_not_end() {
    let (sim, client) = cluster().await;
    sim.create("pods", "office", pod("a")).expect("created");
    running(&sim, "a").await;
    sim.lose_node("node-1");
    sim.settled().await;
    let node = sim.get("nodes", "", "node-1").expect("it is known");
    assert_eq!(condition(&node, "Ready")["reason"], "NodeStatusUnknown");
    assert_eq!(condition(&get(&sim, "a"), "Ready"), json!({"type": "Ready", "status": "False"}));
    sim.delete("pods", "office", "a").expect("marked");
    sim.settled().await;
    assert_ne!(get(&sim, "a")["metadata"]["deletionTimestamp"], Value::Null);
    let nodes = Api::<Node>::all(client);
    nodes.delete("node-1", &Default::default()).await.expect("deleted");
    sim.settled().await;
    assert_eq!(sim.get("pods", "office", "a"), None, "who removes a node says that its pods are gone");
}

#[tokio::test]
async fn a_lost_node_may_return() {
    let (sim, _client) = cluster().await;
    sim.create("pods", "office", pod("a")).expect("created");
    running(&sim, "a").await;
    sim.lose_node("node-1");
    sim.settled().await;
    sim.return_node("node-1");
    running(&sim, "a").await;
    sim.lose_node("node-1");
    sim.evict_from("node-1");
    sim.settled().await;
    assert_ne!(get(&sim, "a")["metadata"]["deletionTimestamp"], Value::Null);
    sim.return_node("node-1");
    sim.settled().await;
    assert_eq!(sim.get("pods", "office", "a"), None, "the node heard of it at last");
    assert_eq!(sim.get("nodes", "", "node-1").expect("it is known")["spec"]["taints"], json!([]));
}

#[tokio::test]
async fn a_disruption_budget_holds_back_evictions() {
    let (sim, client) = cluster().await;
    for name in ["a", "b"] {
        let mut pod = pod(name);
        pod["metadata"]["labels"] = json!({"app": "web"});
        sim.create("pods", "office", pod).expect("created");
        running(&sim, name).await;
    }
    let budget = json!({
        "metadata": {"name": "budget"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    });
    sim.create("poddisruptionbudgets", "office", budget).expect("created");
    sim.settled().await;
    let pods = api::<Pod>(&client);
    pods.evict("a", &EvictParams::default()).await.expect("one may go");
    let refused = pods.evict("b", &EvictParams::default()).await;
    let message = "Cannot evict pod as it would violate the pod's disruption budget.".to_owned();
    assert_eq!(refusal(refused), (429, "TooManyRequests".to_owned(), message));
    sim.settled().await;
    assert_eq!(sim.get("pods", "office", "a"), None);
}

#[tokio::test]
async fn what_a_pod_needs_is_waited_for() {
    let (sim, _client) = cluster().await;
    let mut with_volume = pod("volume");
    with_volume["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    let mut with_variable = pod("variable");
    with_variable["spec"]["containers"][0]["env"] =
        json!([{"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "t"}}}]);
    sim.create("pods", "office", with_volume).expect("created");
    sim.create("pods", "office", with_variable).expect("created");
    sim.settled().await;
    assert_eq!(container(&get(&sim, "volume"))["state"], json!({"waiting": {"reason": "ContainerCreating"}}));
    let config = json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"s\" not found"}});
    assert_eq!(container(&get(&sim, "variable"))["state"], config);
    let events: Vec<Value> =
        sim.list("events", "office").into_iter().filter(|event| event["reason"] == "FailedMount").collect();
    assert_eq!(events[0]["message"], "MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found");
    sim.create("secrets", "office", json!({"metadata": {"name": "s"}})).expect("created");
    running(&sim, "volume").await;
    running(&sim, "variable").await;
}

#[tokio::test]
async fn a_job_tries_until_it_succeeds_or_gives_up() {
    let (sim, client) = cluster().await;
    let jobs = api::<Job>(&client);
    let job = |name: &str| {
        json!({
            "metadata": {"name": name},
            "spec": {
                "backoffLimit": 1,
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]},
                },
            },
        })
    };
    sim.conduct(Pods::all().label("app", "bad"), Conduct::Finish(3));
    create(&jobs, job("good")).await;
    create(&jobs, job("bad")).await;
    sim.settled().await;
    let good = sim.get("jobs", "office", "good").expect("it is there");
    assert_eq!((&good["status"]["succeeded"], &condition(&good, "Complete")["status"]), (&json!(1), &json!("True")));
    let bad = sim.get("jobs", "office", "bad").expect("it is there");
    assert_eq!(
        (&bad["status"]["failed"], &condition(&bad, "Failed")["reason"]),
        (&json!(2), &json!("BackoffLimitExceeded"))
    );
}

#[tokio::test]
async fn a_suspended_job_has_no_pods() {
    let (sim, client) = cluster().await;
    sim.conduct(Pods::all(), Conduct::Create);
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]});
    let job = json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": spec}}});
    let jobs = api::<Job>(&client);
    create(&jobs, job).await;
    sim.settled().await;
    assert_eq!(sim.list("pods", "office").len(), 1);
    for (suspend, pods, reason) in [(true, 0, "JobSuspended"), (false, 1, "JobResumed")] {
        let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
        jobs.patch("a", &PatchParams::default(), &patch).await.expect("patched");
        sim.settled().await;
        assert_eq!(sim.list("pods", "office").len(), pods);
        let job = sim.get("jobs", "office", "a").expect("it is there");
        assert_eq!(condition(&job, "Suspended")["reason"], reason);
    }
}

#[tokio::test]
async fn what_once_ran_is_not_pending_again() {
    let (sim, _client) = cluster().await;
    sim.create("pods", "office", pod("a")).expect("created");
    running(&sim, "a").await;
    sim.conduct(Pods::all(), Conduct::ImagePullBackOff("it was removed".to_owned()));
    sim.settled().await;
    let found = get(&sim, "a");
    assert_eq!(
        (&found["status"]["phase"], &condition(&found, "Ready")["status"]),
        (&json!("Running"), &json!("False"))
    );
}

#[tokio::test]
async fn a_shorter_grace_counts_and_a_longer_one_does_not() {
    let (sim, client) = cluster().await;
    sim.conduct(Pods::all(), Conduct::Linger);
    sim.create("pods", "office", pod("a")).expect("created");
    running(&sim, "a").await;
    let pods = api::<Pod>(&client);
    for (grace, expected) in [(20, 20), (40, 20), (5, 5)] {
        pods.delete("a", &DeleteParams::default().grace_period(grace)).await.expect("marked");
        assert_eq!(get(&sim, "a")["metadata"]["deletionGracePeriodSeconds"], expected);
    }
}
