//! `mi files get`.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use clap::Args;
use mi_kernel::text::drive_path;
use mi_proto::v1::File;

use super::{
    many::{Bars, Done, Report, Undone, each},
    path::{STANDARD, find, text},
    put::is_same,
    transfer::download,
};
use crate::{
    context::Context,
    download::{Download, Mode},
    failure::Failure,
    known::{Known, by, by_or_path},
    options::ColonyArg,
    runtime::stop_signal,
};

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// The file's path on the drive
    #[arg(value_name = "PATH", add = by(&[Known::Files]))]
    path: String,
    /// Where it goes here, `-` for standard output; into it when that is a directory or ends with a slash [default: the last
    /// part of PATH]. Of several paths the last word is where they all go
    #[arg(value_name = "TO", add = by_or_path(&[Known::Files]))]
    more: Vec<PathBuf>,
    /// All that is below the path, `.` for the whole drive; into TO only when that ends with a slash
    #[arg(short, long)]
    recursive: bool,
    /// Of several files, also replace those that are here and differ; a single one always is
    #[arg(long)]
    force: bool,
    /// The same as TO
    #[arg(short = 'O', long, value_name = "FILE")]
    output_file: Option<PathBuf>,
}

pub(super) async fn run(mut args: GetArgs, context: &Context) -> Result<(), Failure> {
    let to = match (args.output_file.take(), args.more.pop()) {
        (Some(_), Some(_)) => {
            return Err(Failure::Usage(
                "two places to write to: --output-file takes one PATH and no other word".into(),
            ));
        }
        (Some(to), None) | (None, Some(to)) => Some(to),
        (None, None) => None,
    };
    match (args.recursive, args.more.is_empty()) {
        (false, true) => one(args, to, context).await,
        _ => many(args, to, context).await,
    }
}

async fn one(args: GetArgs, to: Option<PathBuf>, context: &Context) -> Result<(), Failure> {
    let name = last_part(&args.path);
    let to = match to {
        None => PathBuf::from(name),
        Some(to) if is_into(&to) || to.is_dir() => {
            made(&to)?;
            to.join(name)
        }
        Some(to) => to,
    };
    let stdout = to.as_os_str() == STANDARD;
    let office_id = context.colony(&args.colony).await?;
    let file = download(context, office_id, args.path, |file| match stdout {
        true => Ok(Download::to_stdout()),
        false => Download::to_file(&to, Mode::Plain, file.size),
    });
    let file = file.await?;
    match stdout {
        true => Ok(()),
        false => context.out.one(&file),
    }
}

/// The name that a file gets here.
fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether it can be nothing but a directory, there or not.
fn is_into(to: &Path) -> bool {
    let ends_so = |end: &str| to.as_os_str().as_encoded_bytes().ends_with(end.as_bytes());
    ends_so("/")
        || ends_so("/.")
        || matches!(to.components().next_back(), Some(Component::CurDir | Component::ParentDir))
}

fn made(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory)
        .map_err(|error| Failure::io(format!("{} cannot be made", directory.display()), &error))
}

/// Where one of many files goes.
struct Target {
    file: File,
    /// What was asked for here; links in it are followed.
    root: PathBuf,
    /// Names below that; empty: it is the root itself.
    below: String,
}

async fn many(args: GetArgs, to: Option<PathBuf>, context: &Context) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    let paths: Vec<String> =
        std::iter::once(Ok(args.path)).chain(args.more.into_iter().map(text)).collect::<Result<_, _>>()?;
    if to.as_deref().is_some_and(|to| to.as_os_str() == STANDARD) {
        return usage("standard output takes a single file");
    }
    let into = match &to {
        None => Some(PathBuf::new()),
        // A second run of the same command does the same: that the directory is there by then changes nothing.
        Some(to) if is_into(to) || (!args.recursive && to.is_dir()) => Some(to.clone()),
        Some(_) if paths.len() > 1 => {
            return usage("several go into a directory; end the last word with a slash, as in reports/");
        }
        Some(_) => None,
    };
    let office_id = context.colony(&args.colony).await?;
    let mut plan = Plan::default();
    for path in &paths {
        let top = top(path);
        let root = match (&into, &to) {
            (Some(into), _) => into.join(last_part(top)),
            (None, to) => to.clone().unwrap_or_default(),
        };
        plan.add(context, &office_id, top, root, args.recursive).await?;
    }
    get_all(plan, &office_id, args.force, context).await
}

/// A path on the drive as it is meant, without slashes at its end; empty: all of the drive.
fn top(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "." => "",
        top => top,
    }
}

/// What goes where.
#[derive(Default)]
struct Plan {
    targets: Vec<Target>,
    /// Where something goes already.
    taken: HashSet<PathBuf>,
    /// What cannot be written, and why, by path on the drive.
    undone: Vec<(String, Failure)>,
}

