//! `cargo xtask bench`: the platform's benchmarks, in release builds, and those of others.

use std::process::ExitCode;

use crate::{
    Result,
    peers::{self, Peers},
    postgres, process, target_directory,
};

const PEERS: &str = "--peers";
/// The benchmarks that need a database server.
const ON_POSTGRES: &[&str] = &["rls", "queue", "kills", "history", "idle", "credits", "models"];

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let (names, rounds) = arguments(args)?;
    // What cannot be installed ends the run before it has taken its time.
    let peers = rounds.map(|rounds| Peers::install().map(|peers| (peers, rounds))).transpose()?;
    let own = peers.is_none() || !names.is_empty();
    let on_postgres = names.is_empty() || names.iter().any(|name| ON_POSTGRES.contains(name));
    let (server, url) = match peers.is_some() || on_postgres {
        true => postgres::given_or_started()?,
        false => (None, String::new()),
    };
    let mut code = ExitCode::SUCCESS;
    if own {
        process::run(&mut process::cargo(&["build", "--release", "--locked", "--bin", "mi"]))?;
        let mi = target_directory()?.join("release/mi");
        let mut bench = process::cargo(&["run", "--release", "--locked", "-p", "mi-bench", "--"]);
        let status = process::status(bench.args(names).env("MI_BIN", mi).env(postgres::SETTING, &url))?;
        code = process::exit_code(status);
    }
    if let Some((peers, rounds)) = peers {
        println!("{}", peers.measure(&url, rounds)?);
    }
    drop(server);
    Ok(code)
}

/// The benchmarks named, and how many rounds of the peers; none: not asked for.
fn arguments(args: &[String]) -> Result<(Vec<&str>, Option<u32>)> {
    let (mut names, mut rounds) = (Vec::new(), None);
    for arg in args {
        match arg.strip_prefix(PEERS) {
            None => names.push(arg.as_str()),
            Some("") => rounds = Some(peers::ROUNDS),
            Some(given) => {
                let given = given.strip_prefix('=').and_then(|given| given.parse().ok()).filter(|given| *given > 0);
                rounds = Some(given.ok_or_else(|| format!("`{arg}`: write `{PEERS}=ROUNDS`, one round or more"))?);
            }
        }
    }
    Ok((names, rounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_run_beside_what_is_named() {
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(arguments(&args("queue rls")), Ok((vec!["queue", "rls"], None)));
        assert_eq!(arguments(&args("queue --peers")), Ok((vec!["queue"], Some(peers::ROUNDS))));
        assert_eq!(arguments(&args("--peers=5")), Ok((vec![], Some(5))));
        for wrong in ["--peers=0", "--peers=few", "--peersist"] {
            let refused = arguments(&args(wrong)).expect_err("refused");
            assert_eq!(refused, format!("`{wrong}`: write `--peers=ROUNDS`, one round or more"));
        }
    }
}
