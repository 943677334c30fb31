//! What the simulated nodes, scheduler and storage do, as a test says.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use crate::json::{list, text};

/// How a pod fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conduct {
    /// It runs and is ready; where it is not restarted (as of a job) it succeeds.
    Run,
    /// It is on a node, where its containers are being created for ever.
    Create,
    /// No node takes it, for this reason.
    Unschedulable(String),
    /// Its image cannot be had, for this reason.
    ImagePullBackOff(String),
    /// Its containers end again and again with this code.
    CrashLoop {
        /// The code with which they end.
        exit_code: i32,
        /// How often they were restarted.
        restarts: u32,
    },
    /// Its containers are killed again and again for want of memory.
    OutOfMemory {
        /// How often they were restarted.
        restarts: u32,
    },
    /// It runs and is not ready.
    Unready,
    /// Its containers end with this code and are not restarted.
    Finish(i32),
    /// Its node throws it out, for this reason.
    Evict(String),
    /// It runs and is ready, and does not end when it should.
    Linger,
}

/// Pods, or claims, by what they have; what is not said matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pods {
    namespace: Option<String>,
    name: Option<String>,
    labels: Vec<(String, String)>,
    image: Option<String>,
}

impl Pods {
    /// All of them.
    pub fn all() -> Self {
        Self::default()
    }

    /// Those in this namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Those of this name.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Those with this label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Those with a container of this image: which is how one revision fares otherwise than the next.
    pub fn image(mut self, image: &str) -> Self {
        self.image = Some(image.to_owned());
        self
    }

    fn has(&self, object: &Value) -> bool {
        let is = |wanted: &Option<String>, pointer: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == text(object, pointer))
        };
        is(&self.namespace, "/metadata/namespace")
            && is(&self.name, "/metadata/name")
            && self.labels.iter().all(|(key, value)| object["metadata"]["labels"][key] == **value)
            && self.image.as_ref().is_none_or(|image| {
                list(object, "/spec/containers").iter().any(|container| container["image"] == **image)
            })
    }
}

/// All that tests said, and how far pods have come.
#[derive(Default)]
pub(crate) struct Conducts {
    pods: Vec<(Pods, Conduct)>,
    /// Claims that stay pending.
    held_claims: Vec<Pods>,
    /// Nodes that are gone without a word.
    pub(crate) lost_nodes: BTreeSet<String>,
    /// By uid of a pod, what was last made of it.
    pub(crate) stages: HashMap<String, String>,
}

impl Conducts {
    /// Says how pods fare. What is said later counts.
    pub(crate) fn say(&mut self, pods: Pods, conduct: Conduct) {
        self.pods.retain(|(known, _)| *known != pods);
        self.pods.push((pods, conduct));
    }

    /// How a pod fares.
    pub(crate) fn of(&self, pod: &Value) -> Conduct {
        let said = self.pods.iter().rev().find(|(pods, _)| pods.has(pod));
        said.map_or(Conduct::Run, |(_, conduct)| conduct.clone())
    }

    /// Says that claims stay pending, or no longer.
    pub(crate) fn hold(&mut self, claims: Pods, hold: bool) {
        self.held_claims.retain(|known| *known != claims);
        if hold {
            self.held_claims.push(claims);
        }
    }

    /// Whether a claim stays pending.
    pub(crate) fn holds(&self, claim: &Value) -> bool {
        self.held_claims.iter().any(|claims| claims.has(claim))
    }
}
