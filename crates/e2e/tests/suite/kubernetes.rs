//! Agents in pods, from the hire to the backup: the real platform, the real client, an API server in memory, and agents that
//! really run.

mod faults;
mod kubelet;

use std::sync::Arc;

use kubelet::Kubelet;
use mi_e2e::{LIMIT, World};
use mi_kubesim::Sim;
use mi_proto::v1::{self, AgentPhase, EmployeeType};
use mi_testkit::{Arrangement, Backend, Platform, until};

const CONFIG: &str = r#"
installation = "e2e"
namespace = "mi"
service_account = "mi-scheduler"
office_role = "mi-office"
image = "mi:test"
[gateway]
namespace = "mi"
labels = { "app.kubernetes.io/component" = "gateway" }
ports = [7400]
[dns]
namespace = "kube-system"
ports = [53]
[quota]
pods = 50
cpu_millis = 64000
memory_bytes = 68719476736
disk_bytes = 68719476736
[defaults]
cpu_millis = 100
memory_bytes = 268435456
disk_bytes = 1073741824
"#;

/// A platform whose agents live in a cluster.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) sim: Arc<Sim>,
    _kubelet: Kubelet,
    files: tempfile::TempDir,
}

impl Cluster {
    async fn start(backend: Backend, driver: &str) -> Self {
        Self::arranged(backend, driver, Arrangement::OneProcess).await
    }

    pub(crate) async fn arranged(backend: Backend, driver: &str, arrangement: Arrangement) -> Self {
        let sim = Arc::new(Sim::start().await);
        let files = tempfile::tempdir().expect("made");
        let (config, kubeconfig) = (files.path().join("kubernetes.toml"), files.path().join("kubeconfig"));
        std::fs::write(&config, CONFIG).expect("written");
        std::fs::write(&kubeconfig, sim.kubeconfig()).expect("written");
        let arguments = [
            "--runtime=kubernetes".to_owned(),
            format!("--kubernetes-driver={driver}"),
            format!("--kubernetes-config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
        ];
        let builder = Platform::builder().backend(backend).arrangement(arrangement);
        let builder = arguments.into_iter().fold(builder, |it, argument| it.arg(argument));
        let kubelet = Kubelet::start(sim.clone());
        let world = World::on(builder.start().await).await;
        Self { world, sim, _kubelet: kubelet, files }
    }
}

#[tokio::test]
async fn an_agent_lives_in_a_set_on_sqlite() {
    lives(Backend::Sqlite, "statefulset").await;
}

#[tokio::test]
async fn an_agent_lives_in_a_set_on_postgres() {
    lives(Backend::Postgres, "statefulset").await;
}

#[tokio::test]
async fn an_agent_lives_in_a_sandbox() {
    lives(Backend::Sqlite, "sandbox").await;
}

async fn lives(backend: Backend, driver: &str) {
    let mut cluster = Cluster::start(backend, driver).await;
    let Cluster { world, sim, .. } = &cluster;
    let office = world.office("Cluster").await;

    // Hired, it works.
    world.hire(&office, "analyst").await.expect("hired");
    let agent = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!(agent.employee_type(), EmployeeType::Kubernetes);
    let printed = cluster.world.run(&office, "analyst", "echo kept > note; cat note").await;
    assert!(printed.contains("kept"), "{printed}");
    let namespace = format!("mi-{office}");
    let secrets = |what: &str| {
        let named = |secret: &serde_json::Value| secret["metadata"]["name"].as_str().expect("named").ends_with(what);
        sim.list("secrets", &namespace).iter().filter(|secret| named(secret)).count()
    };
    until("its token is gone", LIMIT, async || Ok::<_, String>((secrets("-enrolment") == 0).then_some(()))).await;

    // Promoted, it keeps its workspace and its key.
    world.promote(&office, "analyst", "opus").await.expect("promoted");
    let promoted = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!((promoted.model_tier.as_str(), &promoted.public_key), ("opus", &agent.public_key));
    assert!(cluster.world.run(&office, "analyst", "cat note").await.contains("kept"));
    until("what the one before had is gone", LIMIT, async || {
        Ok::<_, String>((secrets("-environment") == 1).then_some(()))
    })
    .await;

    // Its pod is deleted by hand: it comes back.
    let pods = sim.list("pods", &namespace);
    let pod = pods[0]["metadata"]["name"].as_str().expect("named");
    sim.delete("pods", &namespace, pod).expect("deleted");
    assert!(cluster.world.run(&office, "analyst", "cat note").await.contains("kept"));

    // Suspended with its office it has no pod, and keeps what it has.
    let id = v1::SuspendOfficeRequest { office_id: office.clone() };
    world.owner.offices().suspend_office(id).await.expect("suspended");
    world.settled(&office, "analyst", AgentPhase::Suspended).await;
    assert_eq!(sim.list("pods", &namespace), Vec::<serde_json::Value>::new());
    let id = v1::ResumeOfficeRequest { office_id: office.clone() };
    world.owner.offices().resume_office(id).await.expect("resumed");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    assert!(cluster.world.run(&office, "analyst", "cat note").await.contains("kept"));

    // The platform is killed and starts again, at another address: who has started nothing has the workspace saved.
    cluster.world.crash().await;
    let Cluster { world, sim, .. } = &cluster;

    // Fired, nothing of it is left but the backup, which the next one begins with.
    world.fire(&office, "analyst").await.expect("fired");
    world.gone(&office, "analyst").await;
    let left = |resource: &str| sim.list(resource, &namespace).len();
    assert_eq!(["pods", "persistentvolumeclaims", "secrets", "jobs"].map(left), [0; 4]);
    let backups = world.backups(&office).await;
    assert_eq!(backups.len(), 1);
    let again = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "again".into(),
        restore_from_backup: backups[0].id.clone(),
        ..Default::default()
    };
    world.hire_as(again).await.expect("hired");
    world.settled(&office, "again", AgentPhase::Running).await;
    assert!(cluster.world.run(&office, "again", "cat note").await.contains("kept"));

    // Deleted, the office leaves no namespace.
    let id = v1::DeleteOfficeRequest { office_id: office.clone() };
    world.owner.offices().delete_office(id).await.expect("deleted");
    until("the namespace is gone", LIMIT, async || {
        Ok::<_, String>(sim.get("namespaces", "", &namespace).is_none().then_some(()))
    })
    .await;
}
