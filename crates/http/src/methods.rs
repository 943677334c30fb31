//! The public RPCs by path, as their descriptors have them.

use std::{collections::HashMap, sync::LazyLock};

use mi_proto::rules::POOL;
use prost_reflect::{MessageDescriptor, MethodDescriptor, prost_types::method_options::IdempotencyLevel};

/// The package of the public services.
const PUBLIC: &str = "mi.v1";

/// One public RPC.
#[derive(Debug)]
pub(crate) struct Method {
    /// `/package.Service/Method`.
    pub(crate) path: String,
    pub(crate) input: MessageDescriptor,
    pub(crate) output: MessageDescriptor,
    /// Whether the client sends any number of messages.
    pub(crate) client_streams: bool,
    /// Whether any number of messages is answered.
    pub(crate) server_streams: bool,
    /// Whether it changes nothing, so that it may be asked for with GET.
    pub(crate) reads_only: bool,
}

impl Method {
    pub(crate) fn of(method: &MethodDescriptor) -> Self {
        let options = method.method_descriptor_proto().options.as_ref();
        Self {
            path: path(method),
            input: method.input(),
            output: method.output(),
            client_streams: method.is_client_streaming(),
            server_streams: method.is_server_streaming(),
            reads_only: options.is_some_and(|options| options.idempotency_level() == IdempotencyLevel::NoSideEffects),
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.client_streams || self.server_streams
    }
}

static METHODS: LazyLock<HashMap<String, Method>> =
    LazyLock::new(|| public().map(|method| Method::of(&method)).map(|method| (method.path.clone(), method)).collect());

/// Every public RPC.
pub(crate) fn public() -> impl Iterator<Item = MethodDescriptor> {
    let services = POOL.services().filter(|service| service.package_name() == PUBLIC);
    services.flat_map(|service| service.methods().collect::<Vec<_>>())
}

/// Where gRPC has an RPC.
pub(crate) fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// The RPC with this path; none: there is none for the public.
pub(crate) fn find(path: &str) -> Option<&'static Method> {
    METHODS.get(path)
}
