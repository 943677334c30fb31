//! `cargo xtask tidy`: the rules of the sources that no compiler knows.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{Result, root};

const MOST_LINES: usize = 500;
/// Put together here so that this file does not break its own rule.
const FORBIDDEN: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("FIX", "ME"),
    concat!("#[ig", "nore"),
];
const DOCUMENT: &str = "ARCHITECTURE.md";
/// What a migration begins a line with that takes away what a step of an earlier version made superfluous.
const CONTRACTS: &str = "-- Contracts ";

pub(crate) fn run() -> Result {
    let mut faults = Vec::new();
    sources(&mut faults)?;
    migrations(&mut faults)?;
    methods(&mut faults)?;
    document(&mut faults)?;
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("tidy: {} faults\n  {}", faults.len(), faults.join("\n  ")))
}

/// Every Rust file: a head that says what it is for, a size that can be read, nothing left open.
fn sources(faults: &mut Vec<String>) -> Result {
    for folder in ["crates", "xtask"] {
        for path in files(&root().join(folder), "rs")? {
            let name = relative(&path);
            faults.extend(source(&read(&path)?).map(|fault| format!("{name}{fault}")));
        }
    }
    Ok(())
}

/// What is wrong with the text of a Rust file; each fault continues its name.
fn source(text: &str) -> impl Iterator<Item = String> {
    let head = (!text.starts_with("//!")).then(|| ": does not start with `//!`".to_owned());
    let lines = text.lines().count();
    let long = (lines > MOST_LINES).then(|| format!(": {lines} lines, more than {MOST_LINES}"));
    let open = text.lines().zip(1..).flat_map(|(line, number)| {
        let found = FORBIDDEN.iter().filter(move |pattern| line.contains(**pattern));
        found.map(move |pattern| format!(":{number}: `{pattern}`"))
    });
    head.into_iter().chain(long).chain(open)
}

/// Both databases get the same steps, and those that processes of before could not work with stand there with the reason.
fn migrations(faults: &mut Vec<String>) -> Result {
    for krate in folders(&root().join("crates"))? {
        let migrations = krate.join("migrations");
        if !migrations.is_dir() {
            continue;
        }
        let names = |database: &str| -> Result<BTreeSet<String>> {
            let files = files(&migrations.join(database), "sql")?;
            Ok(files.iter().map(|file| name(file)).collect())
        };
        let (sqlite, postgres) = (names("sqlite")?, names("postgres")?);
        let krate = relative(&migrations);
        for name in sqlite.symmetric_difference(&postgres) {
            faults.push(format!("{krate}: {name} is there for one database only"));
        }
        // SQLite's file is one process's.
        for file in files(&migrations.join("postgres"), "sql")? {
            let version: u32 =
                name(&file).split('_').next().and_then(|version| version.parse().ok()).unwrap_or_default();
            // Those of before there was the rule; the store's own have numbers below all others.
            if version > 212 || (5..100).contains(&version) {
                let breaks = breaks(&read(&file)?);
                faults
                    .extend(breaks.map(|what| format!("{}: `{what}`, and no line `{CONTRACTS}NNNN`", relative(&file))));
            }
        }
    }
    Ok(())
}

/// What in a migration breaks processes of the version before, which go on over the new schema until they are replaced, or
/// keeps them waiting while a table is rewritten: none of it, or the file says which earlier step made it possible.
fn breaks(sql: &str) -> Option<&'static str> {
    const BREAKERS: &[&str] =
        &["DROP TABLE", "DROP COLUMN", "DROP INDEX", "RENAME", "SET NOT NULL", "SET DATA TYPE", ") STORED"];
    if sql.lines().any(|line| line.starts_with(CONTRACTS)) {
        return None;
    }
    let plain: Vec<&str> = sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let words = plain.join(" ").to_uppercase().split_whitespace().collect::<Vec<_>>().join(" ");
    words.split(';').filter(|statement| !statement.trim_start().starts_with("CREATE TABLE")).find_map(|statement| {
        let breaker = BREAKERS.iter().copied().find(|breaker| statement.contains(breaker));
        let typed = statement.contains("ALTER COLUMN") && statement.contains(" TYPE ");
        let added = statement.split("ADD COLUMN").skip(1);
        let needed = added.into_iter().any(|column| column.contains("NOT NULL") && !column.contains("DEFAULT"));
        breaker.or(typed.then_some("ALTER COLUMN TYPE")).or(needed.then_some("NOT NULL without DEFAULT"))
    })
}

/// Every method of ours says who may call it.
fn methods(faults: &mut Vec<String>) -> Result {
    for path in files(&root().join("proto/mi"), "proto")? {
        let name = relative(&path);
        for method in unguarded(&read(&path)?) {
            faults.push(format!("{name}: rpc {method} has no `option (mi.v1.access)`"));
        }
    }
    Ok(())
}