impl Plan {
    async fn add(
        &mut self,
        context: &Context,
        office_id: &str,
        top: &str,
        root: PathBuf,
        recursive: bool,
    ) -> Result<(), Failure> {
        if recursive {
            let prefix = if top.is_empty() { String::new() } else { format!("{top}/") };
            let files = context.client.all_files(office_id, &prefix).await?;
            if top.is_empty() && files.is_empty() {
                context.out.note("the drive is empty");
            }
            if top.is_empty() || !files.is_empty() {
                for file in files {
                    self.below(file, &prefix, root.clone());
                }
                return Ok(());
            }
        }
        let why = match find(context, office_id, top).await {
            Ok(Some(file)) => {
                self.target(file, root, String::new());
                return Ok(());
            }
            Ok(None) if recursive => Failure::new(format!("there is no such file, and nothing below {top}/")),
            Ok(None) => Failure::new("there is no such file"),
            Err(failure) => failure,
        };
        self.undone.push((top.to_owned(), why));
        Ok(())
    }

    /// Adds a file that was listed with this prefix. What the platform says of its path is not taken for granted: it has
    /// to lead to somewhere below the root.
    fn below(&mut self, file: File, prefix: &str, root: PathBuf) {
        let below = file.path.strip_prefix(prefix).filter(|below| drive_path("path", below).is_ok()).map(str::to_owned);
        match below {
            Some(below) => self.target(file, root, below),
            None => {
                let told = "its path could lead elsewhere, and is not written to";
                self.undone.push((file.path, Failure::new(told)));
            }
        }
    }

    fn target(&mut self, file: File, root: PathBuf, below: String) {
        let place = place(&root, &below);
        match self.taken.insert(place.clone()) {
            true => self.targets.push(Target { file, root, below }),
            false => {
                let told = format!("another file goes to {} already", place.display());
                self.undone.push((file.path, Failure::new(told)));
            }
        }
    }
}

fn place(root: &Path, below: &str) -> PathBuf {
    if below.is_empty() { root.to_owned() } else { root.join(below) }
}

async fn get_all(plan: Plan, office_id: &str, force: bool, context: &Context) -> Result<(), Failure> {
    let total = plan.targets.len() + plan.undone.len();
    let mut report = Report::default();
    for (path, failure) in plan.undone {
        report.add(&path, Err(failure.into()));
    }
    let report = RefCell::new(report);
    let bars = Bars::new(plan.targets.len());
    let written = Written::default();
    let stop = stop_signal()?;
    let all = each(
        plan.targets,
        || report.borrow().goes_on(),
        async |target: Target| {
            let outcome = get(context, office_id, &target, force, &written, &bars).await;
            bars.next();
            report.borrow_mut().add(&target.file.path, outcome);
        },
    );
    let is_stopped = tokio::select! {
        // First: a download that is told to stop would be followed by the next one.
        biased;
        () = stop => true,
        () = all => false,
    };
    bars.finish();
    let told = report.into_inner().tell(context, "downloaded", total);
    match is_stopped {
        true => Err(Failure::new("interrupted; what was downloaded by then is whole, and nothing is left of the rest")),
        false => told,
    }
}

/// Downloads one of many, unless it is here already.
async fn get(
    context: &Context,
    office_id: &str,
    target: &Target,
    force: bool,
    written: &Written,
    bars: &Bars,
) -> Result<Done, Undone> {
    let path = place(&target.root, &target.below);
    directories(&target.root, &target.below)?;
    let unreadable = |error: &io::Error| Failure::io(format!("{} cannot be read", path.display()), error);
    match path.symlink_metadata() {
        Ok(_) if written.other(&path).is_some() => return Err(written.refuse(&path).into()),
        Ok(found) if found.is_file() => {
            if is_same(&path, &target.file).await? {
                written.claim(&path, &target.file.path);
                return Ok(Done::Unchanged(target.file.clone()));
            }
            if !force {
                return Err(Undone::Differs(format!("{} is here with another content", path.display())));
            }
        }
        // The root is what was asked for, and links to it are meant.
        Ok(found) if found.is_symlink() && !target.below.is_empty() => return Err(is_link(&path).into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(&error).into()),
    }
    let file = download(context, office_id.to_owned(), target.file.path.clone(), |file| {
        let download = Download::to_file(&path, Mode::Plain, file.size)?.showing(bars.one(file.size.unsigned_abs()));
        Ok(download.if_ok(move |place| match (written.other(place), force) {
            (Some(_), _) => Err(written.refuse(place)),
            (None, false) if place.symlink_metadata().is_ok() => {
                Err(Failure::new(format!("{} was made meanwhile", place.display())))
            }
            (None, _) => Ok(()),
        }))
    });
    let file = file.await?;
    written.claim(&path, &file.path);
    Ok(Done::Moved(file))
}

