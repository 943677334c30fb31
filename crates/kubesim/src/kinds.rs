//! The resources that this server knows.

/// A resource of the API.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The API group, empty for the core.
    pub(crate) group: &'static str,
    /// The version of the group.
    pub(crate) version: &'static str,
    /// The name in addresses.
    pub(crate) resource: &'static str,
    /// The name of one of it.
    pub(crate) kind: &'static str,
    /// What else `kubectl` calls it.
    pub(crate) short: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Whether its status is written apart from the rest.
    pub(crate) status: bool,
    /// Whether it can be scaled.
    pub(crate) scale: bool,
    /// Whether changes of what is desired are counted.
    pub(crate) generation: bool,
    /// Whether a deletion answers the object, not a status.
    pub(crate) returns_deleted: bool,
    /// Whether it comes of a CustomResourceDefinition, whose rules differ in places.
    pub(crate) custom: bool,
    /// What its names may be.
    pub(crate) names: Names,
}

/// Rules of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// A label as of RFC 1123: 63 lower case letters, digits and hyphens.
    Label,
    /// A label as of RFC 1035, which starts with a letter.
    Label1035,
    /// Labels with dots between, 253 characters.
    Subdomain,
    /// Anything that is one part of a path.
    Segment,
}

const fn kind(group: &'static str, version: &'static str, resource: &'static str, kind: &'static str) -> Kind {
    Kind {
        group,
        version,
        resource,
        kind,
        short: &[],
        namespaced: true,
        status: false,
        scale: false,
        generation: false,
        returns_deleted: false,
        custom: false,
        names: Names::Subdomain,
    }
}

/// All of them, as discovery lists them.
pub(crate) static KINDS: &[Kind] = &[
    Kind {
        namespaced: false,
        status: true,
        names: Names::Label,
        short: &["ns"],
        ..kind("", "v1", "namespaces", "Namespace")
    },
    Kind { status: true, generation: true, returns_deleted: true, short: &["po"], ..kind("", "v1", "pods", "Pod") },
    kind("", "v1", "secrets", "Secret"),
    Kind { returns_deleted: true, short: &["sa"], ..kind("", "v1", "serviceaccounts", "ServiceAccount") },
    Kind { short: &["cm"], ..kind("", "v1", "configmaps", "ConfigMap") },
    Kind {
        status: true,
        returns_deleted: true,
        names: Names::Label1035,
        short: &["svc"],
        ..kind("", "v1", "services", "Service")
    },
    Kind {
        status: true,
        returns_deleted: true,
        short: &["pvc"],
        ..kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
    },
    Kind {
        status: true,
        returns_deleted: true,
        short: &["quota"],
        ..kind("", "v1", "resourcequotas", "ResourceQuota")
    },
    Kind { short: &["limits"], ..kind("", "v1", "limitranges", "LimitRange") },
    Kind { short: &["ev"], ..kind("", "v1", "events", "Event") },
    Kind { namespaced: false, status: true, short: &["no"], ..kind("", "v1", "nodes", "Node") },
    Kind {
        generation: true,
        short: &["netpol"],
        ..kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
    },
    Kind {
        status: true,
        scale: true,
        generation: true,
        short: &["sts"],
        ..kind("apps", "v1", "statefulsets", "StatefulSet")
    },
    Kind { status: true, generation: true, ..kind("batch", "v1", "jobs", "Job") },
    Kind { names: Names::Segment, ..kind("rbac.authorization.k8s.io", "v1", "roles", "Role") },
    Kind { names: Names::Segment, ..kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding") },
    Kind {
        namespaced: false,
        names: Names::Segment,
        ..kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole")
    },
    kind("coordination.k8s.io", "v1", "leases", "Lease"),
    Kind {
        status: true,
        generation: true,
        short: &["pdb"],
        ..kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
    },
    Kind { namespaced: false, short: &["sc"], ..kind("storage.k8s.io", "v1", "storageclasses", "StorageClass") },
    Kind {
        status: true,
        generation: true,
        custom: true,
        short: &["sandbox"],
        ..kind("agents.x-k8s.io", "v1beta1", "sandboxes", "Sandbox")
    },
];

impl Kind {
    /// The kind of a resource by its name in addresses.
    pub(crate) fn of(resource: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.resource == resource)
    }

    /// The kind that an owner reference names.
    pub(crate) fn named(api_version: &str, name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.kind == name && kind.api_version() == api_version)
    }

    /// Group and version as objects name them.
    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The resource with its group, as messages name it.
    pub(crate) fn qualified(&self) -> String {
        match self.group {
            "" => self.resource.to_owned(),
            group => format!("{}.{group}", self.resource),
        }
    }

    /// The kind with its group, as messages about wrong fields name it.
    pub(crate) fn qualified_kind(&self) -> String {
        match self.group {
            "" => self.kind.to_owned(),
            group => format!("{}.{group}", self.kind),
        }
    }
}
