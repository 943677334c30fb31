//! All that an agent could find a key in: its files, and the environment, the arguments and the memory of its processes.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Bytes of memory that are read at once.
const PIECE: usize = 1 << 20;

/// `/proc` of each process that belongs to the agent.
pub(super) fn processes(agent_id: &str) -> Vec<PathBuf> {
    let own = format!("MI_AGENT_ID={agent_id}").into_bytes();
    let all = fs::read_dir("/proc").expect("there").flatten().map(|entry| entry.path());
    let is_own = |path: &PathBuf| {
        let environ = fs::read(path.join("environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == own)
    };
    all.filter(is_own).collect()
}

/// Whether a process has this text in its environment, its arguments, or whatever of its memory can be written.
pub(super) fn has(process: &Path, text: &str) -> bool {
    let mut search = grep(text, &["-z", "-q"], None).stdin(Stdio::piped()).spawn().expect("grep starts");
    feed(&mut search, process);
    search.wait().expect("it ends").success()
}

/// Files below a directory that have this text.
pub(super) fn files_with(directory: &Path, text: &str) -> String {
    let output = grep(text, &["-r", "-l"], Some(directory)).output().expect("grep runs");
    assert!(output.status.code().is_some_and(|code| code < 2), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn grep(text: &str, flags: &[&str], path: Option<&Path>) -> Command {
    let mut command = Command::new("grep");
    command.args(["-a", "-F"]).args(flags).args(["-e", text]).args(path);
    command
}

/// Writes it all into the search, as far as that wants it: it ends when it has found the text.
fn feed(search: &mut Child, process: &Path) {
    let mut into = search.stdin.take().expect("piped");
    for name in ["environ", "cmdline"] {
        if into.write_all(&fs::read(process.join(name)).unwrap_or_default()).is_err() {
            return;
        }
    }
    // One that has ended meanwhile has none.
    let Ok(maps) = fs::read_to_string(process.join("maps")) else { return };
    let Ok(mut memory) = File::open(process.join("mem")) else { return };
    let mut piece = vec![0; PIECE];
    let written = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw")));
    for line in written {
        let (first, rest) = line.split_once('-').expect("a range");
        let end = rest.split(' ').next().unwrap_or_default();
        let [mut at, end] = [first, end].map(|address| u64::from_str_radix(address, 16).expect("an address"));
        while at < end {
            let most = piece.len().min(usize::try_from(end - at).expect("fits"));
            // What was given back meanwhile cannot be read.
            let read =
                memory.seek(SeekFrom::Start(at)).and_then(|_| memory.read(&mut piece[..most])).unwrap_or_default();
            if read == 0 {
                break;
            }
            if into.write_all(&piece[..read]).is_err() {
                return;
            }
            at += read as u64;
        }
    }
}
