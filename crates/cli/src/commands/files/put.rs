//! `mi files put`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use mi_kernel::text::drive_path;
use mi_proto::v1::{File, UploadHeader};
use uuid::Uuid;

use super::{
    many::{Bars, Done, Report, Undone, each},
    path::{ConditionArgs, STANDARD, find, text},
    transfer::{sha256_of, upload_file, upload_stdin},
};
use crate::{
    context::Context,
    failure::Failure,
    known::{Known, by_or_path},
    options::ColonyArg,
    wait::bytes_bar,
};

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// File to read; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where it goes on the drive, into it when that ends with a slash [default: the file's name]. Of several files the last
    /// word is where they all go
    #[arg(value_name = "PATH", add = by_or_path(&[Known::Files]))]
    more: Vec<PathBuf>,
    /// Directories, too, with all that is in them; links in them are left out
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    condition: ConditionArgs,
    /// Its media type
    #[arg(long, value_name = "TYPE", default_value = "")]
    content_type: String,
}

/// Where things go on the drive.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Under this path.
    At(String),
    /// Under their own names, after this: empty, or with a slash at its end.
    Into(String),
}

impl Place {
    /// A slash at the end says that it is a directory, as does what can be nothing else.
    fn parse(text: &str) -> Self {
        match text.strip_suffix('/') {
            _ if matches!(text, "." | "./" | "/") => Self::Into(String::new()),
            Some(prefix) => Self::Into(format!("{}/", prefix.trim_end_matches('/'))),
            None => Self::At(text.to_owned()),
        }
    }
}

pub(super) async fn run(mut args: PutArgs, context: &Context) -> Result<(), Failure> {
    let to = args.more.pop().map(text).transpose()?;
    let place = to.as_deref().map(Place::parse);
    match (args.recursive, args.more.is_empty()) {
        (false, true) => one(args, place, context).await,
        _ => many(args, place, context).await,
    }
}

async fn one(args: PutArgs, place: Option<Place>, context: &Context) -> Result<(), Failure> {
    let standard = args.file.as_os_str() == STANDARD;
    let path = match place {
        Some(Place::At(path)) => path,
        Some(Place::Into(_)) | None if standard => {
            return Err(Failure::Usage("what is it to be called? give a PATH after `-`".into()));
        }
        Some(Place::Into(prefix)) => prefix + &name(&args.file)?,
        None => name(&args.file)?,
    };
    let office_id = context.colony(&args.colony).await?;
    let header = UploadHeader {
        office_id,
        path,
        content_type: args.content_type,
        if_revision: args.condition.if_revision,
        force: args.condition.force,
        // What is sent again is put there once.
        request_id: Uuid::new_v4().to_string(),
    };
    let file = match standard {
        true => upload_stdin(context, header).await?,
        false => upload_file(context, header, &args.file, bytes_bar).await?,
    };
    context.out.one(&file)
}

/// The name on the drive of what is given without one. Of `.` and `..` that is the name of the directory.
fn name(file: &Path) -> Result<String, Failure> {
    let nameless = || Failure::Usage(format!("{} has no name to take; give a PATH", file.display()));
    let text = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    text(file).or_else(|| text(&fs::canonicalize(file).ok()?)).ok_or_else(nameless)
}

