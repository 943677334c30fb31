//! `cargo xtask prices`: the prices of the built-in catalogue, brought to what a public list says.
//!
//! The list is `genai-prices` of PyPI, kept by those who make Pydantic. It is asked for here alone: the platform never fetches a
//! price.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    process::{Command, ExitCode, Stdio},
};

use serde_json::Value;

use crate::{Result, process, root, target_directory};

const CATALOGUE: &str = "crates/catalogue/src/catalogue.toml";
const PACKAGE: &str = "genai-prices";
/// Providers that the list calls otherwise.
const NAMES: &[(&str, &str)] = &[("gemini", "google"), ("openai-codex", "openai"), ("xai", "x-ai")];
/// Kinds of tokens, in the order in which the catalogue has them.
const KINDS: &[&str] = &["input", "output", "cache_read", "cache_write"];
/// Reads pairs of provider and model, and answers for each its prices in micro-credits for a million tokens, or null. What
/// depends on the hour is taken at its dearest; what depends on the length of the request, at its base.
const PYTHON: &str = r#"
import datetime, decimal, json, sys
from genai_prices import data

now = datetime.datetime.now(datetime.timezone.utc)
providers = {provider.id: provider for provider in data.providers}

def price(provider, model):
    found = provider in providers and providers[provider].find_model(model)
    if not found:
        return None
    prices = {"tiers": False}
    for hour in range(24):
        at = found.get_prices(now.replace(hour=hour))
        for kind in ["input", "output", "cache_read", "cache_write"]:
            value = getattr(at, kind + "_mtok", None)
            if hasattr(value, "base"):
                prices["tiers"], value = True, value.base
            if value is not None:
                micro = int((value * 1000000).to_integral_value(rounding=decimal.ROUND_CEILING))
                prices[kind] = max(prices.get(kind, 0), micro)
    return prices

print(json.dumps([price(*pair) for pair in json.load(sys.stdin)]))
"#;

