//! No module of a crate needs another one that needs it back, however long the way round: what is
//! below can be read and changed without what is above. A module and those inside it may.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, UseTree};

use crate::queries::root;

/// A module by its path in the crate; the root is empty.
type Module = Vec<String>;

/// The crate and module whose parts may need each other: the stand-in for Stripe is one model, whose
/// objects refer to each other as Stripe's do.
const ONE_PART: (&str, &str) = ("stand-ins", "stripe");

/// The modules of a crate, and what each needs.
#[derive(Default)]
struct Needs {
    modules: BTreeMap<Module, BTreeSet<Module>>,
    /// Modules that only tests compile.
    tests: BTreeSet<Module>,
}

impl Needs {
    /// Reads the sources of a crate.
    fn of(source: &Path) -> Self {
        let mut files = BTreeMap::new();
        find_modules(source, &Module::new(), &mut files);
        let mut needs = Self {
            modules: files
                .keys()
                .map(|module| (module.clone(), BTreeSet::new()))
                .collect(),
            ..Self::default()
        };
        for (module, text) in files {
            let file = syn::parse_file(&text).unwrap();
            let mut reader = Reader {
                needs: &mut needs,
                file: module.clone(),
                module,
            };
            reader.visit_file(&file);
        }
        needs
            .modules
            .retain(|module, _| !needs.tests.iter().any(|test| module.starts_with(test)));
        needs
    }

    /// The module that a path names, seen from `module`; `None` when it is of another crate.
    fn resolve(&self, module: &Module, path: &[String]) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        let (mut found, rest) = match first.as_str() {
            "crate" => (Module::new(), rest),
            "self" => (module.clone(), rest),
            "super" => (module[..module.len().checked_sub(1)?].to_vec(), rest),
            _ => (module.clone(), path),
        };
        let named = rest.iter().take_while(|name| *name == "super").count();
        found.truncate(found.len().checked_sub(named)?);
        let from_here = found.len();
        for name in &rest[named..] {
            found.push(name.clone());
            if !self.modules.contains_key(&found) {
                found.pop();
                break;
            }
        }
        let is_ours =
            found.len() > from_here || matches!(first.as_str(), "crate" | "self" | "super");
        is_ours.then_some(found)
    }

    /// Every module that `module` needs, directly or by way of others.
    fn all_of<'a>(&'a self, module: &'a Module) -> BTreeSet<&'a Module> {
        let mut found = BTreeSet::new();
        let mut open = vec![module];
        while let Some(next) = open.pop() {
            let needed = self.modules.get(next).into_iter().flatten();
            open.extend(needed.filter(|needed| found.insert(*needed)));
        }
        found
    }

    /// The modules that need themselves by way of others, each with those it needs directly.
    fn circles(&self) -> Vec<String> {
        let all: BTreeMap<_, _> = self
            .modules
            .keys()
            .map(|module| (module, self.all_of(module)))
            .collect();
        let in_a_circle = |one: &Module, other: &Module| {
            let back = all.get(other).is_some_and(|needed| needed.contains(one));
            back && all[one].contains(other)
        };
        let mut found = Vec::new();
        for (module, needed) in &self.modules {
            for needed in needed.iter().filter(|needed| in_a_circle(module, needed)) {
                found.push(format!("{} needs {}", module.join("::"), needed.join("::")));
            }
        }
        found
    }
}

/// Reads the files under `folder`, the module `inside`.
fn find_modules(folder: &Path, inside: &Module, files: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut module = inside.clone();
        if path.is_dir() {
            module.push(name);
            find_modules(&path, &module, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            if !(inside.is_empty() && matches!(name.as_str(), "lib" | "main")) {
                module.push(name);
            }
            files.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

/// Notes what one file needs.
struct Reader<'a> {
    needs: &'a mut Needs,
    /// The module of the file.
    file: Module,
    /// The module that is read: that of the file, or one written inside it.
    module: Module,
}

impl Reader<'_> {
    fn note(&mut self, path: &[String]) {
        let Some(needed) = self.needs.resolve(&self.module, path) else {
            return;
        };
        let is_inside = needed.starts_with(&self.file) || self.file.starts_with(&needed);
        if !is_inside {
            self.needs
                .modules
                .get_mut(&self.file)
                .unwrap()
                .insert(needed);
        }
    }

    fn note_tree(&mut self, tree: &UseTree, path: &mut Vec<String>) {
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.note_tree(&part.tree, path);
                path.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_tree(tree, path);
                }
            }
            UseTree::Name(name) => self.note_name(name.ident.to_string(), path),
            UseTree::Rename(rename) => self.note_name(rename.ident.to_string(), path),
            UseTree::Glob(_) => self.note(path),
        }
    }

    fn note_name(&mut self, name: String, path: &mut Vec<String>) {
        path.push(name);
        self.note(path);
        path.pop();
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let name = item.ident.to_string();
        if item.attrs.iter().any(is_for_tests) {
            self.needs
                .tests
                .insert([self.module.clone(), vec![name]].concat());
            return;
        }
        self.module.push(name);
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !item.attrs.iter().any(is_for_tests) {
            self.note_tree(&item.tree, &mut Vec::new());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        if matches!(names[0].as_str(), "crate" | "self" | "super") && names.len() > 1 {
            self.note(&names);
        }
        visit::visit_path(self, path);
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    list.path.is_ident("cfg") && list.tokens.to_string() == "test"
}

#[test]
fn no_module_needs_one_that_needs_it_back() {
    let mut read = 0;
    let mut circles = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !path.join("Cargo.toml").is_file() {
            continue;
        }
        let mut needs = Needs::of(&path.join("src"));
        read += needs.modules.len();
        let (crate_name, part) = ONE_PART;
        if name == crate_name {
            needs
                .modules
                .retain(|module, _| module.first().is_none_or(|first| first != part));
        }
        circles.extend(
            needs
                .circles()
                .into_iter()
                .map(|circle| format!("{name}: {circle}")),
        );
    }
    assert!(read > 400, "{read} modules were read");
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}
