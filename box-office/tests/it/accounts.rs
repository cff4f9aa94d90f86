use chrono::TimeDelta;
use domain::account::Role;
use serde_json::{Value, json};

use crate::app::{App, Client, PASSWORD};

fn ada() -> Value {
    json!({"email": "Ada@Example.org", "password": PASSWORD, "name": "Ada", "phone": "+31201234567"})
}

fn refresh_token(answer: &Value) -> Value {
    json!({"refresh_token": answer["session"]["refresh_token"]})
}

#[tokio::test]
async fn who_signs_up_is_signed_in() {
    let app = App::start().await;
    let answer = app.nobody().post("/api/accounts", &ada()).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let made = answer.expect(201);
    assert_eq!(made["account"]["email"], "Ada@Example.org");
    assert_eq!(made["account"]["roles"], json!(["customer"]));
    assert_eq!(made["session"]["expires_in"], 900);
    assert_eq!(made["session"]["account_id"], made["account"]["id"]);

    let token = made["session"]["access_token"].as_str().unwrap();
    let me = Client::with_token(&app, token)
        .get("/api/accounts/me")
        .await
        .expect(200);
    assert_eq!(me["account"], made["account"]);
    app.finish().await;
}

#[tokio::test]
async fn one_address_has_one_account_whatever_its_case() {
    let app = App::start().await;
    app.nobody().post("/api/accounts", &ada()).await.expect(201);
    let again = json!({"email": "ada@example.ORG", "password": PASSWORD});
    app.nobody()
        .post("/api/accounts", &again)
        .await
        .problem("email-taken");
    app.nobody().post("/api/sessions", &again).await.expect(201);
    app.finish().await;
}

