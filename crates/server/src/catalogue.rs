//! The catalogue of a process: its file, read again when it changes, and the model server that flags name.

use std::{path::PathBuf, time::Duration};

use mi_base::Tasks;
use mi_catalogue::{Catalogue, Catalogues, ModelApi};
use mi_kernel::{Error, Result, secret::Secret};
use url::Url;

use crate::config::{self, ModelFlags, PlatformOptions};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// The catalogue as the options say, kept up with its file.
pub(crate) fn open(options: &PlatformOptions, tasks: &Tasks) -> Result<Catalogues> {
    let server = options.model().as_ref().map(Server::open).transpose()?;
    let Some(file) = options.catalogue.clone() else {
        return Ok(Catalogues::new(with_server(Catalogue::built_in()?, server.as_ref())?));
    };
    let source = Source { seen: Catalogue::text_of(&file).ok(), file, server };
    let catalogues = Catalogues::new(with_server(Catalogue::load(Some(&source.file))?, source.server.as_ref())?);
    tasks.spawn("catalogue", source.follow(catalogues.clone(), INTERVAL));
    Ok(catalogues)
}

fn with_server(catalogue: Catalogue, server: Option<&Server>) -> Result<Catalogue> {
    match server {
        Some(Server { api, url, key }) => catalogue.with_server(*api, url.clone(), key.clone()),
        None => Ok(catalogue),
    }
}

/// The model server that the flags name.
struct Server {
    api: ModelApi,
    url: Url,
    key: Option<Secret>,
}

impl Server {
    fn open(flags: &ModelFlags) -> Result<Self> {
        let url = Url::parse(&flags.url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| {
            Error::invalid("model_url", "must be http://HOST or https://HOST, with the path before /chat or /v1")
        })?;
        let key = flags.key_file.as_deref().map(|file| {
            let problem = |what: &str| Error::invalid("model_key_file", format!("{what}: {}", file.display()));
            let key = std::fs::read_to_string(file).map_err(|error| problem("cannot be read").caused_by(error))?;
            match key.trim() {
                "" => Err(problem("is empty")),
                key if key.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Secret::new(key)),
                _ => Err(problem("holds more than one word of printable ASCII")),
            }
        });
        let api = match flags.api {
            config::ModelApi::OpenAi => ModelApi::OpenAi,
            config::ModelApi::Anthropic => ModelApi::Anthropic,
        };
        Ok(Self { api, url, key: key.transpose()? })
    }
}

/// Where the catalogue comes from.
struct Source {
    file: PathBuf,
    server: Option<Server>,
    /// What was last read of it, whether that was taken or not; none: it could not be read.
    seen: Option<String>,
}

impl Source {
    /// Has the file count again whenever it says something else. What is wrong with it is logged once, and the catalogue
    /// from before stays.
    async fn follow(mut self, catalogues: Catalogues, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            let now = Catalogue::text_of(&self.file);
            if now.as_ref().ok() == self.seen.as_ref() {
                continue;
            }
            let file = self.file.display().to_string();
            let read = now.and_then(|text| Catalogue::parse(self.seen.insert(text)));
            match read.and_then(|catalogue| with_server(catalogue, self.server.as_ref())) {
                Ok(catalogue) => {
                    catalogues.replace(catalogue);
                    tracing::info!(target: "mi::server", file, "the catalogue was read again");
                }
                Err(error) => {
                    self.seen = Catalogue::text_of(&self.file).ok();
                    let error = error.chain();
                    tracing::error!(target: "mi::server", file, error, "the catalogue stays as it was: the file is wrong");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn flags(url: &str) -> ModelFlags {
        ModelFlags { api: config::ModelApi::OpenAi, url: url.into(), key_file: None }
    }

    #[test]
    fn a_server_that_cannot_work_is_refused_at_the_start() {
        for url in ["", "host", "ftp://127.0.0.1", "http://"] {
            assert_eq!(Server::open(&flags(url)).err().expect(url).field, Some("model_url"));
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        for path in [file.path().to_owned(), "/nonexistent".into()] {
            let flags = ModelFlags { key_file: Some(path), ..flags("http://127.0.0.1:7") };
            assert_eq!(Server::open(&flags).err().expect("refused").field, Some("model_key_file"));
        }
    }

    fn write(file: &Path, text: &str) {
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, text).expect("written");
        std::fs::rename(fresh, file).expect("in place");
    }

    #[tokio::test]
    async fn a_changed_file_counts_and_a_broken_one_does_not() {
        let text = |price: i64| {
            format!(
                "[[provider]]\nname = 'p'\napi = 'openai'\nbase_url = 'https://p.test'\nopen = true\n\
                 [[model]]\nprovider = 'p'\nid = 'm'\nmax_output = 1\nprice = {{ input = {price}, output = 0 }}\n\
                 [[tier]]\nname = 't'\nprovider = 'p'\nmodel = 'm'\n"
            )
        };
        let directory = tempfile::tempdir().expect("made");
        let file = directory.path().join("catalogue.toml");
        write(&file, &text(1_000));
        let server = Server::open(&flags("http://127.0.0.1:7/v1")).expect("good");
        let source = Source { seen: Catalogue::text_of(&file).ok(), file: file.clone(), server: Some(server) };
        let first = with_server(Catalogue::load(Some(&file)).expect("good"), source.server.as_ref()).expect("good");
        let (catalogues, tasks) = (Catalogues::new(first), Tasks::new());
        let call = catalogues.current();
        tasks.spawn("catalogue", source.follow(catalogues.clone(), Duration::from_millis(1)));
        let until = async |price: i64| {
            loop {
                let now = catalogues.current();
                assert_eq!(now.providers[0].base_url.as_str(), "http://127.0.0.1:7/v1", "the flags still count");
                if now.models[0].price.input == price {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        write(&file, &text(2_000));
        until(2_000).await;
        assert_eq!(call.models[0].price.input, 1_000, "a call keeps to what it began with");
        write(&file, &text(3));
        std::fs::remove_file(&file).expect("removed");
        write(&file, &text(4_000));
        until(4_000).await;
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, None);
    }
}
