//! What a live probe of one of the platform's walls found.

/// Whether a wall holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WallState {
    /// What was tried was refused.
    Holds,
    /// What was tried worked.
    Hole,
    /// There is no such wall here; another one has to do.
    Absent,
}

/// One thing that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WallCheck {
    /// Which wall, in one word.
    pub wall: &'static str,
    /// What was tried.
    pub probe: String,
    /// What came of it.
    pub state: WallState,
    /// What was seen.
    pub detail: String,
}
