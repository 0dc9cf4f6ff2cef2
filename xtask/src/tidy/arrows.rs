//! The rules that hold for the graph of modules: layers, circles, names and sizes of types.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::graph::{File, Graph, circles, graph};
use super::layers::{LAYERS, Layer, VALUES};

/// The packages that are checked; the first one has the layers.
const PACKAGES: &[&str] = &["reuseport-lb/src", "reuseport-lb-client/src", "reuseport-lb-common/src"];

/// Most fields of a type in `domain/` and `service/`: a type with more has more than one job.
const MOST_FIELDS: usize = 12;

pub(super) fn check(files: &[(PathBuf, String)], broken: &mut Vec<String>) {
    let mut graphs = Vec::new();
    for (at, package) in PACKAGES.iter().enumerate() {
        let graph = match graph(Path::new(package), files) {
            Ok(graph) => graph,
            Err(error) => {
                broken.push(format!("{error:#}"));
                continue;
            }
        };
        if at == 0 {
            broken.extend(arrows(&graph, LAYERS, VALUES));
            broken.extend(sizes(&graph));
        } else {
            broken.extend(arrows(&graph, &[], &[]));
        }
        graphs.push(graph);
    }
    broken.extend(names(&graphs));
}

/// Finds arrows that a layer forbids, and circles. Without layers, only circles.
pub(super) fn arrows(graph: &Graph, layers: &[Layer], values: &[&str]) -> Vec<String> {
    let mut broken = Vec::new();
    if !layers.is_empty() {
        let placed = |name: &str| layer(layers, name).is_some() || values.contains(&name);
        // Files that only tests have have no name.
        for file in graph.files.iter().filter(|file| !file.name.is_empty() && !placed(&file.name)) {
            let path = file.path.display();
            broken.push(format!("{path} is in no layer: name it in xtask/src/tidy/layers.rs"));
        }
    }
    let mut forbidden = |from: usize, to: &str, line: usize, rule: &str| {
        let file = &graph.files[from];
        broken.push(format!("{}:{line}: {} -> {to}: {rule}", file.path.display(), file.name));
    };
    for arrow in &graph.arrows {
        let (from, to) = (&*graph.files[arrow.from].name, &*graph.files[arrow.to].name);
        if values.contains(&from) {
            forbidden(arrow.from, to, arrow.line, "a plain value, which every layer may use, uses nothing");
        } else if let Some(layer) = layer(layers, from)
            && !values.contains(&to)
            && !begins(to, layer.name)
            && !layer.uses.iter().any(|allowed| begins(to, allowed))
        {
            forbidden(arrow.from, to, arrow.line, layer.rule);
        }
    }
    for foreign in &graph.foreign {
        let Some(layer) = layer(layers, &graph.files[foreign.from].name) else { continue };
        let package = foreign.path.split("::").next().unwrap_or_default();
        let never = layer.never.iter().any(|never| begins(&foreign.path, never));
        if never || !layer.packages.is_empty() && !layer.packages.contains(&package) {
            forbidden(foreign.from, &foreign.path, foreign.line, layer.rule);
        }
    }
    let all: BTreeSet<(usize, usize)> = graph.arrows.iter().map(|arrow| (arrow.from, arrow.to)).collect();
    broken.extend(circles(&all).iter().map(|circle| told(graph, circle)));
    broken
}

/// Formats a circle, with the line of each arrow.
fn told(graph: &Graph, circle: &[usize]) -> String {
    let next = circle.iter().skip(1).chain(circle.first());
    let steps = circle.iter().zip(next).filter_map(|(from, to)| {
        let arrow = graph.arrows.iter().find(|arrow| arrow.from == *from && arrow.to == *to)?;
        let (from, to) = (&graph.files[*from], &graph.files[*to]);
        Some(format!("{}:{}: {} -> {}", from.path.display(), arrow.line, from.name, to.name))
    });
    let steps: Vec<String> = steps.collect();
    format!(
        "a circle of {} files: turn one of its arrows round, or move down what both ends need:\n    {}",
        circle.len(),
        steps.join("\n    ")
    )
}

/// Finds names that more than one public type has.
pub(super) fn names(graphs: &[Graph]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in graphs.iter().flat_map(|graph| &graph.files) {
        for found in file.types.iter().filter(|found| found.public) {
            places.entry(&found.name).or_default().push(format!("{}:{}", file.path.display(), found.line));
        }
    }
    places.retain(|_, places| places.len() > 1);
    let twice = places.iter().map(|(name, places)| {
        format!(
            "{}: the public type `{name}` is declared more than once: give each its own name",
            places.join(", ")
        )
    });
    twice.collect()
}

/// Finds types of `domain/` and `service/` with more than [`MOST_FIELDS`].
pub(super) fn sizes(graph: &Graph) -> Vec<String> {
    let decides = |name: &str| begins(name, "domain") || begins(name, "service");
    let of_file = |file: &File| {
        let large = file.types.iter().filter(|found| found.fields > MOST_FIELDS);
        let told = large.map(|found| {
            format!(
                "{}:{}: {}::{} has {} fields, more than {MOST_FIELDS}: give those that change together an owner",
                file.path.display(),
                found.line,
                file.name,
                found.name,
                found.fields
            )
        });
        told.collect::<Vec<String>>()
    };
    graph.files.iter().filter(|file| decides(&file.name)).flat_map(of_file).collect()
}

fn layer<'a>(layers: &'a [Layer], name: &str) -> Option<&'a Layer> {
    layers.iter().find(|layer| begins(name, layer.name))
}

/// Whether `name` is this module or path, or something in it.
fn begins(name: &str, with: &str) -> bool {
    name.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}
