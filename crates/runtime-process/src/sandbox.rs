//! The layers that isolate an agent: which of them this host gives is tried out once, at the start, with a child that ends
//! when all of them are in place. A start of an agent then sets up the same layers, or fails.

mod cgroup;
pub(super) mod landlock;
mod seccomp;
mod tree;
mod user;

use std::{
    ffi::CString,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use mi_kernel::{AgentId, Error, Result};
use mi_runtime::{Limits, Sandbox};
use nix::{libc, unistd::geteuid};
use seccompiler::BpfProgram;

use super::{
    clone::{self, Failure, Plan, Step},
    make_private,
};

pub(super) use cgroup::Group;
pub(super) use landlock::Ports;
pub(super) use tree::Tree;
pub(super) use user::{Become, User};

/// Whether agents are sandboxed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SandboxMode {
    /// The platform does not start where a layer cannot be had.
    Required,
    /// The layers that can be had; the others are warned of and reported.
    #[default]
    Auto,
    /// No layer at all.
    Off,
}

/// Directories of an agent.
pub(super) struct Own<'a> {
    /// The workspace, where it works.
    pub(super) workspace: &'a Path,
    /// The directory of its key.
    pub(super) identity: &'a Path,
    /// The directory of temporary files.
    pub(super) temporary: &'a Path,
}

/// Where an agent finds its directories.
pub(super) struct Seen {
    pub(super) workspace: PathBuf,
    pub(super) identity: PathBuf,
    pub(super) temporary: PathBuf,
}

/// Which layers this host gives.
#[derive(Debug, Clone, Copy)]
struct Given {
    /// Namespaces, and whether agents have users of their own in them.
    separate: Option<bool>,
    /// Whether agents see their own processes in `/proc`.
    proc: bool,
    /// Whether agents have pseudo-terminals of their own.
    terminals: bool,
    /// The version of Landlock; 0: this kernel has none.
    landlock: i32,
    seccomp: bool,
    /// Whether agents hold no capabilities.
    powerless: bool,
}

/// The isolation of agents on this host.
pub(super) struct Isolation {
    /// Where trees are made.
    stage: PathBuf,
    given: Given,
    filters: Arc<Vec<BpfProgram>>,
    groups: Option<cgroup::Groups>,
    report: Sandbox,
}

impl Isolation {
    /// Finds out what this host gives.
    ///
    /// # Errors
    /// `FailedPrecondition` when something required is missing.
    pub(super) fn open(mode: SandboxMode, root: &Path, program: &Arc<OwnedFd>, platform: &OwnedFd) -> Result<Self> {
        let stage = root.join(".tree");
        make_private(&stage)?;
        if mode == SandboxMode::Off {
            let given =
                Given { separate: None, proc: false, terminals: false, landlock: 0, seccomp: false, powerless: false };
            let report =
                report(given, Err("switched off by --sandbox=off"), &|_| "switched off by --sandbox=off".into());
            tracing::warn!(
                target: "mi::runtime",
                "THE SANDBOX IS OFF: an agent reads, writes and reaches whatever the user that runs the platform does"
            );
            return Ok(Self { stage, given, filters: Arc::default(), groups: None, report });
        }
        let (mut isolation, failures) = Self::found(stage, program, platform)?;
        let groups = cgroup::Groups::open();
        isolation.report = isolation.told(&failures, groups.as_ref().map(|_| ()).map_err(String::as_str));
        isolation.groups = groups.ok();
        for missing in &isolation.report.missing {
            tracing::warn!(target: "mi::runtime", "the sandbox of agents has no {missing}");
        }
        let lacking = lacking(isolation.given);
        if mode == SandboxMode::Required && !lacking.is_empty() {
            let missing: Vec<&str> = isolation
                .report
                .missing
                .iter()
                .map(String::as_str)
                .filter(|layer| lacking.iter().any(|name| layer.starts_with(name)))
                .collect();
            let text = format!(
                "the sandbox is required, and this host does not give: {}. See the limits of the process runtime in \
                 SECURITY.md, or start with --sandbox=auto",
                missing.join("; "),
            );
            return Err(Error::precondition("SANDBOX", text));
        }
        Ok(isolation)
    }

