//! What a call costs, and what it may cost at most, in whole micro-credits: rounded up, and exact until then.

use mi_catalogue::{Price, Tool};

use crate::usage::Usage;

const MILLION: i128 = 1_000_000;

/// The dearest of the kinds that a request is made of. An hour in the cache costs twice what input costs, where anything
/// in it costs extra.
fn dearest_input(price: &Price) -> i64 {
    let hour = price.cache_write.map(|_| hour(price));
    [Some(price.input), price.cache_read, price.cache_write, hour].into_iter().flatten().max().unwrap_or_default()
}

fn dearest_output(price: &Price) -> i64 {
    price.output.max(price.reasoning.unwrap_or_default())
}

/// What it costs to put something into the cache for an hour.
fn hour(price: &Price) -> i64 {
    price.cache_write.unwrap_or(price.input).max(price.input.saturating_mul(2))
}

/// The most that so many tokens and uses of tools cost, of a request that may put something into the provider's cache or not;
/// none: more than can be counted.
pub(crate) fn bound(price: &Price, caches: bool, input: i64, output: i64, tools: i64) -> Option<i64> {
    let each = match caches {
        true => dearest_input(price),
        false => price.input.max(price.cache_read.unwrap_or_default()),
    };
    total([product(input, each), product(output, dearest_output(price))], tools)
}

/// What was used costs this much; none: more than can be counted.
pub(crate) fn cost(price: &Price, usage: &Usage, tools: &[&Tool]) -> Option<i64> {
    let write = price.cache_write.unwrap_or(price.input);
    let dearest = dearest_input(price).max(dearest_output(price));
    let for_an_hour = if price.cache_write.is_some() { hour(price) } else { price.input };
    let tokens = [
        product(usage.input, price.input),
        product(usage.output, price.output),
        product(usage.cache_read, price.cache_read.unwrap_or(price.input)),
        product(usage.cache_write, write),
        product(usage.cache_write_hour, for_an_hour),
        product(usage.reasoning, price.reasoning.unwrap_or(price.output)),
        product(usage.unknown, dearest),
    ];
    let mut calls = 0i64;
    for (name, uses) in &usage.tools {
        // One that has no price costs what the dearest does.
        let own = tools.iter().find(|tool| name.starts_with(&tool.name)).map(|tool| tool.price);
        let price = own.or_else(|| tools.iter().map(|tool| tool.price).max()).unwrap_or_default();
        calls = calls.checked_add(uses.checked_mul(price)?)?;
    }
    total(tokens, calls)
}

fn product(tokens: i64, price: i64) -> i128 {
    i128::from(tokens) * i128::from(price)
}

fn total<const N: usize>(tokens: [i128; N], calls: i64) -> Option<i64> {
    let sum = tokens.into_iter().fold(MILLION - 1, i128::saturating_add);
    let rounded_up = sum / MILLION;
    i64::try_from(rounded_up).ok()?.checked_add(calls).filter(|total| *total >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price {
        input: 3_000_000,
        output: 15_000_000,
        cache_read: Some(300_000),
        cache_write: Some(3_750_000),
        reasoning: None,
    };

    #[test]
    fn each_kind_has_its_price_and_the_sum_is_rounded_up_once() {
        for (usage, price, expected) in [
            (Usage::default(), PRICE, 0),
            (Usage { input: 1_000_000, ..Usage::default() }, PRICE, 3_000_000),
            (Usage { input: 1, ..Usage::default() }, PRICE, 3),
            // A third of a micro-credit, twice.
            (Usage { cache_read: 1, ..Usage::default() }, PRICE, 1),
            (Usage { cache_read: 2, ..Usage::default() }, PRICE, 1),
            (Usage { cache_write: 100, cache_write_hour: 100, ..Usage::default() }, PRICE, 375 + 600),
            (Usage { reasoning: 10, output: 10, ..Usage::default() }, PRICE, 300),
            (Usage { reasoning: 10, ..Usage::default() }, Price { reasoning: Some(1_000_000), ..PRICE }, 10),
            // A kind that nobody knows costs what the dearest does.
            (Usage { unknown: 10, ..Usage::default() }, PRICE, 150),
            (
                Usage { cache_read: 10, cache_write: 10, cache_write_hour: 10, ..Usage::default() },
                Price { cache_read: None, cache_write: None, ..PRICE },
                90,
            ),
        ] {
            assert_eq!(cost(&price, &usage, &[]), Some(expected), "{usage:?}");
        }
    }

    #[test]
    fn tools_cost_by_the_use() {
        let tool = |name: &str, price| Tool { provider: "p".into(), name: name.into(), price };
        let (search, fetch) = (tool("web_search", 10_000), tool("web_fetch", 2));
        let used = |name: &str| Usage { tools: [(name.to_owned(), 3)].into(), ..Usage::default() };
        assert_eq!(cost(&PRICE, &used("web_fetch"), &[&search, &fetch]), Some(6));
        assert_eq!(cost(&PRICE, &used("crystal_ball"), &[&search, &fetch]), Some(30_000));
        assert_eq!(cost(&PRICE, &used("crystal_ball"), &[]), Some(0));
    }

    #[test]
    fn a_bound_is_never_below_the_cost() {
        for (input, output) in [(0, 0), (1, 1), (1000, 10), (7, 100_000)] {
            let bound = bound(&PRICE, true, input, output, 0).expect("fits");
            for usage in [
                Usage { input, output, ..Usage::default() },
                Usage { cache_write_hour: input, reasoning: output, ..Usage::default() },
                Usage { cache_read: input, output, ..Usage::default() },
            ] {
                assert!(cost(&PRICE, &usage, &[]).is_some_and(|cost| cost <= bound), "{usage:?}");
            }
        }
        assert_eq!((bound(&PRICE, false, 1000, 0, 0), bound(&PRICE, true, 1000, 0, 0)), (Some(3000), Some(6000)));
        assert_eq!(bound(&Price { input: i64::MAX, ..PRICE }, true, i64::MAX, 0, 0), None);
        assert_eq!(bound(&PRICE, true, i64::MAX, 0, i64::MAX), None);
    }
}
