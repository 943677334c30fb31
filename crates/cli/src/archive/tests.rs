//! Copies that come out as they went in, and archives that somebody made to do harm.

use super::*;

/// A directory with `from`, to copy, and `to`, to copy into.
struct Places(TempDir);

impl Places {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::create_dir(dir.path().join("from")).expect("made");
        fs::create_dir(dir.path().join("to")).expect("made");
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str, mode: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("made");
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
    }

    /// Copies `from` to this path.
    fn copy(&self, from: &str, to: &str) -> Result<Vec<String>, String> {
        let mut bytes = Vec::new();
        let mut left_out = pack(&self.path(from), &mut bytes).map_err(|error| error.to_string())?;
        left_out.extend(self.unpack(&bytes, to)?);
        Ok(left_out)
    }

    fn unpack(&self, bytes: &[u8], to: &str) -> Result<Vec<String>, String> {
        let name = OsStr::new("from");
        let unpacked = destination(&self.path(to), name).and_then(|place| stage(bytes, place)?.place());
        unpacked.map_err(|error| error.to_string())
    }

    /// All that is below, as lines of name, kind, mode and content.
    fn tree(&self, below: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut open = vec![self.path(below)];
        while let Some(path) = open.pop() {
            for entry in fs::read_dir(&path).expect("dir") {
                let path = entry.expect("entry").path();
                let found = path.symlink_metadata().expect("there");
                let name = path.strip_prefix(self.path(below)).expect("below").display().to_string();
                lines.push(if found.is_symlink() {
                    format!("{name} -> {}", fs::read_link(&path).expect("a link").display())
                } else if found.is_dir() {
                    open.push(path);
                    format!("{name}/ {:o}", found.mode() & 0o7777)
                } else {
                    format!("{name} {:o} {}", found.mode() & 0o7777, fs::read_to_string(&path).expect("text"))
                });
            }
        }
        lines.sort();
        lines
    }
}

#[test]
fn a_directory_comes_out_as_it_went_in() {
    let places = Places::new();
    let long = "n".repeat(200);
    places.write("from/with space/é\n.txt", "content", 0o640);
    places.write("from/run.sh", "#!/bin/sh", 0o4755);
    places.write(&format!("from/{long}/{long}"), "deep", 0o600);
    fs::create_dir(places.path("from/empty")).expect("made");
    fs::set_permissions(places.path("from/with space"), Permissions::from_mode(0o550)).expect("set");
    symlink("../run.sh", places.path("from/empty/inside")).expect("linked");
    symlink(".", places.path("from/here")).expect("linked");
    symlink(format!("{long}/{long}"), places.path("from/far")).expect("linked");
    let expected = [
        "empty/ 755".to_owned(),
        "empty/inside -> ../run.sh".into(),
        format!("far -> {long}/{long}"),
        "here -> .".into(),
        format!("{long}/ 755"),
        format!("{long}/{long} 600 deep"),
        "run.sh 755 #!/bin/sh".into(),
        "with space/ 550".into(),
        "with space/é\n.txt 640 content".into(),
    ];
    let ordered = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    // By a name of its own, into a directory that is there, and into one that is not.
    for (to, at) in [("new", "new"), ("to", "to/from"), ("made/", "made/from")] {
        assert_eq!(places.copy("from", to), Ok(Vec::new()));
        let umask_free = places.tree(at);
        assert_eq!(umask_free, ordered(expected.to_vec()), "{to}");
    }
    let time = |name: &str| places.path(name).metadata().expect("there").mtime();
    assert_eq!(time("new/run.sh"), time("from/run.sh"));
    let beside: Vec<_> = fs::read_dir(places.path("to")).expect("dir").collect();
    assert_eq!(beside.len(), 1, "nothing is left beside it: {beside:?}");
}

