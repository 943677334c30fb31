//! The API as Rust: generated messages, clients and servers, the descriptor sets, and the access rule of each RPC.
//!
//! The .proto files in `proto/` are the contract and carry the documentation.

pub mod codec;
pub mod fields;
mod redact;
pub mod rules;

/// Public API.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("mi.v1");
    include!(concat!(env!("OUT_DIR"), "/mi.v1.debug.rs"));
}

/// Service to service; never reachable through the gateway.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod internal {
    pub mod v1 {
        tonic::include_proto!("mi.internal.v1");
        include!(concat!(env!("OUT_DIR"), "/mi.internal.v1.debug.rs"));
    }
}

use redact::Redacted;

/// Descriptor set of the public API, with comments: what reflection serves.
pub const PUBLIC_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));

/// Descriptor set of the public and the internal API.
pub const ALL_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/all.bin"));

/// Descriptor set of the Agent2Agent protocol.
pub const A2A_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/a2a.bin"));