#[tokio::test]
async fn a_sign_up_out_of_bounds_names_the_field_and_makes_no_account() {
    let app = App::start().await;
    let changes = [
        ("email", json!("ada")),
        ("email", json!(format!("{}@example.org", "a".repeat(300)))),
        ("password", json!("too short")),
        ("password", json!("x".repeat(201))),
        ("name", json!("x".repeat(201))),
        ("name", json!("a\u{1}b")),
        ("phone", json!("0201234567")),
    ];
    for (field, value) in changes {
        let mut body = ada();
        body[field] = value;
        app.nobody()
            .post("/api/accounts", &body)
            .await
            .invalid(field);
    }
    app.nobody()
        .post("/api/accounts", &json!({"email": 7}))
        .await
        .problem("malformed");
    assert_eq!(
        app.count("select count(*) from box_office.accounts").await,
        1
    );
    app.finish().await;
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_get_the_same_answer() {
    let app = App::start().await;
    app.nobody().post("/api/accounts", &ada()).await.expect(201);
    let tries = [
        json!({"email": "ada@example.org", "password": "wrong horse battery"}),
        json!({"email": "nobody@example.org", "password": PASSWORD}),
        json!({"email": "not an address", "password": PASSWORD}),
        json!({"email": "ada@example.org", "password": "short"}),
    ];
    let mut answers = Vec::new();
    for body in &tries {
        answers.push(
            app.nobody()
                .post("/api/sessions", body)
                .await
                .problem("wrong-credentials"),
        );
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    app.finish().await;
}

#[tokio::test]
async fn a_refresh_token_gives_the_next_one() {
    let app = App::start().await;
    let first = app.nobody().post("/api/accounts", &ada()).await.expect(201);
    let second = app
        .nobody()
        .post("/api/sessions/refresh", &refresh_token(&first))
        .await
        .expect(201);
    assert_ne!(refresh_token(&first), refresh_token(&second));
    let third = app
        .nobody()
        .post("/api/sessions/refresh", &refresh_token(&second))
        .await
        .expect(201);
    let token = third["session"]["access_token"].as_str().unwrap();
    Client::with_token(&app, token)
        .get("/api/accounts/me")
        .await
        .expect(200);
    app.finish().await;
}

#[tokio::test]
async fn an_old_refresh_token_ends_the_session() {
    let app = App::start().await;
    let first = app.nobody().post("/api/accounts", &ada()).await.expect(201);
    let second = app
        .nobody()
        .post("/api/sessions/refresh", &refresh_token(&first))
        .await
        .expect(201);
    app.clock.advance(TimeDelta::seconds(61));
    for token in [&first, &second] {
        let answer = app
            .nobody()
            .post("/api/sessions/refresh", &refresh_token(token))
            .await;
        answer.problem("signed-out");
    }
    assert_eq!(
        app.count("select count(*) from box_office.sessions").await,
        0
    );
    app.finish().await;
}

#[tokio::test]
async fn two_tabs_may_refresh_with_one_token_and_both_stay_signed_in() {
    let app = App::start().await;
    let first = app.nobody().post("/api/accounts", &ada()).await.expect(201);
    let first_token = refresh_token(&first);
    let refresh = async |token: &Value| {
        let answer = app.nobody().post("/api/sessions/refresh", token).await;
        answer.expect(201)
    };
    let (one, other) = tokio::join!(refresh(&first_token), refresh(&first_token));
    assert_eq!(refresh_token(&one), refresh_token(&other));

    // A retry after a lost response returns the same tokens; the access token's expiry is kept.
    app.clock.advance(TimeDelta::seconds(59));
    let again = refresh(&first_token).await;
    assert_eq!(refresh_token(&again), refresh_token(&one));
    assert_eq!(again["session"]["expires_in"], 900 - 59);
    app.clock.advance(TimeDelta::seconds(900 - 60));
    let token = again["session"]["access_token"].as_str().unwrap();
    Client::with_token(&app, token)
        .get("/api/accounts/me")
        .await
        .expect(200);
    refresh(&refresh_token(&one)).await;
    app.finish().await;
}

#[tokio::test]
async fn a_refresh_token_ends_after_thirty_days() {
    let app = App::start().await;
    let first = app.nobody().post("/api/accounts", &ada()).await.expect(201);
    app.clock
        .advance(TimeDelta::days(30) - TimeDelta::seconds(1));
    let second = app
        .nobody()
        .post("/api/sessions/refresh", &refresh_token(&first))
        .await
        .expect(201);
    app.clock.advance(TimeDelta::days(30));
    let late = app
        .nobody()
        .post("/api/sessions/refresh", &refresh_token(&second))
        .await;
    late.problem("signed-out");
    app.finish().await;
}

#[tokio::test]
async fn a_sweep_deletes_all_ended_sessions_and_no_other() {
    let app = App::start().await;
    let kept = app.nobody().post("/api/accounts", &ada()).await.expect(201);
    sqlx::query(
        "insert into box_office.sessions
             (id, account_id, generation, refresh_hash, created_at, expires_at)
         select gen_random_uuid(), account_id, 1, decode(md5(n::text) || md5(n::text), 'hex'),
                created_at, created_at
         from box_office.sessions, generate_series(1, 2500) n",
    )
    .execute(&app.test.ctx.db)
    .await
    .unwrap();
    // A sweep runs at start-up.
    let node = app.node_with(|_| {}).await;
    let left = "select count(*) from box_office.sessions";
    let soon = std::time::Duration::from_secs(60);
    platform::testing::eventually(soon, async || app.count(left).await == 1).await;
    let token = refresh_token(&kept);
    let refreshed = app.nobody().post("/api/sessions/refresh", &token).await;
    refreshed.expect(201);
    node.stop().await.unwrap();
    app.finish().await;
}

#[tokio::test]
async fn no_refresh_token_is_stored() {
    let app = App::start().await;
    let answer = app.nobody().post("/api/accounts", &ada()).await.expect(201);
    let token = answer["session"]["refresh_token"].as_str().unwrap();
    let secret = token.split_once('.').unwrap().1;
    let rows: Vec<String> = sqlx::query_scalar(
        "select row_to_json(s)::text from box_office.sessions s
         union all select row_to_json(i)::text from platform.idempotency_keys i",
    )
    .fetch_all(&app.test.ctx.db)
    .await
    .unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| !row.contains(secret)));
    app.finish().await;
}

#[tokio::test]
async fn signing_out_ends_the_session_and_may_be_repeated() {
    let app = App::start().await;
    let session = app.nobody().post("/api/accounts", &ada()).await.expect(201);
    for _ in 0..2 {
        app.nobody()
            .delete("/api/sessions", &refresh_token(&session))
            .await
            .expect(204);
    }
    let answer = app
        .nobody()
        .post("/api/sessions/refresh", &refresh_token(&session))
        .await;
    answer.problem("signed-out");
    app.finish().await;
}

#[tokio::test]
async fn an_access_token_ends_after_fifteen_minutes() {
    let app = App::start().await;
    let admin = app.admin().await;
    app.clock
        .advance(TimeDelta::minutes(15) - TimeDelta::seconds(1));
    admin.get("/api/accounts/me").await.expect(200);
    app.clock.advance(TimeDelta::seconds(7));
    admin.get("/api/accounts/me").await.problem("signed-out");
    app.nobody()
        .get("/api/accounts/me")
        .await
        .problem("signed-out");
    app.finish().await;
}

