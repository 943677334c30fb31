//! `cargo xtask check-deps`: which crate may depend on which.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{Result, metadata};

const SERVICES: &[&str] = &["mi-gateway", "mi-office", "mi-scheduler", "mi-activity", "mi-models"];
/// Crates that know the database. The kernel runs no statement: with its feature `sqlx`, ids are columns.
const DATABASE: &[&str] = &[
    "mi-kernel",
    "mi-store",
    "mi-tenancy",
    "mi-integrations",
    "mi-drive",
    "mi-tasks",
    "mi-chat",
    "mi-credits",
    "mi-office",
    "mi-scheduler",
    "mi-activity",
    "mi-testkit",
    "mi-bench",
];
/// The resources of an office, each with those that it may use. Nobody else does but the office role, and who composes.
const RESOURCES: &[(&str, &[&str])] = &[
    ("mi-tenancy", &[]),
    ("mi-integrations", &["mi-tenancy"]),
    ("mi-credits", &["mi-tenancy"]),
    ("mi-drive", &["mi-tenancy"]),
    ("mi-tasks", &["mi-tenancy", "mi-drive", "mi-credits"]),
    ("mi-chat", &["mi-tenancy", "mi-drive", "mi-tasks", "mi-credits"]),
];
/// Crates that may use all resources: the role that puts them together, those over it, and fuzz targets.
const OVER_RESOURCES: &[&str] = &["mi-office", "mi-server", "mi-cli", "mi-bench", "mi-e2e", "mi-fuzz"];
/// Crates that know no wire.
const WIRELESS: &[&str] =
    &["mi-kernel", "mi-store", "mi-runtime", "mi-runtime-process", "mi-runtime-kubernetes", "mi-archive", "mi-vault"];
/// Implementations of the `Runtime` trait that start something.
const RUNTIMES: &[&str] = &["mi-runtime-process", "mi-runtime-kubernetes"];
/// The one crate that knows Kubernetes, and its packages.
const KUBERNETES: &str = "mi-runtime-kubernetes";
const OF_KUBERNETES: &[&str] = &["kube", "k8s-openapi"];
/// Crates for development, which nothing that ships may contain.
const TESTING: &[&str] = &["mi-testkit", "mi-pgserver", "mi-kubesim", "mi-e2e", "mi-bench", "mi-fuzz", "xtask"];
/// TLS and cryptography come from rustls and ring: these want a C toolchain or a library of the system.
const BANNED: &[&str] = &["aws-lc-sys", "aws-lc-rs", "openssl-sys"];

pub(crate) fn run() -> Result {
    let metadata = metadata(true)?;
    let mut faults = Graph::new(&metadata).faults();
    faults.extend(banned(&metadata));
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("check-deps: {} faults\n  {}", faults.len(), faults.join("\n  ")))
}

