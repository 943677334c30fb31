//! `deploy/install.sh`, which lays files down below a directory of ours.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// Where everything goes, and a program that says its version.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let found = Self { dir: tempfile::tempdir().expect("directory") };
        found.program("mi 1.0.0");
        found
    }

    fn program(&self, version: &str) {
        let file = self.dir.path().join("fresh");
        fs::write(&file, format!("#!/bin/sh\necho {version}\n")).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("set");
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn run(&self, args: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/install.sh");
        let mut command = Command::new(script);
        command.arg("--root").arg(self.dir.path().join("root")).arg("--binary").arg(self.dir.path().join("fresh"));
        command.args(args).output().expect("runs")
    }

    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    fn bad(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("text")
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").permissions().mode() & 0o777
}

#[test]
fn it_may_be_run_again_and_what_was_configured_stays() {
    let target = Place::new();
    target.good(&[]);
    assert_eq!(mode(&target.at("usr/local/bin/mi")), 0o755);
    assert_eq!(mode(&target.at("etc/systemd/system/mi.service")), 0o644);
    assert_eq!(mode(&target.at("etc/mi/mi.env")), 0o600);

    fs::write(target.at("etc/mi/mi.env"), "MI_ARGS=--credits=off\n").expect("written");
    let said = target.good(&[]);
    assert!(said.contains("is mi 1.0.0 already") && !said.contains("installed"), "{said}");
    target.program("mi 2.0.0");
    assert!(target.good(&[]).contains("installed"));
    assert!(fs::read_to_string(target.at("usr/local/bin/mi")).expect("there").contains("2.0.0"));
    assert_eq!(fs::read_to_string(target.at("etc/mi/mi.env")).expect("there"), "MI_ARGS=--credits=off\n");
    // Nothing half-written is left.
    assert_eq!(fs::read_dir(target.at("usr/local/bin")).expect("there").count(), 1);
}

#[test]
fn a_program_that_is_not_what_it_should_be_is_not_installed() {
    let target = Place::new();
    let said = target.bad(&["--sha256", &"0".repeat(64)]);
    assert!(said.contains("its SHA-256 is") && said.contains("nothing was installed"), "{said}");
    assert!(!target.at("usr/local/bin/mi").exists() && !target.at("etc/mi").exists());
    assert_eq!(fs::read_dir(target.at("usr/local/bin")).expect("there").count(), 0);

    let sum = Command::new("sha256sum").arg(target.dir.path().join("fresh")).output().expect("runs");
    let sum = String::from_utf8(sum.stdout).expect("text");
    target.good(&["--sha256", &sum[..64].to_uppercase()]);
    assert!(target.at("usr/local/bin/mi").exists());
}

#[test]
fn a_program_of_another_machine_is_not_installed() {
    let target = Place::new();
    fs::write(target.dir.path().join("fresh"), "#!/no/such/program\n").expect("written");
    assert!(target.bad(&[]).contains("does not run on this machine"));
    assert!(!target.at("usr/local/bin/mi").exists());
}

#[test]
fn removal_keeps_data_unless_told_otherwise() {
    let target = Place::new();
    target.good(&[]);
    fs::create_dir_all(target.at("var/lib/mi/data")).expect("made");
    assert!(target.good(&["--uninstall"]).contains("stay"));
    assert!(!target.at("usr/local/bin/mi").exists() && !target.at("etc/systemd/system/mi.service").exists());
    assert!(target.at("etc/mi/mi.env").exists() && target.at("var/lib/mi/data").exists());
    target.good(&["--uninstall"]);
    target.good(&["--uninstall", "--purge"]);
    assert!(!target.at("etc/mi").exists() && !target.at("var/lib/mi").exists());
}

#[test]
fn what_is_meant_has_to_be_said_whole() {
    let target = Place::new();
    assert!(target.bad(&["--fast"]).contains("there is no option --fast"));
    assert!(target.bad(&["--sha256"]).contains("--sha256 wants a value"));
    assert!(target.bad(&["--purge"]).contains("--purge is for --uninstall"));
    assert!(!target.at("usr").exists());
}
