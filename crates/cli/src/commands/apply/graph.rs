//! Order among things that wait for each other.

/// Puts `0..before.len()` in an order in which each comes after those that it names; otherwise as they are.
///
/// # Errors
/// A cycle: each names the next one, and the last one the first.
pub(super) fn order(before: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut order = Vec::with_capacity(before.len());
    let mut waits: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut after = vec![Vec::new(); before.len()];
    for (item, before) in before.iter().enumerate() {
        before.iter().for_each(|first| after[*first].push(item));
    }
    let mut free: std::collections::BTreeSet<usize> = (0..before.len()).filter(|item| waits[*item] == 0).collect();
    while let Some(item) = free.pop_first() {
        order.push(item);
        for next in &after[item] {
            waits[*next] -= 1;
            if waits[*next] == 0 {
                free.insert(*next);
            }
        }
    }
    match waits.iter().position(|waits| *waits > 0) {
        None => Ok(order),
        Some(stuck) => Err(cycle(before, &waits, stuck)),
    }
}

/// Follows what is stuck to what it waits for, until it comes back to where it was.
fn cycle(before: &[Vec<usize>], waits: &[usize], stuck: usize) -> Vec<usize> {
    let mut path = vec![stuck];
    let mut item = stuck;
    // Whatever is stuck waits for something that is.
    while let Some(next) = before[item].iter().copied().find(|next| waits[*next] > 0) {
        if let Some(start) = path.iter().position(|known| *known == next) {
            return path.split_off(start);
        }
        path.push(next);
        item = next;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_after_what_it_names() {
        assert_eq!(order(&[]), Ok(vec![]));
        assert_eq!(order(&[vec![], vec![], vec![]]), Ok(vec![0, 1, 2]));
        assert_eq!(order(&[vec![1, 2], vec![2], vec![], vec![0, 0]]), Ok(vec![2, 1, 0, 3]));
    }

    #[test]
    fn a_cycle_is_found_and_nothing_else_is_in_it() {
        assert_eq!(order(&[vec![0]]), Err(vec![0]));
        // 3 waits for the cycle and is no part of it.
        assert_eq!(order(&[vec![3], vec![2], vec![1], vec![1]]), Err(vec![1, 2]));
        let long: Vec<Vec<usize>> = (0..10_000).map(|item| vec![(item + 1) % 10_000]).collect();
        assert_eq!(order(&long).expect_err("a cycle").len(), 10_000);
    }
}
