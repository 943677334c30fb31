//! The operator's own model server: whether it can be what the flags say.

use mi_kernel::{Error, Result, secret::Secret};
use url::Url;

use crate::config::{ModelApi, ModelFlags};

/// How it is spoken to, where it is, and what it wants to see.
pub(crate) type ModelServer = (ModelApi, Url, Option<Secret>);

/// Reads the key and checks the URL.
pub(crate) fn open(flags: Option<&ModelFlags>) -> Result<Option<ModelServer>> {
    let Some(flags) = flags else { return Ok(None) };
    let url = Url::parse(&flags.url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| {
        Error::invalid("model_url", "must be http://HOST or https://HOST, with the path before /chat or /v1")
    })?;
    let key = flags.key_file.as_deref().map(|file| {
        let unreadable = || Error::invalid("model_key_file", format!("cannot be read: {}", file.display()));
        let key = std::fs::read_to_string(file).map_err(|error| unreadable().caused_by(error))?;
        match key.trim() {
            "" => Err(Error::invalid("model_key_file", format!("is empty: {}", file.display()))),
            key => Ok(Secret::new(key)),
        }
    });
    Ok(Some((flags.api, url, key.transpose()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(url: &str) -> ModelFlags {
        ModelFlags { api: ModelApi::OpenAi, url: url.into(), key_file: None }
    }

    #[test]
    fn what_cannot_work_is_refused_at_the_start() {
        assert!(open(None).expect("good").is_none());
        let (api, url, key) = open(Some(&flags("http://localhost:7/v1"))).expect("good").expect("configured");
        assert_eq!((api, url.as_str(), key.is_none()), (ModelApi::OpenAi, "http://localhost:7/v1", true));
        for url in ["", "host", "ftp://127.0.0.1", "http://"] {
            assert_eq!(open(Some(&flags(url))).expect_err(url).field, Some("model_url"));
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        for path in [file.path().to_owned(), "/nonexistent".into()] {
            let flags = ModelFlags { key_file: Some(path), ..flags("http://127.0.0.1:7") };
            assert_eq!(open(Some(&flags)).expect_err("refused").field, Some("model_key_file"));
        }
    }
}
