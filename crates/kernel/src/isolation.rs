//! What a live check of the platform's isolation found.

/// Whether a layer of isolation holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolationState {
    /// What was tried was refused.
    Holds,
    /// What was tried worked.
    Hole,
    /// This installation has no such layer, and relies on another one.
    Absent,
}

/// One thing that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolationCheck {
    /// The layer that was tried, in one word.
    pub layer: &'static str,
    /// What was tried.
    pub probe: String,
    /// What came of it.
    pub state: IsolationState,
    /// What was seen.
    pub detail: String,
}
