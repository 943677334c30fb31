//! What programs read that speak a vendor's API or MCP: where its server is, and their key. Both lead to the relay.

use std::{env, sync::Arc};

use serde_json::json;

use crate::{
    config::{ModelApi, ModelConfig},
    relay::{Key, Keys, MCP},
};

/// A vendor: the variables of its base URL and of the key, how it is spoken to, its name at the proxy, and the end of its
/// base URL.
type Vendor = (&'static str, &'static str, ModelApi, &'static str, &'static str);

const VENDORS: [Vendor; 3] = [
    ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", ModelApi::Anthropic, "anthropic", ""),
    ("OPENAI_BASE_URL", "OPENAI_API_KEY", ModelApi::OpenAi, "openai", "/v1"),
    ("GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY", ModelApi::Gemini, "gemini", ""),
];

/// How programs of the agent reach their models.
pub(super) struct Vendors {
    port: u16,
    keys: Arc<Keys>,
    /// The agent's own provider, which stands for all that are spoken to alike.
    own: Option<(ModelApi, String)>,
}

impl Vendors {
    pub(super) fn new(port: u16, keys: Arc<Keys>, model: Option<&ModelConfig>) -> Self {
        Self { port, keys, own: model.map(|model| (model.api, model.provider.clone())) }
    }

    /// A key for a program that runs on behalf of this task.
    pub(super) fn key(&self, task: Option<&str>) -> Key {
        self.keys.key(task)
    }

    /// The variables for whoever has this key.
    pub(super) fn variables(&self, key: &Key) -> Vec<(&'static str, String)> {
        let vendors = self.unless_given(key.word(), |name| env::var_os(name).is_some());
        vendors.into_iter().chain(self.tools(key.word())).collect()
    }

    /// How MCP clients reach the platform's tools: as two words, and as the configuration that most of them read.
    fn tools(&self, word: &str) -> [(&'static str, String); 3] {
        let url = format!("http://127.0.0.1:{}{MCP}", self.port);
        let headers = json!({"Authorization": format!("Bearer {word}")});
        let config = json!({"mcpServers": {"mi": {"type": "http", "url": url, "headers": headers}}});
        [("MI_MCP_URL", url), ("MI_MCP_TOKEN", word.to_owned()), ("MI_MCP_CONFIG", config.to_string())]
    }

    /// Of a vendor of which the agent's environment says anything, the operator means something else.
    fn unless_given(&self, word: &str, given: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
        let free = VENDORS.iter().filter(|(url, key, ..)| !given(url) && !given(key));
        let both = free.flat_map(|(url, key, api, name, end)| {
            let own = self.own.as_ref().filter(|(own, _)| own == api).map(|(_, provider)| provider.as_str());
            let provider = own.unwrap_or(name);
            [(*url, format!("http://127.0.0.1:{}/llm/{provider}{end}", self.port)), (*key, word.to_owned())]
        });
        both.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vendors(own: Option<(ModelApi, &str)>) -> Vendors {
        Vendors { port: 7, keys: Arc::default(), own: own.map(|(api, name)| (api, name.to_owned())) }
    }

    fn urls(vendors: &Vendors, given: &str) -> Vec<(&'static str, String)> {
        vendors.unless_given("word", |name| name == given)
    }

    #[test]
    fn every_vendor_is_behind_the_relay_and_the_own_provider_stands_for_those_alike() {
        let expected = |openai: &str| {
            [
                ("ANTHROPIC_BASE_URL", "http://127.0.0.1:7/llm/anthropic".to_owned()),
                ("ANTHROPIC_API_KEY", "word".to_owned()),
                ("OPENAI_BASE_URL", format!("http://127.0.0.1:7/llm/{openai}/v1")),
                ("OPENAI_API_KEY", "word".to_owned()),
                ("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:7/llm/gemini".to_owned()),
                ("GEMINI_API_KEY", "word".to_owned()),
            ]
        };
        assert_eq!(urls(&vendors(None), ""), expected("openai"));
        assert_eq!(urls(&vendors(Some((ModelApi::OpenAi, "mistral"))), ""), expected("mistral"));
    }

    #[test]
    fn the_platforms_tools_are_behind_the_relay() {
        let [url, token, (name, config)] = vendors(None).tools("word");
        assert_eq!(url, ("MI_MCP_URL", "http://127.0.0.1:7/mcp".to_owned()));
        assert_eq!(token, ("MI_MCP_TOKEN", "word".to_owned()));
        let server = json!({"type": "http", "url": url.1, "headers": {"Authorization": "Bearer word"}});
        let config: serde_json::Value = serde_json::from_str(&config).expect("it is JSON");
        assert_eq!((name, config), ("MI_MCP_CONFIG", json!({"mcpServers": {"mi": server}})));
    }

    #[test]
    fn what_the_operator_set_stands() {
        for given in ["OPENAI_BASE_URL", "OPENAI_API_KEY"] {
            let names: Vec<_> = urls(&vendors(None), given).into_iter().map(|(name, _)| name).collect();
            let others = ["ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY"];
            assert_eq!(names, others, "{given}");
        }
    }
}
