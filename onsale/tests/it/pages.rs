//! The pages in a real browser: `web/tests` drives the system's Chromium.

use std::process::{Command, Stdio};

use crate::system::System;

const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../web/tests");

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_keep_their_promises_in_a_browser() {
    let settings = [
        // All visitors of these tests have one address.
        ("ONSALE_LIMITS_SCALE", "1000".to_owned()),
        ("ONSALE_CONFIRM_ADDRESSES", "true".to_owned()),
    ];
    let system = System::start_with(&["all"], settings).await.unwrap();
    let (public, staff) = (system.public_url("all"), system.internal_url());
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=spec", "pages.test.mjs"])
        .current_dir(TESTS)
        .env("PUBLIC", public.as_str().trim_end_matches('/'))
        .env("STAFF", staff.as_str().trim_end_matches('/'))
        .env("ADMIN", "admin@test.example")
        .env("PASSWORD", "a long enough password")
        .env("MAIL", system.mail.page_url())
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || node.output());
    let output = output.await.unwrap().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    system.finish().await.unwrap();
}
