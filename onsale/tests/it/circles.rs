//! No module of a crate needs another one that needs it back, however long the way round: what is
//! below can be read and changed without what is above. What a module contains may use it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, UseTree};

use crate::queries::root;

/// A module, or an item in one, by its path in the crate; the root is empty.
type Names = Vec<String>;

/// The crate and module whose parts may need each other: the stand-in for Stripe is one model,
/// whose objects refer to each other as Stripe's do.
const ONE_PART: (&str, &str) = ("stand-ins", "stripe");

/// What one module of a crate says.
#[derive(Default)]
struct Module {
    /// Names that `use` brings into it, and the paths that they stand for.
    imported: BTreeMap<String, Names>,
    /// Every path in it that begins in this crate, or with an imported name.
    paths: Vec<Names>,
}

/// The modules of a crate, without those that only tests compile.
#[derive(Default)]
struct Crate(BTreeMap<Names, Module>);

impl Crate {
    /// Reads the sources under `source`.
    fn read(source: &Path) -> Self {
        let mut files = Vec::new();
        find_modules(source, &Names::new(), &mut files);
        let mut modules = BTreeMap::new();
        let mut tests = BTreeSet::new();
        for (name, text) in files {
            let mut reader = Reader {
                inside: name.clone(),
                module: modules.remove(&name).unwrap_or_default(),
                tests: &mut tests,
            };
            reader.visit_file(&syn::parse_file(&text).unwrap());
            modules.insert(name, reader.module);
        }
        modules.retain(|name, _| !tests.iter().any(|test| name.starts_with(test)));
        Self(modules)
    }

    /// The module in which what `path` names is defined; re-exports are followed.
    fn home_of(&self, path: &[String], follow: u32) -> Names {
        let path = path
            .split_first()
            .filter(|(first, _)| *first == "crate")
            .map_or(path, |(_, rest)| rest);
        let is_module = |length: &usize| self.0.contains_key(&path[..*length]);
        let length = (0..=path.len()).take_while(is_module).last().unwrap_or(0);
        let module = path[..length].to_vec();
        let imported = path
            .get(length)
            .and_then(|name| self.0.get(&module)?.imported.get(name));
        match imported {
            Some(target) if follow > 0 => {
                let path = [target.as_slice(), &path[length + 1..]].concat();
                self.home_of(&path, follow - 1)
            }
            _ => module,
        }
    }

    /// The modules that each needs; those that contain it, which it may use, are left out.
    fn needs(&self) -> BTreeMap<&Names, BTreeSet<Names>> {
        const RE_EXPORTS: u32 = 8;
        let of = |name: &Names, module: &Module| -> BTreeSet<Names> {
            let homes = module.paths.iter().map(|path| {
                let imported = module.imported.get(&path[0]).filter(|_| path[0] != "crate");
                match imported {
                    Some(target) => [target.as_slice(), &path[1..]].concat(),
                    None => path.clone(),
                }
            });
            homes
                .map(|path| self.home_of(&path, RE_EXPORTS))
                .filter(|home| !name.starts_with(home))
                .collect()
        };
        self.0
            .iter()
            .map(|(name, module)| (name, of(name, module)))
            .collect()
    }

    /// Two modules that need each other, directly or by way of others, for every such need.
    fn circles(&self) -> Vec<String> {
        let needs = self.needs();
        let all: BTreeMap<_, _> = needs
            .keys()
            .map(|name| (*name, all_of(name, &needs)))
            .collect();
        let mut found = Vec::new();
        for (name, needed) in &needs {
            let back = needed
                .iter()
                .filter(|needed| all.get(needed).is_some_and(|all| all.contains(*name)));
            found.extend(
                back.map(|needed| format!("{} needs {}", name.join("::"), needed.join("::"))),
            );
        }
        found
    }

