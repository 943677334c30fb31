//! Whether every statement of a role goes by an index, on both databases, and on Postgres whatever its statistics say.
//!
//! The rule: a table is read where a column besides the office's equals something, or by a range of one office's index
//! without a filter, or else in the order of an index up to a limit without a filter, which would let it read on; and what
//! is sorted is bounded by a limit or by unique keys before.
//!
//! Postgres is asked with an empty database, before and after it gathered statistics, and with a large one: a connection may
//! keep a plan for any values that it made while a table was empty. What an index narrows makes no difference to it then,
//! and is looked at in the large one. A statement that breaks the rule stands in the test with the reason why it may, and so
//! does a table of which an office has few rows; a reason that nothing needs any more fails as well.

mod fill;
mod postgres;
mod sqlite;

use std::fmt::Write;

use mi_store::{Db, Migrations};

use self::{fill::Values, postgres::State};
use crate::{
    Backend, TestDb,
    statements::{Statement, statements},
};

/// Tables of every role that no office grows.
const FEW: [&str; 2] = ["leases", "_sqlx_migrations"];
/// What statements of the store may do, in every role.
const COMMON: [Allowed; 3] = [
    ("SELECT pg_advisory_xact_lock(...", "is run on Postgres alone"),
    ("SELECT pg_notify(...", "is run on Postgres alone"),
    (
        "SELECT position, CAST(event AS text) FROM ( SELECT position, event, sum(octet_length(event::text))...",
        "passes over a thousand events at most, those that the feed refused for good",
    ),
];

/// Settings that connections have (`PLANNING` of the store), each with the state in which plans without it break the rule.
const PINS: [(&str, State); 2] = [("enable_seqscan", State::Emptied), ("enable_sort", State::Large)];

/// Who may break the rule, and why: a statement, or how its text begins, with `...` behind it; or a table.
pub type Allowed = (&'static str, &'static str);

/// What is to know of a role's tables and statements.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plans<'a> {
    /// The folders of the crates with its statements, besides the store's.
    pub crates: &'a [&'a str],
    /// Tables of a few rows, whatever offices do.
    pub few: &'a [&'a str],
    /// What columns hold that a condition of an index is about: `table.column`, and SQL over the number `g` of a row.
    pub values: Values<'a>,
    /// The statements within functions of the schema on Postgres, by the function's name.
    pub functions: &'a [(&'a str, &'a str)],
    /// Tables of which an office has few rows, which may be read and sorted together.
    pub few_per_office: &'a [Allowed],
    /// Statements that break the rule.
    pub allowed: &'a [Allowed],
}

/// What is wrong with a statement's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    /// Which database, and which statistics and values.
    on: String,
    what: String,
    /// The table of which all rows of an office are read, when it is that.
    whole: Option<String>,
}

impl Plans<'_> {
    /// Looks at the plans of all statements.
    ///
    /// # Panics
    /// With what is wrong, by statement.
    pub async fn check(self, schema: &'static str, migrations: &Migrations) {
        let crates: Vec<&str> = self.crates.iter().copied().chain(["store"]).collect();
        let mut statements = statements(&crates);
        statements.extend(self.functions.iter().map(|(name, text)| Statement::of_function(name, text)));
        let mut found: Vec<(Statement, Vec<Fault>)> = statements.into_iter().map(|one| (one, Vec::new())).collect();

        let database = TestDb::new(Backend::Sqlite, schema).await;
        let db = Db::open(database.target(), migrations).await.expect("opens");
        sqlite::look(&db, &self, &mut found).await;

        let database = TestDb::new(Backend::Postgres, schema).await;
        let db = Db::open(database.target(), migrations).await.expect("opens");
        let mut owner = fill::owner(&database).await;
        let functions: Vec<&str> = self.functions.iter().map(|(name, _)| *name).collect();
        fill::only_functions(&mut owner, &functions).await;
        let mut unneeded = Vec::new();
        for state in [State::Empty, State::Emptied, State::Large] {
            match state {
                State::Empty => {}
                State::Emptied => fill::analyse(&mut owner).await,
                State::Large => fill::fill(&mut owner, &self).await,
            }
            postgres::look(&db, &self, state, None, &mut found).await;
            for (pin, _) in PINS.iter().filter(|(_, needed)| *needed == state) {
                let mut without: Vec<_> = found.iter().map(|(one, _)| (one.clone(), Vec::new())).collect();
                postgres::look(&db, &self, state, Some(pin), &mut without).await;
                if !Report::of(&without, &self).broken {
                    unneeded.push(*pin);
                }
            }
        }
        let report = Report::of(&found, &self);
        assert!(report.text.is_empty(), "{}", report.text);
        assert!(
            unneeded.is_empty(),
            "no statement needs that these are off, see `PLANNING` of the store: {unneeded:?}"
        );
    }

    fn is_few(&self, table: &str) -> bool {
        self.few.iter().chain(&FEW).any(|few| *few == table)
    }
}

/// What is wrong and not allowed, and what is allowed for nothing.
#[derive(Default)]
struct Report {
    text: String,
    /// Whether a statement breaks the rule.
    broken: bool,
}

impl Report {
    fn of(found: &[(Statement, Vec<Fault>)], plans: &Plans<'_>) -> Self {
        let (mut report, mut used) = (Self::default(), Vec::new());
        for (statement, faults) in found {
            let mut left = Vec::new();
            for fault in faults {
                match plans.few_per_office.iter().find(|(table, _)| fault.whole.as_deref() == Some(table)) {
                    Some(allowed) => used.push(*allowed),
                    None => left.push(fault),
                }
            }
            if left.is_empty() {
                continue;
            }
            match plans.allowed.iter().chain(&COMMON).find(|(text, _)| is_named(&statement.text, text)) {
                Some(allowed) => used.push(*allowed),
                None => report.add(statement, &left),
            }
        }
        let allowed = plans.few_per_office.iter().chain(plans.allowed).chain(&COMMON);
        for (what, because) in allowed.filter(|allowed| !used.contains(allowed)) {
            let _ = writeln!(report.text, "nothing needs that this is allowed, because it {because}: {what}");
        }
        report
    }

    fn add(&mut self, statement: &Statement, faults: &[&Fault]) {
        self.broken = true;
        let _ = writeln!(self.text, "{}: {}", statement.place, statement.text);
        for Fault { on, what, .. } in faults {
            let _ = writeln!(self.text, "    {on}: {what}");
        }
    }
}

fn is_named(statement: &str, text: &str) -> bool {
    text.strip_suffix("...").map_or(statement == text, |beginning| statement.starts_with(beginning))
}

/// How a read of a table is narrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// To one row, by a unique key.
    Key,
    /// To what a column besides the office's equals.
    Equal,
    /// To a range within one office.
    Range,
    /// To one office.
    Office,
    /// To part of the rows of all offices, or not at all.
    Open,
}

impl Reach {
    /// By the columns that equal something, whether there are other conditions, and the unique keys of the table.
    fn of(equal: &[&str], others: bool, keys: &[Vec<String>]) -> Self {
        if keys.iter().any(|key| key.iter().all(|column| equal.contains(&column.as_str()))) {
            Self::Key
        } else if equal.iter().any(|column| *column != "office_id") {
            Self::Equal
        } else if equal.is_empty() {
            Self::Open
        } else if others {
            Self::Range
        } else {
            Self::Office
        }
    }

    fn is_of_one_office(self) -> bool {
        matches!(self, Self::Range | Self::Office)
    }
}
