//! Which file uses which: the `use`s and paths of a package's sources, resolved through re-exports to the files that
//! declare the names. Method calls and inferred types name nothing, and make no arrows.

mod circles;
mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub(super) use circles::circles;
use read::{Contents, Module, contents};

/// Most re-exports in a row: more are a loop of them.
const HOPS: usize = 16;

/// Primitive types: a path like `u32::from` would look like one of a package.
const PRIMITIVES: &[&str] = &[
    "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "str", "u8", "u16", "u32",
    "u64", "u128", "usize",
];

/// The files of one package and the arrows between them.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) files: Vec<File>,
    /// One arrow per pair of files, with the first line that makes it.
    pub(super) arrows: Vec<Arrow>,
    /// Uses of other packages.
    pub(super) foreign: Vec<Foreign>,
}

/// A source file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// The module's name in code, like `kernel::group`; the root of the package is `crate`.
    pub(super) name: String,
    pub(super) types: Vec<Type>,
}

/// A type that a file declares.
#[derive(Debug)]
pub(super) struct Type {
    pub(super) name: String,
    pub(super) line: usize,
    /// The type can be named outside of its folder.
    pub(super) public: bool,
    pub(super) fields: usize,
}

/// One file uses another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrow {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) line: usize,
}

/// A file uses another package.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) from: usize,
    /// The path, like `std::fs::File`.
    pub(super) path: String,
    pub(super) line: usize,
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    File(usize),
    Foreign(String),
    /// A local name, or one of a macro: no arrow.
    Nothing,
}

/// Makes the graph of the sources below `root` (`reuseport-lb/src`); `files`: path and text of each.
pub(super) fn graph(root: &Path, files: &[(PathBuf, String)]) -> Result<Graph> {
    let (mut read, mut tests) = (Vec::new(), Vec::new());
    let mut named = Vec::new();
    for (path, text) in files {
        let Some(module) = path.strip_prefix(root).ok().and_then(module_path) else { continue };
        let Contents { modules, tests: of_tests } =
            contents(text, &module, named.len()).with_context(|| path.display().to_string())?;
        named.push((path.clone(), module));
        read.extend(modules);
        tests.extend(of_tests);
    }
    read.retain(|module| !tests.iter().any(|test| module.path.starts_with(test)));
    let index = read.iter().enumerate().map(|(at, module)| (module.path.clone(), at)).collect();
    let modules = Modules { all: &read, index };
    let (mut arrows, mut foreign) = (BTreeMap::new(), BTreeMap::new());
    for module in &read {
        let imports =
            module.imports.iter().filter(|import| !facade(module, &modules, &import.path, import.public));
        let uses = imports.map(|import| (&import.path, import.line));
        for (path, line) in uses.chain(module.mentions.iter().map(|mention| (&mention.path, mention.line))) {
            match modules.target(module, path, HOPS) {
                Target::File(to) if to != module.file => {
                    let first = arrows.entry((module.file, to)).or_insert(line);
                    *first = line.min(*first);
                }
                Target::Foreign(path) => {
                    let first = foreign.entry((module.file, path)).or_insert(line);
                    *first = line.min(*first);
                }
                _ => {}
            }
        }
    }
    let kept: BTreeSet<usize> = read.iter().map(|module| module.file).collect();
    let types = |file| {
        let declared = read.iter().filter(move |module| module.file == file).flat_map(|module| &module.types);
        declared.map(|found| Type {
            name: found.name.clone(),
            line: found.line,
            public: found.public,
            fields: found.fields,
        })
    };
    let files = named.into_iter().enumerate().map(|(file, (path, module))| File {
        path,
        name: if kept.contains(&file) { name(&module) } else { String::new() },
        types: types(file).collect(),
    });
    Ok(Graph {
        files: files.collect(),
        arrows: arrows.into_iter().map(|((from, to), line)| Arrow { from, to, line }).collect(),
        foreign: foreign.into_iter().map(|((from, path), line)| Foreign { from, path, line }).collect(),
    })
}

/// The module of a source file: `kernel/group.rs` -> `kernel::group`; `None` for other files.
fn module_path(file: &Path) -> Option<Vec<String>> {
    let mut path: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if file.extension()? != "rs" {
        return None;
    }
    if path.last().is_some_and(|last| last == "mod") || path == ["lib"] {
        path.pop();
    }
    Some(path)
}

