//! Tests of what is refused in small sources, and of the texts.

use std::path::{Path, PathBuf};

use super::{Layer, arrows, graph, names, sizes};
use crate::tidy::graph::Graph;

const LAYERS: &[Layer] = &[
    Layer { name: "low", uses: &[], packages: &["std"], never: &["std::fs"], rule: "low is the bottom" },
    Layer { name: "high", uses: &["low::open"], packages: &[], never: &[], rule: "high sees low::open" },
];

fn read(files: &[(&str, &str)]) -> Graph {
    let files: Vec<(PathBuf, String)> =
        files.iter().map(|(path, text)| (Path::new("src").join(path), (*text).to_owned())).collect();
    graph(Path::new("src"), &files).expect("the sources can be read")
}

fn broken(files: &[(&str, &str)]) -> Vec<String> {
    arrows(&read(files), LAYERS, &["value"])
}

#[test]
fn an_arrow_that_a_layer_forbids_is_told_with_its_line_and_rule() {
    let files = [
        ("low.rs", "\nuse crate::high;\n"),
        ("low/open.rs", "use crate::value::V;\n"),
        ("low/shut.rs", ""),
        ("high.rs", "use crate::low::open;\nuse crate::low::shut;\n"),
        ("value.rs", "pub struct V;\n"),
    ];
    assert_eq!(
        broken(&files),
        [
            "src/low.rs:2: low -> high: low is the bottom",
            "src/high.rs:2: high -> low::shut: high sees low::open"
        ]
    );
}

#[test]
fn other_packages_are_forbidden_by_list_and_by_name() {
    let files = [
        ("low.rs", "use std::fs::File;\nuse std::fmt;\nuse tokio::time;\n"),
        ("high.rs", "use tokio::time;\n"),
    ];
    assert_eq!(
        broken(&files),
        [
            "src/low.rs:1: low -> std::fs::File: low is the bottom",
            "src/low.rs:3: low -> tokio::time: low is the bottom"
        ]
    );
}

#[test]
fn a_value_uses_nothing() {
    let files = [("value.rs", "use crate::low;\n"), ("low.rs", "")];
    assert_eq!(
        broken(&files),
        ["src/value.rs:1: value -> low: a plain value, which every layer may use, uses nothing"]
    );
}

#[test]
fn every_file_is_in_a_layer() {
    assert_eq!(
        broken(&[("side.rs", ""), ("lower.rs", "")]),
        ["src/side.rs", "src/lower.rs"]
            .map(|path| format!("{path} is in no layer: name it in xtask/src/tidy/layers.rs"))
    );
}

#[test]
fn a_circle_is_told_arrow_by_arrow() {
    let files = [
        ("low.rs", ""),
        ("low/a.rs", "use super::b::B;\npub struct A;\n"),
        ("low/b.rs", "\nuse super::c::C;\npub struct B;\n"),
        ("low/c.rs", "use super::a::A;\npub struct C;\n"),
    ];
    assert_eq!(
        broken(&files),
        ["a circle of 3 files: turn one of its arrows round, or move down what both ends need:\n    \
          src/low/a.rs:1: low::a -> low::b\n    src/low/b.rs:2: low::b -> low::c\n    src/low/c.rs:1: low::c -> low::a"]
    );
}

#[test]
fn public_types_have_their_name_for_themselves() {
    let one = read(&[("a.rs", "pub struct Twice;\npub(super) struct Near;\npub struct Once;\n")]);
    let other = read(&[("b.rs", "\npub(crate) enum Twice {}\npub struct Near;\n")]);
    let graphs = [one, other];
    assert_eq!(
        names(&graphs),
        [
            "src/a.rs:1, src/b.rs:2: the public type `Twice` is declared more than once: give each its own name"
        ]
    );
}

#[test]
fn a_type_that_decides_has_few_fields() {
    let fields = |number: usize| (0..number).map(|at| format!("f{at}: u8, ")).collect::<String>();
    let text = format!("struct Large {{ {} }}\nstruct Small {{ {} }}\n", fields(13), fields(12));
    let graph = read(&[("domain/a.rs", &text), ("kernel/a.rs", &text)]);
    assert_eq!(
        sizes(&graph),
        [
            "src/domain/a.rs:1: domain::a::Large has 13 fields, more than 12: give those that change together an owner"
        ]
    );
}