/// Micro-credits for a million tokens, by kind.
type Prices = BTreeMap<String, i64>;

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let check = match args {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err("usage: cargo xtask prices [--check]".to_owned()),
    };
    let file = root().join(CATALOGUE);
    let text = fs::read_to_string(&file).map_err(|error| format!("{CATALOGUE}: {error}"))?;
    let models = models(&text);
    let listed = ask(&models)?;
    let (new, changes) = rewrite(&text, |provider, id| {
        let n = models.iter().position(|model| model == &(provider.to_owned(), id.to_owned()))?;
        let found = listed.get(n).and_then(Value::as_object)?;
        let amounts = KINDS.iter().filter_map(|kind| Some(((*kind).to_owned(), found.get(*kind)?.as_i64()?)));
        let mut prices: Prices = amounts.collect();
        // Embeddings have no output.
        prices.entry("output".to_owned()).or_default();
        Some(prices)
    });
    for ((provider, id), found) in models.iter().zip(&listed) {
        if found.is_null() {
            println!("{provider} {id}: not in the list, left as it is");
        } else if found["tiers"] == true {
            println!("{provider} {id}: long requests cost more than the catalogue knows");
        }
    }
    for change in &changes {
        println!("{change}");
    }
    match (changes.is_empty(), check) {
        (true, _) => println!("{} models have the prices of the list", models.len()),
        (false, true) => return Err(format!("{} models have other prices; `cargo xtask prices`", changes.len())),
        (false, false) => fs::write(&file, new).map_err(|error| format!("{CATALOGUE}: {error}"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What the list says of each model.
fn ask(models: &[(String, String)]) -> Result<Vec<Value>> {
    let venv = target_directory()?.join("prices");
    process::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let python = venv.join("bin/python");
    // A wheel runs nothing while it is installed.
    let install = ["-m", "pip", "install", "--quiet", "--upgrade", "--only-binary", ":all:", PACKAGE];
    process::run(Command::new(&python).args(install))?;
    let listed_as = |provider: &str| NAMES.iter().find(|(ours, _)| *ours == provider).map(|(_, theirs)| *theirs);
    let pairs: Vec<[&str; 2]> =
        models.iter().map(|(provider, id)| [listed_as(provider).unwrap_or(provider), id]).collect();
    let fault = |error: &dyn std::fmt::Display| format!("{PACKAGE}: {error}");
    let mut child = Command::new(&python)
        .args(["-I", "-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| fault(&error))?;
    let pairs = serde_json::to_vec(&pairs).map_err(|error| fault(&error))?;
    // Taken, so that it is closed afterwards.
    child.stdin.take().expect("piped").write_all(&pairs).map_err(|error| fault(&error))?;
    let output = child.wait_with_output().map_err(|error| fault(&error))?;
    if !output.status.success() {
        return Err(fault(&output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| fault(&error))
}

/// A value of a line like `name = "value"`.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.strip_prefix(name)?.trim_start().strip_prefix('=')?.trim();
    Some(value.trim_matches('"'))
}

/// Provider and id of each model, in the order of the file.
fn models(text: &str) -> Vec<(String, String)> {
    let (mut found, mut provider, mut inside) = (Vec::new(), String::new(), false);
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line == "[[model]]";
        }
        match (inside, value(line, "provider"), value(line, "id")) {
            (true, Some(name), _) => name.clone_into(&mut provider),
            (true, _, Some(id)) => found.push((provider.clone(), id.to_owned())),
            _ => {}
        }
    }
    found
}

/// The file with other prices, and what changed. What else is in it stays, line by line.
fn rewrite(text: &str, price: impl Fn(&str, &str) -> Option<Prices>) -> (String, Vec<String>) {
    let known = models(text);
    let (mut lines, mut changes, mut n) = (Vec::new(), Vec::new(), 0);
    let mut rest = text.lines().peekable();
    while let Some(line) = rest.next() {
        lines.push(line.to_owned());
        n += usize::from(line == "[[model]]");
        let Some((provider, id)) = n.checked_sub(1).and_then(|n| known.get(n)).filter(|_| line == "[model.price]")
        else {
            continue;
        };
        let mut block = Vec::new();
        while let Some(line) = rest.next_if(|line| !line.is_empty() && !line.starts_with('[')) {
            block.push(line.to_owned());
        }
        let amount = |kind: &str| -> Option<i64> {
            block.iter().find_map(|line| value(line, kind)?.replace('_', "").parse().ok())
        };
        let before: Prices = KINDS.iter().filter_map(|kind| Some(((*kind).to_owned(), amount(kind)?))).collect();
        match price(provider, id).filter(|now| *now != before) {
            None => lines.append(&mut block),
            Some(now) => {
                changes.push(format!("{provider} {id}: {} -> {}", shown(&before), shown(&now)));
                let amounts = KINDS.iter().filter_map(|kind| Some(format!("{kind} = {}", digits(*now.get(*kind)?))));
                lines.extend(amounts);
                lines.extend(block.into_iter().filter(|line| KINDS.iter().all(|kind| value(line, kind).is_none())));
            }
        }
    }
    (lines.join("\n") + "\n", changes)
}

fn shown(prices: &Prices) -> String {
    let amounts = KINDS.iter().filter_map(|kind| Some(format!("{kind} {}", digits(*prices.get(*kind)?))));
    amounts.collect::<Vec<_>>().join(", ")
}

/// 1_250_000 for 1250000.
fn digits(amount: i64) -> String {
    let plain = amount.to_string();
    let groups: Vec<&str> = plain.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# head\n[[model]]\nprovider = \"p\"\nid = \"a\"\n\n[model.price]\ninput = 1_000\noutput = 2_000\n\
                        # kept\nreasoning = 3_000\n\n[[model]]\nprovider = \"q\"\nid = \"a\"\n\n[model.price]\n\
                        input = 1_000\noutput = 2_000\n\n[[tier]]\nid = \"a\"\n";

    fn prices(amounts: &[(&str, i64)]) -> Prices {
        amounts.iter().map(|(kind, amount)| ((*kind).to_owned(), *amount)).collect()
    }

    #[test]
    fn prices_change_and_all_else_stays() {
        let list = |provider: &str, id: &str| {
            assert_eq!(id, "a");
            let now = prices(&[("input", 1_250_000), ("output", 2_000), ("cache_read", 100)]);
            Some(now).filter(|_| provider == "p")
        };
        let (text, changes) = rewrite(FILE, list);
        let expected = FILE.replacen(
            "input = 1_000\noutput = 2_000\n",
            "input = 1_250_000\noutput = 2_000\ncache_read = 100\n",
            1,
        );
        assert_eq!(text, expected);
        let change = "p a: input 1_000, output 2_000 -> input 1_250_000, output 2_000, cache_read 100";
        assert_eq!(changes, [change]);
        assert_eq!(rewrite(&text, list), (text.clone(), Vec::new()), "once is enough");
    }

    #[test]
    fn the_models_of_the_built_in_catalogue_are_found() {
        let text = fs::read_to_string(root().join(CATALOGUE)).expect("there");
        let found = models(&text);
        assert_eq!(found.len(), text.lines().filter(|line| *line == "[[model]]").count());
        assert!(found.contains(&("anthropic".into(), "claude-sonnet-4-5".into())), "{found:?}");
        assert_eq!(rewrite(&text, |_, _| None), (text.clone(), Vec::new()));
    }
}
