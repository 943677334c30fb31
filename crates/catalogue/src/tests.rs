//! What a catalogue must be, and how it is told what is wrong with one.

use std::{collections::BTreeSet, io::Write};

use mi_kernel::secret::Secret;

use super::*;

/// The least that is a catalogue: each thing once.
const SMALL: &str = r#"[[provider]]
name = "acme"
aliases = ["acme-ai"]
api = "openai"
base_url = "https://models.acme.test/v1"

[[model]]
provider = "acme"
id = "acme-1"
max_output = 1000

[model.price]
input = 1_000_000
output = 2_000_000

[[tool]]
provider = "acme"
name = "web_search"
price = 10_000

[[tier]]
name = "one"
provider = "acme"
model = "acme-1"

[[skill]]
name = "shipping"
description = "d"
integrations = ["hub"]

[[role]]
name = "engineer"
description = "d"
tier = "one"
skills = ["shipping", "hub"]
system_prompt = "p"

[[integration]]
name = "acme"
aliases = ["acme-ai"]
category = "model"
description = "d"

[[integration.secret]]
name = "api_key"
env = "ACME_API_KEY"
description = "d"

[[integration]]
name = "hub"
category = "code"
description = "d"

[[integration.secret]]
name = "token"
env = "HUB_TOKEN"
description = "d"
in_environment = true

[[integration.secret]]
name = "hint"
env = "HUB_HINT"
description = "d"
required = false

[integration.broker]
base_url = "https://hub.test/api"
header = "Authorization"
value = "Bearer {token}"
allow = [
  { methods = ["GET"], path = "/repos/*/issues/**" },
]
"#;

fn refusal(text: &str) -> String {
    let error = Catalogue::parse(text).expect_err(text);
    assert_eq!(error.field, Some("catalogue"));
    error.message
}

#[test]
fn the_built_in_catalogue_has_what_the_specification_names() {
    let catalogue = Catalogue::built_in().expect("good");
    let tiers: Vec<_> = catalogue.tiers.iter().map(|tier| (tier.name.as_str(), tier.provider())).collect();
    let expected = [
        ("sonnet", "anthropic"),
        ("opus", "anthropic"),
        ("haiku", "anthropic"),
        ("gpt-5.5", "openai"),
        ("gemini-2.5-flash", "gemini"),
    ];
    assert_eq!(tiers, expected);
    for role in ["leader", "engineer", "research-analyst", "reviewer"] {
        assert!(catalogue.role("role", role).is_ok(), "{role}");
    }
    assert!(catalogue.integrations.len() >= 12);
    for (name, secret, env, in_environment) in [
        ("claude-code", "api_key", "ANTHROPIC_API_KEY", false),
        ("openai", "api_key", "OPENAI_API_KEY", false),
        ("google-gemini", "api_key", "GEMINI_API_KEY", false),
        ("github", "token", "GITHUB_TOKEN", true),
        ("slack", "bot_token", "SLACK_BOT_TOKEN", false),
    ] {
        let spec = catalogue.integration("integration", name).expect(name).secret("name", secret).expect(secret);
        assert_eq!((spec.env.as_str(), spec.in_environment), (env, in_environment), "{name}");
    }
    let error = catalogue.tier("model_tier", "nope").expect_err("unknown");
    assert_eq!(error.field, Some("model_tier"));
    assert!(error.message.contains("sonnet, opus, haiku, gpt-5.5, gemini-2.5-flash"), "{error}");
    let error = catalogue.integration("integration", "hunter2").expect_err("unknown");
    assert!(error.message.contains("anthropic, openai") && !error.message.contains("hunter2"), "{error}");
}

#[test]
fn aliases_stand_for_names() {
    let catalogue = Catalogue::built_in().expect("good");
    for (alias, name) in
        [("google", "gemini"), ("google-gemini", "gemini"), ("claude-code", "anthropic"), ("xai", "xai")]
    {
        assert_eq!(catalogue.provider("provider", alias).expect(alias).name, name);
        assert_eq!(catalogue.integration("integration", alias).expect(alias).name, name);
    }
}

