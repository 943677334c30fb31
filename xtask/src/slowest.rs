//! `cargo xtask test --slowest N`: which tests of the run took longest, by the report that nextest writes.

use std::{fs, io, path::PathBuf};

use crate::{Result, target_directory};

const FLAG: &str = "--slowest";

/// Takes the flag out of the arguments for nextest; answers how many tests to name.
pub(crate) fn take(args: &[String]) -> Result<(Option<usize>, Vec<String>)> {
    let (mut most, mut rest, mut args) = (None, Vec::new(), args.iter());
    while let Some(arg) = args.next() {
        let value = match arg.strip_prefix(FLAG) {
            Some("") => args.next().map(String::as_str),
            Some(value) => value.strip_prefix('='),
            None if arg == "--" => {
                // What follows is for the test binaries.
                rest.extend([arg.clone()].into_iter().chain(args.cloned()));
                break;
            }
            None => {
                rest.push(arg.clone());
                continue;
            }
        };
        let number = value.and_then(|value| value.parse().ok());
        most = Some(number.ok_or_else(|| format!("{FLAG} takes a number of tests"))?);
    }
    Ok((most, rest))
}

/// Where nextest puts the report, as `.config/nextest.toml` says.
fn path() -> Result<PathBuf> {
    Ok(target_directory()?.join("nextest/default/junit.xml"))
}

/// Removes the report of an earlier run.
pub(crate) fn forget() -> Result {
    match fs::remove_file(path()?) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("the last report stays: {error}")),
        _ => Ok(()),
    }
}

/// Names the slowest tests of the run on standard error.
pub(crate) fn print(most: usize) -> Result {
    let path = path()?;
    let report = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let tests = slowest(&report, most);
    eprintln!("the {} slowest tests, by the time they took:", tests.len());
    for (seconds, name) in tests {
        eprintln!("{seconds:>9.2} s  {name}");
    }
    Ok(())
}

/// Seconds and names of the slowest tests of a JUnit report, the slowest first.
fn slowest(report: &str, most: usize) -> Vec<(f64, String)> {
    let mut tests: Vec<(f64, String)> = report.split("<testcase ").skip(1).filter_map(test).collect();
    tests.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    tests.truncate(most);
    tests
}

fn test(element: &str) -> Option<(f64, String)> {
    let head = element.split_once('>')?.0;
    let attribute = |name: &str| head.split_once(&format!("{name}=\""))?.1.split_once('"').map(|(value, _)| value);
    // `classname` ends like `name`, and comes after it.
    let (name, binary) = (attribute("name")?, attribute("classname")?);
    Some((attribute(" time")?.parse().ok()?, format!("{binary} {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_flag_is_taken_and_the_rest_is_left() {
        let taken = |line: &str| take(&words(line));
        assert_eq!(taken("-p mi-base --slowest 3 backoff"), Ok((Some(3), words("-p mi-base backoff"))));
        assert_eq!(taken("--slowest=10"), Ok((Some(10), Vec::new())));
        assert_eq!(taken("backoff -- --slowest 3"), Ok((None, words("backoff -- --slowest 3"))));
        for line in ["--slowest", "--slowest many", "--slowest="] {
            taken(line).expect_err(line);
        }
    }

    #[test]
    fn the_slowest_come_first() {
        let report = r#"<testsuite name="mi-base" tests="2">
            <testcase name="fast" classname="mi-base" timestamp="2026-01-01T00:00:00.000+00:00" time="0.012"></testcase>
            <testcase name="slow::postgres" classname="mi-store::outbox" timestamp="x" time="3.500">
            <testcase name="middle" classname="mi-base" timestamp="x" time="1.000"/>"#;
        let slow = (3.5, "mi-store::outbox slow::postgres".to_owned());
        assert_eq!(slowest(report, 2), [slow, (1.0, "mi-base middle".to_owned())]);
    }
}
