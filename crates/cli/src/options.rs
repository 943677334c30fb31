//! Options that many commands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{
    failure::Failure,
    known::{Known, by},
};

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the platform listens [default: http://127.0.0.1:7400]
    #[arg(long, global = true, value_name = "URL", env = "MI_ENDPOINT")]
    pub(crate) endpoint: Option<String>,
    /// CA that vouches for an https:// endpoint, PEM [default: the public ones]
    #[arg(long, global = true, value_name = "FILE", env = "MI_CA_FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// API key to call with; better in the environment or the configuration than here, where `ps` shows it
    #[arg(long, global = true, value_name = "KEY", env = "MI_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Directory of the configuration [default: ~/.config/mi]
    #[arg(long, global = true, value_name = "DIR", env = "MI_CONFIG_DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// Tables for people, JSON or YAML for programs
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// Print ids only, one a line, and no remarks; of a fresh key or invite what cannot be asked for again
    #[arg(short, long, global = true, conflicts_with = "output")]
    pub(crate) quiet: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Tables.
    #[default]
    Table,
    /// Tables with more columns.
    Wide,
    /// Names only, one a line, as other commands take them; ids of what has no name.
    Name,
    /// Proto3 JSON with snake_case names; a list is an array, a stream one object a line.
    Json,
    /// The same as YAML; a stream is one document each.
    Yaml,
}

/// The colony of a command that takes it as an option. `MI_COLONY` is read later: what the command line says itself can
/// then be told from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct ColonyArg {
    /// The colony: its id, a unique start of it, or its name [env: MI_COLONY] [default: that of `mi use`, else the only one
    /// there is]
    #[arg(long, visible_alias = "office", value_name = "COLONY", add = by(&[Known::Colonies]))]
    pub(crate) colony: Option<String>,
}

/// The name of what is created, with the flag or without.
#[derive(Debug, PartialEq, Eq, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct NameArg {
    /// Its name
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Its name, the same
    #[arg(long = "name", value_name = "NAME")]
    name_flag: Option<String>,
}

impl NameArg {
    pub(crate) fn into_name(self) -> String {
        self.name.or(self.name_flag).unwrap_or_default()
    }
}

/// Takes `[COLONY] NAME` apart: a single word is the name.
pub(crate) fn colony_and_name<'a>(
    what: &str,
    first: Option<&'a str>,
    second: Option<&'a str>,
) -> Result<(Option<&'a str>, &'a str), Failure> {
    match (first, second) {
        (_, Some("")) | (Some(""), None) => Err(Failure::Usage(format!("which {what}? what is given for it is empty"))),
        (first, Some(name)) => Ok((first, name)),
        (Some(name), None) => Ok((None, name)),
        (None, None) => Err(Failure::Usage(format!("which {what}? give it after the colony, or alone"))),
    }
}

/// A provider of models: an empty word is nobody's choice.
pub(crate) fn provider(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("must be the name of a provider; leave the option out for the default".into()),
        name => Ok(name.to_owned()),
    }
}

/// `KEY=VALUE`; the value may hold more equals signs.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_word_is_the_name_and_no_name_is_empty() {
        let split = |first, second| colony_and_name("agent", first, second).map_err(|failure| failure.exit_code());
        assert_eq!(split(Some("analyst"), None), Ok((None, "analyst")));
        assert_eq!(split(Some("home"), Some("analyst")), Ok((Some("home"), "analyst")));
        // The colony is looked at by whoever looks for it.
        assert_eq!(split(Some(""), Some("analyst")), Ok((Some(""), "analyst")));
        for (first, second) in [(None, None), (Some(""), None), (Some("home"), Some("")), (Some(""), Some(""))] {
            assert_eq!(split(first, second), Err(2), "{first:?} {second:?}");
        }
    }
}
