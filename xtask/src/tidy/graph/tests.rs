//! Tests of the arrows that small sources make.

use std::path::{Path, PathBuf};

use super::{Graph, circles, graph};

fn read(files: &[(&str, &str)]) -> Graph {
    let files: Vec<(PathBuf, String)> =
        files.iter().map(|(path, text)| (Path::new("src").join(path), (*text).to_owned())).collect();
    graph(Path::new("src"), &files).expect("the sources can be read")
}

/// Arrows as `from -> to :line`, in the order of the files.
fn arrows(files: &[(&str, &str)]) -> Vec<String> {
    let graph = read(files);
    let name = |file: usize| &graph.files[file].name;
    graph
        .arrows
        .iter()
        .map(|arrow| format!("{} -> {} :{}", name(arrow.from), name(arrow.to), arrow.line))
        .collect()
}

fn foreign(text: &str) -> Vec<String> {
    read(&[("a.rs", text)])
        .foreign
        .into_iter()
        .map(|found| format!("{} :{}", found.path, found.line))
        .collect()
}

#[test]
fn imports_are_arrows_with_the_first_line_that_makes_them() {
    let files = [
        ("lib.rs", "pub mod a;\npub mod b;\n"),
        ("a.rs", "use crate::b::{One,\n    Two};\nfn f() { crate::b::three() }\n"),
        ("b.rs", "pub struct One;\npub struct Two;\npub fn three() {}\n"),
    ];
    assert_eq!(arrows(&files), ["a -> b :1"]);
}

#[test]
fn paths_in_code_are_arrows() {
    let files = [
        ("a.rs", "fn f() {\n    crate::b::g();\n}\n"),
        ("b.rs", "pub fn g() {\n    super::c::D::new(crate::d::E { x: 1 });\n}\n"),
        ("c.rs", "pub struct D;\nimpl crate::e::Trait for D {}\n"),
        ("d.rs", "pub struct E { pub x: Option<crate::e::F> }\n"),
        ("e.rs", "pub trait Trait {}\npub struct F;\n"),
    ];
    assert_eq!(arrows(&files), ["a -> b :2", "b -> c :2", "b -> d :2", "c -> e :2", "d -> e :1"]);
}

#[test]
fn paths_in_macros_and_attributes_are_arrows() {
    let files = [
        (
            "a.rs",
            "fn f() {\n    println!(\"{}\", 1 + crate::b::G);\n    x!(k: crate::c::h(), [crate::d::I]);\n}\n",
        ),
        (
            "b.rs",
            "#[derive(Serialize)]\npub struct S {\n    #[serde(with = \"crate::c::text\")]\n    x: u8,\n}\npub const G: u8 = 1;\n",
        ),
        ("c.rs", "pub fn h() {}\n"),
        ("d.rs", "pub const I: u8 = 1;\n"),
    ];
    assert_eq!(arrows(&files), ["a -> b :2", "a -> c :3", "a -> d :3", "b -> c :3"]);
}

#[test]
fn a_name_stands_for_the_module_that_it_was_imported_as() {
    let files = [
        ("a.rs", "use crate::b;\nuse crate::c as other;\nfn f() {\n    b::deep::g();\n    other::h();\n}\n"),
        ("b/mod.rs", "pub mod deep;\n"),
        ("b/deep.rs", "pub fn g() {}\n"),
        ("c.rs", "pub fn h() {}\n"),
    ];
    assert_eq!(arrows(&files), ["a -> b :1", "a -> b::deep :4", "a -> c :2"]);
}

#[test]
fn what_is_shown_further_up_is_used_where_it_is_declared() {
    let files = [
        ("a.rs", "use crate::b::{Deep, Far, all};\n"),
        ("b/mod.rs", "mod deep;\nmod wide;\npub use deep::Deep;\npub use crate::c::Far;\npub use wide::*;\n"),
        ("b/deep.rs", "pub struct Deep;\n"),
        ("b/wide.rs", "pub fn all() {}\n"),
        ("c.rs", "pub struct Far;\n"),
    ];
    // A re-export of `b`'s own folder is no arrow; one of another folder is.
    assert_eq!(arrows(&files), ["a -> b::deep :1", "a -> b::wide :1", "a -> c :1", "b -> c :4"]);
}

#[test]
fn what_a_parent_has_imported_is_not_the_parents() {
    let files = [
        ("a/mod.rs", "mod child;\nuse crate::b::{Given, other};\nstruct Own;\n"),
        ("a/child.rs", "use super::Given;\nuse super::other::thing;\n"),
        ("b.rs", "pub struct Given;\npub mod other;\n"),
        ("b/other.rs", "pub fn thing() {}\n"),
    ];
    assert_eq!(
        arrows(&files),
        ["a -> b :2", "a -> b::other :2", "a::child -> b :1", "a::child -> b::other :2"]
    );
}

