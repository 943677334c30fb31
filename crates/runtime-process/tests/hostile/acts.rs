//! What a hostile program tries, act by act. This runs inside an agent; what it must come to is in the table.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::RawFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            net::{SocketAddr as UnixAddr, UnixListener, UnixStream},
        },
    },
    process::Command,
};

use nix::{errno::Errno, libc};

/// An act: its name, itself, and what it comes to within the sandbox.
pub(crate) type Act = (&'static str, fn() -> io::Result<()>, &'static str);

/// What the platform's user may do and an agent may not.
pub(crate) const AGAINST_OTHERS: &[Act] = &[
    ("read a neighbour's workspace", || read("NEIGHBOUR_FILE"), "ENOENT"),
    ("read the platform's database", || read("DATABASE"), "ENOENT"),
    ("read the administrator's key", || read("ADMIN_KEY"), "ENOENT"),
    ("read the internal key", || read("INTERNAL_KEY"), "ENOENT"),
    ("open the database to all", || chmod(&given("DATABASE")), "ENOENT"),
    ("write beside the workspace", || fs::write(given("OUTSIDE"), "x"), "ENOENT"),
    ("read the platform's environment", || read_proc("PLATFORM", "environ"), "ENOENT"),
    ("read the platform's memory", || read_proc("PLATFORM", "mem"), "ENOENT"),
    ("read a neighbour's enrolment token", || read_proc("NEIGHBOUR", "environ"), "ENOENT"),
    ("reach a neighbour's files by its root", || read_proc("NEIGHBOUR", "root/etc/passwd"), "ENOENT"),
    ("connect to another port of the platform", || connect("OTHER"), "EACCES"),
    ("serve a neighbour's port", || serve_port_of("RELAY"), "EACCES"),
    ("connect to a neighbour's relay", || connect("RELAY"), "EACCES"),
    ("connect to a neighbour's address", || connect("NEIGHBOUR"), "EACCES"),
    ("connect to the metadata service", || connect("METADATA"), "EACCES"),
    ("connect to the Internet", || connect("INTERNET"), "EACCES"),
    ("connect by TCP fast open", fast_open, "EPERM"),
    ("serve a TCP port", || TcpListener::bind("127.0.0.1:0").map(drop), "EACCES"),
    ("send a datagram", || std::net::UdpSocket::bind("127.0.0.1:0").map(drop), "EPERM"),
    ("open a netlink socket", || socket(libc::AF_NETLINK, libc::SOCK_RAW, 0), "EPERM"),
    ("connect to an abstract socket", abstract_socket, "EPERM"),
    ("connect to the platform's socket file", || UnixStream::connect(given("SOCKET")).map(drop), "ENOENT"),
    ("open the operator's terminal", || open_terminal("TERMINAL"), "ENOENT"),
    ("signal the platform", || kill("PLATFORM"), "ESRCH"),
    ("signal a neighbour", || kill("NEIGHBOUR"), "ESRCH"),
    ("trace a neighbour", trace, "EPERM"),
    ("read a neighbour's memory", read_memory, "EPERM"),
];

