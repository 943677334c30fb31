//! Child processes, and the signals they get.

use std::{
    env,
    fmt::Write,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
    thread,
    time::Duration,
};

use nix::{
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    unistd::Pid,
};

use crate::{Result, root};

/// How often a condition is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// SIGINT or SIGTERM has come.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// A signal that the child has yet to get; 0: none.
static TO_FORWARD: AtomicI32 = AtomicI32::new(0);

/// Survives SIGINT and SIGTERM from here on: whoever waits for a child goes on until it has ended, then cleans up.
///
/// Caught, not ignored: children would inherit an ignored signal, and never hear Ctrl-C.
pub(crate) fn catch_signals() -> Result {
    let action = SigAction::new(SigHandler::SigAction(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores into atomics, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.map_err(|error| format!("{signal} cannot be caught: {error}"))?;
    }
    Ok(())
}

extern "C" fn note(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    INTERRUPTED.store(true, Ordering::Relaxed);
    // SAFETY: the kernel hands a handler with SA_SIGINFO, which nix sets, a valid pointer.
    let from_process = unsafe { (*info).si_code } <= 0;
    // The terminal sends Ctrl-C to the whole process group, children included; `kill` means this process alone.
    if from_process {
        TO_FORWARD.store(signal, Ordering::Relaxed);
    }
}

/// SIGINT or SIGTERM has come: no reason to start anything more.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Sleeps for a moment.
#[expect(clippy::disallowed_methods, reason = "there is no runtime to block here")]
pub(crate) fn pause() {
    thread::sleep(POLL);
}

/// `cargo`, the same one that runs this, at the root of the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = at_root(env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    // What `cargo run` says about this package. Build scripts watch some of it: left in, ring and all above it would
    // be built again each time that `cargo build` and `cargo xtask` take turns.
    for (name, _) in env::vars_os() {
        let about_us = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if name.to_str().is_some_and(about_us) {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

/// A program, at the root of the workspace.
pub(crate) fn at_root(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        // Writing to a string cannot fail.
        let _ = match arg.contains(|char: char| char.is_whitespace() || "'\"$*".contains(char)) || arg.is_empty() {
            true => write!(line, " {arg:?}"),
            false => write!(line, " {arg}"),
        };
    }
    line
}

/// Prints the command line on standard error and runs it; it must succeed.
pub(crate) fn run(command: &mut Command) -> Result {
    let line = line(command);
    match status(command)? {
        status if status.success() => Ok(()),
        status => Err(format!("`{line}`: {status}")),
    }
}

/// Prints the command line on standard error and runs it.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    eprintln!("$ {}", line(command));
    wait(&mut spawn(command)?)
}

/// Starts a child.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    if interrupted() {
        return Err("interrupted".to_owned());
    }
    command.spawn().map_err(|error| format!("`{}` cannot be started: {error}", line(command)))
}

/// Waits for a child, and passes on the signals that only this process got.
pub(crate) fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = exited(child)? {
            return Ok(status);
        }
        pause();
    }
}

/// How the child ended, if it did; passes on the signals that only this process got.
pub(crate) fn exited(child: &mut Child) -> Result<Option<ExitStatus>> {
    let status = child.try_wait().map_err(|error| format!("cannot wait: {error}"))?;
    if status.is_none()
        && let Ok(signal) = Signal::try_from(TO_FORWARD.swap(0, Ordering::Relaxed))
    {
        send(child, signal);
    }
    Ok(status)
}

/// Sends a signal to a child that nobody has waited for yet.
pub(crate) fn send(child: &Child, signal: Signal) {
    // A process id is positive and fits; a child that is gone needs no signal.
    let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
}

/// Standard output of a command that must succeed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("`{line}` cannot be started: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("`{line}`: {}\n{}", output.status, said.trim_end()))
        }
    }
}

/// Whether the command can be started and succeeds; what it prints is dropped.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The child's exit code as this process's own; 1 when a signal ended it.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_typed_again() {
        let mut command = Command::new("/a/b/mi");
        command.args(["colonies", "create", "--name", "My Colony", ""]);
        assert_eq!(line(&command), r#"mi colonies create --name "My Colony" """#);
    }

    #[test]
    fn a_command_that_fails_says_so_with_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo oh >&2; exit 3"])).expect_err("fails");
        assert!(error.contains("exit status: 3") && error.ends_with("oh"), "{error}");
        assert!(!works(Command::new("sh").args(["-c", "exit 3"])));
        assert!(works(&mut Command::new("true")));
    }
}
