//! What the chart, the image and the units below `deploy` start the platform with, this program knows.

use std::{collections::BTreeSet, fs, path::Path};

use super::*;

/// The long flags of a text: items of a list, and those of a unit's command.
fn flags(text: &str) -> BTreeSet<String> {
    let lines = text.lines().map(str::trim_start);
    let lines = lines.filter_map(|line| line.strip_prefix("- ").or_else(|| line.strip_prefix("ExecStart=")));
    let flags = lines.flat_map(|line| line.split(' ')).filter_map(|word| word.strip_prefix("--"));
    flags
        .map(|flag| flag.split(['=', '{']).next().unwrap_or_default().to_owned())
        .filter(|flag| !flag.is_empty())
        .collect()
}

fn known(command: &str) -> BTreeSet<String> {
    let command = Cli::command().find_subcommand(command).cloned().expect("a command");
    command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

fn unknown(command: &str, file: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file);
    let text = fs::read_to_string(&path).expect(file);
    let (flags, known) = (flags(&text), known(command));
    assert!(!flags.is_empty(), "{file} has no flags");
    flags.into_iter().filter(|flag| !known.contains(flag)).collect()
}

#[test]
fn every_flag_that_is_deployed_exists() {
    // Those of peers are put together of their roles.
    let of_peers = ["office", "scheduler", "activity", "models"].map(|role| format!("{role}-url"));
    assert!(of_peers.iter().all(|flag| known("serve").contains(flag)), "{of_peers:?}");
    assert_eq!(unknown("serve", "helm/mi/templates/_args.tpl"), [""; 0]);
    assert_eq!(unknown("up", "compose.yaml"), [""; 0]);
    assert_eq!(unknown("up", "systemd/mi.service"), [""; 0]);
}

#[test]
fn flags_are_found_in_what_is_deployed() {
    let text = "# - --not=this\n  - --listen={{ index $ports $role }}\n- --{{ $peer }}-url=x\n  test: [\"curl\", \"--fail\"]\n\
        ExecStart=/usr/local/bin/mi up --sandbox=auto $MI_ARGS\n";
    assert_eq!(flags(text).into_iter().collect::<Vec<_>>(), ["listen", "sandbox"]);
}
