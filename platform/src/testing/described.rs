use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::telemetry::MetricHelp;

/// Asserts that `help` has a text for each metric that a crate's sources measure, and no other.
///
/// # Panics
/// When it has not, or the sources can't be read.
pub fn assert_described(crate_folder: &str, help: &MetricHelp) {
    let mut measured = BTreeSet::new();
    collect(&Path::new(crate_folder).join("src"), &mut measured);
    let described: BTreeSet<String> = help.names().map(str::to_owned).collect();
    assert_eq!(measured, described);
}

/// Adds the names that the sources below `folder` measure.
fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("the sources are there").path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let source = fs::read_to_string(&path).expect("a source is text");
            names.extend(measured(&source).map(str::to_owned));
        }
    }
}

fn measured(source: &str) -> impl Iterator<Item = &str> {
    ["counter!(", "gauge!(", "histogram!("]
        .into_iter()
        .flat_map(|word| source.match_indices(word))
        .filter_map(|(at, word)| {
            let argument = source[at + word.len()..].trim_start();
            let (name, _) = argument.strip_prefix('"')?.split_once('"')?;
            let is_name = name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            is_name.then_some(name)
        })
}
