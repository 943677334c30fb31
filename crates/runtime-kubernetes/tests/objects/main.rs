//! The objects of an office and of an agent, as they are and as an API server takes them.

use std::collections::BTreeMap;

use k8s_openapi::{Metadata, NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Config,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use mi_kernel::{AgentId, InstanceId, OfficeId, secret::Secret};
use mi_kubesim::{Conduct, Pods, Sim};
use mi_runtime::{Launch, Limits, Place};
use mi_runtime_kubernetes::{
    AgentObjects, Destination, Driver, INSTANCE_ID, MANAGER, OfficeObjects, Quota, SANDBOX_KIND, Settings, Share,
    agent, agent_name, namespace_name, office, sandbox, token_name,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use uuid::Uuid;

const GIB: u64 = 1 << 30;

fn office_id() -> OfficeId {
    OfficeId(Uuid::from_u128(1))
}

fn agent_id() -> AgentId {
    AgentId(Uuid::from_u128(2))
}

fn settings() -> Settings {
    let map = |entries: &[(&str, &str)]| -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let share = |cpu_millis, gib| Share {
        cpu_millis: Some(cpu_millis),
        memory_bytes: Some(gib * GIB),
        disk_bytes: Some(10 * gib * GIB),
    };
    Settings {
        instance: "mi".to_owned(),
        installation: "one".to_owned(),
        driver: Driver::StatefulSet,
        namespace: "mi-system".to_owned(),
        service_account: "mi-scheduler".to_owned(),
        cluster_role: "mi-office".to_owned(),
        image: "registry.example.com/mi:1.0".to_owned(),
        gateway: Destination {
            namespace: Some("mi-system".to_owned()),
            labels: map(&[("app", "mi-gateway")]),
            blocks: vec!["10.96.1.1/32".to_owned()],
            ports: vec![8443],
        },
        dns: Destination {
            namespace: Some("kube-system".to_owned()),
            labels: map(&[("k8s-app", "kube-dns")]),
            blocks: vec!["10.96.0.10/32".to_owned(), "169.254.20.10/32".to_owned()],
            ports: vec![53],
        },
        quota: Quota { pods: 10, cpu_millis: 16_000, memory_bytes: 32 * GIB, disk_bytes: 100 * GIB },
        defaults: share(500, 1),
        most: share(4000, 8),
        runtime_class: None,
        storage_class: None,
        node_selector: BTreeMap::new(),
        user_id: 10_001,
        grace_seconds: 30,
    }
}

fn launch(instance: u128) -> Launch {
    let env = [
        ("MI_AGENT_ID", agent_id().to_string()),
        ("MI_ENROL_TOKEN", "mi_enrol_x".to_owned()),
        ("API_KEY", "of the office".to_owned()),
    ];
    Launch {
        place: Place { office_id: office_id(), agent_id: agent_id() },
        name: "Ada; rm -rf /".to_owned(),
        instance: InstanceId(Uuid::from_u128(instance)),
        env: env.map(|(name, value)| (name.to_owned(), value)).into(),
        limits: Limits { cpu_millis: Some(1000), ..Limits::default() },
    }
}

fn token() -> Secret {
    Secret::new("mi_enrol_x")
}

fn pretty(objects: &[Value]) -> String {
    objects.iter().map(|object| serde_json::to_string_pretty(object).expect("JSON")).collect::<Vec<_>>().join("\n")
}

fn json_of(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("JSON")
}

#[test]
fn an_office_is_a_namespace_with_walls() {
    let OfficeObjects { namespace, binding, deny, allow, quota, limits } = office(&settings(), office_id());
    let objects =
        [json_of(&namespace), json_of(&binding), json_of(&deny), json_of(&allow), json_of(&quota), json_of(&limits)];
    insta::assert_snapshot!("office", pretty(&objects));
}

#[test]
fn an_agent_is_a_set_of_one_pod() {
    let AgentObjects { account, token, environment, set } = agent(&settings(), &launch(3), &token());
    let objects = [json_of(&account), json_of(&token), json_of(&environment), json_of(&set)];
    let text = pretty(&objects);
    let told = text.replace(r#""mi/agent-name": "Ada; rm -rf /""#, "");
    assert!(!told.contains("Ada"), "nothing of a user's text is in names or labels");
    insta::assert_snapshot!("agent", text);
}

#[test]
fn a_sandbox_has_the_pod_and_the_claim_of_a_set() {
    let objects = sandbox(&settings(), &launch(3), &token(), false);
    let set = json_of(&agent(&settings(), &launch(3), &token()).set);
    let spec = &objects.sandbox["spec"];
    assert_eq!(spec["podTemplate"], set["spec"]["template"]);
    let claim = &set["spec"]["volumeClaimTemplates"][0];
    let expected = json!([{"metadata": claim["metadata"], "spec": claim["spec"]}]);
    assert_eq!((&spec["volumeClaimTemplates"], &spec["operatingMode"]), (&expected, &json!("Running")));
    assert_eq!(objects.sandbox["metadata"], set["metadata"]);
}

#[test]
fn what_the_operator_chose_is_in_the_pod() {
    let settings = Settings {
        runtime_class: Some("gvisor".to_owned()),
        storage_class: Some("fast".to_owned()),
        node_selector: [("pool".to_owned(), "agents".to_owned())].into(),
        ..settings()
    };
    let limits = Limits { memory_bytes: Some(2 * GIB), disk_bytes: Some(5 * GIB), ..Limits::default() };
    let set = json_of(&agent(&settings, &Launch { limits, ..launch(3) }, &token()).set);
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!((&pod["runtimeClassName"], &pod["nodeSelector"]), (&json!("gvisor"), &json!({"pool": "agents"})));
    let bounds = json!({"cpu": "500m", "memory": (2 * GIB).to_string()});
    assert_eq!(pod["containers"][0]["resources"], json!({"limits": bounds, "requests": bounds}));
    let claim = &set["spec"]["volumeClaimTemplates"][0]["spec"];
    let storage = json!({"requests": {"storage": (5 * GIB).to_string()}});
    assert_eq!((&claim["storageClassName"], &claim["resources"]), (&json!("fast"), &storage));
}

async fn cluster() -> (Sim, Client) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sim = Sim::start().await;
    let client = Client::try_from(Config::new(sim.url().parse().expect("a URL"))).expect("a client");
    (sim, client)
}

async fn apply<K>(client: &Client, object: &K)
where
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned + Metadata<Ty = ObjectMeta>,
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let (name, namespace) = (object.meta().name.clone(), object.meta().namespace.clone());
    let api = Api::<K>::namespaced(client.clone(), &namespace.expect("a namespace"));
    let patch = Patch::Apply(object);
    api.patch(&name.expect("a name"), &PatchParams::apply(MANAGER), &patch).await.expect("applied");
}

async fn apply_office(client: &Client) {
    let objects = office(&settings(), office_id());
    let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone());
    let patch = Patch::Apply(&objects.namespace);
    namespaces.patch(&namespace_name(office_id()), &PatchParams::apply(MANAGER), &patch).await.expect("applied");
    apply(client, &objects.binding).await;
    apply(client, &objects.deny).await;
    apply(client, &objects.allow).await;
    apply(client, &objects.quota).await;
    apply(client, &objects.limits).await;
}

