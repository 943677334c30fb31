//! The whole platform as its users meet it: the real binary, real processes, both databases, both arrangements.

mod bad_input;
mod crash;
mod external;
mod faults;
mod isolation;
mod journey;
mod transcripts;
mod wire;
