//! `cargo xtask k8s-test`: what the platform does in a cluster, on the API server in memory or on a real one.

use std::{path::Path, process::ExitCode};

use crate::{Result, process, test};

/// The scenarios that any cluster can be asked for: `crates/runtime-kubernetes/tests/runtime/cluster.rs` lists them.
const ANYWHERE: &str = "package(mi-runtime-kubernetes) & binary(runtime) & test(/^cluster::/)";
/// All that is about clusters.
const ALL: &str = "package(mi-kubesim) | package(mi-runtime-kubernetes) | test(/^kubernetes::/)";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let (mut kubeconfig, mut image) = (None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let place = match arg.as_str() {
            "--kubeconfig" => &mut kubeconfig,
            "--image" => &mut image,
            _ => return Err(format!("unexpected argument `{arg}`")),
        };
        *place = Some(args.next().ok_or_else(|| format!("{arg} needs a value"))?);
    }
    let Some(kubeconfig) = kubeconfig else {
        return match image {
            Some(_) => Err("--image is for a real cluster: give --kubeconfig FILE".to_owned()),
            None => {
                let packages = ["-p", "mi-kubesim", "-p", "mi-runtime-kubernetes", "-p", "mi-e2e", "-E", ALL];
                test::run(&packages.map(str::to_owned))
            }
        };
    };
    let kubeconfig = Path::new(kubeconfig).canonicalize().map_err(|error| format!("{kubeconfig}: {error}"))?;
    let mut nextest = process::cargo(&["nextest", "run", "--locked", "-p", "mi-runtime-kubernetes", "-E", ANYWHERE]);
    // One at a time: clusters for trying things out are small.
    nextest.args(["--test-threads", "1", "--no-fail-fast"]).env("MI_TEST_KUBECONFIG", kubeconfig);
    if let Some(image) = image {
        nextest.env("MI_TEST_KUBERNETES_IMAGE", image);
    }
    Ok(process::exit_code(process::status(&mut nextest)?))
}
