//! Circles in a graph: files that use themselves over other files.

use std::collections::{BTreeSet, VecDeque};

/// For each group of nodes that all reach each other, one shortest circle in it. An arrow is (from, to).
pub(in crate::tidy) fn circles(arrows: &BTreeSet<(usize, usize)>) -> Vec<Vec<usize>> {
    let nodes: BTreeSet<usize> = arrows.iter().flat_map(|(from, to)| [*from, *to]).collect();
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    for start in nodes.iter().copied() {
        if seen.contains(&start) {
            continue;
        }
        let group: BTreeSet<usize> = nodes
            .iter()
            .copied()
            .filter(|node| *node == start || reaches(arrows, start, *node) && reaches(arrows, *node, start))
            .collect();
        if group.len() > 1 {
            let shortest = group.iter().filter_map(|node| way(arrows, *node, *node)).min_by_key(Vec::len);
            found.extend(shortest);
        }
        seen.extend(group);
    }
    found
}

fn reaches(arrows: &BTreeSet<(usize, usize)>, from: usize, to: usize) -> bool {
    way(arrows, from, to).is_some()
}

/// The shortest way of at least one arrow: its nodes without the last.
fn way(arrows: &BTreeSet<(usize, usize)>, from: usize, to: usize) -> Option<Vec<usize>> {
    let mut ways = VecDeque::from([vec![from]]);
    let mut been = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        let last = *way.last()?;
        for (_, next) in arrows.range((last, 0)..=(last, usize::MAX)) {
            if *next == to {
                return Some(way);
            }
            if been.insert(*next) {
                ways.push_back([way.as_slice(), &[*next]].concat());
            }
        }
    }
    None
}
