//! Programs that grow without bound, or that want to live on after their end.

use std::{env, fs, process::Command, time::Duration};

use mi_kernel::secret::Secret;
use mi_runtime::{Limits, Runtime};
use mi_runtime_process::SandboxMode;
use mi_testkit::until;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::harness::{Harness, LONG, shell};

/// The processes that share a process's namespace, by the namespace's name.
struct Family(std::path::PathBuf);

impl Family {
    fn of(process: Pid) -> Self {
        let family = Self::read(&process.to_string()).expect("alive");
        assert_ne!(Some(&family), Self::read("self").as_ref(), "a namespace of its own");
        Self(family)
    }

    fn read(process: &str) -> Option<std::path::PathBuf> {
        fs::read_link(format!("/proc/{process}/ns/pid")).ok()
    }

    fn size(&self) -> usize {
        let processes = fs::read_dir("/proc").expect("proc").flatten();
        let member = |name: &str| Self::read(name).is_some_and(|family| family == self.0);
        processes.filter(|entry| member(&entry.file_name().to_string_lossy())).count()
    }
}

/// Leaves a process behind that ignores signals and left its session, by way of another that is dead.
const DAEMON: &str = "(setsid sh -c 'trap \"\" TERM HUP INT; echo $PPID; sleep 600' &) ; sleep 0.1; echo here";

#[tokio::test]
async fn a_daemon_dies_with_its_agent() {
    let script = format!("trap 'exit 0' TERM; {DAEMON}; while :; do sleep 0.1; done");
    let mut harness = Harness::of_script(SandboxMode::Required, &script).await;
    while harness.line().await != "here" {}
    let family = Family::of(harness.process());
    assert!(family.size() >= 3, "{}", family.size());
    let _ = harness.runtime.stop(harness.place).await.expect("stopped");
    assert_eq!(family.size(), 0);
}

#[tokio::test]
async fn a_daemon_dies_when_its_agent_ends_by_itself() {
    let mut harness = Harness::of_script(SandboxMode::Required, &format!("{DAEMON}; sleep 0.5")).await;
    while harness.line().await != "here" {}
    let family = Family::of(harness.process());
    assert_eq!(harness.ended().await, "exited with code 0");
    assert_eq!(family.size(), 0);
}

