//! Limits per address stop no person.

use clap::Parser;
use domain::EventId;
use domain::clock::SystemClock;
use domain::line::Move;
use platform::testing::{TestApp, line};
use surge::buyer::Endpoints;
use surge::opening::Crowd;
use url::Url;

const EVENT: EventId = EventId(1);
/// A hundred and twenty people behind each of twenty addresses, all of it at a fifteenth.
const SCALE: f64 = 1.0 / 15.0;
const CROWD: Crowd = Crowd {
    people: 160,
    addresses: 20,
    new_per_cent: 5,
};

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    box_office: box_office::Config,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_arrives_signed_out_behind_twenty_addresses_and_nobody_is_limited() {
    let app = TestApp::start_with(SystemClock::shared(), |config| {
        config.limits_scale = SCALE;
        // A busy machine is no limit.
        config.request_timeout = std::time::Duration::from_secs(60);
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let settings = Settings::parse_from(["test"]).box_office;
    let box_office = box_office::start(app.ctx.clone(), settings).await.unwrap();
    let waiting_room = waiting_room::start(app.ctx.clone(), waiting_room::Config::default());
    let routes = box_office.merge(waiting_room.await.unwrap());
    let public = app.serve(routes).await.public_addr;
    let now = app.ctx.clock.now();
    line::publish(
        &app.ctx.db,
        &line::snapshot(EVENT, now),
        &Move::empty(1, now),
    )
    .await;

    let endpoints = Endpoints::at(&Url::parse(&format!("http://{public}")).unwrap());
    let client = crate::http();
    CROWD
        .add_accounts(&client, &endpoints, &app.ctx.db)
        .await
        .unwrap();
    let outcome = CROWD.arrive(&client, &endpoints, EVENT.0).await;
    println!("{outcome:?}");
    assert_eq!(outcome.counts.limited, 0, "responses with status 429");
    assert!(outcome.failures.is_empty());
    assert_eq!(outcome.counts.joined, u64::from(CROWD.people));
    app.finish().await;
}
