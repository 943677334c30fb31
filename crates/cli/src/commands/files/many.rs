//! Many files: a few on their way at a time, and what became of each.

use std::{cell::RefCell, collections::BTreeMap};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mi_proto::v1::File;
use tonic::Code;

use crate::{context::Context, failure::Failure, text::escape, wait::bytes_bar, words};

/// What became of a file that did not fail.
pub(super) enum Done {
    /// It was sent, or written here.
    Moved(File),
    /// It was there with this very content.
    Unchanged(File),
}

/// Why a file is not where it should be.
pub(super) enum Undone {
    /// There is another content, which only `--force` replaces.
    Differs(String),
    /// Something else.
    Failed(Failure),
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Undone {
    fn why(&self) -> String {
        match self {
            Self::Differs(why) => why.clone(),
            // In the words of the command line, as every failure of the platform.
            Self::Failed(failure @ Failure::Told { code: Some(_), .. }) => {
                words::translate(failure.message(), &["force"])
            }
            Self::Failed(failure) => failure.message().to_owned(),
        }
    }
}

/// Whether every other file would fail in the same way.
fn is_of_all(failure: &Failure) -> bool {
    let all = [Code::Unavailable, Code::Unauthenticated, Code::PermissionDenied];
    matches!(failure, Failure::Told { code: Some(code), .. } if all.contains(code))
}

/// What became of all of them.
#[derive(Default)]
pub(super) struct Report {
    moved: Vec<File>,
    unchanged: Vec<File>,
    /// By what was asked for, in the order of the names.
    undone: BTreeMap<String, Undone>,
    /// What every file would fail with; the rest was not tried.
    end: Option<Failure>,
}

impl Report {
    /// Adds what became of what is called so.
    pub(super) fn add(&mut self, name: &str, outcome: Result<Done, Undone>) {
        match outcome {
            Ok(Done::Moved(file)) => self.moved.push(file),
            Ok(Done::Unchanged(file)) => self.unchanged.push(file),
            Err(Undone::Failed(failure)) if is_of_all(&failure) => self.end = Some(failure),
            Err(undone) => drop(self.undone.insert(name.to_owned(), undone)),
        }
    }

    /// Whether to go on with other files.
    pub(super) fn goes_on(&self) -> bool {
        self.end.is_none()
    }

    /// Shows it; fails when not all of the `total` files are where they should be. `moved` is what was done with them, as
    /// in "uploaded".
    pub(super) fn tell(mut self, context: &Context, moved: &str, total: usize) -> Result<(), Failure> {
        let out = context.out;
        let counts = format!("{} {moved}, {} unchanged", self.moved.len(), self.unchanged.len());
        let done = self.moved.len() + self.unchanged.len();
        // People look for what is new; programs ask what is there.
        if !out.is_for_people() {
            self.moved.append(&mut self.unchanged);
        }
        self.moved.sort_by(|one, other| one.path.cmp(&other.path));
        if !self.moved.is_empty() || out.is_for_programs() {
            out.list(&self.moved)?;
        }
        out.note(&counts);
        for (name, undone) in &self.undone {
            out.remark(format!("not {moved}: {}: {}\n", escape(name), escape(&undone.why())).as_bytes());
        }
        if let Some(end) = self.end {
            return Err(end);
        }
        let failure = match total - done.min(total) {
            0 if self.undone.is_empty() => return Ok(()),
            0 => Failure::new(format!("not everything was {moved}")),
            left => Failure::new(format!("{left} of {total} files were not {moved}")),
        };
        let differs = self.undone.values().any(|undone| matches!(undone, Undone::Differs(_)));
        Err(if differs { failure.hint("--force replaces what is there and differs") } else { failure })
    }
}

/// Does the work for each item, for a few of them at a time.
pub(super) async fn each<T>(items: Vec<T>, goes_on: impl Fn() -> bool, work: impl AsyncFn(T)) {
    let items = RefCell::new(items.into_iter());
    let worker = async || {
        while goes_on() {
            let next = items.borrow_mut().next();
            match next {
                Some(item) => work(item).await,
                None => break,
            }
        }
    };
    tokio::join!(worker(), worker(), worker(), worker());
}

/// Progress of many files; indicatif shows it on a terminal only.
pub(super) struct Bars {
    all: MultiProgress,
    files: ProgressBar,
}

impl Bars {
    pub(super) fn new(files: usize) -> Self {
        let all = MultiProgress::new();
        let files = all.add(ProgressBar::new(files as u64));
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} files") {
            files.set_style(style);
        }
        Self { all, files }
    }

    /// A bar for one of them.
    pub(super) fn one(&self, bytes: u64) -> ProgressBar {
        self.all.add(bytes_bar(bytes))
    }

    /// One more is done with.
    pub(super) fn next(&self) {
        self.files.inc(1);
    }

    pub(super) fn finish(&self) {
        self.files.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn each_item_is_worked_on_once_and_a_few_at_a_time() {
        let (running, most, seen) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
        each(
            (0..10).collect(),
            || true,
            async |item: i32| {
                running.set(running.get() + 1);
                most.set(most.get().max(running.get()));
                tokio::task::yield_now().await;
                seen.borrow_mut().push(item);
                running.set(running.get() - 1);
            },
        )
        .await;
        seen.borrow_mut().sort_unstable();
        assert_eq!((seen.into_inner(), most.get()), ((0..10).collect::<Vec<_>>(), 4));
    }

    #[tokio::test]
    async fn what_all_would_fail_with_ends_it() {
        let (report, asked) = (RefCell::new(Report::default()), Cell::new(0));
        each(
            vec!["a", "b", "c", "d", "e", "f"],
            || report.borrow().goes_on(),
            async |name| {
                let status =
                    if name == "a" { tonic::Status::not_found("gone") } else { tonic::Status::unauthenticated("no") };
                asked.set(asked.get() + 1);
                tokio::task::yield_now().await;
                report.borrow_mut().add(name, Err(Failure::from(status).into()));
            },
        )
        .await;
        let report = report.into_inner();
        let tried: Vec<&str> = report.undone.keys().map(String::as_str).collect();
        assert_eq!(tried, ["a"]);
        assert_eq!(report.end.expect("an end").message(), "no");
        assert_eq!(asked.get(), 4);
    }
}
