//! `mi`: the platform, its agents and their operators, in one binary.

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
mod options;
mod output;
mod resolve;
mod rows;
mod serve;
mod text;
mod wait;
mod words;

use std::{io::Write, process::ExitCode};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{
    args::{Cli, Command},
    commands::agents::AgentsCommand,
    failure::Failure,
};

/// Threads of a server unless `TOKIO_WORKER_THREADS` says otherwise.
const SERVER_THREADS: usize = 2;

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
        Command::Up(args) => server_runtime()?.block_on(serve::up(args, &global)),
        Command::Serve(args) => server_runtime()?.block_on(serve::serve(*args, &global)),
        Command::Agents(AgentsCommand::Run) => run_agent(),
        Command::Agents(AgentsCommand::Pack { path }) => commands::cp::pack(&path),
        Command::Agents(AgentsCommand::Unpack { path, name }) => commands::cp::unpack(&path, &name),
        Command::Doctor(args) => client_runtime()?.block_on(commands::doctor::run(*args, &global)),
        Command::Completions { shell } => commands::completions::run(shell),
        command => client_runtime()?.block_on(commands::run(command, global)),
    }
}

fn client_runtime() -> Result<Runtime, Failure> {
    started(Builder::new_current_thread().enable_all().build())
}

fn server_runtime() -> Result<Runtime, Failure> {
    let mut builder = Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        builder.worker_threads(SERVER_THREADS);
    }
    started(builder.enable_all().build())
}

fn started(runtime: std::io::Result<Runtime>) -> Result<Runtime, Failure> {
    runtime.map_err(|error| Failure::io("the runtime cannot start", &error))
}

fn run_agent() -> Result<(), Failure> {
    let told = |error: mi_agent::AgentError| Failure::new(error.to_string());
    let config = mi_agent::AgentConfig::from_env().map_err(told)?;
    started(mi_agent::runtime())?.block_on(async { mi_agent::run(config, stop_signal()?).await.map_err(told) })
}

/// Resolves when somebody wants this process to end.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let no_signals = |error: std::io::Error| Failure::io("signals cannot be received", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
