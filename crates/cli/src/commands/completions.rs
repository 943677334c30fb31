//! `mi completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{args::Cli, failure::Failure, output::Output};

pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    // Generated aside: clap_complete panics when standard output is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mi", &mut script);
    Output::default().print(String::from_utf8_lossy(&script).trim_end())
}
