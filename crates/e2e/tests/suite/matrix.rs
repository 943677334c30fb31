//! Who may call what: every RPC, by every kind of caller, in their own office and in one of others, held against the rule
//! that the RPC declares and against the reviewed `docs/access-matrix.md`.

mod call;
mod cases;
mod columns;
mod harness;

use std::{collections::HashMap, fmt::Write, fs, path::Path};

use mi_proto::v1::Caller;
use mi_testkit::{Backend, on_both};

use self::{
    call::{Answer, Outcome, shape_at},
    cases::{Row, rows},
    columns::{At, Column, FOREIGN, OWN, Who},
    harness::Harness,
};

on_both! { what_rpcs_declare_is_what_callers_get }

const HEAD: &str = "\
# Access matrix

Who may call which RPC, as a running platform answers. The file is written by a test, which calls every RPC as every kind of
caller, on SQLite and on Postgres, and fails when an answer differs from the RPC's `access` option or from this file. After a
change that is meant: `INSTA_UPDATE=always cargo nextest run -p mi-e2e matrix`, and review the difference.

| answer | code | meaning |
|---|---|---|
| yes | any other | the caller was let in, and the request was looked at: a guessed enrolment token is refused after that |
| no | `PERMISSION_DENIED` | the caller belongs there, and may not do this |
| not found | `NOT_FOUND` | it does not exist for this caller |
| who? | `UNAUTHENTICATED` | a credential is missing, or is nobody's |
| no RPC | `UNIMPLEMENTED` | to the world outside there is no such method |
| – | | the request names nothing that could be somebody else's |
";

const OWN_HEAD: &str = "
## In their own office

*Self* is the agent that the request names, or any agent where it names none. An *ancestor* hired it, it hired the
*descendant*, and the *sibling* was hired by the operator. The *guesser* shows a credential that nobody was given. The
administrator counts as owner of every office.

";

const FOREIGN_HEAD: &str = "
## In a foreign office

The office belongs to somebody else: to another operator's account; to the same account as the agent *next door*, whose office
is another; and *abroad*, to an account that is not the owner's. *No such* is an office, account or API key that does not
exist: the test also makes sure that whatever is foreign is refused in the very same words and bytes. RPCs about accounts and
their keys are closed to agents, whatever they name.

";

/// What a walk over the platform found.
type Cells = HashMap<(&'static str, &'static str), Outcome>;

async fn what_rpcs_declare_is_what_callers_get(backend: Backend) {
    let rows = rows();
    let harness = Harness::start(backend).await;
    let mut walk = Walk { harness: &harness, unknown: HashMap::new(), cells: Cells::new(), holes: Vec::new() };
    for column in OWN.iter().chain(FOREIGN) {
        walk.meet(&rows, column.who).await;
    }
    // Whoever is to be refused goes first: nothing may have changed after that.
    let before = harness.state().await;
    walk.every(&rows, |expected| expected != Outcome::LetIn).await;
    assert_eq!(harness.state().await, before, "a refused call had an effect; wrong answers: {:#?}", walk.holes);
    walk.every(&rows, |expected| expected == Outcome::LetIn).await;
    assert!(walk.holes.is_empty(), "{:#?}", walk.holes);
    compare(&render(&rows, &walk.cells));
}

struct Walk<'a> {
    harness: &'a Harness,
    /// What the platform tells a caller that it does not know, and one that calls no method.
    unknown: HashMap<Who, (Answer, Answer)>,
    cells: Cells,
    holes: Vec<String>,
}

