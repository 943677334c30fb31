//! `mi`: the platform, its agents and their operators, in one binary.

mod answer;
mod archive;
mod args;
mod colony;
mod commands;
mod complete;
mod config;
mod context;
mod download;
mod exec;
mod failure;
mod follow;
mod input;
mod json;
mod known;
mod options;
mod output;
mod resolve;
mod rows;
mod runtime;
mod serve;
mod text;
mod wait;
mod words;

use std::{io::Write, process::ExitCode};

use mimalloc::MiMalloc;

use crate::{
    args::{Cli, Command},
    commands::agents::AgentsCommand,
    failure::Failure,
};

/// A call makes hundreds of small allocations on one thread and frees them on another: a fifth of the platform's processor time
/// with the C library's allocator, and more with musl's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Fails only when a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match is_agent_run() {
        true => mi_agent::init::settle()
            .map_err(|error| Failure::io("the agent cannot start", &error))
            .and_then(|()| run_agent()),
        false => {
            if let Some(code) = complete::answered() {
                return code;
            }
            let (cli, command) = args::parse();
            run(cli).map_err(|failure| words::translated(failure, &command))
        }
    };
    match outcome {
        // Whoever read our output has seen enough.
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = write!(std::io::stderr(), "{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Whether this is exactly `mi agent run`. There are hundreds of those on a machine: the command line with all its
/// texts, which they do not need, would be a tenth of each one's memory and start.
fn is_agent_run() -> bool {
    std::env::args_os().skip(1).eq(["agent", "run"])
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Up(args) => runtime::server()?.block_on(serve::up(*args, &global)),
        Command::Serve(args) => runtime::server()?.block_on(serve::serve(*args, &global)),
        Command::Agents(AgentsCommand::Run) => run_agent(),
        Command::Agents(AgentsCommand::Save) => save_workspace(),
        Command::Agents(AgentsCommand::Pack { path }) => commands::cp::pack(&path),
        Command::Agents(AgentsCommand::Unpack { path, name }) => commands::cp::unpack(&path, &name),
        Command::Doctor(args) => runtime::client()?.block_on(commands::doctor::run(*args, &global)),
        Command::Completions { shell } => commands::completions::run(shell),
        command => runtime::client()?.block_on(commands::run(command, global)),
    }
}

fn save_workspace() -> Result<(), Failure> {
    let told = |error: mi_agent::AgentError| Failure::new(error.to_string());
    let config = mi_agent::SaveConfig::from_env().map_err(told)?;
    runtime::started(mi_agent::runtime())?.block_on(async {
        tokio::select! {
            saved = mi_agent::save(config) => saved.map_err(told),
            () = runtime::stop_signal()? => Err(Failure::new("the workspace was not saved: stopped")),
        }
    })
}

fn run_agent() -> Result<(), Failure> {
    let told = |error: mi_agent::AgentError| Failure::new(error.to_string());
    let config = mi_agent::AgentConfig::from_env().map_err(told)?;
    runtime::started(mi_agent::runtime())?
        .block_on(async { mi_agent::run(config, runtime::stop_signal()?).await.map_err(told) })
}