#[tokio::test]
async fn an_admin_finds_accounts_and_changes_their_roles() {
    let app = App::start().await;
    let made = app.nobody().post("/api/accounts", &ada()).await.expect(201);
    let admin = app.admin().await;
    let found = admin
        .staff_get("/api/accounts?email=ada%40EX")
        .await
        .expect(200);
    assert_eq!(found["accounts"], json!([made["account"]]));
    let none = admin.staff_get("/api/accounts?email=a_a").await.expect(200);
    assert_eq!(none["accounts"], json!([]), "wildcards are taken literally");

    let path = format!("/api/accounts/{}/roles", made["account"]["id"]);
    let roles = json!({"roles": ["operator", "customer"]});
    let changed = admin.staff_put(&path, &roles).await.expect(200);
    assert_eq!(changed["account"]["roles"], json!(["customer", "operator"]));
    let version = "select version from box_office.accounts where lower(email) = 'ada@example.org'";
    assert_eq!(app.count(version).await, 2);
    admin.staff_put(&path, &roles).await.expect(200);
    assert_eq!(
        app.count(version).await,
        2,
        "a change that changes nothing is none"
    );

    let renewed = app
        .nobody()
        .post("/api/sessions/refresh", &refresh_token(&made))
        .await
        .expect(201);
    let token = renewed["session"]["access_token"].as_str().unwrap();
    Client::with_token(&app, token)
        .staff_get("/api/audit-log")
        .await
        .expect(200);
    app.finish().await;
}

#[tokio::test]
async fn roles_are_the_admins_business_alone() {
    let app = App::start().await;
    for role in [Role::Customer, Role::Organiser, Role::Operator] {
        let client = app.with_role(role).await;
        client
            .staff_get("/api/accounts?email=a")
            .await
            .problem("forbidden");
        let roles = json!({"roles": ["admin"]});
        client
            .staff_put("/api/accounts/1/roles", &roles)
            .await
            .problem("forbidden");
    }
    app.nobody()
        .staff_get("/api/accounts?email=a")
        .await
        .problem("signed-out");
    app.finish().await;
}

#[tokio::test]
async fn bad_roles_change_nothing() {
    let app = App::start().await;
    let admin = app.admin().await;
    let me = admin.get("/api/accounts/me").await.expect(200)["account"]["id"].clone();
    let path = format!("/api/accounts/{me}/roles");
    admin
        .staff_put(&path, &json!({"roles": []}))
        .await
        .invalid("roles");
    admin
        .staff_put(&path, &json!({"roles": ["customer", "admin", "customer"]}))
        .await
        .invalid("roles");
    admin
        .staff_put(&path, &json!({"roles": ["king"]}))
        .await
        .problem("malformed");
    admin
        .staff_put(&path, &json!({"roles": ["customer"]}))
        .await
        .problem("conflict");
    let unknown = admin
        .staff_put("/api/accounts/999/roles", &json!({"roles": ["admin"]}))
        .await;
    unknown.problem("not-found");
    let after = admin.get("/api/accounts/me").await.expect(200);
    assert_eq!(after["account"]["roles"], json!(["customer", "admin"]));
    app.finish().await;
}

#[tokio::test]
async fn the_command_line_grants_and_revokes_a_role_once_and_leaves_the_others() {
    let app = App::start().await;
    let made = app.nobody().post("/api/accounts", &ada()).await.expect(201);
    let ctx = &app.test.ctx;
    let email = "ada@example.org";
    let roles = async || {
        let words = "select array_to_string(roles, ' ') || ' ' || version
                     from box_office.accounts where lower(email) = 'ada@example.org'";
        let words: String = sqlx::query_scalar(words).fetch_one(&ctx.db).await.unwrap();
        words
    };
    for _ in 0..2 {
        let granting = box_office::grant_role(&ctx.db, &ctx.clock, email, Role::Operator);
        assert_eq!(granting.await.unwrap().0, made["account"]["id"]);
        assert_eq!(roles().await, "customer operator 2");
    }
    for (role, left) in [
        (Role::Customer, "operator 3"),
        (Role::Admin, "operator 3"),
        (Role::Operator, "customer 4"),
        (Role::Customer, "customer 4"),
    ] {
        let revoking = box_office::revoke_role(&ctx.db, &ctx.clock, email, role);
        revoking.await.unwrap();
        assert_eq!(roles().await, left, "without {role:?}");
    }
    let recorded = "select count(*) from box_office.audit_log where action = 'account.roles'
                    and actor = 0 and subject like 'account:%'";
    // Three changes, and the admin of the test.
    assert_eq!(app.count(recorded).await, 4);
    app.finish().await;
}

#[tokio::test]
async fn an_admin_is_made_once() {
    let app = App::start().await;
    let ctx = &app.test.ctx;
    let password = PASSWORD.into();
    let again =
        box_office::bootstrap_admin(&ctx.db, &ctx.clock, "ADMIN@example.org", &password).await;
    let error = again.unwrap_err();
    assert!(
        matches!(error, box_office::CommandLineError::EmailTaken(_)),
        "{error}"
    );
    let unknown = box_office::grant_role(&ctx.db, &ctx.clock, "x@example.org", Role::Operator);
    let error = unknown.await.unwrap_err();
    assert!(
        matches!(error, box_office::CommandLineError::Unknown(_)),
        "{error}"
    );
    app.finish().await;
}