impl Walk<'_> {
    /// Learns what this caller hears from the RPC that is open to all whom the platform knows.
    async fn meet(&mut self, rows: &[Row], who: Who) {
        let who_am_i = rows.iter().find(|row| row.lists(&[Caller::Authenticated])).expect("there is one");
        let known = self.harness.ask(who_am_i, who, self.harness.place(At::Nowhere)).await;
        self.unknown.insert(who, (known, self.harness.ask_nonsense(who_am_i, who).await));
    }

    async fn every(&mut self, rows: &[Row], wanted: fn(Outcome) -> bool) {
        for row in rows {
            for column in OWN.iter().chain(FOREIGN).filter(|column| column.concerns(row)) {
                if wanted(column.expected(row)) {
                    self.visit(row, column).await;
                }
            }
        }
    }

    async fn visit(&mut self, row: &Row, column: &Column) {
        let expected = column.expected(row);
        let place = self.harness.place(column.at);
        let answer = match (expected, column.at) {
            (Outcome::LetIn, At::Home) if !column.is_foreign() => self.harness.ask_and_spend(row, column.who).await,
            _ => self.harness.ask(row, column.who, place).await,
        };
        let (unknown, no_such) = &self.unknown[&column.who];
        let outcome = Outcome::of(&answer, row, unknown, no_such);
        self.cells.insert((row.rule.path, column.title), outcome);
        let mut hole = |what: String| self.holes.push(format!("{} as {}: {what}", row.rule.path, column.title));
        if outcome != expected {
            hole(format!("{outcome} instead of {expected}: {:?}", shape_at(&answer, place)));
        }
        if !column.is_foreign() {
            return;
        }
        if row.subject().is_some() {
            let nowhere = self.harness.place(At::Nowhere);
            let missing = self.harness.ask(row, column.who, nowhere).await;
            let (foreign, missing) = (shape_at(&answer, place), shape_at(&missing, nowhere));
            if foreign != missing {
                hole(format!("foreign is told apart from missing: {foreign:?}, {missing:?}"));
            }
        } else if let Ok(message) = &answer {
            let message = message.escape_ascii().to_string();
            if self.harness.private.iter().any(|id| message.contains(id)) {
                hole(format!("shows what is not the caller's: {message}"));
            }
        }
    }
}

fn render(rows: &[Row], cells: &Cells) -> String {
    let mut text = HEAD.to_owned();
    for (head, columns) in [(OWN_HEAD, OWN), (FOREIGN_HEAD, FOREIGN)] {
        text.push_str(head);
        table(&mut text, rows, columns, cells);
    }
    text
}

fn table(text: &mut String, rows: &[Row], columns: &[Column], cells: &Cells) {
    let titles = columns.iter().map(|column| column.title);
    let mut lines: Vec<Vec<String>> = vec![["RPC", "may call"].into_iter().chain(titles).map(str::to_owned).collect()];
    for row in rows {
        let kinds = row.rule.callers.iter().map(|kind| kind.as_str_name().trim_start_matches("CALLER_").to_lowercase());
        let rpc = row.rule.path.trim_start_matches("/mi.").to_owned();
        let cells = columns.iter().map(|column| match cells.get(&(row.rule.path, column.title)) {
            Some(outcome) => outcome.to_string(),
            None => "–".to_owned(),
        });
        lines.push([rpc, kinds.collect::<Vec<_>>().join(", ")].into_iter().chain(cells).collect());
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let rule = widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("|");
    for (number, line) in lines.iter().enumerate() {
        let padded: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} ")).collect();
        let _ = writeln!(text, "|{}|", padded.join("|"));
        if number == 0 {
            let _ = writeln!(text, "|{rule}|");
        }
    }
}

/// Holds the matrix against the reviewed file, or writes that when snapshots are being updated.
fn compare(matrix: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/access-matrix.md");
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        fs::write(&file, matrix).expect("written");
    }
    let reviewed = fs::read_to_string(&file).unwrap_or_default();
    let changed: Vec<&str> = matrix.lines().filter(|line| !reviewed.lines().any(|known| known == *line)).collect();
    assert!(
        reviewed == matrix,
        "docs/access-matrix.md is not what the platform does any more. Lines that differ: {changed:#?}\n\
         If that is meant: INSTA_UPDATE=always cargo nextest run -p mi-e2e matrix"
    );
}
