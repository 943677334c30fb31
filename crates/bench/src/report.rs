//! A table of results in Markdown: what, the median of the rounds, their spread, the goal, and whether it is met.

use std::fmt;

/// What a median is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Goal {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// The results of one benchmark.
#[derive(Debug)]
pub(crate) struct Table {
    name: &'static str,
    rows: Vec<String>,
}

impl Table {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, rows: Vec::new() }
    }

    /// Adds values, one a round, that nothing is expected of.
    pub(crate) fn row(&mut self, what: &str, unit: &str, rounds: &[f64]) {
        self.push(what, unit, rounds, None);
    }

    /// Adds values, one a round, whose median has a goal.
    pub(crate) fn goal(&mut self, what: &str, unit: &str, rounds: &[f64], goal: Goal) {
        self.push(what, unit, rounds, Some(goal));
    }

    fn push(&mut self, what: &str, unit: &str, rounds: &[f64], goal: Option<Goal>) {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            return;
        };
        let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        let (goal, met) = match goal {
            None => (String::new(), ""),
            Some(goal) => {
                let shown = match goal {
                    Goal::AtMost(most) => format!("<= {most} {unit}"),
                    Goal::AtLeast(least) => format!(">= {least} {unit}"),
                };
                (shown, if goal.met(median) { "yes" } else { "**no**" })
            }
        };
        self.rows.push(format!(
            "| {what} | {} {unit} | {}..{} | {} | {goal} | {met} |",
            number(median),
            number(*min),
            number(*max),
            sorted.len(),
        ));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.name)?;
        writeln!(f, "| what | median | min..max | rounds | goal | met |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

/// Three digits say all that such a measurement knows.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_held_against_the_goal() {
        let mut table = Table::new("test");
        table.row("speed", "MB/s", &[3.0, 1.0]);
        table.goal("delay", "ms", &[9.0, 120.4, 2.0], Goal::AtMost(9.0));
        table.goal("share", "%", &[84.0], Goal::AtLeast(85.0));
        let text = table.to_string();
        for row in [
            "| speed | 2.00 MB/s | 1.00..3.00 | 2 |  |  |",
            "| delay | 9.00 ms | 2.00..120 | 3 | <= 9 ms | yes |",
            "| share | 84.0 % | 84.0..84.0 | 1 | >= 85 % | **no** |",
        ] {
            assert!(text.contains(row), "{text}");
        }
    }
}
