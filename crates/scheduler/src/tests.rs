//! The scheduler as a whole, over both databases: real rows and rules, a runtime and object storage in memory, and a
//! clock in the hand of the test.

mod backups;
mod budget;
mod cluster;
mod compute;
mod convergence;
mod exec;
mod external;
mod family;
mod fire;
mod harness;
mod held;
mod hire;
mod identity;
mod integrations;
mod keys;
mod life;
mod lying;
mod next_look;
mod offices;
mod pause;
mod plans;
mod providers;
mod replicas;
mod rosters;
mod row_security;
mod shards;
mod treasury;
mod watch;
mod workspaces;