/// What would harm the machine if it worked.
pub(crate) const AGAINST_THE_MACHINE: &[Act] = &[
    ("read the system's passwords", || fs::read("/etc/shadow").map(drop), "EACCES"),
    ("write into the system", || fs::write("/usr/hostile", "x"), "EROFS"),
    ("write into the tree's root", || fs::write("/hostile", "x"), "EROFS"),
    ("write a kernel setting", || fs::write("/proc/sys/kernel/core_pattern", "x"), "EROFS"),
    ("open a raw socket", || socket(libc::AF_INET, libc::SOCK_RAW, 1), "EPERM"),
    ("open a packet socket", || socket(libc::AF_PACKET, libc::SOCK_RAW, 0), "EPERM"),
    ("open a socket to the hypervisor", || socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0), "EPERM"),
    ("open a socket to the kernel's ciphers", || socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0), "EPERM"),
    ("open a multipath socket", || socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP), "EPERM"),
    ("open an SCTP socket", || socket(libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_SCTP), "EPERM"),
    ("mount", || call(libc::SYS_mount, [text(c"x"), text(c"/tmp"), text(c"tmpfs"), 0, 0]), "EPERM"),
    ("mount by the new calls", || call(libc::SYS_fsopen, [text(c"tmpfs"), 0, 0, 0, 0]), "EPERM"),
    ("unmount", || call(libc::SYS_umount2, [text(c"/usr"), libc::MNT_DETACH as usize, 0, 0, 0]), "EPERM"),
    ("pivot the root", || call(libc::SYS_pivot_root, [text(c"."), text(c"."), 0, 0, 0]), "EPERM"),
    ("change the root", || call(libc::SYS_chroot, [text(c"/tmp"), 0, 0, 0, 0]), "EPERM"),
    ("unshare a user namespace", || call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0]), "EPERM"),
    ("clone into a user namespace", || clone_into(libc::CLONE_NEWUSER), "EPERM"),
    ("clone into a network namespace", || clone_into(libc::CLONE_NEWNET), "EPERM"),
    ("clone past the filter", || call(libc::SYS_clone3, [0; 5]), "ENOSYS"),
    ("enter a namespace", || call(libc::SYS_setns, [0, libc::CLONE_NEWNET as usize, 0, 0, 0]), "EPERM"),
    ("load a BPF program", || call(libc::SYS_bpf, [5, 0, 0, 0, 0]), "EPERM"),
    ("list the keys of the session", || call(libc::SYS_keyctl, [0, 0, 0, 0, 0]), "EPERM"),
    ("add a key", || call(libc::SYS_add_key, [text(c"user"), text(c"x"), text(c"x"), 1, 0]), "EPERM"),
    ("handle page faults", || call(libc::SYS_userfaultfd, [0; 5]), "EPERM"),
    ("watch performance counters", || call(libc::SYS_perf_event_open, [0; 5]), "EPERM"),
    ("load a module", || call(libc::SYS_init_module, [0; 5]), "EPERM"),
    ("load a module from a file", || call(libc::SYS_finit_module, [0; 5]), "EPERM"),
    ("remove a module", || call(libc::SYS_delete_module, [text(c"x"), 0, 0, 0, 0]), "EPERM"),
    ("load another kernel", || call(libc::SYS_kexec_load, [0; 5]), "EPERM"),
    ("use io_uring", || call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]), "EPERM"),
    ("open a file by its handle", || call(libc::SYS_open_by_handle_at, [0; 5]), "EPERM"),
    ("read the kernel's log", || call(libc::SYS_syslog, [3, 0, 0, 0, 0]), "EPERM"),
    ("set the clock", || call(libc::SYS_clock_settime, [0; 5]), "EPERM"),
    ("restart the machine", || call(libc::SYS_reboot, [0; 5]), "EPERM"),
    ("turn on swap", || call(libc::SYS_swapon, [text(c"/x"), 0, 0, 0, 0]), "EPERM"),
    ("turn off address randomisation", || call(libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0]), "EPERM"),
    ("open the platform's own terminal", || open_device("/dev/tty").map(drop), "ENXIO"),
    ("type into a terminal", || call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, 0, 0, 0]), "EPERM"),
    ("become root", become_root, "refused"),
    ("make a device", || call(libc::SYS_mknodat, [at_here(), text(c"disk"), 0o60666, 0x0800, 0]), "EACCES"),
    ("call by foreign numbers", foreign_call, "SIGSYS"),
];

/// What an agent needs.
pub(crate) const HONEST: &[Act] = &[
    ("write in the workspace", || fs::write("file", "x"), "ok"),
    ("write its key", || fs::write(format!("{}/key", env_of("MI_IDENTITY_DIR")), "x"), "ok"),
    ("write temporary files", || fs::write(format!("{}/file", env_of("TMPDIR")), "x"), "ok"),
    ("share memory", shared_memory, "ok"),
    ("write to a device", || fs::write("/dev/null", "x"), "ok"),
    ("read the users", || fs::read("/etc/passwd").map(drop), "ok"),
    ("read its own status", || fs::read("/proc/self/status").map(drop), "ok"),
    ("run a program", || run("ls / > /dev/null; ls /usr/bin > list"), "ok"),
    ("run a program of its own", own_program, "ok"),
    ("connect to the platform", || connect("PLATFORM"), "ok"),
    ("serve its relay and connect to it", own_relay, "ok"),
    ("serve a socket in the workspace", own_socket, "ok"),
    ("open a terminal", own_terminal, "ok"),
    ("start a thread", || std::thread::spawn(|| ()).join().map_err(|_| io::Error::other("panicked")), "ok"),
];

/// Does every act of a table and says what it came to.
pub(crate) fn perform(acts: &[Act]) {
    for (name, act, _) in acts {
        println!("act {name}: {}", outcome(act()));
    }
}

fn outcome(result: io::Result<()>) -> String {
    match result {
        Ok(()) => "ok".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(number) => format!("{:?}", Errno::from_raw(number)),
            None => error.to_string(),
        },
    }
}

fn env_of(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is set"))
}

fn given(name: &str) -> String {
    env_of(&format!("HOSTILE_{name}"))
}

fn process(name: &str) -> usize {
    given(&format!("{name}_PROCESS")).parse().expect("a process id")
}

fn address(name: &str) -> SocketAddr {
    given(&format!("{name}_ADDRESS")).parse().expect("an address")
}

fn read(name: &str) -> io::Result<()> {
    fs::read(given(name)).map(drop)
}

/// Opened, not read: nobody types.
fn open_terminal(name: &str) -> io::Result<()> {
    open_device(&given(name)).map(drop)
}

/// Does not make a terminal the one of this session.
fn open_device(path: &str) -> io::Result<fs::File> {
    fs::File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path)
}

fn chmod(path: &str) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}

/// Opened, not read: a memory's first byte is not there.
fn read_proc(name: &str, file: &str) -> io::Result<()> {
    fs::File::open(format!("/proc/{}/{file}", process(name))).map(drop)
}

fn connect(name: &str) -> io::Result<()> {
    TcpStream::connect(address(name)).map(drop)
}

