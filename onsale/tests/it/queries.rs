//! The descriptions in `.sqlx`, by which a build checks its queries without a database: each is
//! what PostgreSQL says of the newest schema, and belongs to a query of the source.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use platform::testing::TestApp;
use serde_json::Value;
use sqlx::{Executor as _, SqlSafeStr as _};

/// Folders without source.
const NO_SOURCE: [&str; 2] = ["target", "node_modules"];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Appends the text of every Rust file under `folder`.
fn read_source(folder: &Path, source: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if name.starts_with('.') || NO_SOURCE.contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            read_source(&path, source);
        } else if name.ends_with(".rs") {
            source.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// The source without escapes and white space, in which every query is found.
fn plain(text: &str) -> String {
    let text = text.replace("\\n", "").replace('\\', "");
    text.split_whitespace().collect()
}

#[tokio::test]
async fn every_description_of_a_query_is_used_and_true() {
    let app = TestApp::start().await;
    let mut source = String::new();
    read_source(&root(), &mut source);
    let source = plain(&source);
    let mut descriptions = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join(".sqlx")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let stored: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let query = stored["query"].as_str().unwrap().to_owned();
        descriptions += 1;
        if !source.contains(&plain(&query)) {
            wrong.push(format!("{name}: no query needs it any more"));
        }
        let query = sqlx::AssertSqlSafe(query).into_sql_str();
        match app.ctx.db.describe(query).await {
            Ok(described) => {
                let described = serde_json::to_value(&described).unwrap();
                // Which columns of an outer join may be null is a guess from the plan of the day.
                for part in ["columns", "parameters"] {
                    let (now, before) = (&described[part], &stored["describe"][part]);
                    if now != before {
                        wrong.push(format!("{name}: {part} were {before} and are {now}"));
                    }
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(descriptions > 300, "{descriptions} descriptions were read");
    let how = "describe the queries again: docs/CONTRIBUTING.md, \"SQL\"";
    assert!(wrong.is_empty(), "{how}\n{}", wrong.join("\n"));
    app.finish().await;
}
