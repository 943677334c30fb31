//! Tests of the queue as a whole.

mod order;
mod simulation;
