//! `mi use`: the colony of commands that name none.

use clap::Args;

use crate::{
    config::ConfigFile,
    context::{Context, variable},
    failure::Failure,
    known::{Known, by},
};

#[derive(Debug, Args)]
pub(crate) struct UseArgs {
    /// The colony: its id, a unique start of it, or its name [default: show which one is meant now]
    #[arg(value_name = "COLONY", add = by(&[Known::Colonies]))]
    colony: Option<String>,
    /// Forget the default
    #[arg(long, conflicts_with = "colony")]
    unset: bool,
}

pub(crate) async fn run(args: UseArgs, context: &Context) -> Result<(), Failure> {
    let (out, dir) = (context.out, &context.settings.dir);
    if args.unset {
        let file = ConfigFile::load(dir)?;
        if file.colony.is_some() {
            ConfigFile { colony: None, ..file }.save(dir)?;
        }
        out.note("there is no default colony");
        return Ok(());
    }
    let Some(given) = args.colony else {
        let (office, why) = context.unsaid_colony().await?;
        out.note(&format!("commands that name no colony are about {} ({why})", office.name));
        return out.one(&office);
    };
    let office = context.office(&given).await?;
    // By its id: another colony may come to have the same name.
    let path = ConfigFile { colony: Some(office.id.clone()), ..ConfigFile::load(dir)? }.save(dir)?;
    out.note(&format!(
        "commands that name no colony are about {} from now on; stored in {}",
        office.name,
        path.display()
    ));
    if let Some(other) = variable("MI_COLONY") {
        out.note(&format!("but MI_COLONY is set, and goes before it: {other}"));
    }
    out.one(&office)
}
