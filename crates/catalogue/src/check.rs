//! What contradicts itself, or cannot be meant.

use std::collections::{BTreeMap, BTreeSet};

use mi_kernel::{Error, Result};
use url::{Host, Url};

use crate::{Broker, Integration, Price, Served, lines::Lines, parse::File};

/// Dearest million of tokens, in micro-credits: 1,000 credits.
const DEAREST: i64 = 1_000_000_000;
/// A price below this, in micro-credits for a million tokens, is one for a single token.
const CHEAPEST: i64 = 1_000;
/// Dearest call of a tool, in micro-credits: 100 credits.
const DEAREST_CALL: i64 = 100_000_000;
/// No model's output costs so many times what its input costs.
const MOST_RATIO: i64 = 100;
/// Most tokens that anything answers with.
const MOST_OUTPUT: i64 = 10_000_000;
/// Problems that one error tells.
const SHOWN: usize = 20;

/// Names that are taken: by which line, and whose they are.
type Taken<'a> = BTreeMap<&'a str, (usize, &'a str)>;

/// Collects what is wrong.
pub(crate) struct Check<'a> {
    lines: &'a Lines<'a>,
    wrong: Vec<(usize, String)>,
}

impl<'a> Check<'a> {
    pub(crate) fn new(lines: &'a Lines<'a>) -> Self {
        Self { lines, wrong: Vec::new() }
    }

    /// Something is wrong with what this path leads to.
    pub(crate) fn note(&mut self, path: &str, problem: impl Into<String>) {
        self.wrong.push((self.lines.of(path), problem.into()));
    }

    /// Fails if anything was noted.
    pub(crate) fn done(mut self) -> Result<()> {
        if self.wrong.is_empty() {
            return Ok(());
        }
        self.wrong.sort();
        let (shown, more) = (self.wrong.iter().take(SHOWN), self.wrong.len().saturating_sub(SHOWN));
        let mut told: Vec<String> = shown.map(|(line, problem)| format!("line {line}: {problem}")).collect();
        if more > 0 {
            told.push(format!("{more} more"));
        }
        Err(Error::invalid("catalogue", format!("is wrong in {}", told.join("; "))))
    }

    fn expect(&mut self, holds: bool, path: &str, problem: impl FnOnce() -> String) {
        if !holds {
            self.note(path, problem());
        }
    }

