//! What the fuzz targets reach of this crate, which is for nobody else.

use mi_kernel::{AgentId, Time};

use crate::token::{self, Token};

/// What an agent's token says, signature aside: the agent, its key, and the Unix second after which it is worth nothing.
///
/// # Errors
/// What is wrong with it.
pub fn token(text: &str, now: Time) -> Result<(AgentId, String, f64), &'static str> {
    let token = Token::parse(text, now)?;
    Ok((token.agent_id, token.key_id, token.expires))
}

/// The agent that a text names which may be a token.
pub fn claimed_agent(text: &str) -> Option<AgentId> {
    token::claimed_agent(text)
}
