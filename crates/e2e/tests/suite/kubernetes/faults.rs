//! What goes wrong around agents in pods: it is told of in words, nothing is lost or done twice, and it passes.

use std::{collections::HashSet, time::Instant};

use mi_e2e::{LIMIT, World};
use mi_kubesim::{Fault, Matching, Sim};
use mi_proto::v1::{self, AgentPhase, OfficeStatus};
use mi_testkit::{Backend, platform::binary, until};
use tonic::Code;

use super::Cluster;
use crate::verify::{holes, verify};

/// Waits until this is in an agent's way.
async fn troubled(world: &World, office: &str, name: &str, words: &str) {
    until(words, LIMIT, async || {
        let message = world.agent(office, name).await.map_err(|status| status.to_string())?.status.unwrap_or_default();
        if message.message.contains(words) { Ok(Some(())) } else { Err(format!("{message:?}")) }
    })
    .await;
}

#[tokio::test]
async fn rights_that_are_revoked_keep_nobody_from_working_and_may_come_back() {
    let cluster = Cluster::start(Backend::Postgres, "statefulset").await;
    let Cluster { world, sim, .. } = &cluster;
    let office = world.office("Revoked").await;
    world.hire(&office, "analyst").await.expect("hired");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    let revoked = sim.fault(Matching::all(), Fault::Forbid);
    sim.break_watches(&Matching::all());
    sim.forget_requests();
    let since = Instant::now();
    world.hire(&office, "late").await.expect("hired");
    troubled(world, &office, "late", "the cluster does not allow the platform to do that").await;
    assert!(cluster.world.run(&office, "analyst", "echo works").await.contains("works"));
    until("it is tried again", LIMIT, async || {
        let tried = sim.requests_of(&Matching::all().writes().resource("serviceaccounts")).len();
        if tried >= 3 { Ok(Some(())) } else { Err(tried.to_string()) }
    })
    .await;
    // Three writes for each try, later each time, and five watches.
    let (asked, seconds) = (sim.requests().len(), since.elapsed().as_secs());
    assert!(asked <= 40 + 10 * usize::try_from(seconds).expect("few"), "{asked} requests in {seconds} s");

    sim.heal(revoked);
    world.settled(&office, "late", AgentPhase::Running).await;
    // It is up before the platform has seen its pod.
    until("what was wrong is forgotten", LIMIT, async || {
        let late = world.agent(&office, "late").await.map_err(|status| status.to_string())?;
        let message = late.status.unwrap_or_default().message;
        if message.is_empty() { Ok(Some(())) } else { Err(message) }
    })
    .await;
    assert_eq!(world.count(&office, "analyst", "agent.restarted").await, 0);
    assert_eq!(sim.list("pods", &format!("mi-{office}")).len(), 2);
}