    /// Takes a name, which nobody may have.
    fn take<'b>(&mut self, taken: &mut Taken<'b>, path: &str, name: &'b str, owner: &'b str) {
        match taken.get(name) {
            Some((line, _)) => self.note(path, format!("{name:?} is a name twice; line {line} has it, too")),
            None => {
                taken.insert(name, (self.lines.of(path), owner));
            }
        }
    }

    /// Takes the name and the aliases of a thing.
    fn names<'b>(&mut self, taken: &mut Taken<'b>, path: &str, name: &'b str, aliases: &'b [String]) {
        let path_of_name = format!("{path}.name");
        self.plain(&path_of_name, name);
        self.take(taken, &path_of_name, name, name);
        for (n, alias) in aliases.iter().enumerate() {
            let path = format!("{path}.aliases.{n}");
            self.plain(&path, alias);
            self.take(taken, &path, alias, name);
        }
    }

    fn plain(&mut self, path: &str, name: &str) {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = (1..=40).contains(&name.len()) && name.chars().all(plain);
        self.expect(good, path, || format!("{name:?} must be 1 to 40 small letters, digits and hyphens"));
    }

    /// Names that settings and hires may hold, too.
    fn word(&mut self, path: &str, name: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let good = (1..=64).contains(&name.len()) && name.chars().all(plain);
        self.expect(good, path, || format!("{name:?} must be 1 to 64 letters, digits, hyphens, dots and underscores"));
    }

    fn url(&mut self, path: &str, url: &Url) {
        let loopback = match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let safe = url.scheme() == "https" || (url.scheme() == "http" && loopback);
        self.expect(safe && url.has_host(), path, || {
            format!("{url} must be https://HOST; http:// is for 127.0.0.1 and localhost, since keys go there")
        });
        let bare = url.username().is_empty() && url.password().is_none();
        self.expect(bare && url.query().is_none() && url.fragment().is_none(), path, || {
            "must be a URL without user, query and fragment".into()
        });
    }

    fn price(&mut self, path: &str, price: &Price) {
        let kinds = [
            ("input", Some(price.input)),
            ("output", Some(price.output)),
            ("cache_read", price.cache_read),
            ("cache_write", price.cache_write),
            ("reasoning", price.reasoning),
        ];
        for (kind, amount) in kinds {
            let Some(amount) = amount else { continue };
            let path = format!("{path}.{kind}");
            self.expect((0..=DEAREST).contains(&amount), &path, || {
                format!("{kind} = {amount} must be 0 to {DEAREST} micro-credits for a million tokens")
            });
            self.expect(!(1..CHEAPEST).contains(&amount), &path, || {
                format!(
                    "{kind} = {amount} looks like a price per token; prices are micro-credits for a million tokens, at \
                     least {CHEAPEST} or 0"
                )
            });
        }
        let sane = price.input <= 0 || price.output / MOST_RATIO <= price.input;
        self.expect(sane, &format!("{path}.output"), || {
            format!("output = {} is more than {MOST_RATIO} times input; one of the two is mistyped", price.output)
        });
    }

    fn broker(&mut self, path: &str, broker: &Broker, integration: &Integration) {
        self.url(&format!("{path}.base_url"), &broker.base_url);
        let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let header = broker.header.to_ascii_lowercase();
        let ours = ["host", "content-length", "connection", "transfer-encoding", "te", "trailer", "upgrade", "cookie"];
        let good = !header.is_empty() && header.bytes().all(token) && !ours.contains(&header.as_str());
        self.expect(good, &format!("{path}.header"), || format!("{header:?} is no header that a secret goes into"));
        let value_path = format!("{path}.value");
        let shown = broker.value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        self.expect(shown, &value_path, || "must be printable ASCII".into());
        match placeholders(&broker.value) {
            None => self.note(&value_path, "has a { or } that is no {NAME} of a secret"),
            Some(names) if names.is_empty() => self.note(&value_path, "must hold {NAME} for a secret"),
            Some(names) => {
                for name in names {
                    let found = integration.secrets.iter().find(|spec| spec.name == name);
                    self.expect(found.is_some(), &value_path, || {
                        format!("{{{name}}} is no secret of the integration {:?}", integration.name)
                    });
                    self.expect(found.is_none_or(|spec| spec.required), &value_path, || {
                        format!("{{{name}}} must be a secret that is required")
                    });
                }
            }
        }
        self.expect(!broker.allow.is_empty(), &format!("{path}.allow"), || "must allow something".into());
        for (n, allowed) in broker.allow.iter().enumerate() {
            let path = format!("{path}.allow.{n}");
            let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
            let good = !allowed.methods.is_empty() && allowed.methods.iter().all(|m| known.contains(&m.as_str()));
            self.expect(good, &format!("{path}.methods"), || format!("must be some of {}", known.join(", ")));
            self.expect(is_pattern(&allowed.path), &format!("{path}.path"), || {
                format!("{:?} must be /SEGMENT/..., with * for one segment and a last ** for the rest", allowed.path)
            });
        }
    }
}

/// The names in braces; none: a brace is alone.
fn placeholders(value: &str) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.find(['{', '}']) {
        let (name, after) = rest[at..].strip_prefix('{')?.split_once('}')?;
        if name.is_empty() || name.contains('{') {
            return None;
        }
        names.push(name);
        rest = after;
    }
    Some(names)
}

/// A path of segments that need no decoding, each of which is taken as it is, but for `*` and a last `**`.
fn is_pattern(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~:@".contains(c);
    let Some(path) = path.strip_prefix('/') else { return false };
    let segments: Vec<&str> = path.split('/').collect();
    segments.iter().enumerate().all(|(n, segment)| match *segment {
        "*" => true,
        "**" => n + 1 == segments.len(),
        "" | "." | ".." => false,
        name => name.chars().all(plain),
    })
}

