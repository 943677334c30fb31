//! A pseudo-terminal for a command that wants one.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use mi_proto::v1::TerminalSize;
use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    libc,
    pty::{Winsize, openpty},
};
use tokio::net::unix::pipe;

/// The agent's side of a terminal.
pub(super) struct Terminal(OwnedFd);

impl Terminal {
    /// Makes one; also answers the side of the command, which is its input and both of its outputs.
    pub(super) fn open(size: TerminalSize) -> io::Result<(Self, OwnedFd)> {
        let pair = openpty(Some(&winsize(size)), None)?;
        // Nothing is started between the two lines: the agent has one thread.
        for side in [&pair.master, &pair.slave] {
            fcntl(side, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        Ok((Self(pair.master), pair.slave))
    }

    /// What comes out of it, and what goes in. It is no pipe, but is read and written like one.
    pub(super) fn ends(&self) -> io::Result<(pipe::Receiver, pipe::Sender)> {
        let end = || self.0.as_fd().try_clone_to_owned().map(File::from);
        Ok((pipe::Receiver::from_file_unchecked(end()?)?, pipe::Sender::from_file_unchecked(end()?)?))
    }

    /// Tells the command that it has another size.
    pub(super) fn resize(&self, size: TerminalSize) {
        let size = winsize(size);
        // SAFETY: the kernel reads one `winsize` from where `size` is. A terminal that is gone needs none.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }
}

fn winsize(size: TerminalSize) -> Winsize {
    let count = |count| u16::try_from(count).unwrap_or(u16::MAX);
    Winsize { ws_row: count(size.rows), ws_col: count(size.columns), ws_xpixel: 0, ws_ypixel: 0 }
}
