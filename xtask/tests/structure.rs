//! The rules of the house that a compiler does not know: no circle of imports between the files of a crate, no file over
//! 400 lines, no function over 60.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Item, UseTree, spanned::Spanned, visit::Visit};

/// The crates' roots, as this package sees them.
const ROOTS: [&str; 11] = [
    "../agent/src/lib.rs",
    "../agent/api/src/lib.rs",
    "../agent/controller/src/lib.rs",
    "../agent/core/src/lib.rs",
    "../agent/guard/src/lib.rs",
    "../agent/ipam/src/lib.rs",
    "../agent/net/src/lib.rs",
    "../cni/src/lib.rs",
    "../ebpf/src/main.rs",
    "../ebpf/abi/src/lib.rs",
    "src/lib.rs",
];
const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 60;

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let circles: Vec<_> = crates().iter().flat_map(Crate::circles).collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn files_and_functions_fit_their_limits() {
    let mut over = Vec::new();
    for file in crates().iter().flat_map(|of| of.files.values()) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES {
            over.push(format!("{}: {lines} lines", file.path.display()));
        }
        let mut functions = Functions { file, over: &mut over };
        functions.visit_file(&file.syntax);
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
}

#[test]
fn a_child_that_imports_from_its_parent_closes_a_circle() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\npub use a::A;\n");
    write("a.rs", "use crate::b::B;\npub struct A(B);\n");
    write("b.rs", "pub struct B;\n#[cfg(test)]\nmod tests { use super::*; use crate::A; }\n");
    let circles = || Crate::read(&folder.path().join("lib.rs")).circles();
    assert_eq!(circles(), Vec::<String>::new());
    write("b.rs", "use super::A;\npub struct B;\n");
    assert_eq!(circles().len(), 1, "{:?}", circles());
    write("b.rs", "pub struct B;\nimpl B { fn a() { let _ = crate::a::A::new; } }\n");
    assert_eq!(circles().len(), 1, "{:?}", circles());
    write("a.rs", "pub struct A;\nfn f(b: u8) -> u8 { b }\n");
    assert_eq!(circles(), Vec::<String>::new());
}

fn crates() -> Vec<Crate> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    ROOTS.iter().map(|root| Crate::read(&here.join(root))).collect()
}

type Module = Vec<String>;

/// A crate's files by the module that each holds. Test modules are left out.
struct Crate {
    files: BTreeMap<Module, File>,
    /// Every module, inline ones too, and the module whose file it stands in.
    modules: BTreeMap<Module, Module>,
}

struct File {
    path: PathBuf,
    text: String,
    syntax: syn::File,
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut read = Self { files: BTreeMap::new(), modules: BTreeMap::new() };
        read.file(Vec::new(), root, root.parent().expect("a file is in a folder"));
        read
    }

    fn file(&mut self, module: Module, path: &Path, folder: &Path) {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.items(&module, &module, &syntax.items, folder);
        self.files.insert(module, File { path: path.to_owned(), text, syntax });
    }

    fn items(&mut self, module: &Module, of_file: &Module, items: &[Item], folder: &Path) {
        self.modules.insert(module.clone(), of_file.clone());
        for item in items {
            let Item::Mod(child) = item else { continue };
            if is_test(&child.attrs) {
                continue;
            }
            let name = child.ident.to_string();
            let (module, folder) = ([module.as_slice(), std::slice::from_ref(&name)].concat(), folder.join(&name));
            if let Some((_, items)) = &child.content {
                self.items(&module, of_file, items, &folder);
            } else {
                let flat = folder.with_extension("rs");
                let path = if flat.exists() { flat } else { folder.join("mod.rs") };
                self.file(module, &path, &folder);
            }
        }
    }

    /// Returns the circles of files, each as a line.
    fn circles(&self) -> Vec<String> {
        let mut edges: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
        for (module, file) in &self.files {
            let mut imports = Imports { of: self, module: module.clone(), found: BTreeSet::new() };
            imports.visit_file(&file.syntax);
            let targets = imports.found.iter().filter_map(|found| self.files.get_key_value(found));
            edges.insert(module, targets.map(|(target, _)| target).filter(|target| *target != module).collect());
        }
        let reached: BTreeMap<_, _> = self.files.keys().map(|module| (module, reached(&edges, module))).collect();
        let name = |module: &Module| self.files[module].path.display().to_string();
        let in_circles = self.files.keys().filter(|module| reached[module].contains(module));
        let mut circles: BTreeSet<String> = BTreeSet::new();
        for module in in_circles {
            let circle = reached[module].iter().filter(|other| reached[*other].contains(module));
            circles.insert(circle.map(|module| name(module)).collect::<Vec<_>>().join(" ↔ "));
        }
        circles.into_iter().collect()
    }
}

fn reached<'a>(edges: &BTreeMap<&'a Module, BTreeSet<&'a Module>>, from: &Module) -> BTreeSet<&'a Module> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for &target in &edges[module] {
            if seen.insert(target) {
                next.push(target);
            }
        }
    }
    seen
}

/// Finds the modules that a file's paths lead to.
struct Imports<'a> {
    of: &'a Crate,
    module: Module,
    found: BTreeSet<Module>,
}

impl Imports<'_> {
    fn path(&mut self, segments: &[String]) {
        let mut module = self.module.clone();
        let mut rest = segments;
        match segments.first().map(String::as_str) {
            Some("crate") => {
                module.clear();
                rest = &rest[1..];
            }
            Some("self") => rest = &rest[1..],
            Some("super") => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
            Some(first) if self.is_module(&module, first) => {}
            _ => return,
        }
        while let Some((first, more)) = rest.split_first()
            && self.is_module(&module, first)
        {
            module.push(first.clone());
            rest = more;
        }
        self.found.extend(self.of.modules.get(&module).cloned());
    }

    fn is_module(&self, parent: &Module, name: &str) -> bool {
        self.of.modules.contains_key(&[parent.as_slice(), &[name.to_owned()]].concat())
    }

    fn tree(&mut self, prefix: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.path(&with(&name.ident)),
            UseTree::Rename(rename) => self.path(&with(&rename.ident)),
            UseTree::Glob(_) => self.path(prefix),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(prefix, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Imports<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // One word alone is a variable, a parameter or something imported.
        if segments.len() > 1 {
            self.path(&segments);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// Finds the functions that are too long.
struct Functions<'a> {
    file: &'a File,
    over: &'a mut Vec<String>,
}

impl Functions<'_> {
    fn measure(&mut self, name: &syn::Ident, span: proc_macro2::Span) {
        let lines = span.end().line - span.start().line + 1;
        if lines > FUNCTION_LINES {
            self.over.push(format!("{}: function {name}: {lines} lines", self.file.path.display()));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig.ident, item.block.span());
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig.ident, item.block.span());
        syn::visit::visit_impl_item_fn(self, item);
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is = |name| attribute.path().is_ident(name);
        is("test") || (is("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test")))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
