//! The first process of an agent's own process namespace.
//!
//! The kernel hands it every process whose parent is dead, and ends all of them with it. So it takes those in, hands
//! signals on to the agent proper, its first child, and ends when that one does.

use std::{io, process};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

/// What the first process exits with when the agent was killed, as shells do: this and the signal's number.
const KILLED: i32 = 128;

/// In a namespace of its own: goes on in a child, and returns there alone. Elsewhere it just returns.
///
/// To be called while there is one thread.
///
/// # Errors
/// When the system gives no further process.
pub fn settle() -> io::Result<()> {
    if process::id() != 1 {
        return Ok(());
    }
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        awaited.add(signal);
    }
    // Before the child is there, so that none is missed.
    awaited.thread_block()?;
    // SAFETY: one thread, so that the child has whatever locks and memory it finds.
    match unsafe { fork() }? {
        ForkResult::Child => Ok(awaited.thread_unblock()?),
        ForkResult::Parent { child } => process::exit(serve(child, &awaited)),
    }
}

/// Serves until the agent ends: its exit code.
fn serve(agent: Pid, awaited: &SigSet) -> i32 {
    loop {
        match awaited.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(agent) {
                    return code;
                }
            }
            // It may be dead, which the next signal says.
            Ok(signal) => drop(kill(agent, signal)),
            Err(Errno::EINTR) => {}
            Err(_) => return KILLED,
        }
    }
}

/// Takes the exit statuses of all that are dead; the exit code of the agent if it is among them.
fn reap(agent: Pid) -> Option<i32> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(process, code)) if process == agent => return Some(code),
            Ok(WaitStatus::Signaled(process, signal, _)) if process == agent => return Some(KILLED + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}
