//! Files that only this user reads.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{Result, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::unistd::geteuid;

/// Whether a file with a secret is kept from others. One of root's may be read by its group, too, if we are not root: so
/// Kubernetes and systemd hand secrets to a service, which can neither own nor write them.
pub fn is_private(file: &Metadata) -> bool {
    kept(file.mode(), file.uid(), geteuid().as_raw())
}

fn kept(mode: u32, owner: u32, user: u32) -> bool {
    let others = if owner == 0 && user != 0 { 0o037 } else { 0o077 };
    mode & others == 0
}

/// Writes a file that only this user reads, whole or not at all, and for good: the name is on the disk too when this
/// returns.
///
/// # Errors
/// What the system says; the file is as it was then.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    match path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reads_only_what_root_hands_out() {
        const ME: u32 = 65532;
        let cases = [
            (0o600, ME, true),
            (0o400, ME, true),
            (0o640, ME, false),
            (0o604, ME, false),
            (0o440, 0, true),
            (0o640, 0, true),
            (0o660, 0, false),
            (0o644, 0, false),
            (0o444, 0, false),
        ];
        for (mode, owner, private) in cases {
            assert_eq!(kept(mode, owner, ME), private, "{mode:o} of {owner}");
        }
        // Root's own file needs no group.
        assert!(kept(0o600, 0, 0) && !kept(0o640, 0, 0));
    }
}