#[test]
fn a_file_replaces_a_file_and_nothing_else() {
    let places = Places::new();
    places.write("from/a", "new", 0o640);
    places.write("to/b", "old", 0o600);
    fs::create_dir(places.path("to/d")).expect("made");
    symlink("b", places.path("to/link")).expect("linked");
    assert_eq!(places.copy("from/a", "to/b"), Ok(Vec::new()));
    assert_eq!(places.copy("from/a", "to/link"), Ok(Vec::new()));
    assert_eq!(places.tree("to"), ["b 640 new", "d/ 755", "link -> b"]);
    // Into a directory under its own name, where a directory is.
    fs::create_dir(places.path("to/from")).expect("made");
    let told = places.copy("from/a", "to").expect_err("a directory");
    assert!(told.ends_with("to/from: is a directory"), "{told}");
    for (to, told) in [("to/b/", "Not a directory"), ("no/b", "No such file"), ("to/b/c", "Not a directory")] {
        let error = places.copy("from/a", to).expect_err(to);
        assert!(error.contains(told), "{error}");
    }
    let told = places.copy("from/none", "to/c").expect_err("not there");
    assert!(told.contains("from/none: No such file"), "{told}");
}

#[test]
fn a_directory_that_is_there_is_added_to_and_its_links_are_not_followed() {
    let places = Places::new();
    places.write("from/a", "new", 0o644);
    places.write("from/sub/b", "new", 0o644);
    places.write("to/from/a", "old", 0o600);
    places.write("to/from/kept", "kept", 0o600);
    places.write("outside/b", "mine", 0o600);
    assert_eq!(places.copy("from", "to"), Ok(Vec::new()));
    assert_eq!(places.tree("to/from"), ["a 644 new", "kept 600 kept", "sub/ 755", "sub/b 644 new"]);
    fs::remove_dir_all(places.path("to/from/sub")).expect("removed");
    symlink("../../outside", places.path("to/from/sub")).expect("linked");
    let told = places.copy("from", "to").expect_err("a link");
    assert!(told.contains("is there and no directory; a link is not followed"), "{told}");
    assert_eq!(places.tree("outside"), ["b 600 mine"]);
    // A link in the place of a file is replaced, and what it leads to is left alone.
    fs::remove_file(places.path("to/from/sub")).expect("removed");
    fs::remove_file(places.path("to/from/a")).expect("removed");
    symlink("../../outside/b", places.path("to/from/a")).expect("linked");
    assert_eq!(places.copy("from", "to"), Ok(Vec::new()));
    assert_eq!(places.tree("outside"), ["b 600 mine"]);
    assert!(places.tree("to/from").contains(&"a 644 new".to_owned()));
}

#[test]
fn what_cannot_be_copied_is_named() {
    let places = Places::new();
    places.write("from/a", "a", 0o644);
    for (name, target) in
        [("absolute", "/etc/passwd"), ("above", "../x"), ("climbs", "e/f/up/../x"), ("deep", "a/../../x")]
    {
        symlink(target, places.path(&format!("from/{name}"))).expect("linked");
    }
    let fifo = places.path("from/pipe");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("ran").success());
    let mut left_out = places.copy("from", "new").expect("copied");
    left_out.sort();
    let outside =
        |name: &str, target: &str| format!("{name}: a link to {target}, which may lead outside of what is copied");
    let pipe = format!("{}: neither a file, a directory nor a link", fifo.display());
    assert_eq!(
        left_out,
        [
            pipe,
            outside("above", "../x"),
            outside("absolute", "/etc/passwd"),
            // As `e/f/up` may be a link to `../..`, which leads inside.
            outside("climbs", "e/f/up/../x"),
            outside("deep", "a/../../x")
        ]
    );
    assert_eq!(places.tree("new"), ["a 644 a"]);
}

/// An entry as nobody honest makes it: its name and target are not looked at.
fn entry(archive: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o7777);
    header.set_size(content.len() as u64);
    let gnu = header.as_gnu_mut().expect("is one");
    gnu.name[..name.len()].copy_from_slice(name.as_bytes());
    gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    archive.append(&header, content).expect("appended");
}