    /// Takes the modules inside `part` for one.
    fn join(&mut self, part: &str) {
        let whole = vec![part.to_owned()];
        let inside: Vec<Names> = self
            .0
            .keys()
            .filter(|name| name.len() > 1 && name[0] == part)
            .cloned()
            .collect();
        for name in inside {
            let module = self.0.remove(&name).unwrap();
            let whole = self.0.get_mut(&whole).unwrap();
            let absolute =
                module
                    .paths
                    .into_iter()
                    .map(|path| match module.imported.get(&path[0]) {
                        Some(target) => [target.as_slice(), &path[1..]].concat(),
                        None => path,
                    });
            whole.paths.extend(absolute);
        }
    }
}

/// Every module that `name` needs, directly or by way of others.
fn all_of(name: &Names, needs: &BTreeMap<&Names, BTreeSet<Names>>) -> BTreeSet<Names> {
    let mut found = BTreeSet::new();
    let mut open = vec![name.clone()];
    while let Some(next) = open.pop() {
        for needed in needs.get(&next).into_iter().flatten() {
            if found.insert(needed.clone()) {
                open.push(needed.clone());
            }
        }
    }
    found
}

/// Reads the files under `folder`, the module `inside`.
fn find_modules(folder: &Path, inside: &Names, files: &mut Vec<(Names, String)>) {
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
            files.push((module, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Reads one file.
struct Reader<'a> {
    /// The module that is read: that of the file, or one written inside it.
    inside: Names,
    module: Module,
    tests: &'a mut BTreeSet<Names>,
}

impl Reader<'_> {
    /// The path from the root of the crate, beginning with `crate`; `None` for one that begins with
    /// a name in scope.
    fn absolute(&self, path: &[String]) -> Option<Names> {
        let ups = path.iter().take_while(|name| *name == "super").count();
        let inside = match path[0].as_str() {
            "crate" => return Some(path.to_vec()),
            "self" => &self.inside[..],
            "super" => &self.inside[..self.inside.len().checked_sub(ups)?],
            _ => return None,
        };
        Some([&["crate".to_owned()], inside, &path[ups.max(1)..]].concat())
    }

    fn import(&mut self, tree: &UseTree, path: &mut Names) {
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.import(&part.tree, path);
                path.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, path)),
            UseTree::Name(name) => {
                self.import_as(&name.ident.to_string(), &name.ident.to_string(), path);
            }
            UseTree::Rename(name) => {
                self.import_as(&name.ident.to_string(), &name.rename.to_string(), path);
            }
            UseTree::Glob(_) => self.note(path),
        }
    }

    fn import_as(&mut self, name: &str, alias: &str, path: &[String]) {
        let mut target = path.to_vec();
        if name != "self" {
            target.push(name.to_owned());
        }
        let alias = if alias == "self" { path.last() } else { None }
            .map_or(alias, String::as_str)
            .to_owned();
        // A name of this module, as in `pub use child::Type`, is a path from here.
        let from_here = [self.inside.as_slice(), &target].concat();
        let target = match self.absolute(&target) {
            Some(target) => target,
            None => [vec!["crate".to_owned()], from_here].concat(),
        };
        self.module.paths.push(target.clone());
        self.module.imported.insert(alias, target);
    }

    fn note(&mut self, path: &[String]) {
        match self.absolute(path) {
            Some(path) => self.module.paths.push(path),
            // The name may be imported, or that of a module inside this one.
            None if path.len() > 1 => {
                self.module.paths.push(path.to_vec());
                let from_here = [&["crate".to_owned()], self.inside.as_slice(), path].concat();
                self.module.paths.push(from_here);
            }
            None => {}
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let name = item.ident.to_string();
        if item.attrs.iter().any(is_for_tests) {
            self.tests
                .insert([self.inside.clone(), vec![name]].concat());
            return;
        }
        self.inside.push(name);
        visit::visit_item_mod(self, item);
        self.inside.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !item.attrs.iter().any(is_for_tests) {
            self.import(&item.tree, &mut Names::new());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Names = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        self.note(&names);
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
        let mut modules = Crate::read(&path.join("src"));
        read += modules.0.len();
        if name == ONE_PART.0 {
            modules.join(ONE_PART.1);
        }
        let found = modules.circles().into_iter();
        circles.extend(found.map(|circle| format!("{name}: {circle}")));
    }
    assert!(read > 400, "{read} modules were read");
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}
