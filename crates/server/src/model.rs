//! The model server of the agents: where it is, found out before any agent starts, because agents cannot ask.

use mi_kernel::{Error, Result, secret::Secret};
use mi_scheduler::ModelServer;
use url::{Host, Url};

use crate::config::ModelFlags;

/// Reads the key and resolves the host.
pub(crate) async fn open(flags: Option<&ModelFlags>) -> Result<Option<ModelServer>> {
    let Some(flags) = flags else { return Ok(None) };
    let invalid = |problem: &str| Error::invalid("model_url", problem);
    let url = Url::parse(&flags.url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url.ok_or_else(|| invalid("must be http://HOST or https://HOST, with the path before /chat or /v1"))?;
    let address = match (url.host(), url.port_or_known_default()) {
        (Some(Host::Domain(host)), Some(port)) => {
            let unknown = || {
                let text =
                    format!("cannot be used: the host {host:?} was not found, and agents look nothing up themselves");
                invalid(&text)
            };
            let mut found = tokio::net::lookup_host((host, port)).await.map_err(|error| unknown().caused_by(error))?;
            Some(format!("{host}={}", found.next().ok_or_else(unknown)?))
        }
        _ => None,
    };
    let key = flags.key_file.as_deref().map(|file| {
        let unreadable = || Error::invalid("model_key_file", format!("cannot be read: {}", file.display()));
        let key = std::fs::read_to_string(file).map_err(|error| unreadable().caused_by(error))?;
        match key.trim() {
            "" => Err(Error::invalid("model_key_file", format!("is empty: {}", file.display()))),
            key => Ok(Secret::new(key)),
        }
    });
    Ok(Some(ModelServer { api: flags.api.as_str(), url: flags.url.clone(), address, key: key.transpose()? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelApi;

    fn flags(url: &str) -> ModelFlags {
        ModelFlags { api: ModelApi::OpenAi, url: url.into(), key_file: None }
    }

    async fn address(url: &str) -> Result<Option<String>> {
        open(Some(&flags(url))).await.map(|server| server.expect("configured").address)
    }

    #[tokio::test]
    async fn a_host_is_looked_up_and_an_address_is_not() {
        assert_eq!(address("http://127.0.0.1:7/v1").await.expect("good"), None);
        let found = address("http://localhost:7/v1").await.expect("good").expect("looked up");
        assert!(matches!(&*found, "localhost=127.0.0.1:7" | "localhost=[::1]:7"), "{found}");
        assert!(open(None).await.expect("good").is_none());
    }

    #[tokio::test]
    async fn what_cannot_work_is_refused_at_the_start() {
        for url in ["", "host", "ftp://127.0.0.1", "http://"] {
            assert_eq!(address(url).await.expect_err(url).field, Some("model_url"));
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        for path in [file.path().to_owned(), "/nonexistent".into()] {
            let flags = ModelFlags { key_file: Some(path), ..flags("http://127.0.0.1:7") };
            assert_eq!(open(Some(&flags)).await.expect_err("refused").field, Some("model_key_file"));
        }
    }
}