async fn many(args: PutArgs, place: Option<Place>, context: &Context) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    let sources: Vec<&Path> = std::iter::once(&args.file).chain(&args.more).map(PathBuf::as_path).collect();
    if sources.iter().any(|source| source.as_os_str() == STANDARD) {
        return usage("standard input is one file; give `-` and its PATH alone");
    }
    if args.condition.if_revision != 0 {
        return usage("--if-revision is about a single file; --force replaces whatever is there");
    }
    if sources.len() > 1 && !matches!(place, Some(Place::Into(_))) {
        return usage("several files go into a directory; end the last word with a slash, as in reports/");
    }
    let mut plan = Plan::default();
    for source in sources {
        let target = match &place {
            Some(Place::At(path)) => path.clone(),
            Some(Place::Into(prefix)) => format!("{prefix}{}", name(source)?),
            None => name(source)?,
        };
        plan.add(source, target, args.recursive);
    }
    let office_id = context.colony(&args.colony).await?;
    let mut there = HashMap::new();
    for tree in &plan.trees {
        let files = context.client.all_files(&office_id, tree).await?;
        there.extend(files.into_iter().map(|file| (file.path.clone(), file)));
    }
    let total = plan.uploads.len() + plan.undone.len();
    let mut report = Report::default();
    for (path, failure) in plan.undone {
        report.add(&path, Err(failure.into()));
    }
    let report = RefCell::new(report);
    let bars = Bars::new(plan.uploads.len());
    let header = UploadHeader {
        office_id,
        content_type: args.content_type,
        force: args.condition.force,
        ..UploadHeader::default()
    };
    each(
        plan.uploads.into_iter().collect(),
        || report.borrow().goes_on(),
        async |(path, upload): (String, Upload)| {
            let known = match upload.is_listed {
                true => Ok(there.get(&path).cloned()),
                false => find(context, &header.office_id, &path).await,
            };
            let header = UploadHeader { path, ..header.clone() };
            let outcome = match known {
                Ok(known) => put(context, header, &upload.from, known, &bars).await,
                Err(failure) => Err(failure.into()),
            };
            bars.next();
            report.borrow_mut().add(&upload.from.display().to_string(), outcome);
        },
    )
    .await;
    bars.finish();
    for left_out in plan.left_out {
        context.out.note(&format!("left out: {left_out}"));
    }
    report.into_inner().tell(context, "uploaded", total)
}

/// Uploads one of many, unless it is there already.
async fn put(
    context: &Context,
    header: UploadHeader,
    from: &Path,
    known: Option<File>,
    bars: &Bars,
) -> Result<Done, Undone> {
    let mut if_revision = 0;
    if let Some(known) = known {
        if is_same(from, &known).await? {
            return Ok(Done::Unchanged(known));
        }
        if !header.force {
            let why = format!("{:?} is on the drive with another content, at revision {}", known.path, known.revision);
            return Err(Undone::Differs(why));
        }
        if_revision = known.revision;
    }
    let header = UploadHeader { if_revision, request_id: Uuid::new_v4().to_string(), ..header };
    Ok(Done::Moved(upload_file(context, header, from, |bytes| bars.one(bytes)).await?))
}

/// Whether a file here has the content of that one.
pub(super) async fn is_same(here: &Path, file: &File) -> Result<bool, Failure> {
    let unreadable = |error| Failure::io(format!("{} cannot be read", here.display()), &error);
    let found = fs::metadata(here).map_err(unreadable)?;
    if !found.is_file() || i64::try_from(found.len()).ok() != Some(file.size) {
        return Ok(false);
    }
    let path = here.to_owned();
    let hashed = tokio::task::spawn_blocking(move || sha256_of(&path)).await;
    Ok(hashed.map_err(|error| Failure::new(format!("{} was not read: {error}", here.display())))?? == file.sha256)
}

struct Upload {
    from: PathBuf,
    /// Whether what is on the drive at its path is known from a list.
    is_listed: bool,
}

/// What goes where.
#[derive(Default)]
struct Plan {
    /// By path on the drive.
    uploads: BTreeMap<String, Upload>,
    /// What the paths of whole trees start with.
    trees: Vec<String>,
    /// What cannot be uploaded, and why.
    undone: Vec<(String, Failure)>,
    /// What a drive does not hold.
    left_out: Vec<String>,
}

impl Plan {
    /// Adds what is there. A link that was asked for by name is followed.
    fn add(&mut self, source: &Path, target: String, recursive: bool) {
        match fs::metadata(source) {
            Ok(found) if !found.is_dir() => self.file(source.to_owned(), target, false),
            Ok(_) if recursive => {
                self.trees.push(if target.is_empty() { target.clone() } else { format!("{target}/") });
                self.tree(source.to_owned(), target);
            }
            Ok(_) => self.fail(source, Failure::new("is a directory; -r uploads all that is in it")),
            Err(error) => self.fail(source, Failure::io("cannot be read", &error)),
        }
    }

    fn fail(&mut self, source: &Path, failure: Failure) {
        self.undone.push((source.display().to_string(), failure));
    }