/// Looks at everything.
pub(crate) fn check(file: &File, wrong: &mut Check<'_>) {
    let (mut providers, mut integrations) = (Taken::new(), Taken::new());
    for (n, integration) in file.integrations.iter().enumerate() {
        wrong.names(&mut integrations, &format!("integration.{n}"), &integration.name, &integration.aliases);
    }
    for (n, provider) in file.providers.iter().enumerate() {
        wrong.names(&mut providers, &format!("provider.{n}"), &provider.name, &provider.aliases);
    }
    for (word, (line, owner)) in &providers {
        if let Some((other, whose)) = integrations.get(word).filter(|(_, whose)| whose != owner) {
            let problem =
                format!("{word:?} means the provider {owner:?} here and the integration {whose:?} in line {other}");
            wrong.wrong.push((*line, problem));
        }
    }
    check_integrations(file, wrong);
    check_models(file, wrong);
    check_hires(file, &integrations, wrong);
}

fn check_integrations(file: &File, wrong: &mut Check<'_>) {
    let providers: BTreeSet<&str> = file.providers.iter().map(|provider| provider.name.as_str()).collect();
    let mut shared = Taken::new();
    for (n, integration) in file.integrations.iter().enumerate() {
        let (path, name) = (format!("integration.{n}"), integration.name.as_str());
        wrong.plain(&format!("{path}.category"), &integration.category);
        let (mut own, mut envs) = (Taken::new(), Taken::new());
        for (m, spec) in integration.secrets.iter().enumerate() {
            let path = format!("{path}.secret.{m}");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let good = (1..=40).contains(&spec.name.len()) && spec.name.chars().all(plain);
            wrong.expect(good, &format!("{path}.name"), || {
                format!("{:?} must be 1 to 40 small letters, digits and underscores", spec.name)
            });
            wrong.take(&mut own, &format!("{path}.name"), &spec.name, name);
            let capital = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            let good = (1..=128).contains(&spec.env.len())
                && spec.env.bytes().all(capital)
                && !spec.env.starts_with(|c: char| c.is_ascii_digit())
                && !spec.env.starts_with("MI_")
                && !spec.env.starts_with("LD_");
            wrong.expect(good, &format!("{path}.env"), || {
                format!("{:?} must be [A-Z_][A-Z0-9_]*, without the prefixes MI_ and LD_", spec.env)
            });
            wrong.take(&mut envs, &format!("{path}.env"), &spec.env, name);
            if spec.in_environment {
                let model = integration.category == "model" || providers.contains(name);
                wrong.expect(!model, &format!("{path}.in_environment"), || {
                    "must be false: an agent never gets the key of a model provider".into()
                });
                wrong.take(&mut shared, &format!("{path}.env"), &spec.env, name);
            }
        }
        wrong.expect(integration.secrets.iter().any(|spec| spec.required), &path, || {
            format!("{name:?} must require a secret")
        });
        if let Some(broker) = &integration.broker {
            wrong.broker(&format!("{path}.broker"), broker, integration);
        }
    }
}

