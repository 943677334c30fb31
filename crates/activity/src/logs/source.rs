//! Where batches come from, and how far each source got: what tells a batch sent again from a new one.

use std::fmt;

use mi_kernel::{Error, Result};
use serde::{Deserialize, Serialize};

/// Sources of each origin that a log remembers. A run has one; more are remembered for batches that come late.
const REMEMBERED: usize = 8;
const MAX_BYTES: usize = 64;

/// Names one run of a writer. An agent cannot take the name of its own instance, whose lines would then be left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// The agent itself.
    Agent(String),
    /// Its instance, as the runtime captured it.
    Compute(String),
}

impl Source {
    /// Checks the name that a request gave.
    ///
    /// # Errors
    /// `Invalid`.
    pub(crate) fn checked(self) -> Result<Self> {
        let (Self::Agent(name) | Self::Compute(name)) = &self;
        if name.is_empty() || name.len() > MAX_BYTES || name.chars().any(char::is_control) {
            return Err(Error::invalid(
                "source",
                format!("must have 1 to {MAX_BYTES} bytes and no control characters; a UUID is best"),
            ));
        }
        Ok(self)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Agent(name) | Self::Compute(name)) = self;
        f.write_str(name)
    }
}

/// The last stored index of each source, the one used last at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sources(Vec<(Source, i64)>);

impl Sources {
    /// 0: nothing of it is stored.
    pub(crate) fn last(&self, source: &Source) -> i64 {
        self.0.iter().find(|(known, _)| known == source).map_or(0, |(_, last)| *last)
    }

    /// Remembers how far the source got, and forgets the one of the same origin that was silent the longest.
    pub(crate) fn advance(&mut self, source: &Source, last: i64) {
        let same_origin = |known: &Source| std::mem::discriminant(known) == std::mem::discriminant(source);
        self.0.retain(|(known, _)| known != source);
        if self.0.iter().filter(|(known, _)| same_origin(known)).count() >= REMEMBERED
            && let Some(silent) = self.0.iter().position(|(known, _)| same_origin(known))
        {
            self.0.remove(silent);
        }
        self.0.push((source.clone(), last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_used_last_are_remembered_each_origin_on_its_own() {
        let mut sources = Sources::default();
        let compute = Source::Compute("1".into());
        sources.advance(&compute, 7);
        for i in 1..=8 {
            sources.advance(&Source::Agent(i.to_string()), i);
        }
        sources.advance(&Source::Agent("1".into()), 10);
        sources.advance(&Source::Agent("9".into()), 9);
        let lasts = (1..=9).map(|i: i64| sources.last(&Source::Agent(i.to_string())));
        assert_eq!(lasts.collect::<Vec<_>>(), [10, 0, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(sources.last(&compute), 7);
    }

    #[test]
    fn names_are_checked() {
        assert!(Source::Agent("x".repeat(64)).checked().is_ok());
        for bad in ["", "a\0b", &"x".repeat(65)] {
            assert_eq!(Source::Agent(bad.into()).checked().expect_err(bad).field, Some("source"));
        }
    }
}