fn name(path: &[String]) -> String {
    if path.is_empty() { "crate".into() } else { path.join("::") }
}

/// Whether an import is a public re-export of something in a module below: it makes no arrow.
fn facade(module: &Module, modules: &Modules<'_>, path: &[String], public: bool) -> bool {
    let shown = || modules.absolute(module, path, HOPS);
    public
        && matches!(shown(), Some(shown) if shown.len() > module.path.len() && shown.starts_with(&module.path))
}

struct Modules<'a> {
    all: &'a [Module],
    index: HashMap<Vec<String>, usize>,
}

impl Modules<'_> {
    fn at(&self, path: &[String]) -> Option<&Module> {
        self.index.get(path).map(|at| &self.all[*at])
    }

    /// What `path`, written in `module`, leads to.
    fn target(&self, module: &Module, path: &[String], hops: usize) -> Target {
        let Some(absolute) = self.absolute(module, path, hops) else {
            return match alias(module, path, hops) {
                Some(whole) => Target::Foreign(whole.join("::")),
                None => Target::Nothing,
            };
        };
        self.declared(&absolute, hops)
    }

    /// `path` from the root of the package; `None` if it does not lead into the package.
    fn absolute(&self, module: &Module, path: &[String], hops: usize) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" | "reuseport_lb" => Some(rest.to_vec()),
            "self" => Some([&module.path, rest].concat()),
            "super" => {
                let mut from = module.path.clone();
                from.pop()?;
                let up = rest.iter().take_while(|name| *name == "super").count();
                from.truncate(from.len().checked_sub(up)?);
                Some([&from, &rest[up..]].concat())
            }
            name => {
                let child = [module.path.as_slice(), std::slice::from_ref(first)].concat();
                if self.at(&child).is_some() {
                    return Some([&child, rest].concat());
                }
                let import = module.imports.iter().find(|import| import.name.as_deref() == Some(name))?;
                if hops == 0 || import.path.first() == Some(first) {
                    return None;
                }
                Some([self.absolute(module, &import.path, hops - 1)?, rest.to_vec()].concat())
            }
        }
    }

    /// The file that declares the name `absolute`.
    fn declared(&self, absolute: &[String], hops: usize) -> Target {
        let mut at = 0;
        while at < absolute.len() && self.at(&absolute[..=at]).is_some() {
            at += 1;
        }
        let Some(module) = self.at(&absolute[..at]) else { return Target::Nothing };
        let Some(item) = absolute.get(at) else { return Target::File(module.file) };
        if hops == 0 || module.items.contains(item) {
            return Target::File(module.file);
        }
        let rest = &absolute[at + 1..];
        let named = module.imports.iter().find(|import| import.name.as_ref() == Some(item));
        if let Some(import) = named {
            return match self.absolute(module, &import.path, hops - 1) {
                Some(whole) => self.declared(&[whole, rest.to_vec()].concat(), hops - 1),
                None => Target::Foreign([import.path.as_slice(), rest].concat().join("::")),
            };
        }
        for import in module.imports.iter().filter(|import| import.name.is_none()) {
            let Some(whole) = self.absolute(module, &import.path, hops - 1) else { continue };
            if self.at(&whole).is_some_and(|shown| shown.items.contains(item)) {
                return self.declared(&[whole.as_slice(), &absolute[at..]].concat(), hops - 1);
            }
        }
        Target::File(module.file)
    }
}

/// The full path of a name of another package: the first part of `path` is replaced by what it stands for in `module`;
/// `None` if that is not known.
fn alias(module: &Module, path: &[String], hops: usize) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    let import = module.imports.iter().find(|import| import.name.as_ref() == Some(first));
    match import {
        Some(import) if import.path.first() != Some(first) && hops > 0 => {
            Some([alias(module, &import.path, hops - 1)?, rest.to_vec()].concat())
        }
        Some(import) if import.path.len() > 1 => Some([&import.path, rest].concat()),
        _ if PRIMITIVES.contains(&&**first) => None,
        // No name of a package begins with a capital: `Self::new`, `Vec::new`, a generic's `T::Item`.
        _ if first.starts_with(|c: char| c.is_ascii_lowercase()) && !module.items.contains(first) => {
            Some(path.to_vec())
        }
        _ => None,
    }
}
