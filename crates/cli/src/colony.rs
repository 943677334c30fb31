//! Which colony a command is about: the one it names, else that of `MI_COLONY`, else the default of `mi use`, else the only
//! one there is.

use std::fmt;

use mi_kernel::page::MAX_PAGE_SIZE;
use mi_proto::v1::{GetOfficeRequest, ListOfficesRequest, Office, OfficeStatus};

use crate::{
    answer::ask,
    context::{Context, full_id, variable},
    failure::Failure,
    options::ColonyArg,
    resolve,
};

/// How many names an error lists.
const SHOWN: usize = 5;

/// Why a colony is meant that the command line does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsaid {
    /// `MI_COLONY` names it.
    Environment,
    /// The configuration names it.
    Default,
    /// It is the one that this agent works in.
    Own,
    /// There is no other.
    Only,
}

impl fmt::Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "by MI_COLONY",
            Self::Default => "the default",
            Self::Own => "the agent's own",
            Self::Only => "the only one there is",
        })
    }
}

impl Context {
    /// The id of the colony that a command with this option is about.
    pub(crate) async fn colony(&self, arg: &ColonyArg) -> Result<String, Failure> {
        self.colony_or_default(arg.colony.as_deref()).await
    }

    /// The id of a colony given by id, by a unique start of it, or by name; when none is given, of the one that is meant
    /// then, which people are told of.
    pub(crate) async fn colony_or_default(&self, given: Option<&str>) -> Result<String, Failure> {
        let (office_id, unsaid) = self.colony_silently(given).await?;
        if let Some(remark) = unsaid {
            self.out.note(&remark);
        }
        Ok(office_id)
    }

    /// The same; what there is to tell is left to the caller.
    pub(crate) async fn colony_silently(&self, given: Option<&str>) -> Result<(String, Option<String>), Failure> {
        // Whoever set the variable knows; nothing more is asked about it.
        if let Some(named) = named(given, variable("MI_COLONY"))? {
            return Ok((self.office_id(&named).await?, None));
        }
        if let Some(own) = self.own_colony() {
            return Ok((own, None));
        }
        let (office, why) = self.unsaid_colony().await?;
        Ok((office.id, Some(format!("colony: {} ({why})", office.name))))
    }

    /// The one that this agent works in, unless the configuration has another one.
    fn own_colony(&self) -> Option<String> {
        variable("MI_OFFICE_ID").filter(|_| self.settings.colony.is_none())
    }

    /// The colony that is meant when the command line names none.
    pub(crate) async fn unsaid_colony(&self) -> Result<(Office, Unsaid), Failure> {
        if let Some(given) = variable("MI_COLONY") {
            return Ok((self.office(&given).await?, Unsaid::Environment));
        }
        if let Some(given) = &self.settings.colony {
            let gone = |failure: Failure| match failure.is_not_found() {
                true => Failure::new(format!("the default colony {given:?} is not there"))
                    .hint("`mi use COLONY` chooses another one, `mi use --unset` none"),
                false => failure,
            };
            return Ok((self.office(given).await.map_err(gone)?, Unsaid::Default));
        }
        if let Some(own) = self.own_colony() {
            return Ok((self.office(&own).await?, Unsaid::Own));
        }
        Ok((self.only_colony().await?, Unsaid::Only))
    }

    /// The id of a colony given by id, by a unique start of it, or by name. What looks like a whole id is taken for one.
    pub(crate) async fn office_id(&self, given: &str) -> Result<String, Failure> {
        match full_id(given) {
            Some(id) => Ok(id),
            None => Ok(self.office(given).await?.id),
        }
    }

    /// The colony itself, given in any of these ways.
    pub(crate) async fn office(&self, given: &str) -> Result<Office, Failure> {
        if let Some(office_id) = full_id(given) {
            return ask!(self, offices.get_office(GetOfficeRequest { office_id }).office).await;
        }
        let offices = self.client.offices().list().await?;
        let found = resolve::pick("colony", given, &offices, |office| &office.id, |office| Some(&office.name))?;
        Ok(found.clone())
    }

    async fn only_colony(&self) -> Result<Office, Failure> {
        let request = ListOfficesRequest { page_size: Some(MAX_PAGE_SIZE), page_token: String::new() };
        let page = ask!(self, offices.list_offices(request)).await?;
        only(page.offices, !page.next_page_token.is_empty())
    }
}

/// The colony that is named, on the command line or else by the environment. One that is given and empty is a variable of a
/// script that was not set, and does not mean the default one.
fn named(given: Option<&str>, by_environment: Option<String>) -> Result<Option<String>, Failure> {
    match given {
        Some("") => Err(Failure::Usage("the colony is empty; leave it out for the default one".into())),
        Some(given) => Ok(Some(given.to_owned())),
        None => Ok(by_environment),
    }
}

/// The only colony of this page; `more` follow it.
fn only(mut offices: Vec<Office>, more: bool) -> Result<Office, Failure> {
    offices.retain(|office| office.status() != OfficeStatus::Deleting);
    match offices.as_slice() {
        [] if !more => {
            Err(Failure::new("there is no colony yet").hint("`mi colonies create NAME` makes one; then say this again"))
        }
        [one] if !more => Ok(one.clone()),
        several => {
            let mut names: Vec<String> =
                several.iter().take(SHOWN).map(|office| format!("{:?}", office.name)).collect();
            if more || several.len() > SHOWN {
                names.push("...".to_owned());
            }
            Err(Failure::Usage(format!(
                "which colony? there are {}; give --colony, set MI_COLONY, or choose a default with `mi use COLONY`",
                names.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn office(name: &str, status: OfficeStatus) -> Office {
        Office { id: format!("id of {name}"), name: name.into(), status: status.into(), ..Office::default() }
    }

    fn told(outcome: Result<Office, Failure>) -> (u8, String) {
        let failure = outcome.expect_err("no colony is meant");
        (failure.exit_code(), failure.to_string())
    }

    #[test]
    fn a_colony_that_is_given_and_empty_is_not_the_default_one() {
        let home = || Some("home".to_owned());
        assert_eq!(named(Some("away"), home()).expect("given"), Some("away".to_owned()));
        assert_eq!(named(None, home()).expect("set"), home());
        assert_eq!(named(None, None).expect("none"), None);
        for by_environment in [home(), None] {
            let failure = named(Some(""), by_environment).expect_err("empty");
            assert_eq!((failure.exit_code(), failure.message().contains("the colony is empty")), (2, true));
        }
    }

    #[test]
    fn the_only_colony_is_meant_and_no_other() {
        let [home, away] = ["home", "away"].map(|name| office(name, OfficeStatus::Active));
        let leaving = office("leaving", OfficeStatus::Deleting);
        assert_eq!(only(vec![leaving.clone(), home.clone()], false).expect("one"), home);
        let none = "error: there is no colony yet\nhint: `mi colonies create NAME` makes one; then say this again\n";
        assert_eq!(told(only(vec![leaving], false)), (1, none.to_owned()));
        let (code, text) = told(only(vec![home.clone(), away], false));
        assert!(code == 2 && text.starts_with("error: which colony? there are \"home\", \"away\"; "), "{text}");
        // What is on the pages after it is not known.
        let (code, text) = told(only(vec![home], true));
        assert!(code == 2 && text.starts_with("error: which colony? there are \"home\", ...; "), "{text}");
    }
}