#[test]
fn a_parent_and_its_child_that_use_each_other_are_a_circle() {
    let files = [
        ("a/mod.rs", "mod child;\nuse child::Part;\npub struct Own(Part);\n"),
        ("a/child.rs", "impl super::Own { fn f(self) {} }\npub struct Part;\n"),
    ];
    assert_eq!(arrows(&files), ["a -> a::child :2", "a::child -> a :1"]);
    // Methods are called without naming their file, so that a type may be written in several.
    let files = [
        ("a/mod.rs", "mod child;\npub struct Own;\nfn g(own: Own) { own.f() }\n"),
        ("a/child.rs", "impl super::Own { pub(super) fn f(self) {} }\n"),
    ];
    assert_eq!(arrows(&files), ["a::child -> a :1"]);
}

#[test]
fn tests_do_not_count() {
    let files = [
        (
            "a.rs",
            "#[cfg(test)]\nmod model;\n#[cfg(test)]\nmod tests {\n    use crate::b::x;\n}\n#[cfg(test)]\nfn f() { crate::b::x() }\nstruct S;\nimpl S {\n    #[cfg(test)]\n    fn g() { crate::b::x() }\n}\n",
        ),
        ("a/model.rs", "use crate::b::x;\npub struct Model;\nmod deeper { use crate::b::x; }\n"),
        ("b.rs", "pub fn x() {}\n"),
    ];
    assert_eq!(arrows(&files), [""; 0]);
    let graph = read(&files);
    assert!(graph.files[1].name.is_empty(), "{graph:?}");
    assert_eq!(graph.files[1].types.len(), 0);
}

#[test]
fn modules_in_a_file_are_the_file() {
    let files = [
        (
            "a.rs",
            "pub mod inner {\n    use super::Own;\n    use crate::b::X;\n    pub struct Part;\n}\nstruct Own(inner::Part);\n",
        ),
        ("b.rs", "use crate::a::inner::Part;\npub struct X;\n"),
    ];
    assert_eq!(arrows(&files), ["a -> b :3", "b -> a :1"]);
}

#[test]
fn a_program_names_the_library() {
    let files = [
        ("main.rs", "use reuseport_lb::a;\nfn main() { a::run() }\n"),
        ("lib.rs", "pub mod a;\n"),
        ("a.rs", "pub fn run() {}\n"),
    ];
    assert_eq!(arrows(&files), ["main -> a :1"]);
}

#[test]
fn other_packages_are_named_in_full() {
    let text = "use std::{fs, time::Instant};\nuse tokio::sync::mpsc as channel;\nfn f() {\n    Instant::now();\n    \
                fs::read(x);\n    let (a, b) = channel::channel();\n    libc::getpid();\n    Vec::new();\n    u8::from(true);\n}\n";
    assert_eq!(
        foreign(text),
        [
            "libc::getpid :7",
            "std::fs :1",
            "std::fs::read :5",
            "std::time::Instant :1",
            "std::time::Instant::now :4",
            "tokio::sync::mpsc :2",
            "tokio::sync::mpsc::channel :6"
        ]
    );
}

#[test]
fn types_have_a_reach_and_a_number_of_fields() {
    let graph = read(&[(
        "a.rs",
        "pub struct A { x: u8, y: u8 }\npub(crate) enum B { C { x: u8 } }\npub(super) struct D(u8);\nstruct E;\npub trait F {}\npub type G = u8;\n",
    )]);
    let found: Vec<_> = graph.files[0]
        .types
        .iter()
        .map(|found| (found.name.as_str(), found.line, found.public, found.fields))
        .collect();
    assert_eq!(
        found,
        [
            ("A", 1, true, 2),
            ("B", 2, true, 0),
            ("D", 3, false, 1),
            ("E", 4, false, 0),
            ("F", 5, true, 0),
            ("G", 6, true, 0)
        ]
    );
}

#[test]
fn of_each_knot_the_shortest_circle_is_told() {
    let found = |arrows: &[(usize, usize)]| circles(&arrows.iter().copied().collect());
    assert_eq!(found(&[(1, 2), (2, 3), (1, 3)]), [[0; 0]; 0]);
    assert_eq!(found(&[(1, 2), (2, 3), (3, 1), (3, 4)]), [[1, 2, 3]]);
    // 1 2 3 4 1 and, shorter, 3 4 3; 8 and 9 are a knot of their own.
    assert_eq!(found(&[(1, 2), (2, 3), (3, 4), (4, 1), (4, 3), (8, 9), (9, 8), (4, 8)]), [[3, 4], [8, 9]]);
}

#[test]
fn what_is_no_rust_is_refused_with_its_name() {
    let files = [(PathBuf::from("src/a.rs"), "fn f( {".to_owned())];
    let error = graph(Path::new("src"), &files).expect_err("it cannot be read");
    assert!(format!("{error:#}").starts_with("src/a.rs: this is no Rust"), "{error:#}");
}