#[tokio::test]
async fn an_office_that_is_deleted_while_the_api_server_is_down_goes_once_it_is_back() {
    let cluster = Cluster::start(Backend::Sqlite, "statefulset").await;
    let Cluster { world, sim, .. } = &cluster;
    let office = world.office("Leaving").await;
    let namespace = format!("mi-{office}");
    world.hire(&office, "analyst").await.expect("hired");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    let down = sim.go_down();
    let request = v1::DeleteOfficeRequest { office_id: office.clone() };
    world.owner.offices().delete_office(request).await.expect("begun");
    troubled(world, &office, "analyst", "the cluster cannot be reached").await;
    assert_eq!(world.get_office(&office).await.expect("there").status(), OfficeStatus::Deleting);
    assert_eq!((sim.list("pods", &namespace).len(), sim.get("namespaces", "", &namespace).is_some()), (1, true));
    sim.heal(down);
    until("the office is gone", LIMIT, async || match world.get_office(&office).await {
        Err(status) if status.code() == Code::NotFound => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await;
    until("its namespace is gone", LIMIT, async || {
        Ok::<_, String>(sim.get("namespaces", "", &namespace).is_none().then_some(()))
    })
    .await;
    let left = ["pods", "persistentvolumeclaims", "secrets"].map(|resource| sim.list(resource, &namespace).len());
    assert_eq!(left, [0; 3]);
}

#[tokio::test]
async fn pods_that_are_deleted_by_hand_during_a_promotion_disturb_it_not() {
    let cluster = Cluster::start(Backend::Sqlite, "statefulset").await;
    let Cluster { world, sim, .. } = &cluster;
    let office = world.office("Promoted").await;
    let namespace = format!("mi-{office}");
    world.hire(&office, "analyst").await.expect("hired");
    let before = world.settled(&office, "analyst", AgentPhase::Running).await;
    cluster.world.run(&office, "analyst", "echo kept > note").await;
    world.promote(&office, "analyst", "opus").await.expect("promoted");
    let mut deleted = HashSet::new();
    until("three pods were deleted", LIMIT, async || {
        for pod in sim.list("pods", &namespace) {
            if deleted.insert(pod["metadata"]["uid"].to_string()) {
                let _ = sim.delete("pods", &namespace, pod["metadata"]["name"].as_str().expect("named"));
            }
        }
        if deleted.len() >= 3 { Ok(Some(())) } else { Err(deleted.len().to_string()) }
    })
    .await;
    let after = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!((after.model_tier.as_str(), &after.public_key), ("opus", &before.public_key));
    assert!(cluster.world.run(&office, "analyst", "cat note").await.contains("kept"));
    let left = ["pods", "statefulsets", "persistentvolumeclaims"].map(|resource| sim.list(resource, &namespace).len());
    assert_eq!(left, [1; 3]);
    assert_eq!(world.count(&office, "analyst", "agent.crashed").await, 0);
}

#[tokio::test]
async fn a_second_cluster_is_refused_and_nothing_is_changed_by_it() {
    let mut cluster = Cluster::start(Backend::Sqlite, "statefulset").await;
    let office = cluster.world.office("Settled").await;
    cluster.world.hire(&office, "analyst").await.expect("hired");
    let before = cluster.world.settled(&office, "analyst", AgentPhase::Running).await;
    let pods = |sim: &Sim| sim.list("pods", "").iter().map(|pod| pod["metadata"]["uid"].clone()).collect::<Vec<_>>();
    let ran = pods(&cluster.sim);
    cluster.world.platform.kill9();
    let other = Sim::start().await;
    let kubeconfig = cluster.files.path().join("other");
    std::fs::write(&kubeconfig, other.kubeconfig()).expect("written");
    let mut command = tokio::process::Command::new(binary());
    command.args(["up", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--runtime=kubernetes"]);
    command.arg("--data-dir").arg(cluster.world.platform.data_dir());
    command.arg("--kubernetes-config").arg(cluster.files.path().join("kubernetes.toml"));
    command.arg("--kubeconfig").arg(&kubeconfig).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("ends by itself").expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("this database belongs to an installation in the cluster"),
        "{said}"
    );
    let asked: Vec<String> =
        other.requests().iter().map(|it| format!("{} {} {}", it.verb, it.resource, it.name)).collect();
    assert!(asked.iter().all(|it| it == "get namespaces kube-system"), "{asked:?}");

    // Where it belongs nothing has happened.
    cluster.world.crash().await;
    let after = cluster.world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!((after.id, after.public_key, after.generation), (before.id, before.public_key, before.generation));
    assert_eq!((pods(&cluster.sim), pods(&other)), (ran, vec![]));
}

/// The pods of these tests are processes of this machine, so that much of what is tried works; where a pod is another thing
/// than a process, other things are tried.
#[tokio::test]
async fn a_pod_is_tried_for_what_a_pod_must_not_do() {
    let cluster = Cluster::start(Backend::Sqlite, "statefulset").await;
    let office = cluster.world.office("Tried").await;
    let (code, checks) = verify(&cluster.world, &office).await;
    let server = cluster.sim.address();
    let of = |layer: &str, probe: &str| {
        let probe = format!("{probe} from inside an agent");
        let found: Vec<&str> =
            checks.iter().filter(|check| check[0] == layer && check[1] == probe).map(|check| &*check[2]).collect();
        found
    };
    for (layer, probe, state) in [
        // It is reached, since nobody enforces policies here.
        ("network", &*format!("connect to {server}"), "HOLE"),
        ("network", "connect to 127.0.0.1:1", "HOLDS"),
        ("network", "open sockets", "ABSENT"),
        ("network", "reach the Internet and other agents", "ABSENT"),
        ("files", "read files of the platform and of others", "ABSENT"),
        ("files", "read /var/run/secrets/kubernetes.io/serviceaccount/token", "HOLDS"),
        ("identity", "use an enrolment token twice", "HOLDS"),
    ] {
        assert_eq!(of(layer, probe), [format!("ISOLATION_STATE_{state}")], "{probe}: {checks:?}");
    }
    for probe in ["listen on a TCP port", "open a UDP socket"] {
        assert_eq!(of("network", probe), [""; 0], "{probe}");
    }
    assert_eq!(code, 1);
    assert!(
        holes(&checks).iter().all(|layer| ["files", "network", "privileges", "processes"].contains(layer)),
        "{checks:?}"
    );
}
