//! The whole platform as its users meet it: the real binary, real processes, both databases, both arrangements.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, and sign with the time of this machine")]

mod a2a;
mod bad_input;
mod chat;
mod compat;
mod completion;
mod connect;
mod crash;
mod drive;
mod everyday;
mod examples;
mod exec;
mod external;
mod faults;
mod identity;
mod isolation;
mod journey;
mod kubernetes;
mod matrix;
mod mcp;
mod providers;
mod replicas;
mod rest;
mod sdk;
mod secrets;
mod storage;
mod tls;
mod transcripts;
mod verify;
mod wait;
mod wire;
mod work;