    /// What this host gives, as [`Self::open`] finds it, with nothing taken for agents.
    pub(super) fn probe(root: &Path, program: &Arc<OwnedFd>, platform: &OwnedFd) -> Result<Sandbox> {
        let stage = root.join(".tree");
        make_private(&stage)?;
        let (isolation, failures) = Self::found(stage, program, platform)?;
        let groups = cgroup::Groups::offered();
        Ok(isolation.told(&failures, groups.as_ref().copied().map_err(String::as_str)))
    }

    /// The layers that a child is given, control groups aside, and what went wrong on the way to them.
    fn found(stage: PathBuf, program: &Arc<OwnedFd>, platform: &OwnedFd) -> Result<(Self, Vec<Failure>)> {
        let mut isolation = Self {
            stage,
            given: Given {
                separate: Some(geteuid().is_root()),
                proc: true,
                terminals: true,
                landlock: landlock::version(),
                seccomp: true,
                powerless: true,
            },
            filters: Arc::default(),
            groups: None,
            report: Sandbox::default(),
        };
        let failures = isolation.try_out(program, platform)?;
        Ok((isolation, failures))
    }

    fn told(&self, failures: &[Failure], groups: Result<(), &str>) -> Sandbox {
        let why = |step: Step| match failures.iter().rev().find(|failure| failure.step == step) {
            Some(failure) => failure.to_string(),
            None => "this kernel does not have it".into(),
        };
        report(self.given, groups, &why)
    }

    /// Sets up the layers for a child that does nothing, and leaves out what cannot be had, until it starts. Answers
    /// what went wrong on the way.
    fn try_out(&mut self, program: &Arc<OwnedFd>, platform: &OwnedFd) -> Result<Vec<Failure>> {
        let mut failures = Vec::new();
        loop {
            self.filters = Arc::new(match self.given.seccomp {
                // Without a tree of its own an agent finds everybody's sockets, and before this version of Landlock
                // the abstract ones in any case: then it gets none at all.
                true => {
                    seccomp::filters(self.given.separate.is_some() && self.given.landlock >= landlock::WITH_SCOPES)?
                }
                false => Vec::new(),
            });
            let plan = self.plan(program.clone(), None, AgentId::new(), Ports::default())?;
            let Err(failure) = clone::start(&plan, platform) else { return Ok(failures) };
            let given = &mut self.given;
            match failure.step {
                Step::Rules if given.landlock > 0 => given.landlock = 0,
                Step::Filters if given.seccomp => given.seccomp = false,
                Step::Terminals if given.terminals => given.terminals = false,
                Step::Tree if given.proc && given.separate.is_some() => given.proc = false,
                Step::Clone | Step::Users | Step::Tree | Step::Switch if given.separate == Some(true) => {
                    (given.separate, given.proc, given.terminals) = (Some(false), true, true);
                }
                Step::Clone | Step::Users | Step::Tree | Step::Switch if given.separate.is_some() => {
                    (given.separate, given.proc, given.terminals) = (None, false, false);
                }
                _ => {
                    let text = format!("no process can be started here: {failure}");
                    return Err(Error::precondition("SANDBOX", text).caused_by(failure));
                }
            }
            failures.push(failure);
        }
    }

    /// What this host gives and what not.
    pub(super) fn report(&self) -> &Sandbox {
        &self.report
    }

    /// Whom an agent's files have to belong to.
    pub(super) fn owner(&self, agent: AgentId) -> (u32, u32) {
        self.user(agent).unwrap_or(User::Platform).outside()
    }

    fn user(&self, agent: AgentId) -> Option<User> {
        self.given.separate.map(|separate| if separate { User::of(agent) } else { User::Platform })
    }

    /// Whether the number of processes can be limited for each agent: the kernel counts by user and namespace, and does
    /// not count root's.
    pub(super) fn counts_processes(&self) -> bool {
        counts_processes(self.given)
    }

    /// A control group for one instance.
    pub(super) fn group(&self, name: &str, limits: &Limits) -> Result<Option<Group>> {
        self.groups.as_ref().map(|groups| groups.make(name, limits)).transpose()
    }

