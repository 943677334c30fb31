//! Dev only: a Kubernetes API server in memory, so that the real client can be tested without a cluster.
//!
//! [`Sim`] is a cluster: an HTTP server on loopback over one store of objects, with small controllers that make pods of
//! StatefulSets, Jobs and Sandboxes, bind claims, collect garbage and empty namespaces. How pods fare is what a test
//! says ([`Conduct`]); what goes wrong with requests too ([`Fault`]). Nothing waits for time to pass: controllers move
//! when something has changed.
//!
//! Objects are plain JSON. The server knows a table of kinds (`kinds.rs`), what it fills in and refuses of each
//! (`defaults.rs`, `rules.rs`, `immutable.rs`), and how lists of each are merged (`schema.rs`).
//!
//! # Where a real server differs
//! It knows the type of every field: unknown ones it drops or refuses, and empty lists are absent to it. Here they stay.
//! It authenticates: here everybody is the same account, which may do all that [`Fault::Forbid`] leaves. It has volumes,
//! revisions of sets and endpoints as objects, more kinds, `exec` and its like, protobuf, tables and aggregated discovery.
//! Time ends nothing here: no deadline or age of a job, no eviction from a node that is lost for long, no minimum of
//! seconds until a pod counts. Only one version of each group is served, and events are those of the core.

mod admission;
mod answer;
mod apply;
mod conduct;
mod controllers;
mod defaults;
mod delete;
mod discovery;
mod faults;
mod fields;
mod immutable;
mod json;
mod kinds;
mod list;
mod managed;
mod matching;
mod names;
mod partial;
mod patch;
mod pod_security;
mod quantity;
mod quota;
mod record;
mod refusal;
mod route;
mod rules;
mod schema;
mod select;
mod serve;
mod shared;
mod sim;
mod store;
mod strategic;
mod watch;
mod write;

pub use conduct::{Conduct, Pods};
pub use faults::{Fault, FaultId};
pub use matching::Matching;
pub use record::Request;
pub use sim::{Setup, Sim};
