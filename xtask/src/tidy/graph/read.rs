//! Source text → modules: what a file declares, imports and names. Nothing is resolved here, and code of
//! tests (`#[cfg(test)]`) is left out.

use anyhow::{Context, Result};
use proc_macro2::{Spacing, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Meta, Path, UseTree, Visibility};

/// One module: a file, or a `mod` with a body in it.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// Path from the root of the package: `["kernel", "group"]`.
    pub(super) path: Vec<String>,
    /// Index of the file.
    pub(super) file: usize,
    /// Names of all declarations in the module, without modules.
    pub(super) items: Vec<String>,
    pub(super) imports: Vec<Import>,
    pub(super) mentions: Vec<Mention>,
    pub(super) types: Vec<Type>,
}

/// A name that a `use` imports.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) path: Vec<String>,
    /// The name in this module; `None` for `*`.
    pub(super) name: Option<String>,
    pub(super) public: bool,
    pub(super) line: usize,
}

/// A path of at least two names in code.
#[derive(Debug)]
pub(super) struct Mention {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// A declared type.
#[derive(Debug)]
pub(super) struct Type {
    pub(super) name: String,
    pub(super) line: usize,
    /// `pub` or `pub(crate)`.
    pub(super) public: bool,
    /// Number of fields of a struct.
    pub(super) fields: usize,
}

/// Content of one file.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) modules: Vec<Module>,
    /// Modules in other files that are declared for tests only.
    pub(super) tests: Vec<Vec<String>>,
}

/// Reads the file of module `path`.
pub(super) fn contents(text: &str, path: &[String], file: usize) -> Result<Contents> {
    let parsed = syn::parse_file(text).context("this is no Rust that can be read")?;
    let mut reader =
        Reader { contents: Contents { modules: Vec::new(), tests: Vec::new() }, within: Vec::new() };
    reader.module(path.to_vec(), file, &parsed.items);
    Ok(reader.contents)
}

struct Reader {
    contents: Contents,
    /// The modules that are being read, from the outermost: indices of `contents.modules`.
    within: Vec<usize>,
}

impl Reader {
    fn module(&mut self, path: Vec<String>, file: usize, items: &[Item]) {
        self.within.push(self.contents.modules.len());
        self.contents.modules.push(Module { path, file, ..Module::default() });
        for item in items {
            self.visit_item(item);
        }
        self.within.pop();
    }

    /// The innermost module that is being read. There always is one while items are visited.
    fn here(&mut self) -> &mut Module {
        let index = self.within.last().copied().unwrap_or_default();
        &mut self.contents.modules[index]
    }

    fn mention(&mut self, path: Vec<String>, line: usize) {
        if path.len() > 1 {
            self.here().mentions.push(Mention { path, line });
        }
    }

    fn declared(&mut self, name: &syn::Ident) {
        self.here().items.push(name.to_string());
    }

    fn typed(&mut self, name: &syn::Ident, visibility: &Visibility, fields: usize) {
        self.declared(name);
        let public = match visibility {
            Visibility::Public(_) => true,
            Visibility::Restricted(restricted) => restricted.path.is_ident("crate"),
            Visibility::Inherited => false,
        };
        let (name, line) = (name.to_string(), name.span().start().line);
        self.here().types.push(Type { name, line, public, fields });
    }

    fn import(&mut self, tree: &UseTree, before: &[String], public: bool) {
        let mut path = before.to_vec();
        let (name, line) = match tree {
            UseTree::Path(step) => {
                path.push(step.ident.to_string());
                return self.import(&step.tree, &path, public);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(tree, before, public));
            }
            UseTree::Name(name) => {
                path.push(name.ident.to_string());
                (path.last().cloned(), name.ident.span().start().line)
            }
            UseTree::Rename(rename) => {
                path.push(rename.ident.to_string());
                (Some(rename.rename.to_string()), rename.ident.span().start().line)
            }
            UseTree::Glob(glob) => (None, glob.star_token.span.start().line),
        };
        // `use x::{self, y}` imports the name `x`.
        let name = if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
            name.map(|name| if name == "self" { path.last().cloned().unwrap_or_default() } else { name })
        } else {
            name
        };
        self.here().imports.push(Import { path, name, public, line });
    }

    /// Finds paths in the arguments of a macro, which are only tokens.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    let second = colons == 1;
                    // `a: B` is no path.
                    if !second && punct.spacing() == Spacing::Alone {
                        self.mention(std::mem::take(&mut path), line);
                        colons = 0;
                    } else {
                        colons += 1;
                    }
                }
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.mention(std::mem::take(&mut path), line);
                    }
                    colons = 0;
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                }
                other => {
                    self.mention(std::mem::take(&mut path), line);
                    colons = 0;
                    match other {
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        TokenTree::Literal(literal) => self.text(&literal),
                        _ => {}
                    }
                }
            }
        }
        self.mention(path, line);
    }

    /// Finds a path in a string, as in `#[serde(with = "crate::…")]`.
    fn text(&mut self, literal: &proc_macro2::Literal) {
        let text = literal.to_string();
        let path = text.trim_matches('"');
        let is_path = ["crate::", "super::", "self::"].iter().any(|start| path.starts_with(start))
            && path.chars().all(|c| c.is_alphanumeric() || "_:".contains(c));
        if is_path {
            self.mention(path.split("::").map(str::to_owned).collect(), literal.span().start().line);
        }
    }
}

impl<'a> Visit<'a> for Reader {
    fn visit_item(&mut self, item: &'a Item) {
        if only_for_tests(attributes(item)) {
            if let Item::Mod(module) = item
                && module.content.is_none()
            {
                let path = [self.here().path.clone(), vec![module.ident.to_string()]].concat();
                self.contents.tests.push(path);
            }
            return;
        }
        match item {
            Item::Struct(item) => self.typed(&item.ident, &item.vis, item.fields.len()),
            Item::Enum(item) => self.typed(&item.ident, &item.vis, 0),
            Item::Union(item) => self.typed(&item.ident, &item.vis, 0),
            Item::Trait(item) => self.typed(&item.ident, &item.vis, 0),
            Item::Type(item) => self.typed(&item.ident, &item.vis, 0),
            Item::Const(item) => self.declared(&item.ident),
            Item::Static(item) => self.declared(&item.ident),
            Item::Fn(item) => self.declared(&item.sig.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &'a ItemMod) {
        if let Some((_, items)) = &module.content {
            let (mut path, file) = (self.here().path.clone(), self.here().file);
            path.push(module.ident.to_string());
            self.module(path, file, items);
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        self.import(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_path(&mut self, path: &'a Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let line = path.segments.first().map_or(0, |first| first.ident.span().start().line);
        self.mention(names, line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'a syn::Macro) {
        self.visit_path(&called.path);
        self.tokens(called.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'a Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }

    /// `pub(in crate::x)` uses nothing of `x`.
    fn visit_visibility(&mut self, _: &'a Visibility) {}

    fn visit_impl_item(&mut self, item: &'a syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Const(item) => &item.attrs,
            _ => return visit::visit_impl_item(self, item),
        };
        if !only_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }
}

fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string() == "test",
        Meta::Path(path) => path.is_ident("test"),
        _ => false,
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
