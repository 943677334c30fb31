//! A platform that is not root: it makes the same layers in another way, and is the very user whose files agents close.

use std::{
    env, fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    process::Command,
    sync::{Arc, Mutex},
};

use mi_kernel::AgentId;
use mi_runtime::{Place, Runtime};
use mi_runtime_process::SandboxMode;
use nix::unistd::geteuid;

use crate::harness::{Harness, home};

/// Nobody's id, on every system.
const NOBODY: u32 = 65534;

#[test]
fn the_same_holds_on_a_platform_that_is_not_root() {
    if !geteuid().is_root() {
        eprintln!("these tests are not run by root: they say so themselves");
        return;
    }
    // Where that user finds it.
    let directory = tempfile::tempdir().expect("made");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let program = directory.path().join("hostile");
    fs::copy(env::current_exe().expect("this test"), &program).expect("copied");
    let names = [
        "every_hostile_act_fails_and_every_honest_one_works",
        "an_agent_has_no_powers_and_can_gain_none",
        "an_agent_has_terminals_of_its_own",
        "ends::a_fork_bomb_stays_within_its_limit_and_dies",
        "other_user::what_an_agent_closed_to_itself_is_counted_and_backed_up",
    ];
    let mut command = Command::new(program);
    let output = command.args(names).arg("--exact").current_dir("/").uid(NOBODY).gid(NOBODY).output().expect("run");
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    // A name that no test has is no failure to the test program.
    let passed = format!("test result: ok. {} passed;", names.len());
    assert!(output.status.success() && told[0].contains(&passed), "{}\n{}", told[0], told[1]);
}

#[derive(Clone, Default)]
struct Archive(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Archive {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lock").write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_an_agent_closed_to_itself_is_counted_and_backed_up() {
    // Its files are counted some times meanwhile.
    let script = "mkdir -p locked/deep; echo inside > locked/deep/file; echo hidden > secret; ln secret twin; \
                  chmod 000 locked/deep locked secret; sleep 0.5; echo over";
    let mut harness = Harness::of_script(SandboxMode::Required, script).await;
    assert_eq!(
        (harness.lines().await, harness.ended().await),
        (vec!["over".to_owned()], "exited with code 0".to_owned())
    );
    let archive = Archive::default();
    harness.runtime.archive(harness.place, Box::new(archive.clone())).await.expect("archived");
    let bytes = archive.0.lock().expect("lock").clone();
    let other = Place { agent_id: AgentId::new(), ..harness.place };
    harness.runtime.prepare(other, Some(Box::new(std::io::Cursor::new(bytes)))).await.expect("restored");
    let restored = home(harness.root(), other).join("workspace");
    for root in [harness.workspace(), restored] {
        let mode = |name: &str| fs::metadata(root.join(name)).expect("there").mode() & 0o777;
        let open = |name: &str| {
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o700)).expect("set");
        };
        assert_eq!((mode("secret"), mode("twin"), mode("locked")), (0, 0, 0));
        assert_eq!(fs::metadata(root.join("twin")).expect("there").nlink(), 2);
        open("secret");
        open("locked");
        assert_eq!(mode("locked/deep"), 0);
        open("locked/deep");
        assert_eq!(fs::read_to_string(root.join("twin")).expect("there"), "hidden\n");
        assert_eq!(fs::read_to_string(root.join("locked/deep/file")).expect("there"), "inside\n");
    }
}
