//! How a command fails: a sentence, a hint, an exit code.

use std::{fmt, io};

use mi_client::ClientError;
use tonic::{Code, Status};

use crate::text::escape;

/// Exit code of what did not end in time, as timeout(1) has it.
pub(crate) const TIMED_OUT: u8 = 124;

/// How a command fails.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It did not work.
    Told {
        message: String,
        hint: Option<String>,
        /// What the platform answered, if it was the platform.
        code: Option<Code>,
        exit_code: u8,
    },
    /// The command line makes no sense.
    Usage(String),
    /// A command that ran for us ended with this exit code, and has said why itself.
    Ended(u8),
    /// Standard output is gone.
    Closed,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Told { message: message.into(), hint: None, code: None, exit_code: 1 }
    }

    /// What was waited for did not happen in time.
    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self::Told { message: message.into(), hint: None, code: None, exit_code: TIMED_OUT }
    }

    /// There is no such thing, as the platform answers NOT_FOUND.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::Told { message: message.into(), hint: None, code: Some(Code::NotFound), exit_code: 1 }
    }

    /// What could not be done, and what the system said.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(format!("{what}: {error}"))
    }

    /// The same with a hint in place of the one it has.
    pub(crate) fn hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Told { message, code, exit_code, .. } => {
                Self::Told { message, hint: Some(text.into()), code, exit_code }
            }
            other => other,
        }
    }

    /// What is said of it, in a sentence; may be empty.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Told { message, .. } | Self::Usage(message) => message,
            Self::Ended(_) | Self::Closed => "",
        }
    }

    /// Whether there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Told { code: Some(Code::NotFound), .. })
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Told { exit_code: code, .. } | Self::Ended(code) => *code,
            Self::Usage(_) => 2,
            Self::Closed => 0,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Messages may quote what strangers wrote.
        match self {
            Self::Told { message, hint, .. } => {
                writeln!(f, "error: {}", escape(message))?;
                match hint {
                    Some(hint) => writeln!(f, "hint: {}", escape(hint)),
                    None => Ok(()),
                }
            }
            Self::Usage(message) => writeln!(f, "error: {}\n\nFor more information, try '--help'.", escape(message)),
            Self::Ended(_) | Self::Closed => Ok(()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self::Told { message: error.to_string(), hint, code: error.code(), exit_code: 1 }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        ClientError::from(status).into()
    }
}
