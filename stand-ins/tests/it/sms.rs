use std::time::Duration;

use serde_json::Value;
use stand_ins::sms::{Config, SmsFault, StandIn};

const PATIENCE: Duration = Duration::from_secs(60);

async fn send(server: &StandIn, form: &[(&str, &str)]) -> reqwest::Result<reqwest::Response> {
    let account = server.account_sid();
    crate::http()
        .post(format!(
            "{}/2010-04-01/Accounts/{account}/Messages.json",
            server.url()
        ))
        .basic_auth(account, Some(server.auth_token()))
        .form(form)
        .send()
        .await
}

const FORM: [(&str, &str); 3] = [
    ("To", "+491701234567"),
    ("From", "+15005550006"),
    ("Body", "Your turn ✓"),
];

#[tokio::test]
async fn a_message_is_taken_and_kept() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let answer = send(&server, &FORM).await.unwrap();
    assert_eq!(answer.status(), 201);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(
        (&answer["status"], &answer["to"]),
        (&"queued".into(), &FORM[0].1.into())
    );
    let messages = server.inbox().wait_for(1, PATIENCE).await.unwrap();
    assert_eq!(messages[0].body, "Your turn ✓");
    assert_eq!(answer["sid"], messages[0].sid);
    assert_eq!(server.inbox().to("+491701234567").len(), 1);
}

#[tokio::test]
async fn wrong_credentials_and_parameters_are_refused_in_twilios_shape() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let url = format!(
        "{}/2010-04-01/Accounts/{}/Messages.json",
        server.url(),
        server.account_sid()
    );
    let stranger = crate::http()
        .post(url)
        .basic_auth(server.account_sid(), Some("guess"))
        .form(&FORM)
        .send()
        .await
        .unwrap();
    assert_eq!(stranger.status(), 401);
    assert_eq!(stranger.json::<Value>().await.unwrap()["code"], 20003);
    for (form, code) in [
        (vec![FORM[1], FORM[2]], 21604),
        (vec![FORM[0], FORM[2]], 21603),
        (vec![FORM[0], FORM[1]], 21602),
        (vec![("To", "12345"), FORM[1], FORM[2]], 21211),
    ] {
        let answer = send(&server, &form).await.unwrap();
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], code);
    }
    assert!(server.inbox().is_empty());
}

#[tokio::test]
async fn faults_happen_as_asked() {
    let server = StandIn::start(Config::default()).await.unwrap();
    server.faults().next(1, None, SmsFault::RateLimit);
    server.faults().next(1, None, SmsFault::ServerError);
    assert_eq!(send(&server, &FORM).await.unwrap().status(), 429);
    assert_eq!(send(&server, &FORM).await.unwrap().status(), 500);
    assert!(server.inbox().is_empty());
    server.faults().next(1, None, SmsFault::AcceptThenCut);
    send(&server, &FORM).await.unwrap_err();
    assert_eq!(server.inbox().len(), 1);
}
