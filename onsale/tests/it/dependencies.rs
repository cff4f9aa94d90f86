//! What the product is built of, by the lists of `deny.toml`: licences that may be passed on, one
//! TLS stack, and packages of the registry only.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use spdx::{Expression, LicenseReq, ParseMode};

#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for the packages of this repository.
    source: Option<String>,
}

fn rules() -> Rules {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deny.toml");
    toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Every package that a build for this machine needs.
fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice::<Metadata>(&output.stdout)
        .unwrap()
        .packages
}

/// Why a package must not be built in.
fn objection(package: &Package, rules: &Rules) -> Option<String> {
    if let Some(ban) = rules.bans.deny.iter().find(|ban| ban.name == package.name) {
        return Some(ban.reason.clone());
    }
    let source = package.source.as_deref().unwrap_or("registry+");
    if !source.starts_with("registry+") && !source.starts_with("sparse+") {
        return Some(format!("it comes from {source}"));
    }
    let Some(license) = &package.license else {
        return Some("it names no licence".to_owned());
    };
    let parsed = Expression::parse_mode(license, ParseMode::LAX).ok();
    let is_allowed = |license: &LicenseReq| rules.licenses.allow.contains(&license.to_string());
    let allowed = parsed.is_some_and(|license| license.evaluate(is_allowed));
    (!allowed).then(|| format!("its licence is {license}"))
}

#[test]
fn every_dependency_may_be_built_in() {
    let (rules, packages) = (rules(), packages());
    assert!(packages.len() > 200, "{} packages", packages.len());
    let objections: Vec<_> = packages
        .iter()
        .filter_map(|package| {
            let objection = objection(package, &rules)?;
            Some(format!("{} {}: {objection}", package.name, package.version))
        })
        .collect();
    assert!(objections.is_empty(), "{}", objections.join("\n"));
}

#[test]
fn a_ban_a_foreign_source_and_an_unknown_licence_are_objections() {
    let rules = rules();
    let registry = "registry+https://index.example";
    let package = |name: &str, license: Option<&str>, source: &str| Package {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        license: license.map(str::to_owned),
        source: Some(source.to_owned()),
    };
    for (package, is_good) in [
        (package("fine", Some("GPL-3.0 OR MIT"), registry), true),
        (package("fine", Some("MIT/Apache-2.0"), registry), true),
        (package("both", Some("GPL-3.0 AND MIT"), registry), false),
        (package("none", None, registry), false),
        (package("openssl-sys", Some("MIT"), registry), false),
        (
            package("forked", Some("MIT"), "git+https://example.com"),
            false,
        ),
    ] {
        let objection = objection(&package, &rules);
        assert_eq!(
            objection.is_none(),
            is_good,
            "{}: {objection:?}",
            package.name
        );
    }
}
