//! Arguments whose values only the running platform knows: the command line names what they are, and what answers the
//! shell knows how to find it.

use std::{ffi::OsStr, sync::OnceLock};

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};

/// What is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Colonies,
    Agents,
    Backups,
    Tasks,
    Files,
    Keys,
    Roles,
    Models,
    Providers,
    Integrations,
    /// `KEY=` of each setting.
    Settings,
}

/// Finds what fits what was typed of a word; none: nothing can be found.
pub(crate) type Find = fn(&[Known], &OsStr) -> Option<Vec<CompletionCandidate>>;

/// Set when it is the shell that calls.
static FIND: OnceLock<Find> = OnceLock::new();

/// Says how values are found, once.
pub(crate) fn found_by(find: Find) {
    let _ = FIND.set(find);
}

/// Completes an argument by all of these.
pub(crate) fn by(kinds: &'static [Known]) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| candidates(kinds, current))
}

/// Completes an argument by all of these, and by what is in directories here.
pub(crate) fn by_or_path(kinds: &'static [Known]) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        let mut all = candidates(kinds, current);
        all.extend(PathCompleter::any().complete(current));
        all
    })
}

fn candidates(kinds: &[Known], current: &OsStr) -> Vec<CompletionCandidate> {
    FIND.get().and_then(|find| find(kinds, current)).unwrap_or_default()
}
