//! The seeds, in a build without libFuzzer: what their names say of them is so.

use std::{collections::BTreeSet, fs, path::Path};

use mi_fuzz::TARGETS;

fn names(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

#[test]
fn good_seeds_are_accepted_and_bad_ones_are_not() {
    for (target, accepts) in TARGETS {
        let folder = format!("seeds/{target}");
        for name in names(&folder) {
            let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder).join(&name);
            let accepted = accepts(&fs::read(seed).expect("a seed"));
            assert_eq!(accepted, name.starts_with("good_"), "{folder}/{name}");
        }
    }
}

#[test]
fn every_target_has_a_program_and_seeds() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let programs: BTreeSet<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names("fuzz_targets"), programs);
    assert_eq!(names("seeds"), targets);
}
