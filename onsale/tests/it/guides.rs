//! The guides: a file or folder that one of them names in code font exists.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use crate::queries::root;

/// Every guide. The decision records are not among them: they say what was so when they were made.
fn guides() -> Vec<PathBuf> {
    let mut guides = vec![
        root().join("README.md"),
        root().join("migrations/README.md"),
    ];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            guides.push(path);
        }
    }
    guides
}

/// The paths in code font that begin with a folder of the repository. Build results and the
/// placeholders of instructions (`SERVICE/src/…`) don't.
fn paths(guide: &str) -> impl Iterator<Item = &str> {
    let is_path = |text: &&str| {
        text.contains('/')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
    };
    let is_here = |text: &&str| {
        let folder = text.split('/').next().unwrap_or_default();
        !folder.is_empty() && folder != "target" && root().join(folder).is_dir()
    };
    guide.split('`').filter(is_path).filter(is_here)
}

#[test]
fn every_file_that_a_guide_names_exists() {
    let mut named = 0;
    let mut missing = Vec::new();
    for guide in guides() {
        let text = fs::read_to_string(&guide).unwrap();
        for path in paths(&text) {
            named += 1;
            let is_module = || root().join(format!("{path}.rs")).exists();
            if !root().join(path).exists() && !is_module() {
                let guide = guide.file_name().map(Path::new).unwrap().display();
                missing.push(format!("{guide}: {path}"));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "named and not there:\n{}",
        missing.join("\n")
    );
    // Otherwise the search itself is broken.
    assert!(named > 20, "only {named} paths were found in the guides");
}
