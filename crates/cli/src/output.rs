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
    options::{Format, Global},
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
    /// Heads of the further columns of a wide list.
    const WIDE: &'static [&'static str] = &[];

    /// Its cells in a list.
    fn row(&self) -> Vec<String>;

    /// Its cells in those.
    fn wide(&self) -> Vec<String> {
        Vec::new()
    }

    /// What `-q` prints; what has no id is shown as always.
    fn id(&self) -> Option<&str> {
        None
    }

    /// What `-o name` prints.
    fn name(&self) -> Option<&str> {
        self.id()
    }

    /// What is shown of a single one; the row, unless there is more to say.
    fn details(&self) -> Vec<(&'static str, String)> {
        Self::COLUMNS.iter().copied().zip(self.row()).collect()
    }
}

/// Says how a message of the API looks: the heads of its columns with the cell under each, and what else differs from the
/// defaults of [`Resource`]. Whatever can be displayed makes a cell.
macro_rules! resource {
    (
        $message:ident, $plural:literal, |$it:ident| { $($head:literal => $cell:expr),+ $(,)? }
        $(wide { $($wide_head:literal => $wide_cell:expr),+ $(,)? })?
        $(details { $details:expr })?
        $(id { $id:expr })?
        $(name { $name:expr })?
    ) => {
        impl $crate::output::Resource for $message {
            const TYPE: &'static str = concat!("mi.v1.", stringify!($message));
            const PLURAL: &'static str = $plural;
            const COLUMNS: &'static [&'static str] = &[$($head),+];
            $(const WIDE: &'static [&'static str] = &[$($wide_head),+];)?

            fn row(&self) -> Vec<String> {
                let $it = self;
                vec![$($cell.to_string()),+]
            }

            $(fn wide(&self) -> Vec<String> {
                let $it = self;
                vec![$($wide_cell.to_string()),+]
            })?

            $(fn details(&self) -> Vec<(&'static str, String)> {
                let $it = self;
                $details
            })?

            $(fn id(&self) -> Option<&str> {
                let $it = self;
                Some(&$id)
            })?

            $(fn name(&self) -> Option<&str> {
                let $it = self;
                Some(&$name)
            })?
        }
    };
}
pub(crate) use resource;

/// Names with values that can be displayed; what has none is left out.
macro_rules! pairs {
    ($($name:literal => $value:expr),+ $(,)?) => {
        [$(($name, $value.to_string())),+].into_iter().filter(|(_, value)| !value.is_empty()).collect()
    };
}
pub(crate) use pairs;