    /// Where an agent sees its directories.
    pub(super) fn seen(&self, own: &Own<'_>) -> Seen {
        match self.given.separate {
            Some(_) => Seen { workspace: "/workspace".into(), identity: "/identity".into(), temporary: "/tmp".into() },
            None => Seen {
                workspace: own.workspace.to_owned(),
                identity: own.identity.to_owned(),
                temporary: own.temporary.to_owned(),
            },
        }
    }

    /// A child within all layers, without arguments, environment and limits.
    pub(super) fn plan(
        &self,
        program: Arc<OwnedFd>,
        own: Option<&Own<'_>>,
        agent: AgentId,
        ports: Ports,
    ) -> Result<Plan> {
        let unusable = |error: io::Error| Error::internal(error);
        let paths = own.map(|own| [own.workspace, own.identity, own.temporary]).into_iter().flatten();
        let paths: Vec<&Path> = paths.collect();
        let seen = own.map(|own| self.seen(own));
        let directory = seen.as_ref().map_or(Path::new("/"), |seen| &seen.workspace);
        let tree = match self.given.separate {
            Some(_) => Some(Tree::new(&self.stage, own.zip(seen.as_ref()), self.given).map_err(unusable)?),
            None => None,
        };
        let rules = match self.given.landlock {
            0 => None,
            _ => landlock::rules(&program, &paths, ports)?,
        };
        Ok(Plan {
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: CString::new(directory.as_os_str().as_encoded_bytes()).map_err(Error::internal)?,
            user: self.user(agent),
            becomes: self.user(agent).map(User::becomes),
            tree,
            rules,
            filters: self.filters.clone(),
            powerless: self.given.powerless,
            limits: vec![(libc::RLIMIT_CORE, 0)],
            group: None,
        })
    }
}

fn counts_processes(given: Given) -> bool {
    match given.separate {
        Some(separate) => separate || !geteuid().is_root(),
        None => false,
    }
}

/// Names of the layers that are required and not there.
fn lacking(given: Given) -> Vec<&'static str> {
    let layers = [
        ("namespaces", given.separate.is_some()),
        ("landlock-files", given.landlock > 0),
        ("landlock-ports", given.landlock >= landlock::WITH_PORTS),
        ("landlock-scopes", given.landlock >= landlock::WITH_SCOPES),
        ("seccomp", given.seccomp),
        ("no-capabilities", given.powerless),
    ];
    layers.into_iter().filter(|(_, stands)| !stands).map(|(name, _)| name).collect()
}

fn report(given: Given, groups: Result<(), &str>, why: &dyn Fn(Step) -> String) -> Sandbox {
    let mut report = Sandbox::default();
    let mut layer = |name: &str, stands: bool, why: &str| match stands {
        true => report.enforced.push(name.to_owned()),
        false => report.missing.push(format!("{name}: {why}")),
    };
    let namespaces = [Step::Tree, Step::Users, Step::Switch, Step::Clone].map(why);
    let tried = namespaces.iter().find(|text| text.contains("failed")).unwrap_or(&namespaces[0]);
    let rules = why(Step::Rules);
    layer("namespaces", given.separate.is_some(), tried);
    if given.separate.is_some() {
        let why = "only a platform that runs as root can give each agent a user id of its own";
        layer("own-user", given.separate == Some(true), why);
    }
    layer("landlock-files", given.landlock > 0, &rules);
    layer("landlock-ports", given.landlock >= landlock::WITH_PORTS, &rules);
    layer("landlock-scopes", given.landlock >= landlock::WITH_SCOPES, &rules);
    layer("seccomp", given.seccomp, &why(Step::Filters));
    layer("no-capabilities", given.powerless, &why(Step::Capabilities));
    layer("no-new-privileges", true, "");
    layer("terminals", given.terminals, &why(Step::Terminals));
    let no_groups = groups.err().unwrap_or_default();
    layer("memory", groups.is_ok(), &format!("limited for each process, not for all of an agent: {no_groups}"));
    layer("pids", groups.is_ok() || counts_processes(given), no_groups);
    layer("cpu", groups.is_ok(), no_groups);
    layer("disk", true, "");
    report
}
