//! The configuration: flags, then the environment, then `config.toml`, then defaults.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use mi_base::files::write_private;
use mi_kernel::secret::Secret;
use serde::{Deserialize, Serialize};

use crate::{failure::Failure, options::Global};

/// Where `mi up` listens unless told otherwise.
pub(crate) const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7400";
const FILE: &str = "config.toml";

/// `config.toml`. What it does not know it keeps out: a misspelt key is an error, not a silent default.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    pub(crate) endpoint: Option<String>,
    pub(crate) api_key: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) colony: Option<String>,
    pub(crate) data_dir: Option<PathBuf>,
}

impl ConfigFile {
    /// Reads the file in this directory; an absent one is empty.
    pub(crate) fn load(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::io(format!("{} cannot be read", path.display()), &error)),
        };
        toml::from_str(&text).map_err(|error| {
            let (line, problem) = (line_of(&text, error.span()), error.message());
            Failure::new(format!("{}, line {line}: {problem}", path.display()))
                .hint("keys are endpoint, api_key, ca_file, colony and data_dir; `mi login` writes the file")
        })
    }

    /// Writes the file aside with mode 0600 and renames it, so that its secret is never readable by others.
    pub(crate) fn save(&self, dir: &Path) -> Result<PathBuf, Failure> {
        let path = dir.join(FILE);
        let text = toml::to_string(self)
            .map_err(|error| Failure::new(format!("the configuration cannot be written: {error}")))?;
        let written = fs::create_dir_all(dir).and_then(|()| write_private(&path, text.as_bytes()));
        written.map_err(|error| Failure::io(format!("{} cannot be written", path.display()), &error))?;
        Ok(path)
    }
}

/// The file's error message quotes the line, which may hold the key: only its number is shown.
fn line_of(text: &str, span: Option<std::ops::Range<usize>>) -> usize {
    let end = span.map_or(0, |span| span.start.min(text.len()));
    text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) dir: PathBuf,
    pub(crate) endpoint: String,
    pub(crate) api_key: Option<Secret>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) colony: Option<String>,
    pub(crate) data_dir: Option<PathBuf>,
}

impl Settings {
    /// Puts flags and environment (clap has merged those two) over the file.
    pub(crate) fn load(global: &Global) -> Result<Self, Failure> {
        let dir = config_dir(global)?;
        let file = ConfigFile::load(&dir)?;
        // An empty variable is how shells unset one for a single command.
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        Ok(Self {
            dir,
            endpoint: given(&global.endpoint).or(file.endpoint).unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            api_key: given(&global.api_key).or(file.api_key).map(|key| Secret::new(key.trim())),
            ca_file: global.ca_file.clone().or(file.ca_file),
            colony: file.colony,
            data_dir: file.data_dir,
        })
    }

    /// Where `mi up` keeps its data unless told otherwise.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, Failure> {
        match &self.data_dir {
            Some(dir) => Ok(dir.clone()),
            None => user_dir("XDG_DATA_HOME", ".local/share"),
        }
    }
}

/// The directory of the configuration.
pub(crate) fn config_dir(global: &Global) -> Result<PathBuf, Failure> {
    match &global.config_dir {
        Some(dir) if !dir.as_os_str().is_empty() => Ok(dir.clone()),
        _ => user_dir("XDG_CONFIG_HOME", ".config"),
    }
}

fn user_dir(variable: &str, below_home: &str) -> Result<PathBuf, Failure> {
    // The XDG specification has relative paths ignored.
    if let Some(dir) = env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        return Ok(dir.join("mi"));
    }
    let home = env::home_dir().filter(|home| home.is_absolute());
    let unknown = || Failure::new("there is no home directory").hint("set HOME, or pass --config-dir and --data-dir");
    Ok(home.ok_or_else(unknown)?.join(below_home).join("mi"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn global(dir: &Path) -> Global {
        Global { config_dir: Some(dir.to_owned()), ..Global::default() }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().expect("temp dir");
        let settings = Settings::load(&global(dir.path())).expect("no file");
        assert_eq!((settings.endpoint.as_str(), settings.api_key), (DEFAULT_ENDPOINT, None));

        let file = ConfigFile {
            endpoint: Some("http://file:1".into()),
            api_key: Some("mi_file".into()),
            ca_file: None,
            colony: Some("home".into()),
            data_dir: None,
        };
        file.save(dir.path()).expect("saved");
        let settings = Settings::load(&global(dir.path())).expect("file");
        assert_eq!(settings.endpoint, "http://file:1");
        assert_eq!(settings.api_key.expect("from the file").expose(), "mi_file");
        assert_eq!(settings.colony.as_deref(), Some("home"));

        let flags =
            Global { endpoint: Some("http://flag:2".into()), api_key: Some(String::new()), ..global(dir.path()) };
        let settings = Settings::load(&flags).expect("flags");
        assert_eq!(settings.endpoint, "http://flag:2");
        assert_eq!(settings.api_key.expect("an empty flag is none").expose(), "mi_file");
    }

    #[test]
    fn the_file_is_private_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let sub = dir.path().join("deep/mi");
        let file = ConfigFile { api_key: Some("mi_1".into()), ..ConfigFile::default() };
        file.save(&sub).expect("saved");
        let path = file.save(&sub).expect("saved over the old one");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&sub).expect("dir").count(), 1);
        assert_eq!(ConfigFile::load(&sub).expect("readable"), file);
    }

    #[test]
    fn a_broken_file_is_named_without_its_secret() {
        let dir = tempfile::tempdir().expect("temp dir");
        for text in ["endpoint = \"x\"\napi_key = mi_secret", "\napikey = \"mi_secret\""] {
            fs::write(dir.path().join(FILE), text).expect("written");
            let told = Settings::load(&global(dir.path())).expect_err("broken").to_string();
            assert!(told.contains("config.toml, line 2"), "{told}");
            assert!(!told.contains("mi_secret"), "{told}");
        }
    }
}