/// Where results go, and how they look there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Output {
    format: Format,
    is_quiet: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self { format: global.output, is_quiet: global.quiet }
    }

    /// Whether values are printed whole, for programs to read.
    pub(crate) fn is_for_programs(self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    /// Whether people read it.
    pub(crate) fn is_for_people(self) -> bool {
        matches!(self.format, Format::Table | Format::Wide) && !self.is_quiet
    }

    /// The one word that is wanted of it, if only that is wanted and there is one.
    fn word<R: Resource>(self, resource: &R) -> Option<&str> {
        match (self.is_quiet, self.format) {
            (true, _) => resource.id(),
            (false, Format::Name) => resource.name(),
            _ => None,
        }
    }

    /// A single resource.
    pub(crate) fn one<R: Resource>(self, resource: &R) -> Result<(), Failure> {
        if self.is_for_programs() {
            return self.value(&Json::new(R::TYPE, resource)?);
        }
        match self.word(resource) {
            Some(word) => self.print(&escape(word)),
            None => self.pairs(resource.details()),
        }
    }

    /// A list.
    pub(crate) fn list<R: Resource>(self, resources: &[R]) -> Result<(), Failure> {
        if self.is_for_programs() {
            let all: Result<Vec<Json>, Failure> =
                resources.iter().map(|resource| Json::new(R::TYPE, resource)).collect();
            return self.value(&all?);
        }
        if resources.is_empty() {
            self.note(&format!("no {}", R::PLURAL));
            return Ok(());
        }
        let words: Option<Vec<&str>> = resources.iter().map(|resource| self.word(resource)).collect();
        match words {
            Some(words) => words.into_iter().try_for_each(|word| self.print(&escape(word))),
            None => self.table(&self.columns::<R>(), resources.iter().map(|resource| self.row(resource))),
        }
    }

    fn columns<R: Resource>(self) -> Vec<&'static str> {
        let wide = if self.format == Format::Wide { R::WIDE } else { &[] };
        [R::COLUMNS, wide].concat()
    }

    fn row<R: Resource>(self, resource: &R) -> Vec<String> {
        let mut row = resource.row();
        if self.format == Format::Wide {
            row.extend(resource.wide());
        }
        row
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

    /// The next item of a stream: a line for people, a compact object or a document for programs.
    pub(crate) fn next<R: Resource>(self, resource: &R) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.print(&json(&Json::new(R::TYPE, resource)?, serde_json::to_string)?),
            Format::Yaml => self.print(&format!("---\n{}", yaml(&Json::new(R::TYPE, resource)?)?.trim_end())),
            _ => match self.word(resource) {
                Some(word) => self.print(&escape(word)),
                None => self.print(cells(self.row(resource)).join("  ").trim_end()),
            },
        }
    }

    /// Names and values, one pair a line.
    pub(crate) fn pairs(self, pairs: Vec<(&'static str, String)>) -> Result<(), Failure> {
        let mut table = table();
        table.add_rows(pairs.into_iter().map(|(name, value)| [name.to_owned(), escape_lines(value.trim_end())]));
        self.print(&table.trim_fmt())
    }

    /// Any value, as indented JSON or as YAML.
    pub(crate) fn value<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        match self.format {
            Format::Yaml => self.print(yaml(value)?.trim_end()),
            _ => self.print(&json(value, serde_json::to_string_pretty)?),
        }
    }

    /// A line on standard output.
    pub(crate) fn print(self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| unwritten(&error))
    }

    /// A remark for people, beside the result.
    pub(crate) fn note(self, text: &str) {
        if self.is_for_people() || (!self.is_quiet && io::stderr().is_terminal()) {
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

fn json<T: Serialize>(value: &T, print: fn(&T) -> serde_json::Result<String>) -> Result<String, Failure> {
    print(value).map_err(|error| Failure::new(format!("the result cannot be shown as JSON: {error}")))
}

fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_saphyr::to_string(value).map_err(|error| Failure::new(format!("the result cannot be shown as YAML: {error}")))
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

#[cfg(test)]
mod tests {
    use mi_proto::v1::{Agent, AgentPhase, AgentStatus, LogLine, Office};
    use prost_types::Timestamp;

    use super::*;

    fn output(format: Format, is_quiet: bool) -> Output {
        Output { format, is_quiet }
    }

    #[test]
    fn one_word_is_the_id_or_the_name() {
        let office = Office { id: "0199".into(), name: "Home".into(), ..Office::default() };
        assert_eq!(output(Format::Table, true).word(&office), Some("0199"));
        assert_eq!(output(Format::Name, false).word(&office), Some("Home"));
        for format in [Format::Table, Format::Wide, Format::Json, Format::Yaml] {
            assert_eq!(output(format, false).word(&office), None);
        }
        // A line has neither, and is shown.
        assert_eq!(output(Format::Table, true).word(&LogLine::default()), None);
    }

    #[test]
    fn a_wide_table_has_a_cell_for_each_of_its_columns() {
        fn check<R: Resource + Default>() {
            let wide = output(Format::Wide, false);
            assert_eq!(wide.columns::<R>().len(), wide.row(&R::default()).len(), "{}", R::TYPE);
            assert_eq!(R::COLUMNS.len(), output(Format::Table, false).row(&R::default()).len(), "{}", R::TYPE);
        }
        check::<Office>();
        check::<Agent>();
        check::<mi_proto::v1::Task>();
        check::<mi_proto::v1::File>();
        check::<mi_proto::v1::Backup>();
    }

    #[test]
    fn yaml_is_read_back_as_what_the_json_says() {
        let agent = Agent {
            id: "019aa0b4-7c1e-7d0a-b3a5-000000000001".into(),
            // What readers of YAML would take for something else than a text.
            name: "yes".into(),
            role: "1e3".into(),
            system_prompt: "Be \u{1b}[31m thorough:\n - and # brief\n".into(),
            skills: vec!["null".into(), "a: b".into(), String::new()],
            generation: 3,
            created_at: Some(Timestamp { seconds: 1_767_225_600, nanos: 0 }),
            status: Some(AgentStatus { phase: AgentPhase::Running.into(), ..AgentStatus::default() }),
            ..Agent::default()
        };
        let value = [Json::new(Agent::TYPE, &agent).expect("known")];
        let yaml = yaml(&value).expect("serialises");
        let read: serde_json::Value = serde_saphyr::from_str(&yaml).expect("readable");
        assert_eq!(read, serde_json::to_value(&value).expect("serialises"), "{yaml}");
        assert!(yaml.starts_with("- id: 019aa0b4-7c1e-7d0a-b3a5-000000000001\n"), "{yaml}");
        assert!(!yaml.contains('\u{1b}'), "{yaml}");
    }
}