async fn apply_agent(client: &Client, instance: u128) {
    let objects = agent(&settings(), &launch(instance), &token());
    apply(client, &objects.account).await;
    apply(client, &objects.token).await;
    apply(client, &objects.environment).await;
    apply(client, &objects.set).await;
}

/// The agent's pod of an instance, once it runs.
async fn running(sim: &Sim, instance: u128) -> Value {
    let instance = Uuid::from_u128(instance).to_string();
    let look = |sim: &Sim| {
        let pod = sim.get("pods", &namespace_name(office_id()), &format!("{}-0", agent_name(agent_id())))?;
        let is_it = pod["metadata"]["annotations"][INSTANCE_ID] == *instance;
        (is_it && pod["status"]["phase"] == "Running").then_some(pod)
    };
    sim.until("the instance runs", look).await
}

#[tokio::test]
async fn a_restricted_office_takes_its_agent_and_nothing_drifts() {
    let (sim, client) = cluster().await;
    apply_office(&client).await;
    apply_agent(&client, 3).await;
    let pod = running(&sim, 3).await;
    let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
    let names: Vec<&str> = volumes.iter().filter_map(|volume| volume["name"].as_str()).collect();
    assert_eq!(names, ["enrolment", "tmp", "work"], "no token of the cluster is among them");
    sim.settled().await;
    let version = sim.version();
    apply_office(&client).await;
    apply_agent(&client, 3).await;
    sim.settled().await;
    assert_eq!(sim.version(), version, "what is applied again is the same");
}

