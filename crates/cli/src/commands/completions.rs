//! `mi completions`.

use std::{env, io, path::Path};

use clap_complete::{Shell, env::Shells};

use crate::{complete::VARIABLE, failure::Failure, output::Output};

/// Prints what makes the shell ask this binary for completions.
pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    let unwritable = |error: io::Error| Failure::io("the script cannot be made", &error);
    let shells = Shells::builtins();
    let completer =
        shells.completer(&shell.to_string()).ok_or_else(|| unwritable(io::ErrorKind::Unsupported.into()))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "mi", "mi", &program(), &mut script).map_err(unwritable)?;
    Output::default().print(String::from_utf8_lossy(&script).trim())
}

/// This binary, as the shell has found it.
fn program() -> String {
    let name = env::args_os().next().filter(|name| Path::new(name).components().count() == 1);
    let path = name.is_none().then(|| env::current_exe().ok()).flatten();
    path.map_or_else(|| "mi".to_owned(), |path| path.to_string_lossy().into_owned())
}
