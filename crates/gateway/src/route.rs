//! Which role serves a method, and what the gateway serves itself.

use mi_proto::rules::{self, MethodRule};
use mi_rpc::compressed;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::config::Backends;

/// A role that the gateway forwards to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Office,
    Scheduler,
    Activity,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Office, Self::Scheduler, Self::Activity];

    /// The role of a public service; none: it is internal, or there is no such service.
    pub(crate) fn serving(service: &str) -> Option<Self> {
        match service.strip_prefix("mi.v1.")? {
            "OfficeService" | "AccessService" | "IntegrationService" | "TaskService" | "DriveService"
            | "ChatService" | "CreditService" => Some(Self::Office),
            "AgentService" => Some(Self::Scheduler),
            "LogService" | "ActivityService" => Some(Self::Activity),
            _ => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Office => "office",
            Self::Scheduler => "scheduler",
            Self::Activity => "activity",
        }
    }

    /// Names of the public services of the role.
    pub(crate) fn services(self) -> Vec<&'static str> {
        let mut names: Vec<_> =
            rules::all().map(|rule| rule.service).filter(|service| Self::serving(service) == Some(self)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Backends {
    pub(crate) fn of(&self, role: Role) -> &mi_rpc::Transport {
        match role {
            Role::Office => &self.office,
            Role::Scheduler => &self.scheduler,
            Role::Activity => &self.activity,
        }
    }
}

/// Where a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Role(Role),
    Own,
}

/// The methods that the gateway serves itself, without asking for a credential.
static OWN: [MethodRule; 4] = [
    own("/grpc.health.v1.Health/Check", "grpc.health.v1.Health", false),
    own("/grpc.health.v1.Health/Watch", "grpc.health.v1.Health", true),
    own("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "grpc.reflection.v1.ServerReflection", true),
    own(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection",
        true,
    ),
];

const fn own(path: &'static str, service: &'static str, streaming: bool) -> MethodRule {
    MethodRule { path, service, callers: Vec::new(), streaming, resumes: streaming }
}

/// The method at a path. Internal ones are as unknown as those that do not exist.
pub(crate) fn find(path: &str) -> Option<(&'static MethodRule, Target)> {
    match rules::rule(path) {
        Some(rule) => Some((rule, Target::Role(Role::serving(rule.service)?))),
        None => Some((OWN.iter().find(|rule| rule.path == path)?, Target::Own)),
    }
}

/// Health and reflection, both versions: older tools know only v1alpha.
pub(crate) fn own_services(health: HealthServer<impl Health>) -> axum::Router {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(mi_proto::PUBLIC_DESCRIPTORS)
            // Served by a door before the gateway.
            .register_encoded_file_descriptor_set(mi_proto::A2A_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The descriptors are made by the builds of this project and of tonic-health; every test would show a bad one.
    let v1 = reflection().build_v1().expect("descriptor sets are valid");
    let v1alpha = reflection().build_v1alpha().expect("descriptor sets are valid");
    Routes::new(compressed!(health))
        .add_service(compressed!(v1))
        .add_service(compressed!(v1alpha))
        .prepare()
        .into_axum_router()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_public_method_has_a_role_and_no_internal_one_has() {
        for rule in rules::all() {
            let found = find(rule.path);
            assert_eq!(found.is_some(), rule.path.starts_with("/mi.v1."), "{}", rule.path);
        }
        for (path, target) in [
            ("/mi.v1.OfficeService/GetOffice", Target::Role(Role::Office)),
            ("/mi.v1.AccessService/WhoAmI", Target::Role(Role::Office)),
            ("/mi.v1.IntegrationService/ListIntegrations", Target::Role(Role::Office)),
            ("/mi.v1.AgentService/HireAgent", Target::Role(Role::Scheduler)),
            ("/mi.v1.LogService/TailLogs", Target::Role(Role::Activity)),
            ("/mi.v1.ActivityService/ListActivity", Target::Role(Role::Activity)),
            ("/grpc.health.v1.Health/Check", Target::Own),
        ] {
            assert_eq!(find(path).map(|(_, target)| target), Some(target), "{path}");
        }
        for path in
            ["", "/", "/mi.v1.OfficeService/Nope", "/grpc.health.v1.Health/Nope", "//mi.v1.AccessService/WhoAmI"]
        {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