fn banned(metadata: &Value) -> impl Iterator<Item = String> {
    packages(metadata)
        .filter_map(|package| package["name"].as_str())
        .filter(|name| BANNED.contains(name))
        .map(|name| format!("{name} is in the resolved graph; `cargo tree -i {name}` says why"))
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn is_resource(name: &str) -> bool {
    RESOURCES.iter().any(|(resource, _)| *resource == name)
}

/// Whether a crate may use this resource.
fn may_use(from: &str, resource: &str) -> bool {
    match RESOURCES.iter().find(|(name, _)| *name == from) {
        Some((_, below)) => below.contains(&resource),
        None => OVER_RESOURCES.contains(&from),
    }
}

/// What the crates of the workspace depend on when they are built to ship: test dependencies do not count.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn new(metadata: &Value) -> Self {
        let members = metadata["workspace_members"].as_array();
        let is_member = |package: &&Value| members.is_some_and(|members| members.contains(&package["id"]));
        let graph = packages(metadata).filter(is_member).filter_map(|package| {
            let dependencies = package["dependencies"].as_array()?;
            let shipped = dependencies.iter().filter(|dependency| dependency["kind"] != "dev");
            // The name of the package, whatever the manifest renames it to.
            let names = shipped.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned));
            Some((package["name"].as_str()?.to_owned(), names.collect()))
        });
        Self(graph.collect())
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, dependencies) in &self.0 {
            let name = name.as_str();
            // The database is hidden behind crates that know it: only a direct arrow shows who else does.
            if dependencies.contains("sqlx") && !DATABASE.contains(&name) {
                faults.push(format!("{name} -> sqlx: only {} may", DATABASE.join(", ")));
            }
            for package in OF_KUBERNETES {
                if dependencies.contains(*package) && name != KUBERNETES && !TESTING.contains(&name) {
                    faults.push(format!("{name} -> {package}: only {KUBERNETES} may"));
                }
            }
            for testing in TESTING {
                if dependencies.contains(*testing) && !TESTING.contains(&name) {
                    faults.push(format!("{name} -> {testing}: only as a dev-dependency"));
                }
            }
            for path in self.paths(name) {
                // Never empty: a path ends with the dependency.
                let last = path.last().copied().unwrap_or_default();
                if let Some(reason) = self.reason(name, last) {
                    faults.push(format!("{}: {reason}", path.join(" -> ")));
                }
            }
        }
        faults
    }

    /// Why the first may not depend on the second, not even through other crates of ours.
    fn reason(&self, from: &str, to: &str) -> Option<&'static str> {
        let both_services = SERVICES.contains(&from) && SERVICES.contains(&to);
        if from == "mi-kernel" && self.0.contains_key(to) {
            Some("the kernel depends on nothing of ours")
        } else if both_services {
            Some("services meet on the wire only")
        } else if from == "mi-http" && SERVICES.contains(&to) {
            Some("doors are clients of the gateway, whichever it is")
        } else if matches!(from, "mi-gateway" | "mi-models" | "mi-http") && to == "mi-store" {
            Some("it keeps nothing")
        } else if WIRELESS.contains(&from) && (to == "tonic" || to.starts_with("tonic-")) {
            Some("it knows no wire")
        } else if is_resource(to) && !may_use(from, to) {
            Some("a resource of an office is used by those over it only")
        } else if is_resource(from) && SERVICES.contains(&to) {
            Some("the role is made of its resources, not the other way round")
        } else if SERVICES.contains(&from) && RUNTIMES.contains(&to) {
            Some("roles know the trait only")
        } else if from == "mi-testkit" && SERVICES.contains(&to) {
            Some("services use it in their own tests")
        } else {
            None
        }
    }

    /// A shortest path to everything that can be reached through crates of ours.
    fn paths<'a>(&'a self, from: &'a str) -> Vec<Vec<&'a str>> {
        let mut paths = vec![vec![from]];
        let mut seen = BTreeSet::from([from]);
        let mut next = 0;
        while let Some(path) = paths.get(next).cloned() {
            next += 1;
            let end = path.last().and_then(|name| self.0.get(*name));
            for dependency in end.into_iter().flatten() {
                if seen.insert(dependency) {
                    paths.push(path.iter().copied().chain([dependency.as_str()]).collect());
                }
            }
        }
        // The first one is the crate itself.
        paths.split_off(1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Faults of a workspace of these arrows; a third word is their kind.
    fn faults(arrows: &[&str]) -> Vec<String> {
        let mut packages: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for arrow in arrows {
            let words: Vec<&str> = arrow.split(' ').collect();
            packages.entry(words[0]).or_default().push(json!({"name": words[1], "kind": words.get(2)}));
            if words[1].starts_with("mi-") {
                packages.entry(words[1]).or_default();
            }
        }
        let members: Vec<&str> = packages.keys().copied().collect();
        let packages: Vec<Value> = packages
            .iter()
            .map(|(name, dependencies)| json!({"id": name, "name": name, "dependencies": dependencies}))
            .collect();
        Graph::new(&json!({"packages": packages, "workspace_members": members})).faults()
    }

    #[test]
    fn what_the_layers_allow_is_no_fault() {
        let arrows = [
            "mi-gateway mi-kernel",
            "mi-gateway tonic",
            "mi-office mi-store",
            "mi-store sqlx",
            "mi-server mi-office",
            "mi-server mi-gateway",
            "mi-server mi-runtime-process",
            "mi-scheduler mi-runtime",
            "mi-office mi-testkit dev",
            "mi-e2e mi-testkit",
            "xtask mi-pgserver",
            "mi-runtime-kubernetes kube",
            "mi-bench kube",
            "mi-kubesim kube dev",
            "mi-kernel serde",
            "mi-tasks mi-drive",
            "mi-chat mi-tasks",
            "mi-office mi-chat",
        ];
        assert_eq!(faults(&arrows), Vec::<String>::new());
    }

    #[test]
    fn each_forbidden_arrow_is_one() {
        for arrow in [
            "mi-kernel mi-base",
            "mi-gateway mi-office",
            "mi-http mi-gateway",
            "mi-scheduler mi-activity build",
            "mi-gateway mi-store",
            "mi-models mi-store",
            "mi-models mi-office",
            "mi-server sqlx",
            "mi-runtime-process tonic",
            "mi-scheduler mi-runtime-process",
            "mi-store tonic-types",
            "mi-cli mi-testkit",
            "mi-cli mi-e2e",
            "mi-scheduler mi-runtime-kubernetes",
            "mi-scheduler k8s-openapi",
            "mi-runtime-kubernetes tonic",
            "mi-runtime-kubernetes mi-kubesim",
            "mi-store mi-pgserver",
            "mi-testkit mi-office",
            "mi-drive mi-tasks",
            "mi-tasks mi-integrations",
            "mi-tenancy mi-drive",
            "mi-scheduler mi-tenancy",
            "mi-rpc mi-tenancy",
            "mi-tasks mi-office",
        ] {
            assert_eq!(faults(&[arrow]).len(), 1, "{arrow}: {:?}", faults(&[arrow]));
        }
    }

    #[test]
    fn an_arrow_through_another_crate_counts() {
        assert_eq!(
            faults(&["mi-gateway mi-rpc", "mi-rpc mi-store"]),
            ["mi-gateway -> mi-rpc -> mi-store: it keeps nothing"]
        );
    }

    #[test]
    fn banned_packages_are_found_anywhere() {
        let metadata = json!({"packages": [{"name": "ring"}, {"name": "openssl-sys"}]});
        assert_eq!(banned(&metadata).count(), 1);
    }
}
