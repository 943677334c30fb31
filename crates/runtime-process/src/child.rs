//! A child of the platform, by the descriptor that stands for it: its id is never used after somebody else may have it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    libc,
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::unix::pipe,
};

/// A child that runs; killed when dropped.
pub(super) struct Process {
    pid: Pid,
    descriptor: OwnedFd,
    output: Option<(OwnedFd, OwnedFd)>,
    ended: bool,
}

impl Process {
    pub(super) fn new(pid: Pid, descriptor: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Self {
        Self { pid, descriptor, output: Some((stdout, stderr)), ended: false }
    }

    pub(super) fn id(&self) -> Pid {
        self.pid
    }

    fn kill(&self) {
        let (descriptor, none) = (self.descriptor.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: a plain system call. It fails only when the child is gone.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, descriptor, libc::SIGKILL, none, 0) };
    }

    /// Takes its exit status, which gives its id back to the kernel.
    fn reap(&mut self) -> nix::Result<WaitStatus> {
        self.ended = true;
        waitid(Id::PIDFd(self.descriptor.as_fd()), WaitPidFlag::WEXITED)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            // Short: it has just been killed, and all that was in its namespace with it.
            let _ = self.reap();
        }
    }
}

/// A [`Process`] that is waited for.
pub(super) struct Child {
    process: AsyncFd<Handle>,
}

/// What tokio waits on.
struct Handle(Process);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.descriptor.as_raw_fd()
    }
}

impl Child {
    /// The child, its standard output and its standard error.
    pub(super) fn new(mut process: Process) -> io::Result<(Self, pipe::Receiver, pipe::Receiver)> {
        let (stdout, stderr) = process.output.take().ok_or_else(|| io::Error::other("the output is taken"))?;
        let (stdout, stderr) = (pipe::Receiver::from_owned_fd(stdout)?, pipe::Receiver::from_owned_fd(stderr)?);
        // SAFETY: the descriptor is the process's own and stays open as long as that is there.
        let process = unsafe { AsyncFd::register_with_interest(Handle(process), Interest::READABLE) }
            .map_err(|error| error.into_parts().1)?;
        Ok((Self { process }, stdout, stderr))
    }

    pub(super) fn id(&self) -> Pid {
        self.process.get_ref().0.id()
    }

    /// Sends SIGKILL to the child.
    pub(super) fn kill(&self) {
        self.process.get_ref().0.kill();
    }

    /// Returns once it is dead; it may be waited for again.
    pub(super) async fn ended(&self) -> io::Result<()> {
        self.process.readable().await.map(drop)
    }

    /// Waits for its end, kills what is left of its process group, and says why it ended.
    pub(super) async fn wait(&mut self) -> String {
        if let Err(error) = self.ended().await {
            return format!("could not be waited for: {error}");
        }
        // Before its id is given back.
        let _ = killpg(self.id(), Signal::SIGKILL);
        match self.process.get_mut().0.reap() {
            Ok(WaitStatus::Exited(_, code)) => format!("exited with code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("killed by {signal}"),
            Ok(_) => "ended".into(),
            Err(error) => format!("could not be waited for: {error}"),
        }
    }
}
