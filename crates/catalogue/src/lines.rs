//! Where in the file something stands.

use mi_kernel::{Error, Result};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A file and the places of all that it says.
pub(crate) struct Lines<'a> {
    text: &'a str,
    root: DeTable<'a>,
}

impl<'a> Lines<'a> {
    /// Reads a file.
    ///
    /// # Errors
    /// `Invalid` when it is no TOML.
    pub(crate) fn read(text: &'a str) -> Result<Self> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Self { text, root: root.into_inner() }),
            Err(error) => Err(unparsed(text, &error)),
        }
    }

    /// The line of what a path like `provider.3.aliases.0` leads to: keys, and places in arrays. Where that is not there, of
    /// whatever it would be in.
    pub(crate) fn of(&self, path: &str) -> usize {
        let mut steps = path.split('.');
        let first = steps.next().unwrap_or_default();
        let Some((key, mut value)) = entry(&self.root, first) else { return 1 };
        let mut at = key;
        for step in steps {
            let found = match value.get_ref() {
                DeValue::Table(table) => entry(table, step),
                DeValue::Array(array) => {
                    let item = step.parse().ok().and_then(|n: usize| array.get(n));
                    item.map(|item| (item.span().start, item))
                }
                _ => None,
            };
            let Some(found) = found else { break };
            (at, value) = found;
        }
        line(self.text, at)
    }

    /// Says where the file is not what it should be.
    pub(crate) fn unparsed(&self, error: &toml::de::Error) -> Error {
        unparsed(self.text, error)
    }
}

fn unparsed(text: &str, error: &toml::de::Error) -> Error {
    let line = line(text, error.span().unwrap_or_default().start);
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    Error::invalid("catalogue", format!("is wrong in line {line}: {message}"))
}

/// Where an entry begins, and its value.
fn entry<'a, 'b>(table: &'b DeTable<'a>, key: &str) -> Option<(usize, &'b Spanned<DeValue<'a>>)> {
    let found = table.iter().find(|(name, _)| name.get_ref() == key);
    found.map(|(name, value)| (name.span().start, value))
}

fn line(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}
