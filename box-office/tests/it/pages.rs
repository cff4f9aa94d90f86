use std::collections::BTreeSet;

use reqwest::Method;

use crate::app::App;

#[tokio::test]
async fn pages_are_served_with_a_strict_policy() {
    let app = App::start().await;
    let id = "0199aaaa-0000-7000-8000-000000000000";
    for path in [
        "/".to_owned(),
        "/events/1".to_owned(),
        format!("/bookings/{id}"),
        "/tickets".to_owned(),
    ] {
        let page = app
            .nobody()
            .request(app.public, Method::GET, &path)
            .send()
            .await
            .unwrap();
        assert_eq!(page.status(), 200, "{path}");
        let headers = page.headers().clone();
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "same-origin");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with(
            "default-src 'none'; script-src 'self' https://js.stripe.com https://*.js.stripe.com;"
        ));
        let frames = "frame-src https://js.stripe.com https://*.js.stripe.com \
                      https://hooks.stripe.com;";
        assert!(policy.contains(frames), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");

        let again = app.nobody().request(app.public, Method::GET, &path);
        let again = again
            .header("if-none-match", headers["etag"].clone())
            .send()
            .await
            .unwrap();
        assert_eq!(again.status(), 304);
    }
    app.finish().await;
}

#[tokio::test]
async fn each_listener_has_its_own_pages() {
    let app = App::start().await;
    let public = app
        .nobody()
        .request(app.public, Method::GET, "/")
        .send()
        .await
        .unwrap();
    let staff = app
        .nobody()
        .request(app.internal, Method::GET, "/")
        .send()
        .await
        .unwrap();
    assert_eq!(staff.status(), 200);
    let policy = staff.headers()["content-security-policy"].to_str().unwrap();
    assert!(!policy.contains("stripe"), "{policy}");
    assert_ne!(public.text().await.unwrap(), staff.text().await.unwrap());
    app.finish().await;
}

#[tokio::test]
async fn assets_are_served_with_their_type_and_nothing_else_is() {
    let app = App::start().await;
    for listener in [app.public, app.internal] {
        let style = app
            .nobody()
            .request(listener, Method::GET, "/assets/style.css");
        let style = style.send().await.unwrap();
        assert_eq!(style.headers()["content-type"], "text/css; charset=utf-8");
    }
    for path in [
        "/assets/none.js",
        "/assets/%2e%2e/index.html",
        "/assets/..%2f..%2fCargo.toml",
    ] {
        app.nobody().get(path).await.problem("not-found");
    }
    app.finish().await;
}

/// Returns the paths of assets referenced by a page or a script.
fn loaded_by(text: &str) -> BTreeSet<String> {
    let quoted = text.split(['"', '\'']);
    let names = quoted.filter_map(|part| {
        let name = part
            .strip_prefix("/assets/")
            .or_else(|| part.strip_prefix("./"))?;
        Some(format!("/assets/{name}"))
    });
    names.collect()
}

#[tokio::test]
async fn everything_that_a_page_loads_is_served() {
    let app = App::start().await;
    let pages = [
        (app.public, "/", "events.js"),
        (app.public, "/events/1", "event.js"),
        (app.public, "/bookings/1", "transfer.js"),
        (app.public, "/tickets", "transfer.js"),
        (app.internal, "/", "terms.js"),
    ];
    for (listener, page, script) in pages {
        let mut waiting = BTreeSet::from([page.to_owned()]);
        let mut seen = BTreeSet::new();
        while let Some(path) = waiting.pop_first() {
            let file = app.nobody().request(listener, Method::GET, &path);
            let file = file.send().await.unwrap();
            assert_eq!(file.status(), 200, "{path}, for {page}");
            seen.insert(path);
            let more = loaded_by(&file.text().await.unwrap());
            waiting.extend(more.into_iter().filter(|path| !seen.contains(path)));
        }
        let script = format!("/assets/{script}");
        assert!(seen.contains(&script), "{page} loads {seen:?} only");
        assert!(seen.contains("/assets/style.css"), "{page} has no style");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_shop_whose_payments_or_mails_go_to_a_stand_in_says_so_on_every_page() {
    let stand_in = url::Url::parse("http://127.0.0.1:8090").unwrap();
    let real = App::start().await;
    let test = App::start_with(1_000.0, |config| {
        config.pages_stripe_url = stand_in;
        config.mails_to_stand_in = true;
    })
    .await;
    for path in ["/", "/events/1", "/bookings/1", "/tickets"] {
        let page = test.nobody().request(test.public, Method::GET, path);
        let page = page.send().await.unwrap().text().await.unwrap();
        assert!(
            page.contains("<body>\n<p id=\"test-shop\""),
            "{path}: {page}"
        );
        let page = real.nobody().request(real.public, Method::GET, path);
        let page = page.send().await.unwrap().text().await.unwrap();
        assert!(!page.contains("test-shop"), "{path}: {page}");
    }
    let staff = test.nobody().request(test.internal, Method::GET, "/");
    let staff = staff.send().await.unwrap().text().await.unwrap();
    assert!(staff.contains("Test shop: no money moves, no mail leaves"));
    test.finish().await;
    real.finish().await;
}
