//! Paths: what a call asks for, and where it goes. Nothing that a client wrote gets into the address of a provider but
//! names that are known here.

use http::Method;
use mi_catalogue::{ModelApi, Provider};
use mi_rpc::vendor::Form;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Anthropic's messages.
    Messages,
    /// How many tokens messages have.
    CountTokens,
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// OpenAI's embeddings.
    Embeddings,
    /// Google's `generateContent`.
    Generate,
    /// The same, streamed.
    StreamGenerate,
    /// How many tokens contents have.
    CountContents,
    /// Which models there are: answered here.
    Models,
}

/// A path that is served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route<'a> {
    /// The provider, as the client names it.
    pub(crate) provider: &'a str,
    /// What is called of it.
    pub(crate) call: Call,
    /// The model, where the path names it.
    pub(crate) model: Option<&'a str>,
}

impl Call {
    /// Whether a provider of this protocol serves it.
    pub(crate) fn belongs_to(self, api: ModelApi) -> bool {
        match self {
            Self::Messages | Self::CountTokens => api == ModelApi::Anthropic,
            Self::Chat | Self::Responses | Self::Embeddings => api == ModelApi::OpenAi,
            Self::Generate | Self::StreamGenerate | Self::CountContents => api == ModelApi::Gemini,
            Self::Models => true,
        }
    }

    /// Whether nobody bills it.
    pub(crate) fn is_free(self) -> bool {
        matches!(self, Self::CountTokens | Self::CountContents | Self::Models)
    }

    /// The form of its refusals.
    pub(crate) fn form(self) -> Form {
        match self {
            Self::Messages | Self::CountTokens => Form::Anthropic,
            Self::Chat | Self::Responses | Self::Embeddings | Self::Models => Form::OpenAi,
            Self::Generate | Self::StreamGenerate | Self::CountContents => Form::Gemini,
        }
    }

    /// Its name in OpenTelemetry's conventions.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Generate | Self::StreamGenerate => "generate_content",
            Self::CountTokens | Self::CountContents => "count_tokens",
            Self::Messages | Self::Chat | Self::Responses | Self::Models => "chat",
        }
    }

    /// Its address at a provider, for a model by the provider's own name. `query` is what the client wrote, of which only
    /// what is known passes.
    pub(crate) fn url(self, provider: &Provider, model: &str, query: Option<&str>) -> String {
        let base = provider.base_url.as_str().trim_end_matches('/');
        let has = |pair: &str| query.is_some_and(|query| query.split('&').any(|found| found == pair));
        let path = match self {
            Self::Messages => "/v1/messages".to_owned(),
            Self::CountTokens => "/v1/messages/count_tokens".to_owned(),
            Self::Chat => "/chat/completions".to_owned(),
            Self::Responses => "/responses".to_owned(),
            Self::Embeddings => "/embeddings".to_owned(),
            Self::Models => "/models".to_owned(),
            Self::Generate => format!("/v1beta/models/{model}:generateContent"),
            Self::StreamGenerate => format!("/v1beta/models/{model}:streamGenerateContent"),
            Self::CountContents => format!("/v1beta/models/{model}:countTokens"),
        };
        let known = match self {
            Self::Messages | Self::CountTokens => "beta=true",
            Self::StreamGenerate => "alt=sse",
            _ => "",
        };
        let query = if !known.is_empty() && has(known) { format!("?{known}") } else { String::new() };
        format!("{base}{path}{query}")
    }
}

/// Reads a path as it came. What is encoded in it, or goes up or nowhere, is no path that is known.
pub(crate) fn find<'a>(method: &Method, path: &'a str) -> Option<Route<'a>> {
    let (provider, rest) = path.strip_prefix("/llm/")?.split_once('/')?;
    if !is_name(provider) {
        return None;
    }
    if *method == Method::GET {
        let is_list = matches!(rest, "models" | "v1/models" | "v1beta/models");
        return is_list.then_some(Route { provider, call: Call::Models, model: None });
    }
    if *method != Method::POST {
        return None;
    }
    // Google's SDKs call the one version or the other.
    if let Some(rest) = rest.strip_prefix("v1beta/models/").or_else(|| rest.strip_prefix("v1/models/")) {
        let (model, verb) = rest.split_once(':')?;
        let call = match verb {
            "generateContent" => Call::Generate,
            "streamGenerateContent" => Call::StreamGenerate,
            "countTokens" => Call::CountContents,
            _ => return None,
        };
        return is_name(model).then_some(Route { provider, call, model: Some(model) });
    }
    let call = match rest {
        "v1/messages" => Call::Messages,
        "v1/messages/count_tokens" => Call::CountTokens,
        _ => match rest.strip_prefix("v1/").unwrap_or(rest) {
            "chat/completions" => Call::Chat,
            "responses" => Call::Responses,
            "embeddings" => Call::Embeddings,
            _ => return None,
        },
    };
    Some(Route { provider, call, model: None })
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.len() <= 128 && !text.contains("..") && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_paths() {
        for (path, call, model) in [
            ("/llm/p/v1/messages", Call::Messages, None),
            ("/llm/p/v1/messages/count_tokens", Call::CountTokens, None),
            ("/llm/p/v1/chat/completions", Call::Chat, None),
            ("/llm/p/chat/completions", Call::Chat, None),
            ("/llm/p/responses", Call::Responses, None),
            ("/llm/p/v1/embeddings", Call::Embeddings, None),
            ("/llm/p/v1beta/models/gemini-2.5-flash:generateContent", Call::Generate, Some("gemini-2.5-flash")),
            ("/llm/p/v1beta/models/m:streamGenerateContent", Call::StreamGenerate, Some("m")),
            ("/llm/p/v1beta/models/m:countTokens", Call::CountContents, Some("m")),
            ("/llm/p/v1/models/m:generateContent", Call::Generate, Some("m")),
        ] {
            assert_eq!(find(&Method::POST, path), Some(Route { provider: "p", call, model }), "{path}");
            assert_eq!(find(&Method::GET, path), None, "{path}");
        }
        for path in ["/llm/p/models", "/llm/p/v1/models", "/llm/p/v1beta/models"] {
            assert_eq!(find(&Method::GET, path).map(|route| route.call), Some(Call::Models));
        }
    }

    #[test]
    fn whatever_is_odd_is_not_found() {
        for path in [
            "/llm/",
            "/llm/p",
            "/llm//v1/messages",
            "/llm/../v1/messages",
            "/llm/p/../v1/messages",
            "/llm/p/v1/../v1/messages",
            "/llm/p/v1//messages",
            "/llm/p/v1/messages/",
            "/llm/p/v1%2fmessages",
            "/llm/p%2f..%2f/v1/messages",
            "/llm/p/%2e%2e/v1/messages",
            "/llm/p/http://evil.example/v1/messages",
            "/llm/http://evil.example/v1/messages",
            "/llm/p@evil.example/v1/messages",
            "/llm/p/v1beta/models/../../files:generateContent",
            "/llm/p/v1beta/models/a/b:generateContent",
            "/llm/p/v1beta/models/a%2fb:generateContent",
            "/llm/p/v1beta/models/m:generateContent/x",
            "/llm/p/v1beta/models/m:deleteEverything",
            "/llm/p/v1beta/models/..:generateContent",
            "/llm/p/v1/files",
            "/llm/p/v1/messages/batches",
            "/llm/p/v1/responses/resp_1",
        ] {
            assert_eq!(find(&Method::POST, path), None, "{path}");
        }
        assert_eq!(find(&Method::DELETE, "/llm/p/v1/messages"), None);
    }
}