#[test]
fn skills_take_integrations() {
    let catalogue = Catalogue::parse(SMALL).expect("good");
    let of = |skills: &[&str]| {
        let skills: Vec<String> = skills.iter().map(ToString::to_string).collect();
        catalogue.integrations_of(&skills)
    };
    assert_eq!(of(&["shipping"]), BTreeSet::from(["hub".to_owned()]));
    assert_eq!(of(&["hub", "acme-ai", "anything"]), BTreeSet::from(["acme".to_owned(), "hub".to_owned()]));
    assert_eq!(of(&["anything", "else"]), BTreeSet::new());
}

#[test]
fn each_mistake_is_told_with_its_line() {
    let replace = |from: &str, to: &str| {
        assert!(SMALL.contains(from), "{from}");
        SMALL.replacen(from, to, 1)
    };
    let add = |text: &str| format!("{SMALL}\n{text}");
    let broken = [
        // What does not parse.
        replace("[[model]]", "[[model]"),
        replace("name = \"one\"", "name = 1"),
        replace("max_output = 1000", "max_outputs = 1000"),
        replace("output = 2_000_000\n", ""),
        replace("input = 1_000_000", "input = 0.000001"),
        replace("api = \"openai\"", "api = \"soap\""),
        replace("https://models.acme.test/v1", "models.acme.test"),
        // Names.
        replace("name = \"acme\"", "name = \"Acme AI\""),
        replace("aliases = [\"acme-ai\"]", "aliases = [\"acme\"]"),
        replace("aliases = [\"acme-ai\"]", "aliases = [\"hub\"]"),
        add("[[tier]]\nname = \"one\"\nprovider = \"acme\"\nmodel = \"acme-1\""),
        add("[[role]]\nname = \"engineer\"\ndescription = \"d\"\nsystem_prompt = \"p\""),
        add("[[skill]]\nname = \"shipping\"\ndescription = \"d\""),
        add("[[skill]]\nname = \"hub\"\ndescription = \"d\""),
        add("[[integration]]\nname = \"hub\"\ncategory = \"code\"\ndescription = \"d\"\nsecret = []"),
        add("[[model]]\nprovider = \"acme\"\nid = \"acme-1\"\nmax_output = 1\nprice = { input = 0, output = 0 }"),
        add("[[tool]]\nprovider = \"acme\"\nname = \"web_search\"\nprice = 1"),
        // What is not there.
        replace("provider = \"acme\"\nid", "provider = \"acne\"\nid"),
        replace("provider = \"acme\"\nname = \"web", "provider = \"acne\"\nname = \"web"),
        replace("model = \"acme-1\"", "model = \"acme-2\""),
        replace("model = \"acme-1\"", "model = \"acme-1\"\nalso = [{ provider = \"acme\", model = \"acme-1\" }]"),
        replace("tier = \"one\"", "tier = \"two\""),
        replace("skills = [\"shipping\", \"hub\"]", "skills = [\"shipping\", \"juggling\"]"),
        replace("integrations = [\"hub\"]", "integrations = [\"pub\"]"),
        replace("name = \"api_key\"", "name = \"key\""),
        "[[integration]]\nname = \"hub\"\ncategory = \"c\"\ndescription = \"d\"\nsecret = []".into(),
        // Money.
        replace("input = 1_000_000", "input = 3"),
        replace("input = 1_000_000", "input = -1"),
        replace("output = 2_000_000", "output = 2_000_000\nreasoning = 1_000_000_001"),
        replace("output = 2_000_000", "output = 200_000_000"),
        replace("price = 10_000", "price = 100_000_001"),
        replace("max_output = 1000", "max_output = 10_000_001"),
        // Where keys go.
        replace("https://models.acme.test/v1", "http://models.acme.test/v1"),
        replace("https://models.acme.test/v1", "https://me:pw@models.acme.test/v1?a=b"),
        replace(
            "base_url = \"https://models.acme.test/v1\"",
            "base_url = \"https://x.test\"\nkey_file = \"/nonexistent\"",
        ),
        replace("env = \"ACME_API_KEY\"", "env = \"ACME_API_KEY\"\nin_environment = true"),
        replace("env = \"HUB_TOKEN\"", "env = \"MI_TOKEN\""),
        replace("env = \"HUB_HINT\"", "env = \"HUB_TOKEN\""),
        replace("name = \"hint\"", "name = \"token\""),
        // The broker.
        replace("Bearer {token}", "Bearer {key}"),
        replace("Bearer {token}", "Bearer {hint}"),
        replace("Bearer {token}", "Bearer"),
        replace("Bearer {token}", "Bearer {token"),
        replace("header = \"Authorization\"", "header = \"Host\""),
        replace("methods = [\"GET\"]", "methods = [\"get\"]"),
        replace("/repos/*/issues/**", "/repos/../issues"),
        replace("/repos/*/issues/**", "/repos/**/issues"),
        replace("/repos/*/issues/**", "/repos/%2e%2e"),
        replace("https://hub.test/api", "http://10.0.0.1/api"),
        // Several at once, in the order of the file.
        replace("input = 1_000_000", "input = 3").replacen("tier = \"one\"", "tier = \"two\"", 1),
    ];
    let told: Vec<String> = broken.iter().map(|text| refusal(text)).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn what_is_unusual_and_right_is_taken() {
    for (from, to) in [
        ("https://models.acme.test/v1", "http://127.0.0.1:8080/v1"),
        ("https://models.acme.test/v1", "http://localhost/v1"),
        ("https://models.acme.test/v1", "http://[::1]:8080"),
        ("input = 1_000_000\noutput = 2_000_000", "input = 0\noutput = 0"),
        ("input = 1_000_000\noutput = 2_000_000", "input = 1_000\noutput = 1_000_000_000\n#"),
        ("max_output = 1000", "max_output = 0"),
        ("/repos/*/issues/**", "/**"),
    ] {
        let text = SMALL.replacen(from, to, 1);
        let taken = Catalogue::parse(&text);
        assert_eq!(taken.is_ok(), !to.ends_with('#'), "{to}: {taken:?}");
    }
    let open = SMALL.replacen("api = \"openai\"", "api = \"openai\"\nopen = true", 1);
    assert!(Catalogue::parse(&open.replacen("name = \"api_key\"", "name = \"key\"", 1)).is_ok());
}

#[test]
fn a_key_in_a_file_is_the_providers() {
    let mut file = tempfile::NamedTempFile::new().expect("made");
    let text = SMALL.replacen("api = \"openai\"", &format!("api = \"openai\"\nkey_file = {:?}", file.path()), 1);
    assert!(refusal(&text).contains("is empty"));
    writeln!(file, "sk-1").expect("written");
    let provider = Catalogue::parse(&text).expect("good").providers.remove(0);
    assert_eq!((provider.key.clone(), provider.works_without_office()), (Some(Secret::new("sk-1")), true));
    writeln!(file, "sk-2").expect("written");
    assert!(refusal(&text).contains("more than one word"));
}

#[test]
fn a_file_is_named_and_bounded() {
    let mut file = tempfile::NamedTempFile::new().expect("made");
    file.write_all(SMALL.replace("one", "").as_bytes()).expect("written");
    let error = Catalogue::load(Some(file.path())).expect_err("broken");
    assert!(error.message.ends_with(&format!("({})", file.path().display())), "{error}");
    file.write_all("#".repeat(1 << 20).as_bytes()).expect("written");
    let error = Catalogue::load(Some(file.path())).expect_err("long");
    assert!(error.message.contains("at most 1048576 bytes"), "{error}");
    let error = Catalogue::load(Some(Path::new("/nonexistent"))).expect_err("missing");
    assert_eq!(error.field, Some("catalogue"));
}

#[test]
fn a_server_of_the_operator_serves_every_tier() {
    let url = Url::parse("http://models.test:8080/v1").expect("a URL");
    let key = Some(Secret::new("sk-local"));
    let catalogue = Catalogue::built_in().expect("good").with_server(ModelApi::OpenAi, url.clone(), key.clone());
    let catalogue = catalogue.expect("some provider speaks it");
    let openai = catalogue.provider("provider", "openai").expect("there");
    assert_eq!((&openai.base_url, &openai.key, openai.open), (&url, &key, true));
    let sonnet = catalogue.tier("model_tier", "sonnet").expect("there");
    assert_eq!(catalogue.providers_of(sonnet), ["anthropic", "openrouter", "openai"]);
    let served = catalogue.served(sonnet, "openai").expect("stands for all");
    assert_eq!((served.id.as_str(), served.price.input), ("claude-sonnet-4-5", 3_000_000));
    assert_eq!(catalogue.served(sonnet, "gemini"), None);
}