#[tokio::test]
async fn a_pod_starts_again_without_the_token_that_was_used() {
    let (sim, client) = cluster().await;
    apply_office(&client).await;
    apply_agent(&client, 3).await;
    let pod = running(&sim, 3).await;
    let (namespace, name) = (namespace_name(office_id()), agent_name(agent_id()));
    let token = token_name(agent_id(), InstanceId(Uuid::from_u128(3)));
    sim.delete("secrets", &namespace, &token).expect("deleted");
    sim.delete("pods", &namespace, &format!("{name}-0")).expect("deleted");
    let other = |sim: &Sim| {
        let found = sim.get("pods", &namespace, &format!("{name}-0"))?;
        let is_new = found["metadata"]["uid"] != pod["metadata"]["uid"];
        (is_new && found["status"]["phase"] == "Running").then_some(())
    };
    sim.until("another one runs", other).await;
}

async fn apply_sandbox(client: &Client, instance: u128, suspended: bool) {
    let objects = sandbox(&settings(), &launch(instance), &token(), suspended);
    apply(client, &objects.account).await;
    apply(client, &objects.token).await;
    apply(client, &objects.environment).await;
    let kind = GroupVersionKind::gvk("agents.x-k8s.io", "v1beta1", SANDBOX_KIND);
    let resource = ApiResource::from_gvk_with_plural(&kind, "sandboxes");
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &namespace_name(office_id()), &resource);
    let patch = Patch::Apply(&objects.sandbox);
    api.patch(&agent_name(agent_id()), &PatchParams::apply(MANAGER), &patch).await.expect("applied");
}

#[tokio::test]
async fn a_sandbox_is_the_same_agent_for_another_controller() {
    let (sim, client) = cluster().await;
    apply_office(&client).await;
    let (namespace, name) = (namespace_name(office_id()), agent_name(agent_id()));
    let condition = |sim: &Sim, kind: &str| {
        let sandbox = sim.get("sandboxes", &namespace, &name)?;
        let conditions = sandbox["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    apply_sandbox(&client, 3, false).await;
    sim.until("it is ready", |sim| condition(sim, "Ready")).await;
    let pod = sim.get("pods", &namespace, &name).expect("its pod");
    let set = json_of(&agent(&settings(), &launch(3), &token()).set);
    let image = |spec: &Value| spec["containers"][0]["image"].clone();
    assert_eq!(image(&pod["spec"]), image(&set["spec"]["template"]["spec"]));
    assert_eq!(pod["metadata"]["annotations"], set["spec"]["template"]["metadata"]["annotations"]);
    apply_sandbox(&client, 3, true).await;
    sim.until("it is suspended", |sim| condition(sim, "Suspended")).await;
    assert_eq!(sim.get("pods", &namespace, &name), None);
    assert!(sim.get("persistentvolumeclaims", &namespace, &format!("work-{name}")).is_some());
    sim.settled().await;
    let version = sim.version();
    apply_sandbox(&client, 3, true).await;
    sim.settled().await;
    assert_eq!(sim.version(), version, "what is applied again is the same");
}

#[tokio::test]
async fn the_next_instance_replaces_one_that_never_got_ready() {
    let (sim, client) = cluster().await;
    apply_office(&client).await;
    sim.conduct(Pods::all(), Conduct::Unready);
    apply_agent(&client, 3).await;
    running(&sim, 3).await;
    sim.settled().await;
    sim.conduct(Pods::all(), Conduct::Run);
    apply_agent(&client, 4).await;
    running(&sim, 4).await;
}