/// The methods without an access rule.
fn unguarded(proto: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in proto.lines().map(str::trim) {
        if ["rpc ", "service ", "message ", "enum "].iter().any(|start| line.starts_with(start)) {
            found.extend(open.take());
        }
        if let Some(method) = line.strip_prefix("rpc ") {
            let end = method.find(|char: char| !char.is_alphanumeric() && char != '_');
            open = Some(method[..end.unwrap_or(method.len())].to_owned());
        }
        let ruled = ["option (access)", "option (mi.v1.access)"];
        if !line.starts_with("//") && ruled.iter().any(|option| line.contains(option)) {
            open = None;
        }
    }
    found.extend(open);
    found
}

/// The document knows every crate, and says of every dependency why it is there.
fn document(faults: &mut Vec<String>) -> Result {
    let path = root().join(DOCUMENT);
    if !path.exists() {
        return Ok(());
    }
    let text = read(&path)?;
    let manifest = read(&root().join("Cargo.toml"))?;
    for krate in folders(&root().join("crates"))? {
        let (long, short) = (relative(&krate), name(&krate));
        if !mentions(&text, &long) && !mentions(&text, &short) {
            faults.push(format!("{DOCUMENT}: the crate `{long}` is not mentioned"));
        }
    }
    for dependency in dependencies(&manifest) {
        if !mentions(&text, dependency) {
            faults.push(format!("{DOCUMENT}: the dependency `{dependency}` is not mentioned"));
        }
    }
    Ok(())
}

fn mentions(text: &str, word: &str) -> bool {
    text.contains(&format!("`{word}`"))
}

/// The names in `[workspace.dependencies]`, own crates aside.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .filter(|(_, value)| !value.contains("path = "))
        .map(|(name, _)| name)
}

/// All files with this extension, at any depth, in order; none when the folder is absent.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            // A package that is built by itself has its output inside.
            if name(&path) != "target" {
                found.extend(files(&path, extension)?);
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    Ok(found)
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(folder)?;
    found.retain(|path| path.is_dir());
    Ok(found)
}

/// What is in a folder, in order; nothing when it is absent.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let unreadable = |error| format!("{}: {error}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        found.push(entry.map_err(unreadable)?.path());
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The last part of a path.
pub(crate) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_a_head_and_nothing_left_open() {
        let faults = |text: &str| source(text).collect::<Vec<_>>();
        assert!(faults("//! Fine.\n").is_empty());
        assert_eq!(faults("use std;\n"), [": does not start with `//!`"]);
        assert_eq!(faults(&format!("//! A\n{}\"later\")\n", FORBIDDEN[0])).len(), 1);
        let long = format!("//! A\n{}", "\n".repeat(MOST_LINES));
        assert_eq!(faults(&long), [": 501 lines, more than 500"]);
    }

    #[test]
    fn a_migration_leaves_processes_of_before_at_work() {
        for (sql, fault) in [
            ("CREATE TABLE a (id uuid PRIMARY KEY, n integer NOT NULL GENERATED ALWAYS AS (1) STORED);", None),
            ("ALTER TABLE a ADD COLUMN b text NOT NULL DEFAULT '';\nALTER TABLE a ADD COLUMN c uuid;", None),
            ("-- no DROP COLUMN\nSELECT 1; -- RENAME", None),
            ("alter table a\n  drop column b;", Some("DROP COLUMN")),
            ("ALTER TABLE a RENAME TO b;", Some("RENAME")),
            ("DROP INDEX a_by_b;", Some("DROP INDEX")),
            ("ALTER TABLE a ALTER COLUMN b SET NOT NULL;", Some("SET NOT NULL")),
            ("ALTER TABLE a ALTER b SET DATA TYPE bigint;", Some("SET DATA TYPE")),
            ("ALTER TABLE a ALTER COLUMN b TYPE bigint;", Some("ALTER COLUMN TYPE")),
            ("ALTER TABLE a ADD COLUMN b text NOT NULL;", Some("NOT NULL without DEFAULT")),
            ("ALTER TABLE a ADD COLUMN b text GENERATED ALWAYS AS (lower(c)) STORED;", Some(") STORED")),
            ("-- Contracts 0212: schedulers of before it are gone.\nDROP INDEX a_by_b;", None),
        ] {
            assert_eq!(breaks(sql), fault, "{sql}");
        }
    }

    #[test]
    fn a_method_needs_a_rule_of_its_own() {
        let proto = "
            service Desk {
              rpc Open(A) returns (B);
              // option (access) = not yet
              rpc Close(A) returns (B) {
                option (access) = {callers: [CALLER_OWNER]};
              }
              rpc Far(A) returns (B) { option (mi.v1.access) = {callers: [CALLER_OWNER]}; }
              rpc Last(A) returns (stream B) {}
            }
            message A {}";
        assert_eq!(unguarded(proto), ["Open", "Last"]);
    }

    #[test]
    fn dependencies_are_those_of_others() {
        let manifest = "[workspace]\nresolver = \"3\"\n\n[workspace.dependencies]\n\
            mi-base = { path = \"crates/base\" }\n\nbytes = \"1\"\nhttp-body = { version = \"1\" }\n\n[profile.dev]\nx = 1\n";
        assert_eq!(dependencies(manifest).collect::<Vec<_>>(), ["bytes", "http-body"]);
        assert!(mentions("- `bytes`: buffers", "bytes") && !mentions("`bytes-utils`", "bytes"));
    }
}
