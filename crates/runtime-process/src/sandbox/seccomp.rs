//! Seccomp: system calls that no agent needs and that break out of other layers, or have done so before.
//!
//! A list of what is refused, not of what is allowed: agents run whatever programs people give them.

use std::collections::BTreeMap;

use mi_kernel::{Error, Result};
use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// Refused whatever the arguments.
const REFUSED: &[libc::c_long] = &[
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // The kernel itself, and what it is often attacked by.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_syslog,
    // Keys of the user, which no namespace divides.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Files without a path.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Flags of clone(2) that make a namespace.
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Requests of terminals as the kernel numbers them: what type they have depends on the C library.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

/// Compiles the filters, to be installed in this order. `unix`: whether Unix sockets may be made.
pub(super) fn filters(unix: bool) -> Result<Vec<BpfProgram>> {
    let made = || -> Result<Vec<BpfProgram>, BackendError> {
        let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
        refused.insert(libc::SYS_clone, one_of(NAMESPACES.iter().map(|flag| has(0, *flag)))?);
        refused.insert(libc::SYS_ioctl, one_of([TIOCSTI, TIOCLINUX].map(|asked| is(1, asked)))?);
        // Asking for the personality is fine, and so is the normal one.
        refused.insert(libc::SYS_personality, vec![SeccompRule::new(vec![is_not(0, 0)?, is_not(0, 0xffff_ffff)?])?]);
        // Sends the first bytes with the opening of a connection, past the check of its port.
        refused.insert(libc::SYS_sendto, one_of([has(3, libc::MSG_FASTOPEN)])?);
        refused.insert(libc::SYS_sendmsg, one_of([has(2, libc::MSG_FASTOPEN)])?);
        refused.insert(libc::SYS_sendmmsg, one_of([has(3, libc::MSG_FASTOPEN)])?);
        refused.insert(libc::SYS_socket, sockets(unix)?);
        refused.insert(libc::SYS_socketpair, one_of([is_not(0, libc::AF_UNIX as u64)])?);
        // Its flags lie in memory, where no filter can look: libraries fall back to clone(2), whose flags are seen.
        let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let mut filters = vec![filter(refused, libc::EPERM)?, filter(unknown, libc::ENOSYS)?];
        if cfg!(target_arch = "x86_64") {
            filters.push(no_x32());
        }
        Ok(filters)
    };
    made().map_err(Error::internal)
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, error: libc::c_int) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    // A call by another architecture's table kills the process: the filter makes sure of that itself.
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(error.unsigned_abs()), arch)?.try_into()
}

/// Only streams between machines and, if `unix`, sockets between processes: no datagrams, no raw packets, no kernel
/// interfaces, and none of the protocols whose connections have other checks than TCP.
fn sockets(unix: bool) -> Result<Vec<SeccompRule>, BackendError> {
    let mut families = vec![libc::AF_INET, libc::AF_INET6];
    if unix {
        families.push(libc::AF_UNIX);
    }
    let foreign = families.iter().map(|family| is_not(0, *family as u64)).collect::<Result<Vec<_>, _>>()?;
    let mut rules = vec![SeccompRule::new(foreign)?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        // The low four bits are the type, the others are flags.
        for kind in (0..16).filter(|kind| *kind != libc::SOCK_STREAM as u64) {
            let this = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(0xf), kind)?;
            rules.push(SeccompRule::new(vec![is(0, family as u64)?, this])?);
        }
        let other = vec![is(0, family as u64)?, is_not(2, 0)?, is_not(2, libc::IPPROTO_TCP as u64)?];
        rules.push(SeccompRule::new(other)?);
    }
    Ok(rules)
}

type Condition = Result<SeccompCondition, BackendError>;

fn one_of(conditions: impl IntoIterator<Item = Condition>) -> Result<Vec<SeccompRule>, BackendError> {
    conditions.into_iter().map(|condition| SeccompRule::new(vec![condition?])).collect()
}

fn is(argument: u8, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

fn has(argument: u8, flag: libc::c_int) -> Condition {
    let flag = u64::from(flag.cast_unsigned());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag)
}

/// Kills a process that calls by the numbers of x32, which the other filters do not know.
fn no_x32() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    let (load, jump, answer) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, libc::BPF_RET);
    let line = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    vec![
        // The number is the first thing a filter is shown. -1 is what a tracer may put there, and no call.
        line(load, 0, 0, 0),
        line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, u32::MAX),
        line(jump, 1, 0, X32_BIT),
        line(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
        line(answer, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_fit_into_the_kernel() {
        for unix in [true, false] {
            for filter in filters(unix).expect("compiled") {
                assert!(filter.len() < 4096, "{}", filter.len());
            }
        }
    }
}