/// Not a test: a platform that has one agent and waits to be killed.
#[tokio::test]
async fn platform() {
    // A process of its own for the test below; in a run of the tests it is nothing.
    let Some(note) = env::var_os("HOSTILE_NOTE") else { return };
    let mut harness = Harness::of_script(SandboxMode::Required, &format!("{DAEMON}; sleep 600")).await;
    while harness.line().await != "here" {}
    fs::write(note, harness.process().to_string()).expect("written");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_survives_the_kill_of_the_platform() {
    let root = tempfile::tempdir().expect("made");
    let note = root.path().join("note");
    let mut platform = Command::new(env::current_exe().expect("this test"))
        .args(["ends::platform", "--exact"])
        .env("HOSTILE_NOTE", &note)
        .spawn()
        .expect("started");
    let noted = async || -> Result<_, String> { Ok(fs::read_to_string(&note).ok().and_then(|text| text.parse().ok())) };
    let process = Pid::from_raw(until("the platform has its agent", LONG, noted).await);
    let family = Family::of(process);
    assert!(family.size() >= 3);
    platform.kill().expect("killed");
    platform.wait().expect("dead");
    let gone = async || match family.size() {
        0 => Ok(Some(())),
        left => Err(format!("{left} left")),
    };
    until("all are dead", LONG, gone).await;
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_limit_and_dies() {
    let limits = Limits { pids: Some(40), ..Limits::default() };
    // Each bomb lights two, until the kernel gives no more.
    let bomb = "bomb() { bomb & bomb & exec sleep 600; }; bomb 2>/dev/null & exec sleep 600";
    let harness = Harness::new(SandboxMode::Required, shell(bomb), limits).await;
    let family = Family::of(harness.process());
    let grown = async || match family.size() {
        0..40 => Err(format!("{} processes", family.size())),
        size => Ok(Some(size)),
    };
    assert_eq!(until("the bomb has gone off", LONG, grown).await, 40);
    kill(harness.process(), Signal::SIGKILL).expect("its first process is there");
    harness.ended().await;
    assert_eq!(family.size(), 0);
}

#[tokio::test]
async fn a_full_disk_ends_the_agent_and_says_so() {
    let limits = Limits { disk_bytes: Some(20_000_000), ..Limits::default() };
    let script = "i=0; while :; do head -c 1000000 /dev/zero > file$i; i=$((i+1)); done";
    let harness = Harness::new(SandboxMode::Required, shell(script), limits).await;
    let reason = harness.ended().await;
    assert!(reason.ends_with("its limit disk_bytes is 20000000"), "{reason}");
}

/// A file limit holds at once, whatever the counting says.
#[tokio::test]
async fn a_single_file_has_its_own_limit() {
    let limits = Limits { file_bytes: Some(1_000_000), ..Limits::default() };
    let script = "head -c 5000000 /dev/zero > file; exec wc -c < file";
    let mut harness = Harness::new(SandboxMode::Required, shell(script), limits).await;
    assert!(harness.lines().await.contains(&"1000000".to_owned()));
}

/// A program that belongs to root and would run as root.
#[tokio::test]
async fn a_setuid_program_gives_nothing() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can make such a program: nothing to see");
        return;
    }
    let script = "until [ -e ready ]; do sleep 0.02; done; ./id -u; cp id own; chmod 4755 own; ./own -u; exec id -u";
    let mut harness = Harness::of_script(SandboxMode::Required, script).await;
    let workspace = harness.workspace();
    fs::copy("/usr/bin/id", workspace.join("id")).expect("copied");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    fs::set_permissions(workspace.join("id"), mode).expect("set");
    fs::write(workspace.join("ready"), "").expect("written");
    assert_eq!(harness.lines().await, ["1000", "1000", "1000"]);
}

#[tokio::test]
async fn an_agent_starts_again_in_its_own_workspace() {
    let script = "echo x >> /tmp/lost; echo x >> kept; cat kept | wc -l; cat /tmp/lost | wc -l";
    let mut harness = Harness::of_script(SandboxMode::Required, script).await;
    assert_eq!(harness.lines().await, ["1", "1"]);
    harness.again().await;
    assert_eq!(harness.lines().await, ["2", "1"]);
    let _ = tokio::time::timeout(Duration::from_secs(5), harness.runtime.stop(harness.place))
        .await
        .expect("at once")
        .expect("stopped");
}

/// A token that the instance before had no use for: the next one would take it for one that is good.
#[tokio::test]
async fn a_token_is_for_the_instance_that_it_was_handed_to() {
    let script = "cd $MI_IDENTITY_DIR; until [ -e enrol-token ]; do sleep 0.02; done; cat enrol-token; echo";
    let mut harness = Harness::of_script(SandboxMode::Required, script).await;
    for token in ["first", "second"] {
        harness.runtime.hand_over(harness.place, &Secret::new(token)).await.expect("handed over");
        assert_eq!(harness.lines().await, [token]);
        harness.again().await;
    }
}

/// An agent may open fewer files than the platform, which holds some for each agent there is.
#[tokio::test]
async fn a_platform_with_more_files_than_an_agent_may_open_starts_agents() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("known");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("raised");
    let held: Vec<fs::File> = (0..1100).map(|_| fs::File::open("/dev/null").expect("within the limit")).collect();
    let mut harness = Harness::of_script(SandboxMode::Required, "echo here; ulimit -n").await;
    assert_eq!((harness.line().await, harness.line().await), ("here".into(), "1024".into()));
    drop(held);
}
