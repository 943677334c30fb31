//! The file that `mi apply` reads.

use std::{collections::BTreeMap, fmt::Display, fs, io::Read, path::PathBuf};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::graph;
use crate::{commands::tasks::Kind, failure::Failure};

/// A colony as it should be. What the file does not know it refuses: a misspelt field is an error, not a silent default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) office: Office,
    #[serde(default)]
    pub(super) agents: Vec<Agent>,
    #[serde(default)]
    pub(super) files: Vec<DriveFile>,
    #[serde(default)]
    pub(super) tasks: Vec<Task>,
    /// Which run of the tasks this is: with another one they are all created anew.
    #[serde(default = "first_run")]
    pub(super) run: String,
    /// Where relative paths lead from.
    #[serde(skip)]
    pub(super) directory: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Office {
    pub(super) name: String,
    /// As `mi colonies settings --set` takes them.
    #[serde(default)]
    pub(super) settings: BTreeMap<String, String>,
}

/// An agent; what is left out is left as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Agent {
    pub(super) name: String,
    #[serde(default)]
    pub(super) role: String,
    #[serde(default)]
    pub(super) model_tier: String,
    #[serde(default)]
    pub(super) provider: String,
    pub(super) skills: Option<Vec<String>>,
    pub(super) system_prompt: Option<String>,
    pub(super) command: Option<String>,
    pub(super) env: Option<BTreeMap<String, String>>,
    pub(super) resources: Option<Resources>,
}

/// Bounds of an agent's compute; what is left out is the platform's default.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Resources {
    pub(super) cpu_millis: i32,
    pub(super) memory_bytes: i64,
    pub(super) pids: i32,
    pub(super) file_bytes: i64,
    pub(super) disk_bytes: i64,
}

/// A file of the drive: its content, or the local file that has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DriveFile {
    pub(super) path: Spanned<String>,
    pub(super) content: Option<String>,
    pub(super) from: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Task {
    /// What the other tasks of the file call it.
    pub(super) key: Spanned<String>,
    pub(super) title: Option<String>,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    pub(super) kind: Kind,
    pub(super) priority: Option<i32>,
    #[serde(default)]
    pub(super) agent: String,
    pub(super) parent: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) depends_on: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) required_tools: Vec<String>,
    pub(super) max_attempts: Option<i32>,
    #[serde(default)]
    pub(super) verification_required: bool,
}

/// In which order the tasks of a file go, as indexes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Orders {
    /// What a task names exists before it.
    pub(super) creation: Vec<usize>,
    /// What a task waits for goes before it.
    pub(super) completion: Vec<usize>,
}

fn first_run() -> String {
    "1".to_owned()
}

