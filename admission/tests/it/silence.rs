//! A node whose open connections to PostgreSQL are silent while new ones work, as after a firewall
//! drops their state or a primary dies without closing them.

use std::time::Duration;

use domain::message::{Message, PassRevoked};
use platform::amqp::Exchange;
use platform::testing::{Proxy, eventually};
use secrecy::ExposeSecret;
use serde_json::Value;
use uuid::Uuid;

use crate::line::EVENT;
use crate::machine::Machine;
use crate::shop::{BUYER, Node, OTHER, Shop};

async fn node_behind(shop: &Shop) -> (Node, Proxy) {
    let url = shop.app.ctx.config.database_url.expose_secret();
    let (proxy, url) = Proxy::before(url).await;
    let node = shop
        .another_node_with(|config| config.database_url = url.into())
        .await;
    (node, proxy)
}

#[tokio::test]
async fn a_claim_outlasts_silent_connections() {
    let shop = Shop::open().await;
    let (node, proxy) = node_behind(&shop).await;
    let token = shop.join(BUYER).await;
    proxy.mute_open();
    eventually(Duration::from_secs(30), async || {
        let claimed = shop.claim_at(&node.base, EVENT, BUYER, Some(&token)).await;
        let status = claimed.status();
        assert!(
            status.is_success() || status == 503,
            "a refusal says to try again: {status}"
        );
        status.is_success()
    })
    .await;
    proxy.cut();
    node.stop().await;
    shop.app.finish().await;
}

#[tokio::test]
async fn a_revoked_pass_is_refused_within_two_seconds_although_connections_are_silent() {
    let shop = Shop::open().await;
    let machine = Machine::watch(&shop.app.ctx.db);
    let (node, proxy) = node_behind(&shop).await;
    let token = shop.join(OTHER).await;
    let claimed = shop.claim(EVENT, OTHER, Some(&token)).await;
    let claimed: Value = claimed.json().await.unwrap();
    let pass = claimed["pass"].as_str().unwrap();
    proxy.mute_open();
    let message = PassRevoked {
        event_id: EVENT,
        account_id: OTHER,
        at: shop.app.ctx.clock.now(),
    };
    let broker = &shop.app.ctx.broker;
    let name = PassRevoked::NAME;
    let published = broker.publish(Exchange::Events, name, &message, Uuid::new_v4());
    published.await.unwrap();
    for base in [&shop.base, &node.base] {
        let is_refused = async || {
            // A request sent before the revocation may wait for a silent connection.
            let booking = shop.book_at(base, OTHER, Some(pass), 1, None);
            let at_once = machine.extend(Duration::from_millis(200));
            let answer = tokio::time::timeout(at_once, booking).await;
            answer.is_ok_and(|answer| answer.status() == 403)
        };
        machine
            .holds_within(Duration::from_secs(2), is_refused)
            .await;
    }
    machine.stop();
    proxy.cut();
    node.stop().await;
    shop.app.finish().await;
}
