//! The walk through the API in the README works as pasted.

use std::process::{Command, Stdio};

use crate::system::System;

/// The first line of the block.
const FIRST_LINE: &str = "# A walk through the API";

fn walk() -> String {
    let readme = include_str!("../../../README.md");
    let blocks = readme.split("```sh\n").skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("```").next());
    blocks
        .find(|block| block.starts_with(FIRST_LINE))
        .expect("the README has the walk")
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_through_the_api_works_as_pasted() {
    let system = System::start(&["all"]).await.unwrap();
    let script = format!("set -euo pipefail\n{}", walk());
    let mut bash = Command::new("bash");
    bash.arg("-c")
        .arg(script)
        .envs(system.environment())
        .env(
            "PUBLIC",
            system.public_url("all").as_str().trim_end_matches('/'),
        )
        .env(
            "STAFF",
            system.internal_url().as_str().trim_end_matches('/'),
        )
        .env("ADMIN", "admin@test.example")
        .env("PASSWORD", "a long enough password")
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || bash.output())
        .await
        .unwrap()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}\n{shown}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(shown.contains("\"state\":\"confirmed\""), "{shown}");
    assert!(shown.contains("\"message\":\"success\""), "{shown}");
    let mails = system.mail.inbox();
    assert!(
        mails
            .all()
            .iter()
            .any(|mail| mail.subject.contains("ticket")),
        "no ticket was mailed"
    );
    system.finish().await.unwrap();
}
