//! The agent against a platform that loses answers, loses streams and changes its mind.

mod claims;
mod commands;
mod models;
mod office;
mod platform;
mod session;
