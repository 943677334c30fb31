//! The access rule of each RPC, read from the descriptor set once.

use std::{collections::HashMap, sync::LazyLock};

use prost_reflect::{DescriptorPool, Value};

use crate::v1::Caller;

/// What the descriptor says about one RPC.
#[derive(Debug, Clone)]
pub struct MethodRule {
    /// `/package.Service/Method`, as in the `:path` of a call.
    pub path: &'static str,
    /// `package.Service`.
    pub service: &'static str,
    /// Kinds of caller, any of which is enough.
    pub callers: Vec<Caller>,
    /// Whether either side streams: such calls have no default deadline.
    pub streaming: bool,
    /// Whether it is a stream without an end of its own, which its caller resumes.
    pub resumes: bool,
}

/// All descriptors, public and internal.
pub static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::ALL_DESCRIPTORS).expect("the descriptor set is produced by the build")
});

static RULES: LazyLock<HashMap<&'static str, MethodRule>> = LazyLock::new(|| {
    let option = POOL.get_extension_by_name("mi.v1.access").expect("the build compiles mi/v1/access.proto");
    let resumes = POOL.get_extension_by_name("mi.v1.resumes").expect("the build compiles mi/v1/access.proto");
    let mut rules = HashMap::new();
    for service in POOL.services() {
        for method in service.methods() {
            // Leaked once a process: the paths live as long as the rules do.
            let path: &'static str = format!("/{}/{}", service.full_name(), method.name()).leak();
            let service: &'static str = path[1..].split_once('/').expect("made above").0;
            let options = method.options();
            let callers = match options.get_extension(&option).as_message() {
                Some(rule) => callers(rule.get_field_by_name("callers").as_deref()),
                None => Vec::new(),
            };
            let streaming = method.is_client_streaming() || method.is_server_streaming();
            let resumes = options.get_extension(&resumes).as_bool().unwrap_or_default();
            rules.insert(path, MethodRule { path, service, callers, streaming, resumes });
        }
    }
    rules
});

fn callers(field: Option<&Value>) -> Vec<Caller> {
    let numbers = field.and_then(Value::as_list).unwrap_or_default();
    numbers.iter().filter_map(|number| Caller::try_from(number.as_enum_number()?).ok()).collect()
}

/// The rule of the RPC with this path; none: there is no such RPC.
pub fn rule(path: &str) -> Option<&'static MethodRule> {
    RULES.get(path)
}

/// Every RPC, in no particular order.
pub fn all() -> impl Iterator<Item = &'static MethodRule> {
    RULES.values()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_rule_and_internal_ones_are_for_services_only() {
        assert!(all().count() > 40);
        for method in all() {
            assert!(!method.callers.is_empty(), "{} declares no access rule", method.path);
            assert!(!method.callers.contains(&Caller::Unspecified), "{}", method.path);
            let internal = method.path.starts_with("/mi.internal.");
            assert_eq!(internal, method.callers == [Caller::Service], "{}", method.path);
        }
    }

    #[test]
    fn reflection_shows_no_internal_service() {
        let public = DescriptorPool::decode(crate::PUBLIC_DESCRIPTORS).expect("valid");
        assert!(public.get_service_by_name("mi.v1.OfficeService").is_some());
        assert!(public.services().all(|service| !service.full_name().contains("internal")));
    }

    #[test]
    fn streaming_is_told_apart() {
        assert!(rule("/mi.v1.AgentService/WatchAgents").expect("exists").streaming);
        assert!(!rule("/mi.v1.AgentService/GetAgent").expect("exists").streaming);
        assert!(rule("/mi.v1.AgentService/Nonsense").is_none());
    }
}
