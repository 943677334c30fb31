//! From what people type to the one thing they mean.

use crate::{context::full_id, failure::Failure};

/// How many candidates an error lists.
const SHOWN: usize = 5;

/// The id of an item that is given by it, or by a unique start of it; only then `all` items are asked for.
pub(crate) async fn id<T, E>(
    what: &str,
    given: &str,
    all: impl Future<Output = Result<Vec<T>, E>>,
    id: impl Fn(&T) -> &str,
) -> Result<String, Failure>
where
    Failure: From<E>,
{
    match full_id(given) {
        Some(id) => Ok(id),
        None => Ok(id(pick(what, given, &all.await?, &id, |_| None)?).to_owned()),
    }
}

/// The one item whose id or name is `given`, or whose id starts with it.
pub(crate) fn pick<'a, T>(
    what: &str,
    given: &str,
    items: &'a [T],
    id: impl Fn(&T) -> &str,
    name: impl Fn(&T) -> Option<&str>,
) -> Result<&'a T, Failure> {
    let exact: Vec<&T> = items.iter().filter(|item| id(item) == given || name(item) == Some(given)).collect();
    let start = given.to_ascii_lowercase();
    let candidates = if exact.is_empty() {
        // An empty text is the start of everything and means nothing.
        items.iter().filter(|item| !start.is_empty() && id(item).starts_with(&start)).collect()
    } else {
        exact
    };
    match candidates.as_slice() {
        [one] => Ok(one),
        [] => Err(Failure::not_found(format!("no {what} has the id or name {given:?}"))),
        several => {
            let mut listed: Vec<String> = several
                .iter()
                .take(SHOWN)
                .map(|item| name(item).map_or_else(|| id(item).to_owned(), |name| format!("{} ({name})", id(item))))
                .collect();
            if several.len() > SHOWN {
                listed.push("...".to_owned());
            }
            let message = format!("{given:?} means {} of: {}", several.len(), listed.join(", "));
            Err(Failure::new(message).hint(format!("give more of the {what}'s id")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFICES: [(&str, &str); 4] = [
        ("019aa0b4-7c1e-7d0a-b3a5-000000000001", "alpha"),
        ("019aa0b4-7c1e-7d0a-b3a5-000000000002", "beta"),
        ("019bb000-0000-7000-8000-000000000003", "beta"),
        ("02900000-0000-7000-8000-000000000004", "019aa0b4"),
    ];

    fn id_of(given: &str) -> Result<&'static str, String> {
        pick("colony", given, &OFFICES, |office| office.0, |office| Some(office.1))
            .map(|office| office.0)
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn an_id_a_unique_start_or_a_name_is_enough() {
        assert_eq!(id_of(OFFICES[1].0), Ok(OFFICES[1].0));
        assert_eq!(id_of("019BB"), Ok(OFFICES[2].0));
        assert_eq!(id_of("alpha"), Ok(OFFICES[0].0));
        // A whole name goes before the start of an id.
        assert_eq!(id_of("019aa0b4"), Ok(OFFICES[3].0));
    }

    #[test]
    fn what_is_unknown_or_ambiguous_is_said() {
        for given in ["019aa0b4-", "beta"] {
            let told = id_of(given).expect_err(given);
            assert!(told.contains("means 2 of") && told.contains(OFFICES[1].0), "{told}");
        }
        for given in ["", "gamma", "alph"] {
            assert!(id_of(given).expect_err(given).contains("no colony"));
        }
    }
}
