//! Hostile programs in real agents of the process runtime: whatever they try comes to nothing, each act by its own name.
//!
//! The program is this test itself, started once more within the sandbox. Addresses of 127.0.0.0/8 stand for a neighbour,
//! the metadata service and the Internet; nothing is sent off the machine.

mod acts;
mod ends;
mod harness;
mod other_user;

use std::{collections::BTreeMap, env, fs};

use mi_runtime::Runtime;
use mi_runtime_process::SandboxMode;

use acts::{AGAINST_OTHERS, AGAINST_THE_MACHINE, Act, HONEST};
use harness::Harness;

/// Not a test: the program that agents run.
#[test]
fn program() {
    // What agents run and a run of the tests does not.
    if env::var_os("HOSTILE_PLATFORM_ADDRESS").is_none() {
        return;
    }
    for acts in [AGAINST_OTHERS, AGAINST_THE_MACHINE, HONEST] {
        acts::perform(acts);
    }
}

/// Not a test: the acts that do no harm when they work.
#[test]
fn harmless_program() {
    if env::var_os("HOSTILE_PLATFORM_ADDRESS").is_none() {
        return;
    }
    acts::perform(AGAINST_OTHERS);
    acts::perform(HONEST);
}

fn expected(acts: &[&[Act]]) -> BTreeMap<String, String> {
    acts.iter().flat_map(|acts| acts.iter()).map(|(name, _, comes_to)| ((*name).into(), (*comes_to).into())).collect()
}

#[tokio::test]
async fn every_hostile_act_fails_and_every_honest_one_works() {
    let mut harness = Harness::of_acts(SandboxMode::Required, "program").await;
    let outcomes = harness.acts().await;
    assert_eq!(outcomes, expected(&[AGAINST_OTHERS, AGAINST_THE_MACHINE, HONEST]));
    assert_eq!(fs::read(harness.workspace().join("file")).expect("the agent's file"), b"x");
}

/// The acts are real: without a sandbox they work.
#[tokio::test]
async fn the_same_acts_work_without_a_sandbox() {
    let mut harness = Harness::of_acts(SandboxMode::Off, "harmless_program").await;
    let outcomes = harness.acts().await;
    let refused: Vec<_> = outcomes.iter().filter(|(_, outcome)| *outcome != "ok").collect();
    assert_eq!(refused, [], "of {}", outcomes.len());
    assert_eq!(outcomes.len(), AGAINST_OTHERS.len() + HONEST.len());
}

#[tokio::test]
async fn the_report_names_what_stands_and_what_does_not() {
    let required = ["namespaces", "landlock-files", "landlock-ports", "landlock-scopes", "seccomp", "no-capabilities"];
    let report = Harness::of_script(SandboxMode::Required, "true").await.runtime.sandbox();
    assert!(required.iter().all(|name| report.enforced.iter().any(|known| known == name)), "{report:?}");
    let off = Harness::of_script(SandboxMode::Off, "true").await.runtime.sandbox();
    assert_eq!(off.enforced, ["no-new-privileges", "disk"]);
    let mut missing: Vec<String> = required.map(|name| format!("{name}: switched off by --sandbox=off")).to_vec();
    missing.push("terminals: switched off by --sandbox=off".to_owned());
    missing.push("memory: limited for each process, not for all of an agent: switched off by --sandbox=off".to_owned());
    missing.extend(["pids", "cpu"].map(|name| format!("{name}: switched off by --sandbox=off")));
    assert_eq!(off.missing, missing);
}

/// Terminals are there for whoever wants one, and an agent sees its own alone.
#[tokio::test]
async fn an_agent_has_terminals_of_its_own() {
    let script =
        "ls -1 /dev/pts; script -qec 'tty; ls -1 /dev/pts; echo typed > /dev/tty' /dev/null | tr -d '\\r'; ls /dev/pts";
    let mut harness = Harness::of_script(SandboxMode::Required, script).await;
    assert!(harness.runtime.sandbox().enforced.contains(&"terminals".to_owned()));
    assert_eq!(harness.lines().await, ["ptmx", "/dev/pts/0", "0", "ptmx", "typed", "ptmx"]);
}

/// What the kernel itself says of a process in the sandbox.
#[tokio::test]
async fn an_agent_has_no_powers_and_can_gain_none() {
    // Its id, its session and its terminal: a session of its own, which has none.
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; cut -d' ' -f1,6,7 /proc/$$/stat; pwd; env | sort | grep -vE 'HOSTILE|RELAY'";
    let mut harness = Harness::of_script(SandboxMode::Required, script).await;
    let none = "0000000000000000";
    let mut expected: Vec<String> =
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| format!("{set}:\t{none}")).to_vec();
    expected.extend(["NoNewPrivs:\t1", "Seccomp:\t2", "1 1 0", "/workspace"].map(str::to_owned));
    expected.extend(
        [
            "HOME=/workspace",
            "LANG=C.UTF-8",
            &format!("MI_ENDPOINT=http://{}", harness.platform),
            "MI_IDENTITY_DIR=/identity",
        ]
        .map(str::to_owned),
    );
    expected.extend(
        ["MI_WORKSPACE=/workspace", "PATH=/usr/local/bin:/usr/bin:/bin", "PWD=/workspace", "TMPDIR=/tmp"]
            .map(str::to_owned),
    );
    assert_eq!(harness.lines().await, expected);
}
