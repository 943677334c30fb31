//! What an office is in a cluster: a namespace with its walls.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{LimitRange, LimitRangeItem, LimitRangeSpec, Namespace, ResourceQuota, ResourceQuotaSpec},
        networking::v1::{
            IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
        },
        rbac::v1::{RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use mi_kernel::OfficeId;
use mi_runtime::Limits;

use crate::{
    labels::{namespace_name, of_office},
    settings::{Destination, Quota, Settings},
};

/// The level of the Pod Security standards that every office has.
const POD_SECURITY: &str = "restricted";
/// The label by which a namespace is known to policies.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// What all objects of an office are called that are there once.
const NAME: &str = "mi-office";

/// The objects of an office, in the order in which they are to be applied: walls before anybody is within.
#[derive(Debug, Clone, PartialEq)]
pub struct OfficeObjects {
    /// The namespace, which takes restricted pods only.
    pub namespace: Namespace,
    /// The platform's rights in it.
    pub binding: RoleBinding,
    /// Nobody may talk with anybody.
    pub deny: NetworkPolicy,
    /// But agents with the gateway and the resolver.
    pub allow: NetworkPolicy,
    /// How much all agents together may use.
    pub quota: ResourceQuota,
    /// How much one may use, and what it gets that asks for nothing.
    pub limits: LimitRange,
}

/// What an office is made of.
pub fn office(settings: &Settings, office: OfficeId) -> OfficeObjects {
    let labels = of_office(settings, office);
    let named = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace_name(office)),
        labels: Some(labels.clone()),
        ..ObjectMeta::default()
    };
    let mut guarded = labels.clone();
    for mode in ["enforce", "audit", "warn"] {
        guarded.insert(format!("pod-security.kubernetes.io/{mode}"), POD_SECURITY.to_owned());
    }
    OfficeObjects {
        namespace: Namespace {
            metadata: ObjectMeta { name: Some(namespace_name(office)), labels: Some(guarded), ..ObjectMeta::default() },
            ..Namespace::default()
        },
        binding: binding(settings, named(NAME)),
        deny: policy(named("mi-deny"), None),
        allow: policy(named("mi-allow"), Some(vec![rule(&settings.gateway, false), rule(&settings.dns, true)])),
        quota: ResourceQuota {
            metadata: named(NAME),
            spec: Some(ResourceQuotaSpec { hard: Some(hard(&settings.quota)), ..ResourceQuotaSpec::default() }),
            ..ResourceQuota::default()
        },
        limits: limits(settings, named(NAME)),
    }
}

fn binding(settings: &Settings, metadata: ObjectMeta) -> RoleBinding {
    RoleBinding {
        metadata,
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: settings.cluster_role.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: settings.service_account.clone(),
            namespace: Some(settings.namespace.clone()),
            ..Subject::default()
        }]),
    }
}

/// A policy for all pods of the office. One without rules allows nothing.
fn policy(metadata: ObjectMeta, egress: Option<Vec<NetworkPolicyEgressRule>>) -> NetworkPolicy {
    let types: &[&str] = if egress.is_some() { &["Egress"] } else { &["Ingress", "Egress"] };
    NetworkPolicy {
        metadata,
        spec: Some(NetworkPolicySpec {
            egress,
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(types.iter().map(|kind| (*kind).to_owned()).collect()),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn rule(destination: &Destination, udp: bool) -> NetworkPolicyEgressRule {
    let selector = |labels: BTreeMap<String, String>| LabelSelector {
        match_labels: (!labels.is_empty()).then_some(labels),
        ..LabelSelector::default()
    };
    let pods = destination.namespace.iter().map(|namespace| NetworkPolicyPeer {
        namespace_selector: Some(selector([(NAMESPACE_NAME.to_owned(), namespace.clone())].into())),
        pod_selector: Some(selector(destination.labels.clone())),
        ..NetworkPolicyPeer::default()
    });
    let blocks = destination.blocks.iter().map(|block| NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: block.clone(), ..IPBlock::default() }),
        ..NetworkPolicyPeer::default()
    });
    let protocols: &[&str] = if udp { &["UDP", "TCP"] } else { &["TCP"] };
    let ports = destination.ports.iter().flat_map(|port| {
        protocols.iter().map(|protocol| NetworkPolicyPort {
            port: Some(IntOrString::Int((*port).into())),
            protocol: Some((*protocol).to_owned()),
            ..NetworkPolicyPort::default()
        })
    });
    // A rule without peers would be one for all the world, and so would one without ports be for all of theirs. What is
    // left of a destination that names neither is a peer that nobody is.
    let mut peers: Vec<NetworkPolicyPeer> = pods.chain(blocks).collect();
    if peers.is_empty() || destination.ports.is_empty() {
        peers = vec![NetworkPolicyPeer {
            ip_block: Some(IPBlock { cidr: "255.255.255.255/32".to_owned(), ..IPBlock::default() }),
            ..NetworkPolicyPeer::default()
        }];
    }
    NetworkPolicyEgressRule { to: Some(peers), ports: Some(ports.collect()) }
}

fn hard(quota: &Quota) -> BTreeMap<String, Quantity> {
    let hard = [
        ("pods", quota.pods.to_string()),
        ("limits.cpu", millis(quota.cpu_millis)),
        ("limits.memory", quota.memory_bytes.to_string()),
        ("requests.storage", quota.disk_bytes.to_string()),
        // Agents are reached by nobody.
        ("services", "0".to_owned()),
    ];
    hard.map(|(name, value)| (name.to_owned(), Quantity(value))).into()
}

/// Cores as the server writes them, so that what is applied and what is read are the same.
pub(crate) fn millis(millis: u64) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

/// The computing part of bounds.
pub(crate) fn compute(limits: &Limits) -> BTreeMap<String, Quantity> {
    let cpu = limits.cpu_millis.map(|cpu| ("cpu".to_owned(), Quantity(millis(cpu))));
    let memory = limits.memory_bytes.map(|memory| ("memory".to_owned(), Quantity(memory.to_string())));
    cpu.into_iter().chain(memory).collect()
}

fn limits(settings: &Settings, metadata: ObjectMeta) -> LimitRange {
    let most = compute(&settings.most.limits());
    let defaults = compute(&settings.defaults.limits());
    let containers = LimitRangeItem {
        type_: "Container".to_owned(),
        default: (!defaults.is_empty()).then(|| defaults.clone()),
        default_request: (!defaults.is_empty()).then_some(defaults),
        max: (!most.is_empty()).then_some(most),
        ..LimitRangeItem::default()
    };
    let claims = settings.most.disk_bytes.map(|bytes| LimitRangeItem {
        type_: "PersistentVolumeClaim".to_owned(),
        max: Some([("storage".to_owned(), Quantity(bytes.to_string()))].into()),
        ..LimitRangeItem::default()
    });
    LimitRange { metadata, spec: Some(LimitRangeSpec { limits: [containers].into_iter().chain(claims).collect() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_that_names_nobody_opens_nothing() {
        let nobody = Destination { namespace: None, labels: BTreeMap::new(), blocks: Vec::new(), ports: vec![443] };
        let peers = rule(&nobody, false).to.expect("peers");
        assert_eq!(peers[0].ip_block.as_ref().map(|block| block.cidr.as_str()), Some("255.255.255.255/32"));
    }

    #[test]
    fn cores_are_written_as_the_server_does() {
        assert_eq!([500, 1000, 1500].map(millis), ["500m", "1", "1500m"]);
    }
}