/// Makes the directories between the root and what is below it, following no link.
fn directories(root: &Path, below: &str) -> Result<(), Failure> {
    let Some((parents, _)) = below.rsplit_once('/').or((!below.is_empty()).then_some(("", below))) else {
        return match root.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => made(parent),
            _ => Ok(()),
        };
    };
    made(root)?;
    let mut path = root.to_owned();
    for name in parents.split('/').filter(|name| !name.is_empty()) {
        path.push(name);
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(found) if found.is_symlink() => return Err(is_link(&path)),
            Ok(_) => return Err(Failure::new(format!("{} is in the way: it is no directory", path.display()))),
            Err(_) => made(&path)?,
        }
    }
    Ok(())
}

fn is_link(path: &Path) -> Failure {
    Failure::new(format!("{} is a link, which is not followed", path.display()))
}

/// What this command has written or found to be right, by what the file system takes for one file. On many disks names
/// that differ in case or in Unicode form only are names of the same file, which is not the drive's notion.
#[derive(Default)]
struct Written(RefCell<HashMap<(u64, u64), String>>);

impl Written {
    /// The path on the drive of what is there; none: nothing of this command's.
    fn other(&self, path: &Path) -> Option<String> {
        let found = path.symlink_metadata().ok()?;
        self.0.borrow().get(&(found.dev(), found.ino())).cloned()
    }

    fn claim(&self, path: &Path, on_drive: &str) {
        if let Ok(found) = path.metadata() {
            self.0.borrow_mut().insert((found.dev(), found.ino()), on_drive.to_owned());
        }
    }

    /// Why nothing is written there.
    fn refuse(&self, path: &Path) -> Failure {
        let other = self.other(path).unwrap_or_default();
        let told = format!("{} is the same file here as {other:?} of the drive, which was written", path.display());
        Failure::new(told).hint("get the two into different directories")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(path: &str) -> File {
        File { path: path.into(), ..File::default() }
    }

    #[test]
    fn places() {
        for into in ["a/", ".", "..", "./", "a/.", "a/..", "/"] {
            assert!(is_into(Path::new(into)), "{into}");
        }
        for at in ["a", "a/b", "./a", ".a", "a.", "-"] {
            assert!(!is_into(Path::new(at)), "{at}");
        }
        for (path, meant) in [("a", "a"), ("a/", "a"), ("a/b//", "a/b"), (".", ""), ("./", ""), ("/", ""), ("", "")] {
            assert_eq!(top(path), meant);
        }
        assert_eq!([last_part("a/b.txt"), last_part("b.txt"), last_part("")], ["b.txt", "b.txt", ""]);
    }

    #[test]
    fn whatever_the_platform_says_nothing_is_written_outside() {
        let mut plan = Plan::default();
        let bad = [
            "p/../up",
            "p//etc/passwd",
            "p/",
            "/etc/passwd",
            "elsewhere/a",
            "p/a/../../b",
            "p/a\0b",
            "p/./a",
            "p/a\\b",
        ];
        for path in bad.into_iter().chain(["p/a", "p/b/c"]) {
            plan.below(file(path), "p/", "root".into());
        }
        let places: Vec<PathBuf> = plan.targets.iter().map(|target| place(&target.root, &target.below)).collect();
        assert_eq!(places, [Path::new("root/a"), Path::new("root/b/c")]);
        let undone: Vec<&str> = plan.undone.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(undone, bad);
    }

    #[test]
    fn two_files_of_one_name_do_not_go_to_one_place() {
        let mut plan = Plan::default();
        for path in ["a/x", "b/x"] {
            plan.target(file(path), "dir/x".into(), String::new());
        }
        assert_eq!((plan.targets.len(), plan.undone[0].0.as_str()), (1, "b/x"));
    }

    #[test]
    fn directories_are_made_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().join("new/root");
        directories(&root, "").expect("made");
        assert!(dir.path().join("new").is_dir() && !root.exists());
        directories(&root, "a").expect("made");
        assert!(root.is_dir());
        directories(&root, "a/b/c").expect("made");
        assert!(root.join("a/b").is_dir() && !root.join("a/b/c").exists());
        symlink(dir.path(), root.join("link")).expect("linked");
        fs::write(root.join("file"), "").expect("written");
        for (below, told) in [("link/x", "is a link"), ("link/new/x", "is a link"), ("file/x", "no directory")] {
            let failure = directories(&root, below).expect_err(below);
            assert!(failure.message().contains(told), "{failure}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "nothing came through the link");
    }

    #[test]
    fn what_is_one_file_here_is_not_written_twice() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (one, twin) = (dir.path().join("a"), dir.path().join("A"));
        let written = Written::default();
        fs::write(&one, "").expect("written");
        assert_eq!(written.other(&one), None);
        written.claim(&one, "p/a");
        // As on a disk that knows no case.
        fs::hard_link(&one, &twin).expect("linked");
        assert_eq!(written.other(&twin).as_deref(), Some("p/a"));
        assert!(
            written
                .refuse(&twin)
                .message()
                .ends_with("is the same file here as \"p/a\" of the drive, which was written")
        );
    }
}
