//! The agent against a platform that loses answers, loses streams and changes its mind.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

mod claims;
mod commands;
mod conversations;
mod models;
mod office;
mod platform;
mod pods;
mod programs;
mod proxies;
mod refusals;
mod relay;
mod running;
mod session;
mod streams;