/// At an address where nobody is.
fn serve_port_of(name: &str) -> io::Result<()> {
    TcpListener::bind((Ipv4Addr::new(127, 0, 0, 7), address(name).port())).map(drop)
}

fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<()> {
    call(libc::SYS_socket, [family as usize, kind as usize, protocol as usize, 0, 0])
}

fn open_stream() -> io::Result<RawFd> {
    // SAFETY: a plain system call.
    match unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) } {
        -1 => Err(io::Error::last_os_error()),
        socket => Ok(socket),
    }
}

fn fast_open() -> io::Result<()> {
    let SocketAddr::V4(address) = address("OTHER") else { panic!("an IPv4 address") };
    let target = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let socket = open_stream()?;
    let (size, flags) = (size_of_val(&target), libc::MSG_FASTOPEN as usize);
    let arguments = [socket as usize, text(c"x"), 1, flags, (&raw const target) as usize, size];
    // SAFETY: all pointers are to values of this frame.
    let sent = unsafe {
        let [a, b, c, d, e, f] = arguments;
        libc::syscall(libc::SYS_sendto, a, b, c, d, e, f)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn abstract_socket() -> io::Result<()> {
    let address = UnixAddr::from_abstract_name(given("ABSTRACT"))?;
    UnixStream::connect_addr(&address).map(drop)
}

fn kill(name: &str) -> io::Result<()> {
    call(libc::SYS_kill, [process(name), 0, 0, 0, 0])
}

fn trace() -> io::Result<()> {
    call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, process("NEIGHBOUR"), 0, 0, 0])
}

fn read_memory() -> io::Result<()> {
    call(libc::SYS_process_vm_readv, [process("NEIGHBOUR"), 0, 0, 0, 0])
}

fn clone_into(namespace: libc::c_int) -> io::Result<()> {
    let flags = namespace | libc::SIGCHLD;
    // SAFETY: as fork(2); the child ends at once.
    match unsafe { libc::syscall(libc::SYS_clone, flags as usize, 0usize, 0usize, 0usize, 0usize) } {
        -1 => Err(io::Error::last_os_error()),
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
}

/// A call by a number of x32 kills the process that makes it: a child, here.
fn foreign_call() -> io::Result<()> {
    const X32_GETPID: libc::c_long = 0x4000_0000 | 39;
    // SAFETY: the child makes system calls only.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::syscall(X32_GETPID);
                libc::_exit(0)
            }
            child => {
                let mut status = 0;
                libc::waitpid(child, &mut status, 0);
                match libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS {
                    true => Err(io::Error::other("SIGSYS")),
                    false => Ok(()),
                }
            }
        }
    }
}

/// Whether root is a stranger there or somebody else depends on who the platform is.
fn become_root() -> io::Result<()> {
    call(libc::SYS_setuid, [0; 5]).map_err(|_| io::Error::other("refused"))
}

fn shared_memory() -> io::Result<()> {
    let path = format!("/dev/shm/mi-hostile-{}", given("NEIGHBOUR_PROCESS"));
    fs::write(&path, "x")?;
    fs::remove_file(path)
}

fn run(script: &str) -> io::Result<()> {
    match Command::new("/bin/sh").args(["-c", script]).status()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(status.to_string())),
    }
}

fn own_program() -> io::Result<()> {
    fs::write("program", "#!/bin/sh\nexit 0\n")?;
    fs::set_permissions("program", fs::Permissions::from_mode(0o700))?;
    run("./program")
}

fn own_relay() -> io::Result<()> {
    let port = env_of("MI_RELAY_PORT").parse().expect("a port");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    listener.accept().map(drop)
}

fn own_socket() -> io::Result<()> {
    let listener = UnixListener::bind("socket")?;
    UnixStream::connect("socket")?;
    listener.accept().map(drop)
}

/// As a program does it that wants to be talked to: both ends, their settings, and a line from one to the other.
fn own_terminal() -> io::Result<()> {
    let ends = nix::pty::openpty(None, None)?;
    let (mut near, far) = (fs::File::from(ends.master), ends.slave);
    let mut settings = nix::sys::termios::tcgetattr(&far)?;
    nix::sys::termios::cfmakeraw(&mut settings);
    nix::sys::termios::tcsetattr(&far, nix::sys::termios::SetArg::TCSANOW, &settings)?;
    let mut same = open_device(&nix::unistd::ttyname(&far)?.display().to_string())?;
    near.write_all(b"hello")?;
    let mut heard = [0; 5];
    same.read_exact(&mut heard)?;
    match &heard {
        b"hello" => Ok(()),
        other => Err(io::Error::other(format!("heard {other:?}"))),
    }
}

fn text(text: &std::ffi::CStr) -> usize {
    text.as_ptr() as usize
}

fn at_here() -> usize {
    libc::AT_FDCWD as usize
}

fn call(number: libc::c_long, arguments: [usize; 5]) -> io::Result<()> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: pointers among the arguments are to texts that live as long as the program.
    match unsafe { libc::syscall(number, a, b, c, d, e, 0usize) } {
        result if result < 0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