fn check_models(file: &File, wrong: &mut Check<'_>) {
    for (n, provider) in file.providers.iter().enumerate() {
        let path = format!("provider.{n}");
        wrong.url(&format!("{path}.base_url"), &provider.base_url);
        let own = file.integrations.iter().find(|integration| integration.name == provider.name);
        let keeps_key = own.is_some_and(|own| own.secrets.iter().any(|spec| spec.name == "api_key" && spec.required));
        wrong.expect(keeps_key || provider.open || provider.key_file.is_some(), &path, || {
            format!(
                "the provider {:?} needs an integration of its name with a required secret `api_key`, a `key_file`, or \
                 `open = true`",
                provider.name
            )
        });
    }
    let known: Vec<&str> = file.providers.iter().map(|provider| provider.name.as_str()).collect();
    let provider_of = |wrong: &mut Check<'_>, path: String, name: &str| {
        wrong.expect(known.contains(&name), &path, || {
            format!("the provider {name:?} is unknown; known are {}", known.join(", "))
        });
    };
    let mut models = BTreeMap::new();
    for (n, model) in file.models.iter().enumerate() {
        let path = format!("model.{n}");
        provider_of(wrong, format!("{path}.provider"), &model.provider);
        let id_path = format!("{path}.id");
        let good = (1..=200).contains(&model.id.len()) && model.id.bytes().all(|byte| byte.is_ascii_graphic());
        wrong.expect(good, &id_path, || format!("{:?} must be 1 to 200 characters of printable ASCII", model.id));
        if let Some(line) = models.insert((&model.provider, &model.id), wrong.lines.of(&id_path)) {
            wrong.note(&id_path, format!("{:?} of {:?} is in line {line}, too", model.id, model.provider));
        }
        wrong.expect((0..=MOST_OUTPUT).contains(&model.max_output), &format!("{path}.max_output"), || {
            format!("max_output = {} must be 0 to {MOST_OUTPUT} tokens", model.max_output)
        });
        wrong.price(&format!("{path}.price"), &model.price);
    }
    let mut tools = BTreeSet::new();
    for (n, tool) in file.tools.iter().enumerate() {
        let path = format!("tool.{n}");
        provider_of(wrong, format!("{path}.provider"), &tool.provider);
        wrong.word(&format!("{path}.name"), &tool.name);
        wrong.expect(tools.insert((&tool.provider, &tool.name)), &format!("{path}.name"), || {
            format!("{:?} of {:?} is there twice", tool.name, tool.provider)
        });
        wrong.expect((0..=DEAREST_CALL).contains(&tool.price), &format!("{path}.price"), || {
            format!("price = {} must be 0 to {DEAREST_CALL} micro-credits a call", tool.price)
        });
    }
    for (n, tier) in file.tiers.iter().enumerate() {
        let (path, mut served) = (format!("tier.{n}"), BTreeSet::new());
        let mut serves = |wrong: &mut Check<'_>, path: &str, Served { provider, model }: &Served| {
            provider_of(wrong, format!("{path}.provider"), provider);
            wrong.expect(!known.contains(&provider.as_str()) || models.contains_key(&(provider, model)), path, || {
                format!("the tier {:?} has no price: {provider:?} has no [[model]] {model:?}", tier.name)
            });
            wrong.expect(served.insert(provider.clone()), path, || format!("{provider:?} serves the tier twice"));
        };
        let own = Served { provider: tier.provider.clone(), model: tier.model.clone() };
        serves(wrong, &path, &own);
        for (m, also) in tier.also.iter().enumerate() {
            serves(wrong, &format!("{path}.also.{m}"), also);
        }
    }
}

fn check_hires(file: &File, integrations: &Taken<'_>, wrong: &mut Check<'_>) {
    let (mut tiers, mut roles, mut skills) = (Taken::new(), Taken::new(), Taken::new());
    wrong.expect(!file.tiers.is_empty(), "", || "there must be at least one [[tier]]".into());
    for (n, tier) in file.tiers.iter().enumerate() {
        let path = format!("tier.{n}.name");
        wrong.word(&path, &tier.name);
        wrong.take(&mut tiers, &path, &tier.name, &tier.name);
    }
    for (n, skill) in file.skills.iter().enumerate() {
        let path = format!("skill.{n}.name");
        wrong.word(&path, &skill.name);
        wrong.take(&mut skills, &path, &skill.name, &skill.name);
        if let Some((line, _)) = integrations.get(skill.name.as_str()) {
            wrong.note(&path, format!("{:?} is an integration in line {line}, which its name enables", skill.name));
        }
        for (m, name) in skill.integrations.iter().enumerate() {
            wrong.expect(integrations.contains_key(name.as_str()), &format!("skill.{n}.integrations.{m}"), || {
                format!("the integration {name:?} is unknown")
            });
        }
    }
    for (n, role) in file.roles.iter().enumerate() {
        let path = format!("role.{n}");
        wrong.plain(&format!("{path}.name"), &role.name);
        wrong.take(&mut roles, &format!("{path}.name"), &role.name, &role.name);
        wrong.expect(role.tier.is_empty() || tiers.contains_key(role.tier.as_str()), &format!("{path}.tier"), || {
            format!("the tier {:?} is unknown", role.tier)
        });
        for (m, skill) in role.skills.iter().enumerate() {
            let known = skills.contains_key(skill.as_str()) || integrations.contains_key(skill.as_str());
            wrong.expect(known, &format!("{path}.skills.{m}"), || {
                format!("{skill:?} is neither a [[skill]] nor an [[integration]]")
            });
        }
    }
}