    fn file(&mut self, from: PathBuf, target: String, is_listed: bool) {
        if let Err(error) = drive_path("path", &target) {
            return self.fail(&from, Failure::new(format!("cannot be called {target:?} on the drive: {error}")));
        }
        if let Some(other) = self.uploads.get(&target) {
            let failure = Failure::new(format!("{} goes to {target:?} already", other.from.display()));
            return self.fail(&from, failure);
        }
        self.uploads.insert(target, Upload { from, is_listed });
    }

    /// Adds all files below a directory, however deep.
    fn tree(&mut self, top: PathBuf, target: String) {
        let mut open = vec![(top, target)];
        while let Some((directory, target)) = open.pop() {
            let entries = fs::read_dir(&directory).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) => {
                    self.fail(&directory, Failure::io("cannot be read", &error));
                    continue;
                }
            };
            if entries.is_empty() {
                self.left_out.push(format!("{}: an empty directory, of which a drive has none", directory.display()));
            }
            for entry in entries {
                let path = entry.path();
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    self.fail(&path, Failure::new("its name is no UTF-8 text, and paths on the drive are"));
                    continue;
                };
                let target = if target.is_empty() { name } else { format!("{target}/{name}") };
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => open.push((path, target)),
                    Ok(kind) if kind.is_file() => self.file(path, target, true),
                    Ok(kind) if kind.is_symlink() => {
                        self.left_out.push(format!("{}: a link, of which a drive has none", path.display()));
                    }
                    Ok(_) => self.left_out.push(format!("{}: neither a file nor a directory", path.display())),
                    Err(error) => self.fail(&path, Failure::io("cannot be read", &error)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    #[test]
    fn a_slash_at_the_end_means_into() {
        let into = |prefix: &str| Place::Into(prefix.to_owned());
        for (text, place) in [
            ("a", Place::At("a".into())),
            ("", Place::At(String::new())),
            ("a/b", Place::At("a/b".into())),
            ("a/", into("a/")),
            ("a/b//", into("a/b/")),
            (".", into("")),
            ("./", into("")),
            ("/", into("")),
        ] {
            assert_eq!(Place::parse(text), place, "{text}");
        }
        assert_eq!(name(Path::new("/tmp/b.txt")).expect("a name"), "b.txt");
        assert_eq!(name(Path::new("/")).expect_err("none").exit_code(), 2);
    }

    #[test]
    fn a_tree_is_planned_with_what_a_drive_cannot_hold_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| dir.path().join(name);
        for name in ["deep/er", "empty"] {
            fs::create_dir_all(at(name)).expect("made");
        }
        // Twins in case and in Unicode form are different files, on the drive as here.
        for name in ["a", "A", "\u{e9}", "e\u{301}", "deep/er/b", "back\\slash"] {
            fs::write(at(name), name).expect("written");
        }
        fs::write(dir.path().join(OsStr::from_bytes(b"\xff")), "").expect("written");
        std::os::unix::fs::symlink("/", at("link")).expect("linked");
        let mut plan = Plan::default();
        plan.add(dir.path(), "top".into(), true);
        plan.add(&at("a"), "top/a".into(), true);
        plan.add(&at("missing"), "m".into(), true);
        plan.add(&at("empty"), "e".into(), false);
        let paths: Vec<&str> = plan.uploads.keys().map(String::as_str).collect();
        assert_eq!(paths, ["top/A", "top/a", "top/deep/er/b", "top/e\u{301}", "top/\u{e9}"]);
        assert_eq!(plan.trees, ["top/"]);
        plan.left_out.sort();
        let left_out: Vec<bool> =
            plan.left_out.iter().zip(["/empty: ", "/link: "]).map(|(l, n)| l.contains(n)).collect();
        assert_eq!(left_out, [true, true], "{:?}", plan.left_out);
        let mut told: Vec<&str> = plan.undone.iter().map(|(_, failure)| failure.message()).collect();
        told.sort_unstable();
        for (told, start) in told.iter().zip(["/", "cannot be called", "cannot be read", "is a directory", "its name"])
        {
            assert!(told.starts_with(start), "{told}");
        }
        assert_eq!(told.len(), 5, "{told:?}");
    }

    #[test]
    fn the_root_of_the_drive_takes_a_tree_without_a_name() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("a"), "").expect("written");
        let mut plan = Plan::default();
        plan.add(dir.path(), String::new(), true);
        assert_eq!(plan.uploads.into_keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(plan.trees, [""]);
    }
}
