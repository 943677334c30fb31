//! The office role as a whole, over both databases, with roles beside it that fail when told to.

mod accounts;
mod administrator;
mod chat;
mod chat_wake;
mod chat_watch;
mod credits;
mod deletion;
mod drive;
mod drive_storage;
mod drive_upgrade;
mod drive_watch;
mod faulty;
mod harness;
mod held_up;
mod integrations;
mod invites;
mod metering;
mod metering_budgets;
mod offices;
mod peer;
mod plans;
mod quotas;
mod retention;
mod rotation;
mod row_security;
mod tasks;
