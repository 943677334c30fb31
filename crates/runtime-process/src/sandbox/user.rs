//! The user that an agent runs as.

use std::{fs, io};

use mi_kernel::AgentId;
use nix::unistd::{Pid, getegid, geteuid};

/// First user and group id of agents, where the platform may hand out any: in a range that no system assigns.
const FIRST_ID: u32 = 0x7000_0000;
/// The id that an agent has in its own eyes, where it may not be the platform's.
const INNER_ID: u32 = 1000;

/// The user that an agent runs as, in a user namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// As a user that no other agent and nobody else is; only root can hand that out.
    Separate(u32),
    /// As the platform's user.
    Platform,
}

impl User {
    /// The separate user of an agent, always the same: by the random end of its id.
    pub(super) fn of(agent: AgentId) -> Self {
        let [.., a, b, c, d] = *agent.0.as_bytes();
        Self::Separate(FIRST_ID | u32::from_be_bytes([a & 0x07, b, c, d]))
    }

    /// Whom its files belong to, seen from outside.
    pub(super) fn outside(self) -> (u32, u32) {
        match self {
            Self::Separate(id) => (id, id),
            Self::Platform => (geteuid().as_raw(), getegid().as_raw()),
        }
    }

    /// What the child has to become once its tree is made.
    pub(super) fn becomes(self) -> Become {
        match self {
            Self::Separate(_) => Become::Ids(INNER_ID, INNER_ID),
            Self::Platform => {
                // Nobody is root inside: programs that see 0 try what root can do.
                let inner = |id: u32| if id == 0 { INNER_ID } else { id };
                let map = |id: u32| format!("{} 0 1\n", inner(id));
                let (user, group) = self.outside();
                Become::Mapped { users: map(user), groups: map(group) }
            }
        }
    }

    /// Says to the kernel who is who in the namespace of this process.
    pub(crate) fn map(self, process: Pid) -> io::Result<()> {
        let write = |file: &str, text: String| fs::write(format!("/proc/{process}/{file}"), text);
        let (user, group) = self.outside();
        match self {
            // The first line is for the set-up alone, and for the system's files to have their owner.
            Self::Separate(_) => {
                write("uid_map", format!("0 0 1\n{INNER_ID} {user} 1\n"))?;
                write("gid_map", format!("0 0 1\n{INNER_ID} {group} 1\n"))
            }
            // Terminals are mounted by root of the namespace alone. So it is root until its tree is made, and nobody
            // special in a namespace within after that.
            Self::Platform => {
                write("uid_map", format!("0 {user} 1\n"))?;
                write("setgroups", "deny".to_owned())?;
                write("gid_map", format!("0 {group} 1\n"))
            }
        }
    }
}

/// What a child becomes that was root of its namespace while its tree was made.
pub(crate) enum Become {
    /// This user and group, which its namespace maps.
    Ids(u32, u32),
    /// The user and group that another namespace, within the first one, maps root to.
    Mapped {
        /// The line of `uid_map`.
        users: String,
        /// The line of `gid_map`.
        groups: String,
    },
}