#[test]
fn nothing_is_written_outside_whatever_the_archive_says() {
    use EntryType::{Directory, GNULongName, Link, Regular, Symlink};
    type Bad<'a> = (&'a [(EntryType, &'a str, &'a str)], &'a str);
    let bad: [Bad; 12] = [
        (&[(Regular, "it/../../evil", "")], "outside of what is copied"),
        (&[(Regular, "/tmp/evil", "")], "outside of what is copied"),
        (&[(Regular, "../evil", "")], "outside of what is copied"),
        (&[(Regular, "other", "")], "outside of what is copied"),
        (&[(Regular, "it/./../../evil", "")], "outside of what is copied"),
        // Through a link, whether it leads out by itself or by way of another.
        (
            &[(Directory, "it", ""), (Symlink, "it/a", "../../outside"), (Regular, "it/a/evil", "")],
            "before the directory",
        ),
        (&[(Directory, "it", ""), (Symlink, "it/a", "b"), (Regular, "it/a/evil", "")], "before the directory"),
        (&[(Directory, "it", ""), (Symlink, "it/a", "b"), (Regular, "it/a", "")], "File exists"),
        (&[(Directory, "it", ""), (Directory, "it/a", ""), (Symlink, "it/a", ".")], "File exists"),
        (&[(Symlink, "it", "/tmp"), (Regular, "it/evil", "")], "before the directory"),
        (&[(Directory, "it", ""), (GNULongName, "././@LongLink", ""), (Regular, "it/a", "")], "too long"),
        (&[], "holds nothing"),
    ];
    for (entries, told) in bad {
        let places = Places::new();
        places.write("outside/kept", "kept", 0o644);
        let mut archive = Builder::new(Vec::new());
        for (kind, name, target) in entries {
            let content = if *kind == GNULongName { vec![b'n'; 5000] } else { b"x".repeat((*kind == Regular).into()) };
            entry(&mut archive, *kind, name, target, &content);
        }
        entry(&mut archive, Regular, END, "", b"");
        let bytes = archive.into_inner().expect("finished");
        let error = places.unpack(&bytes, "to/new").expect_err(told);
        assert!(error.contains(told), "{error}");
        assert_eq!(places.tree("to"), [""; 0], "{entries:?}");
        assert_eq!(places.tree("outside"), ["kept 644 kept"]);
    }
    // What is no harm but cannot be copied: hard links, devices; and bits that give rights, also to those whom the umask
    // keeps out.
    let places = Places::new();
    let mut archive = Builder::new(Vec::new());
    entry(&mut archive, Directory, "it/", "", b"");
    entry(&mut archive, Link, "it/hard", "/etc/passwd", b"");
    entry(&mut archive, EntryType::Char, "it/device", "", b"");
    entry(&mut archive, Regular, "it/file", "", b"x");
    entry(&mut archive, Regular, END, "", b"");
    let left_out = places.unpack(&archive.into_inner().expect("finished"), "to/new").expect("unpacked");
    assert_eq!(left_out, ["hard", "device"].map(|it| format!("{it}: neither a file, a directory nor a link")));
    let new = places.path("from").metadata().expect("there").mode() & 0o777;
    assert_eq!(places.tree("to"), [format!("new/ {new:o}"), format!("new/file {new:o} x")]);
}

#[test]
fn half_an_archive_is_none() {
    let places = Places::new();
    places.write("from/a", &"a".repeat(2000), 0o644);
    places.write("from/b", "b", 0o644);
    let mut bytes = Vec::new();
    pack(&places.path("from"), &mut bytes).expect("packed");
    // Between two entries, in a header, in a content, and with an end that a broken writer gave it.
    for cut in (0..bytes.len() - 1536).step_by(256) {
        let error = places.unpack(&bytes[..cut], "to/new").expect_err("cut off");
        let mut ended = bytes[..cut / 512 * 512].to_vec();
        ended.extend([0; 1024]);
        places.unpack(&ended, "to/new").expect_err("cut off");
        assert_eq!(places.tree("to"), [""; 0], "{error}");
    }
}
