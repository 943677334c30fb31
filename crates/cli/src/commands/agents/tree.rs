//! Agents as a tree: each below the one that hired it.

use std::collections::HashMap;

use mi_proto::v1::Agent;

/// The agents in the order of the tree, by name among those of one hirer, each with its depth before its name.
pub(super) fn of(agents: Vec<Agent>) -> Vec<Agent> {
    let known: Vec<String> = agents.iter().map(|agent| agent.name.clone()).collect();
    let mut hired: HashMap<String, Vec<Agent>> = HashMap::new();
    for agent in agents {
        // Its hirer may have gone while the pages were read.
        let hirer = if known.contains(&agent.hired_by) { agent.hired_by.clone() } else { String::new() };
        hired.entry(hirer).or_default().push(agent);
    }
    let mut shown = Vec::new();
    let mut next: Vec<(usize, Agent)> = below(&mut hired, "", 0);
    while let Some((depth, mut agent)) = next.pop() {
        next.extend(below(&mut hired, &agent.name, depth + 1));
        if depth > 0 {
            agent.name = format!("{}└ {}", "  ".repeat(depth - 1), agent.name);
        }
        shown.push(agent);
    }
    shown
}

/// Those whom it hired, the last by name first.
fn below(hired: &mut HashMap<String, Vec<Agent>>, hirer: &str, depth: usize) -> Vec<(usize, Agent)> {
    let mut found = hired.remove(hirer).unwrap_or_default();
    found.sort_by(|one, other| other.name.cmp(&one.name));
    found.into_iter().map(|agent| (depth, agent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stands_below_its_hirer() {
        let agent =
            |name: &str, hired_by: &str| Agent { name: name.into(), hired_by: hired_by.into(), ..Agent::default() };
        let agents =
            vec![agent("a", "z"), agent("b", ""), agent("c", "a"), agent("d", "gone"), agent("e", "z"), agent("z", "")];
        let shown: Vec<String> = of(agents).into_iter().map(|agent| agent.name).collect();
        assert_eq!(shown, ["b", "d", "z", "└ a", "  └ c", "└ e"]);
    }
}