impl File {
    /// Reads a file, or standard input for `-`.
    pub(super) fn load(path: &str) -> Result<Self, Failure> {
        let (name, directory) = match path {
            "-" => ("standard input", PathBuf::new()),
            path => (path, PathBuf::from(path).parent().map(PathBuf::from).unwrap_or_default()),
        };
        let read = match path {
            "-" => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map(|_| text)
            }
            path => fs::read_to_string(path),
        };
        let text = read.map_err(|error| Failure::io(format!("{name} cannot be read"), &error))?;
        let file = Self { directory, ..Self::parse(&text).map_err(|problem| problem.told(name))? };
        Ok(file)
    }

    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let file: Self = serde_saphyr::from_str(text).map_err(|error| Problem {
            line: error.location().map(|location| location.line()).unwrap_or_default(),
            text: message(&error, text),
        })?;
        let mut paths = BTreeMap::new();
        for drive in &file.files {
            if drive.content.is_some() == drive.from.is_some() {
                return Err(Problem::at(&drive.path, "needs either `content` or `from`"));
            }
            if let Some(line) = paths.insert(&drive.path.value, drive.path.referenced.line()) {
                return Err(Problem::at(&drive.path, format!("is there twice, first on line {line}")));
            }
        }
        file.orders()?;
        Ok(file)
    }

    /// Index of each task by its key.
    pub(super) fn keys(&self) -> Result<BTreeMap<&str, usize>, Problem> {
        let mut keys: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, task) in self.tasks.iter().enumerate() {
            if task.key.value.trim().is_empty() {
                return Err(Problem::at(&task.key, "is no key: give the task a name of its own"));
            }
            if let Some(first) = keys.insert(&task.key.value, index) {
                let line = self.tasks[first].key.referenced.line();
                return Err(Problem::at(&task.key, format!("is the key of two tasks, first on line {line}")));
            }
        }
        Ok(keys)
    }

    pub(super) fn orders(&self) -> Result<Orders, Problem> {
        let keys = self.keys()?;
        let index = |key: &Spanned<String>| match keys.get(key.value.as_str()) {
            Some(index) => Ok(*index),
            None => {
                let known: Vec<&str> = keys.keys().copied().collect();
                Err(Problem::at(key, format!("is no key of a task in this file; there are {}", known.join(", "))))
            }
        };
        let mut named = Vec::with_capacity(self.tasks.len());
        let mut awaited = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let depends_on = task.depends_on.iter().map(index).collect::<Result<Vec<usize>, _>>()?;
            let parent = task.parent.as_ref().map(index).transpose()?;
            awaited.push(depends_on.clone());
            named.push(depends_on.into_iter().chain(parent).collect());
        }
        // A parent is not done before its subtasks.
        for (child, task) in self.tasks.iter().enumerate() {
            if let Some(parent) = &task.parent {
                awaited[index(parent)?].push(child);
            }
        }
        let order = |before: &[Vec<usize>]| {
            graph::order(before).map_err(|cycle| {
                let keys: Vec<&str> = cycle.iter().map(|index| self.tasks[*index].key.value.as_str()).collect();
                let first = &self.tasks[cycle[0]].key;
                Problem::at(first, format!("waits for itself: {} -> {}", keys.join(" -> "), keys[0]))
            })
        };
        Ok(Orders { creation: order(&named)?, completion: order(&awaited)? })
    }
}

/// The problem alone: where it is goes before it.
fn message(error: &serde_saphyr::Error, text: &str) -> String {
    use serde_saphyr::Error;
    let error = error.without_snippet();
    let line = error.location().and_then(|at| text.lines().nth(usize::try_from(at.line()).ok()?.checked_sub(1)?));
    match error {
        Error::Eof { .. } => "ends before there is anything in it".to_owned(),
        Error::MultipleDocuments { .. } => "more than one document; give each a file of its own".to_owned(),
        Error::DuplicateMappingKey { key, .. } => {
            format!("{:?} is there twice", key.as_deref().unwrap_or("a field"))
        }
        Error::InvalidScalar { ty, .. } => {
            let wanted = if ty.starts_with(['i', 'u']) { "whole number of its size" } else { *ty };
            format!("a value is no {wanted}: {}", line.unwrap_or_default().trim())
        }
        error => {
            let text = error.to_string();
            let place = error.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
            place.map_or_else(|| text.clone(), |place| text.replace(&place, ""))
        }
    }
}

/// What is wrong with a file, and where.
#[derive(Debug)]
pub(super) struct Problem {
    line: u64,
    text: String,
}

impl Problem {
    /// Something is wrong with this name.
    fn at(name: &Spanned<String>, problem: impl Display) -> Self {
        Self { line: name.referenced.line(), text: format!("{:?} {problem}", name.value) }
    }

