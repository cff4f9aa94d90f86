//! Starting the service.

use platform::testing::TestApp;
use platform::topology;

#[tokio::test]
async fn start_waits_for_every_queue_that_admission_consumes() {
    let app = TestApp::start().await;
    let config = admission::Config::default();
    let routes = admission::start(app.ctx.clone(), config).await.unwrap();
    let waited_for: Vec<&str> = routes.consumes.iter().map(|queue| &*queue.name).collect();
    for queue in topology::all() {
        let is_its = queue.name.starts_with("admission.");
        assert_eq!(waited_for.contains(&&*queue.name), is_its, "{}", queue.name);
    }
    assert!(waited_for.contains(&"outcomes"), "{waited_for:?}");
    platform::testing::wait_until_consumed(&app.ctx, &routes).await;
    app.finish().await;
}
