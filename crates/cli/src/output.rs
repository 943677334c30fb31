//! Results on standard output, remarks on standard error.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

use comfy_table::{Table, presets};
use prost::Message;
use serde::Serialize;

use crate::{
    failure::Failure,
    json::Json,
    options::Format,
    text::{escape, escape_lines},
};

/// A message that commands show.
pub(crate) trait Resource: Message {
    /// Full name of its descriptor.
    const TYPE: &'static str;
    /// Plural for people, lower case.
    const PLURAL: &'static str;
    /// Heads of the columns of a list.
    const COLUMNS: &'static [&'static str];

    /// Its cells in a list.
    fn row(&self) -> Vec<String>;

    /// What is shown of a single one; the row, unless there is more to say.
    fn details(&self) -> Vec<(&'static str, String)> {
        Self::COLUMNS.iter().copied().zip(self.row()).collect()
    }
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// A single resource.
    pub(crate) fn one<R: Resource>(self, resource: &R) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(&Json::new(R::TYPE, resource)?),
            Format::Table => self.pairs(resource.details()),
        }
    }

    /// A list.
    pub(crate) fn list<R: Resource>(self, resources: &[R]) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                let all: Result<Vec<Json>, Failure> =
                    resources.iter().map(|resource| Json::new(R::TYPE, resource)).collect();
                self.json(&all?)
            }
            Format::Table if resources.is_empty() => {
                self.note(&format!("no {}", R::PLURAL));
                Ok(())
            }
            Format::Table => self.table(R::COLUMNS, resources.iter().map(Resource::row)),
        }
    }

    /// A table for people of what is no message of the API.
    pub(crate) fn table(self, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<(), Failure> {
        self.print(&rendered(columns, rows))
    }

    /// A text of several lines on standard output.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        self.exact(text.as_bytes())?;
        if text.ends_with('\n') { Ok(()) } else { self.print("") }
    }

    /// Lines on standard output as they are.
    pub(crate) fn exact(self, lines: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let lines = Self::fit(&out, lines);
        out.write_all(&lines).and_then(|()| out.flush()).map_err(|error| unwritten(&error))
    }

    /// Lines on standard error as they are.
    pub(crate) fn remark(self, lines: &[u8]) {
        // What cannot be said there cannot be said anywhere.
        let _ = io::stderr().write_all(&Self::fit(&io::stderr(), lines));
    }

    /// Lines as they are; made fit for a terminal when they go to one.
    fn fit<'a>(to: &impl IsTerminal, lines: &'a [u8]) -> Cow<'a, [u8]> {
        match to.is_terminal() {
            true => {
                let end = if lines.ends_with(b"\n") { "\n" } else { "" };
                Cow::Owned((escape_lines(&String::from_utf8_lossy(lines)) + end).into_bytes())
            }
            false => Cow::Borrowed(lines),
        }
    }

    /// The next item of a stream: a line for people, a compact object for programs.
    pub(crate) fn next<R: Resource>(self, resource: &R) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.compact(&Json::new(R::TYPE, resource)?),
            Format::Table => self.print(cells(resource.row()).join("  ").trim_end()),
        }
    }

    /// Names and values, one pair a line.
    pub(crate) fn pairs(self, pairs: Vec<(&'static str, String)>) -> Result<(), Failure> {
        let mut table = table();
        table.add_rows(pairs.into_iter().map(|(name, value)| [name.to_owned(), escape_lines(value.trim_end())]));
        self.print(&table.trim_fmt())
    }

    /// Any value as indented JSON.
    pub(crate) fn json<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        self.print(&serde_json::to_string_pretty(value).map_err(unserialisable)?)
    }

    /// Any value as JSON on one line.
    pub(crate) fn compact<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        self.print(&serde_json::to_string(value).map_err(unserialisable)?)
    }

    /// A line on standard output.
    pub(crate) fn print(self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| unwritten(&error))
    }

    /// A remark for people, beside the result.
    pub(crate) fn note(self, text: &str) {
        if self.format == Format::Table || io::stderr().is_terminal() {
            let _ = writeln!(io::stderr(), "{}", escape(text));
        }
    }
}

/// Standard output takes no more.
pub(crate) fn unwritten(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Closed,
        _ => Failure::io("standard output cannot be written", error),
    }
}

fn unserialisable(error: serde_json::Error) -> Failure {
    Failure::new(format!("the result cannot be shown as JSON: {error}"))
}

/// No lines and no wrapping: ids are copied, columns are cut by other programs.
fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// A table with heads, fit for a terminal.
pub(crate) fn rendered(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = table();
    table.set_header(columns.to_vec());
    table.add_rows(rows.map(cells));
    table.trim_fmt()
}

fn cells(row: Vec<String>) -> Vec<String> {
    row.into_iter().map(|cell| escape(&cell).into_owned()).collect()
}