    pub(super) fn told(&self, file: &str) -> Failure {
        let line = if self.line == 0 { String::new() } else { format!(", line {}", self.line) };
        Failure::new(format!("{file}{line}: {}", self.text)).hint("nothing was changed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
office: {name: Build farm, settings: {max_agents: 10, allow_agent_hiring: true, idle_fire_after: 10m}}
run: 2
agents:
  - name: builder-1
    role: engineer
    model_tier: haiku
    skills: [github]
    resources: {cpu_millis: 1000}
    env: {LEVEL: 3, NAME: "x"}
files:
  - {path: data/in.csv, content: "a,b\n"}
  - {path: data/big, from: ./big}
tasks:
  - key: sum
    kind: command
    description: |
      set -e
      echo "$x"
    depends_on: [fetch, part]
    priority: 10
  - {key: fetch, title: Fetch it, agent: builder-1, max_attempts: 3, verification_required: true}
  - {key: part, parent: fetch, required_tools: [git]}
"#;

    #[test]
    fn a_whole_file() {
        let file = File::parse(WHOLE).expect("valid");
        let settings: Vec<(&str, &str)> = file.office.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(settings, [("allow_agent_hiring", "true"), ("idle_fire_after", "10m"), ("max_agents", "10")]);
        assert_eq!(file.run, "2");
        let agent = &file.agents[0];
        assert_eq!(agent.env.as_ref().expect("given")["LEVEL"], "3");
        assert_eq!(agent.resources.expect("given").cpu_millis, 1000);
        assert_eq!((agent.system_prompt.as_ref(), agent.skills.as_deref()), (None, Some(&["github".to_owned()][..])));
        assert_eq!(file.tasks[0].description, "set -e\necho \"$x\"\n");
        assert_eq!((file.tasks[0].kind, file.tasks[1].kind), (Kind::Command, Kind::General));
        // A parent exists before its subtasks and is done after them.
        assert_eq!(file.orders().expect("no cycle"), Orders { creation: vec![1, 2, 0], completion: vec![2, 1, 0] });
        assert_eq!(File::parse("office: {name: x}").expect("enough").run, "1");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let mut told = String::new();
        for text in [
            "",
            "office: [",
            "office: {name: x}\nagent: []\n",
            "office: {name: x}\ntasks:\n  - {key: a, titel: b}\n",
            "office: {name: x}\ntasks:\n  - {title: b}\n",
            "office: {name: x}\ntasks:\n  - {key: a, kind: dance}\n",
            "office: {name: x}\ntasks:\n  - {key: a, priority: high}\n",
            "office: {name: x}\ntasks:\n  - {key: a}\n  - {key: a}\n",
            "office: {name: x}\ntasks:\n  - {key: \" \"}\n",
            "office: {name: x}\ntasks:\n  - {key: a}\n  - key: b\n    depends_on: [a, c]\n",
            "office: {name: x}\ntasks:\n  - {key: a, parent: c}\n",
            "office: {name: x}\ntasks:\n  - {key: a, depends_on: [a]}\n",
            "office: {name: x}\ntasks:\n  - {key: z}\n  - {key: a, depends_on: [c]}\n  - {key: b, depends_on: [a]}\n  \
             - {key: c, depends_on: [z, b]}\n",
            // It is a part of what it waits for.
            "office: {name: x}\ntasks:\n  - {key: a}\n  - {key: b, parent: a, depends_on: [a]}\n",
            "office: {name: x}\nfiles:\n  - {path: a}\n",
            "office: {name: x}\nfiles:\n  - {path: a, content: \"\", from: b}\n",
            "office: {name: x}\nfiles:\n  - {path: a, content: x}\n  - {path: a, content: y}\n",
            "office: {name: x, name: y}\n",
            "office: {name: x}\n---\noffice: {name: y}\n",
        ] {
            let problem = File::parse(text).expect_err(text);
            told +=
                &format!("{text}\n>>> {}\n\n", problem.told("office.yaml").to_string().lines().next().expect("told"));
        }
        insta::assert_snapshot!(told);
    }

    #[test]
    fn a_file_that_grows_when_it_is_read_is_refused() {
        let mut bomb = "office: {name: &a0 [x, x]".to_owned();
        for level in 1..40 {
            bomb += &format!(", k{level}: &a{level} [*a{}, *a{}]", level - 1, level - 1);
        }
        assert!(File::parse(&(bomb + "}")).is_err());
    }
}
